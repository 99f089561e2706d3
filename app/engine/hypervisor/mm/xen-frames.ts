// SPDX-License-Identifier: Apache-2.0
/**
 * The hypervisor's own machine frames: those from `guestFrames` up.
 *
 * They hold the MMU's state, the machine-to-physical array with the tables that map it, shared_info, grant-table frames and other
 * pages that are shared with the guest. A frame is taken once and kept for the life of the VM. A guest can refer to one only after
 * `shareWithGuest`; a shared frame has a fixed type from then on (writable, or none for a read-only share), so that no guest
 * can turn it into a page table.
 */
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Mfn } from '../../memory/frames.ts';
import { FRAME_TYPE, type FrameTable, OWNER } from './frame-table.ts';
import { m2pFramesNeeded } from './m2p.ts';
import type { MmState } from './mm-state.ts';

/** Grant-table limits that `xenFramesNeeded` plans for: entry frames, and status frames of version 2. */
export const GRANT_FRAMES = 64;
export const GRANT_STATUS_FRAMES = 8;
/** shared_info and the MMU's state frame. */
const FIXED_FRAMES = 2;
const FRAMES_PER_VCPU = 4;
const SPARE_FRAMES = 32;

/** How many hypervisor frames a VM needs (`MemoryShape.xenFrames`); `extra` is what its machine adds of its own. */
export function xenFramesNeeded(guestFrames: number, vcpus: number, extra = 0): number {
  const own = FIXED_FRAMES + GRANT_FRAMES + GRANT_STATUS_FRAMES + FRAMES_PER_VCPU * vcpus + SPARE_FRAMES + extra;
  // The array describes the hypervisor's frames too: grow until it covers itself.
  let total = own;
  for (;;) {
    const next = own + m2pFramesNeeded(guestFrames + total);
    if (next === total) return total;
    total = next;
  }
}

export class XenFrames {
  readonly #memory: GuestMemory;
  readonly #frames: FrameTable;
  readonly #state: MmState;

  constructor(memory: GuestMemory, frames: FrameTable, state: MmState) {
    this.#memory = memory;
    this.#frames = frames;
    this.#state = state;
  }

  /** Takes a frame, zeroed. Throws a RangeError when `MemoryShape.xenFrames` was too small: a defect of the machine, never of a guest. */
  alloc(): Mfn {
    this.#state.lock();
    try {
      return this.allocLocked();
    } finally {
      this.#state.unlock();
    }
  }

  /** As `alloc`, for callers inside of the memory lock. */
  allocLocked(): Mfn {
    const frame = this.#state.nextXenFrame;
    if (!this.#memory.has(frame)) throw new RangeError('the VM has no hypervisor frame left; its shape plans for too few');
    this.#state.nextXenFrame = (frame + 1) as Mfn;
    this.#frames.reset(frame, OWNER.xen);
    this.#memory.frame(frame).fill(0);
    return frame;
  }

  /** Lets the guest map `frame` in its page tables, for reading or for writing. Sharing twice changes nothing. */
  shareWithGuest(frame: Mfn, share: { readonly writable: boolean }): void {
    const frames = this.#frames;
    if (!frames.valid(frame) || frames.owner(frame) !== OWNER.xen) throw new RangeError(`frame ${frame} is not the hypervisor's to share`);
    this.#state.lock();
    try {
      if (frames.shared(frame)) return;
      frames.setType(frame, share.writable ? FRAME_TYPE.writable : FRAME_TYPE.none);
      frames.setValidated(frame, true);
      frames.setTypeCount(frame, 1);
      frames.setShared(frame, true);
    } finally {
      this.#state.unlock();
    }
  }
}
