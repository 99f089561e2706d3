// SPDX-License-Identifier: Apache-2.0
/**
 * Handles of mapped grants (xen public/grant_table.h, grant_handle_t): what a guest's unmap refers to, in shared state, because any of
 * its vCPUs may unmap.
 *
 * A record is {GNTMAP_* flags still mapped, reference, frame}; no flags: the handle is free.
 * INVARIANT: a record changes only between `reserve` and `fill` or `free`, and between `take` and `finish`, by whoever called the first.
 */
import { GNTMAP_device_map, GNTMAP_host_map } from '../abi/grant-table.ts';
import { MAX_GRANT_HANDLES, type SharedState, STATE } from '../shared-state.ts';

const WORDS = 4;
const FLAGS = 0;
const REF = 1;
const FRAME = 2;
const MAPPED = GNTMAP_device_map | GNTMAP_host_map;
/** Marks a handle whose mapping is being made. */
const RESERVED = 1 << 15;

/** A copy of a handle's record. */
export interface GrantHandle {
  readonly flags: number;
  readonly ref: number;
  readonly frame: number;
}

export class Maptrack {
  readonly #i32: Int32Array;
  readonly #base: number;
  #hint = 0;

  constructor(state: SharedState) {
    this.#i32 = state.i32;
    this.#base = state.word(STATE.maptrack);
  }

  /** A free handle, reserved; -1 when there is none. */
  reserve(): number {
    for (let tried = 0; tried < MAX_GRANT_HANDLES; tried++) {
      const handle = (this.#hint + tried) % MAX_GRANT_HANDLES;
      if (Atomics.compareExchange(this.#i32, this.#word(handle), 0, RESERVED) !== 0) continue;
      this.#hint = (handle + 1) % MAX_GRANT_HANDLES;
      return handle;
    }
    return -1;
  }

  /** The mapping behind a reserved handle stands. */
  fill(handle: number, { flags, ref, frame }: GrantHandle): void {
    this.#i32[this.#word(handle) + REF] = ref;
    this.#i32[this.#word(handle) + FRAME] = frame;
    Atomics.store(this.#i32, this.#word(handle), flags & ~RESERVED);
  }

  free(handle: number): void {
    Atomics.store(this.#i32, this.#word(handle), 0);
  }

  /** Takes a handle in use, so that nobody else unmaps it until `finish`; null when it is not in use. GUEST: any number. */
  take(handle: number): GrantHandle | null {
    if (!(handle >= 0 && handle < MAX_GRANT_HANDLES)) return null;
    const word = this.#word(handle);
    const flags = Atomics.load(this.#i32, word);
    if ((flags & RESERVED) !== 0 || (flags & MAPPED) === 0) return null;
    const found = { flags, ref: this.#i32[word + REF], frame: this.#i32[word + FRAME] };
    return Atomics.compareExchange(this.#i32, word, flags, RESERVED) === flags ? found : null;
  }

  /** `parts` (GNTMAP_device_map, GNTMAP_host_map, both, none) of a taken handle are unmapped; with the last one the handle is free. */
  finish(handle: number, taken: GrantHandle, parts: number): void {
    const left = taken.flags & ~parts;
    Atomics.store(this.#i32, this.#word(handle), (left & MAPPED) === 0 ? 0 : left);
  }

  /** Records in use, for the audit and statistics. */
  all(): GrantHandle[] {
    const found: GrantHandle[] = [];
    for (let handle = 0; handle < MAX_GRANT_HANDLES; handle++) {
      const word = this.#word(handle);
      const flags = this.#i32[word + FLAGS];
      if ((flags & MAPPED) !== 0) found.push({ flags, ref: this.#i32[word + REF], frame: this.#i32[word + FRAME] });
    }
    return found;
  }

  #word(handle: number): number {
    return this.#base + handle * WORDS;
  }
}
