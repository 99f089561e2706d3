// SPDX-License-Identifier: Apache-2.0
/**
 * Grants as dom0's backends use them on the I/O thread: mapping and copying frames that the guest offers to domain 0
 * (xen public/grant_table.h).
 *
 * A mapped frame is pinned twice: in the grant table (the entry shows that it is in use) and in the frame table (a writable mapping
 * keeps the frame from becoming a page table).
 * GUEST: references are bounded by the grant table, frames by the frame table; both answer null here.
 */
import { GNTST_okay } from '../abi/grant-table.ts';
import type { GrantAccess, GrantTable } from '../grants/grant-table.ts';
import { mfn, PAGE_SIZE } from '../../memory/frames.ts';
import type { FrameHolder } from '../events/event-channels.ts';
import { type SharedState, STATE } from '../shared-state.ts';

const DOM0 = 0;

/** One mapped frame (the shape that backends ask for). */
export interface Dom0Mapping {
  readonly bytes: Uint8Array;
  wrote(offset: number, length: number): void;
  release(): void;
}

export class Dom0Grants {
  readonly #state: SharedState;
  readonly #table: GrantTable;
  readonly #frames: FrameHolder;
  readonly #access: GrantAccess = { frame: 0, offset: 0, length: 0, readonly: false };
  #mapped = 0;

  constructor(state: SharedState, table: GrantTable, frames: FrameHolder) {
    this.#state = state;
    this.#table = table;
    this.#frames = frames;
  }

  /** Mappings that were not released yet. */
  get mapped(): number {
    return this.#mapped;
  }

  map(domain: number, ref: number, writable: boolean): Dom0Mapping | null {
    if (!this.#acquire(domain, ref, writable, true)) return null;
    const frame = mfn(this.#access.frame);
    const memory = this.#state.memory;
    this.#mapped++;
    let live = true;
    return {
      bytes: memory.frame(frame),
      wrote: (offset, length) => {
        if (live) memory.wrote(frame, offset, length);
      },
      release: () => {
        if (!live) return;
        live = false;
        this.#mapped--;
        this.#release(ref, writable, frame);
      },
    };
  }

  copyFrom(domain: number, ref: number, offset: number, length: number): Uint8Array | null {
    if (!validRange(offset, length) || !this.#acquire(domain, ref, false, false)) return null;
    const frame = mfn(this.#access.frame);
    const inside = this.#covers(offset, length);
    const from = this.#state.memory.frameOffset(frame) + offset;
    const bytes = inside ? this.#state.u8.slice(from, from + length) : null;
    this.#release(ref, false, frame);
    return bytes;
  }

  copyTo(domain: number, ref: number, offset: number, bytes: Uint8Array): boolean {
    if (!validRange(offset, bytes.length) || !this.#acquire(domain, ref, true, false)) return false;
    const frame = mfn(this.#access.frame);
    const inside = this.#covers(offset, bytes.length);
    if (inside) {
      this.#state.u8.set(bytes, this.#state.memory.frameOffset(frame) + offset);
      this.#state.memory.wrote(frame, offset, bytes.length);
    }
    this.#release(ref, true, frame);
    return inside;
  }

  #acquire(domain: number, ref: number, write: boolean, whole: boolean): boolean {
    if (domain !== this.#state.get(STATE.domid)) return false;
    if (this.#table.acquire(ref, DOM0, write, whole, this.#access) !== GNTST_okay) return false;
    if (this.#frames.holdFrame(this.#access.frame, write) === 0) return true;
    this.#table.release(ref, write);
    return false;
  }

  #release(ref: number, write: boolean, frame: number): void {
    this.#frames.releaseFrame(mfn(frame), write);
    this.#table.release(ref, write);
  }

  #covers(offset: number, length: number): boolean {
    return offset >= this.#access.offset && offset + length <= this.#access.offset + this.#access.length;
  }
}

function validRange(offset: number, length: number): boolean {
  return offset >= 0 && length >= 0 && offset + length <= PAGE_SIZE;
}
