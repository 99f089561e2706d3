// SPDX-License-Identifier: Apache-2.0
/**
 * Which guest frames the guest owns: XENMEM_decrease_reservation, increase_reservation, populate_physmap and exchange
 * (xen public/memory.h).
 *
 * Guest frames are the machine frames below `guestFrames`; MFN = PFN is what the guest starts with and what allocation prefers, but
 * nothing relies on it: the machine-to-physical array follows what the guest asks for. A frame that is given up while something
 * still refers to it is freed with its last reference.
 *
 * Leaves out: giving the memory of freed frames back to the host.
 */
import { type Mfn, mfn } from '../../memory/frames.ts';
import { EAGAIN, EFAULT, EINVAL, ENOMEM, EPERM } from '../errno.ts';
import type { PvVcpu } from '../pv-vcpu.ts';
import { checkDomid, type MmContext } from './context.ts';
import { OWNER } from './frame-table.ts';

/** Largest extent an unprivileged guest may ask for: 2^9 frames. */
export const MAX_EXTENT_ORDER = 9;
const MAX_EXTENT = 1 << MAX_EXTENT_ORDER;
const HALF = 0x1_0000_0000;

/** struct xen_memory_reservation, copied. */
export interface Reservation {
  readonly extentStart: number;
  /** NaN when the guest's number needs more than 53 bits. */
  readonly extents: number;
  readonly order: number;
  readonly memFlags: number;
  readonly domid: number;
}

export class Balloon {
  readonly #context: MmContext;
  readonly #guestFrames: number;
  /** One chunk of an exchange: the frames taken from the guest, and the places asked for the new extents. */
  readonly #stolen = new Int32Array(MAX_EXTENT);
  readonly #wantedLo = new Uint32Array(MAX_EXTENT);
  readonly #wantedHi = new Uint32Array(MAX_EXTENT);
  readonly #given = new Int32Array(MAX_EXTENT);

  constructor(context: MmContext) {
    this.#context = context;
    this.#guestFrames = context.state.guestFrames;
  }

