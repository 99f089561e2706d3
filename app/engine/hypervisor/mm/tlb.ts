// SPDX-License-Identifier: Apache-2.0
/**
 * Which TLB flushes the hypervisor itself owes, and the book-keeping that avoids most of them.
 *
 * A guest flushes for its own semantics. The hypervisor must flush before a frame changes its type while a translation from the
 * time of the old type may survive: otherwise a guest could write to its page tables through a stale writable translation. Frames
 * carry the clock of the end of their last typed use (`FrameTable.stamp`), spaces the clock of their last flush (`MmState`).
 */
import { SPACE, type Space } from '../../accel/accelerator.ts';
import type { Mfn } from '../../memory/frames.ts';
import type { PvVcpu } from '../pv-vcpu.ts';
import type { FrameTable } from './frame-table.ts';
import type { MmState } from './mm-state.ts';

/** Reaches the TLBs of vCPUs on other threads. Calls return when the other vCPU can no longer use an old translation. */
export interface RemoteTlb {
  flush(vcpu: number): void;
  invalidate(vcpu: number, va: number): void;
}

export class TlbControl {
  /** The vCPU whose thread runs now, or null on a thread without one. Set by `PvMmu` around each operation. */
  current: PvVcpu | null = null;
  /** Flushes that the hypervisor made on its own account. */
  typeFlushes = 0;
  readonly #state: MmState;
  readonly #frames: FrameTable;
  readonly #remote: RemoteTlb | null;

  constructor(state: MmState, frames: FrameTable, remote: RemoteTlb | null) {
    if (state.vcpus > 1 && remote === null) throw new RangeError('a VM with several vCPUs needs a way to flush remote TLBs');
    this.#state = state;
    this.#frames = frames;
    this.#remote = remote;
  }

  /** Called before a frame changes its type: flushes every vCPU that may hold a translation from before `stamp`. */
  flushIfStale(stamp: number): void {
    if (stamp === 0) return;
    for (let vcpu = 0; vcpu < this.#state.vcpus; vcpu += 1) {
      if (!this.#state.mayBeStale(vcpu, stamp)) continue;
      this.typeFlushes += 1;
      this.flush(vcpu);
    }
  }

  /** Flushes both spaces of one vCPU. */
  flush(vcpu: number): void {
    const local = this.current;
    if (local !== null && local.id === vcpu) local.vcpu.flushTlb();
    // The I/O thread of a single-vCPU machine has no way to flush and no need: it only ever makes frames writable, and a stale
    // translation through a former page table is covered by the stamp of the frame that it maps.
    else if (this.#remote !== null) this.#remote.flush(vcpu);
    else return;
    this.#record(vcpu, SPACE.kernel);
    this.#record(vcpu, SPACE.user);
  }

  flushAll(): void {
    for (let vcpu = 0; vcpu < this.#state.vcpus; vcpu += 1) this.flush(vcpu);
  }

  /** Forgets one page in both spaces of one vCPU. */
  invalidate(vcpu: number, va: number): void {
    const local = this.current;
    if (local !== null && local.id === vcpu) local.vcpu.invalidatePage(va);
    else if (this.#remote !== null) this.#remote.invalidate(vcpu, va);
  }

  invalidateAll(va: number): void {
    for (let vcpu = 0; vcpu < this.#state.vcpus; vcpu += 1) this.invalidate(vcpu, va);
  }

  /** Loads a root table into the local vCPU, which flushes that space. */
  loadRoot(pv: PvVcpu, space: Space, root: Mfn | -1): void {
    pv.vcpu.loadRoot(space, root);
    this.#record(pv.id, space);
  }

  #record(vcpu: number, space: Space): void {
    if (!this.#state.recordFlush(vcpu, space)) return;
    // Once in four thousand million flushes: start the clock anew, with nothing stale anywhere.
    this.#state.restartClock();
    this.current?.vcpu.flushTlb();
    for (let other = 0; other < this.#state.vcpus; other += 1) {
      if (other !== this.current?.id) this.#remote?.flush(other);
    }
    for (let frame = 0; frame < this.#frames.frameCount; frame += 1) this.#frames.setStamp(frame, 0);
  }
}