  /** Extents from `start` on that were given up, plus `start`. */
  decrease(pv: PvVcpu, request: Reservation, start: number): number {
    const { words, work } = this.#context;
    if (request.order > MAX_EXTENT_ORDER) return start;
    let done = start;
    for (; done < request.extents && !work.exhausted; done += 1) {
      work.charge(1);
      if (!words.read64(pv, request.extentStart + done * 8)) break;
      const base = words.hi * HALF + words.lo;
      if (!this.#removeExtent(base, 1 << request.order)) break;
    }
    return done;
  }

  /** Extents from `start` on that now have frames, plus `start`. `populate`: the list names where in the guest's memory they go. */
  increase(pv: PvVcpu, request: Reservation, start: number, populate: boolean): number {
    const { words, work, state, m2p } = this.#context;
    if (request.order > MAX_EXTENT_ORDER) return start;
    const limit = this.#frameLimit(request.memFlags);
    const size = 1 << request.order;
    let done = start;
    for (; done < request.extents && !work.exhausted; done += 1) {
      work.charge(1);
      let lo = 0;
      let hi = 0;
      if (populate) {
        if (!words.read64(pv, request.extentStart + done * 8)) break;
        lo = words.lo;
        hi = words.hi;
      }
      if (state.reservation + size > this.#guestFrames) break;
      const base = this.#allocate(request.order, populate && hi === 0 ? lo : -1, limit);
      if (base < 0) break;
      state.reservation += size;
      if (populate) for (let i = 0; i < size; i += 1) this.#setM2p(mfn(base + i), lo, hi, i);
      else for (let i = 0; i < size; i += 1) m2p.invalidate(mfn(base + i));
      // An increase may leave the list out; the frames are the guest's even when it cannot be told which.
      if ((populate || request.extentStart !== 0) && !words.write64(pv, request.extentStart + done * 8, base)) break;
    }
    return done;
  }

  /**
   * XENMEM_exchange, without its argument structure: gives extents of one size for extents of another. Returns the error in `rc`
   * and how many input extents were exchanged.
   */
  exchange(pv: PvVcpu, input: Reservation, output: Reservation, already: number): { rc: number; exchanged: number } {
    const fail = (rc: number): { rc: number; exchanged: number } => ({ rc, exchanged: already });
    if (input.order > MAX_EXTENT_ORDER || output.order > MAX_EXTENT_ORDER) return fail(-EPERM);
    if (!(already >= 0 && already <= input.extents) || input.domid !== output.domid) return fail(-EINVAL);
    if (!(output.extents >= 0) || input.extents * (1 << input.order) !== output.extents * (1 << output.order)) return fail(-EINVAL);
    if (already === input.extents) return { rc: 0, exchanged: already };
    const rc = checkDomid(this.#context, input.domid);
    if (rc !== 0) return fail(rc);
    // A chunk is the larger of the two extents: several of the one for one of the other.
    const inChunk = 1 << Math.max(0, output.order - input.order);
    const outChunk = 1 << Math.max(0, input.order - output.order);
    for (let chunk = Math.floor(already / inChunk); (chunk + 1) * inChunk <= input.extents; chunk += 1) {
      const error = this.#context.work.exhausted ? -EAGAIN : this.#exchangeChunk(pv, input, output, chunk, inChunk, outChunk);
      if (error !== 0) return { rc: error, exchanged: chunk * inChunk };
    }
    return { rc: 0, exchanged: input.extents };
  }

  #exchangeChunk(pv: PvVcpu, input: Reservation, output: Reservation, chunk: number, inChunk: number, outChunk: number): number {
    const { words, frames, m2p, work } = this.#context;
    const inSize = 1 << input.order;
    const outSize = 1 << output.order;
    work.charge(inChunk * inSize);
    for (let i = 0; i < outChunk; i += 1) {
      if (!words.read64(pv, output.extentStart + (chunk * outChunk + i) * 8)) return -EFAULT;
      this.#wantedLo[i] = words.lo;
      this.#wantedHi[i] = words.hi;
    }
    let stolen = 0;
    let rc = 0;
    for (let i = 0; i < inChunk && rc === 0; i += 1) {
      if (!words.read64(pv, input.extentStart + (chunk * inChunk + i) * 8)) rc = -EFAULT;
      const base = words.hi * HALF + words.lo;
      for (let j = 0; j < inSize && rc === 0; j += 1) {
        if (this.#stealable(base + j)) {
          frames.reset(base + j, OWNER.free);
          this.#stolen[stolen] = base + j;
          stolen += 1;
        } else {
          rc = -EINVAL;
        }
      }
    }
    const limit = this.#frameLimit(output.memFlags);
    let given = 0;
    while (rc === 0 && given < outChunk) {
      const base = this.#allocate(output.order, this.#wantedHi[given] === 0 ? this.#wantedLo[given] : -1, limit);
      if (base < 0) rc = -ENOMEM;
      else {
        this.#given[given] = base;
        given += 1;
      }
    }
    if (rc !== 0) {
      for (let i = 0; i < given; i += 1) for (let j = 0; j < outSize; j += 1) frames.reset(this.#given[i] + j, OWNER.free);
      for (let i = 0; i < stolen; i += 1) frames.reset(this.#stolen[i], OWNER.guest);
      return rc;
    }
    for (let i = 0; i < stolen; i += 1) m2p.invalidate(mfn(this.#stolen[i]));
    for (let i = 0; i < given; i += 1) {
      for (let j = 0; j < outSize; j += 1) this.#setM2p(mfn(this.#given[i] + j), this.#wantedLo[i], this.#wantedHi[i], j);
      if (!words.write64(pv, output.extentStart + (chunk * outChunk + i) * 8, this.#given[i])) rc = -EFAULT;
    }
    return rc;
  }

  /** A frame that nothing refers to but its own allocation. */
  #stealable(frame: number): boolean {
    const { frames } = this.#context;
    return (
      frame >= 0 && frame < this.#guestFrames && frames.owner(frame) === OWNER.guest && frames.allocated(frame) && frames.refs(frame) === 1
    );
  }

  #removeExtent(base: number, size: number): boolean {
    const { frames, types, work } = this.#context;
    work.charge(size);
    for (let i = 0; i < size; i += 1) {
      const frame = base + i;
      if (!(frame < this.#guestFrames) || !types.getPage(frame)) return false;
      if (frames.allocated(frame)) {
        frames.setAllocated(frame, false);
        types.putPage(frame);
      }
      types.putPage(frame);
    }
    return true;
  }

  /** Frames below this number satisfy the address width in the request's flags. */
  #frameLimit(memFlags: number): number {
    const bits = memFlags & 0xff;
    if (bits === 0 || bits >= 32) return this.#guestFrames;
    return bits <= 12 ? 0 : Math.min(this.#guestFrames, 2 ** (bits - 12));
  }

  /** Takes 2^order aligned free frames, at `wanted` when possible; the first, or -1. The reservation is the caller's business. */
  #allocate(order: number, wanted: number, limit: number): number {
    const { frames, state, work } = this.#context;
    const size = 1 << order;
    let base = -1;
    if (wanted >= 0 && wanted % size === 0 && this.#free(wanted, size, limit)) base = wanted;
    const first = Math.floor(state.freeHint / size) * size;
    const places = Math.floor(limit / size);
    for (let i = 0, at = first; base < 0 && i < places; i += 1, at += size) {
      if (at + size > limit) at = 0;
      if (this.#free(at, size, limit)) base = at;
      work.charge(1);
    }
    if (base < 0) return -1;
    state.freeHint = base + size >= this.#guestFrames ? 0 : base + size;
    for (let frame = base; frame < base + size; frame += 1) frames.reset(frame, OWNER.guest);
    return base;
  }

  #free(base: number, size: number, limit: number): boolean {
    if (base + size > limit) return false;
    for (let frame = base; frame < base + size; frame += 1) {
      if (this.#context.frames.owner(frame) !== OWNER.free) return false;
    }
    return true;
  }

  /** M2P[frame] = (hi:lo) + offset. */
  #setM2p(frame: Mfn, lo: number, hi: number, offset: number): void {
    const sum = lo + offset;
    this.#context.m2p.set(frame, sum >>> 0, sum >= HALF ? (hi + 1) >>> 0 : hi);
  }
}
