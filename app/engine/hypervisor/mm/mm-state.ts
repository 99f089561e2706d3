// SPDX-License-Identifier: Apache-2.0
/**
 * The memory-management state of a VM that is not about one frame, in the first hypervisor frame (machine frame `guestFrames`).
 *
 * Every thread that touches frame types (vCPU threads, and the I/O thread when it holds granted frames) builds its own view over
 * this one frame. `lock` is a futex-style mutex: 0 free, 1 held, 2 held and somebody sleeps.
 *
 * The flush clock replaces the processor-wide TLB-flush clock of a bare-metal hypervisor: it ticks with every flush, each vCPU's
 * address space remembers the tick of its last flush, and a frame remembers the tick at which its last typed use ended. A
 * translation made during that use can only survive in a space that was not flushed since.
 */
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { type Mfn, mfn, PAGE_SIZE } from '../../memory/frames.ts';

/** 32-bit word indices into the state frame. */
const WORD = {
  magic: 0,
  lock: 1,
  nextXenFrame: 2,
  flushClock: 3,
  reservation: 4,
  assists: 5,
  freeHint: 6,
  m2pData: 7,
  m2pRoot: 8,
  /** Two words for each vCPU: clock at the last flush of its kernel and its user space; `NEVER_RAN` while it has no roots. */
  flushedAt: 16,
} as const;

const MAGIC = 0x50564d4d;
const NEVER_RAN = 0xffff_ffff;
/** The clock restarts here; see `restartClock`. */
const CLOCK_LIMIT = 0xffff_fff0;

/** The largest number of vCPUs whose flush times fit into the state frame. */
export const MAX_STATE_VCPUS = (PAGE_SIZE / 4 - WORD.flushedAt) / 2;

export class MmState {
  readonly guestFrames: number;
  readonly vcpus: number;
  /** True when this view found a fresh VM and the caller has to initialize it. */
  readonly fresh: boolean;
  readonly #u32: Uint32Array;
  readonly #i32: Int32Array;

  constructor(memory: GuestMemory) {
    const shape = memory.layout.shape;
    if (shape.xenFrames < 1) throw new RangeError('a PV guest needs hypervisor frames');
    if (shape.vcpus > MAX_STATE_VCPUS) throw new RangeError(`the PV MMU has room for ${MAX_STATE_VCPUS} vCPUs`);
    this.guestFrames = shape.guestFrames;
    this.vcpus = shape.vcpus;
    const at = memory.frameOffset(mfn(shape.guestFrames));
    this.#u32 = new Uint32Array(memory.buffer, at, PAGE_SIZE / 4);
    this.#i32 = new Int32Array(memory.buffer, at, PAGE_SIZE / 4);
    this.fresh = this.#u32[WORD.magic] !== MAGIC;
    if (this.fresh) {
      this.#u32.fill(0);
      this.#u32[WORD.nextXenFrame] = shape.guestFrames + 1;
      this.#u32[WORD.flushClock] = 1;
      this.#u32.fill(NEVER_RAN, WORD.flushedAt, WORD.flushedAt + 2 * shape.vcpus);
    }
  }

  /** Marks the VM's state as complete, so that further views attach to it. */
  initialized(): void {
    Atomics.store(this.#u32, WORD.magic, MAGIC);
  }

  /** Takes the lock. Never nested. */
  lock(): void {
    if (Atomics.compareExchange(this.#i32, WORD.lock, 0, 1) === 0) return;
    while (Atomics.exchange(this.#i32, WORD.lock, 2) !== 0) Atomics.wait(this.#i32, WORD.lock, 2);
  }
  unlock(): void {
    if (Atomics.exchange(this.#i32, WORD.lock, 0) === 2) Atomics.notify(this.#i32, WORD.lock, 1);
  }

  /** Next hypervisor frame that nobody has taken. */
  get nextXenFrame(): Mfn {
    return mfn(this.#u32[WORD.nextXenFrame]);
  }
  set nextXenFrame(frame: Mfn) {
    this.#u32[WORD.nextXenFrame] = frame;
  }

  /** Frames that the guest owns now. */
  get reservation(): number {
    return this.#u32[WORD.reservation];
  }
  set reservation(frames: number) {
    this.#u32[WORD.reservation] = frames;
  }

  /** Where the search for a free guest frame starts. */
  get freeHint(): number {
    return this.#u32[WORD.freeHint];
  }
  set freeHint(frame: number) {
    this.#u32[WORD.freeHint] = frame;
  }

  /** First of the frames that hold the M2P array, and the L3 table that maps it. */
  get m2pData(): Mfn {
    return mfn(this.#u32[WORD.m2pData]);
  }
  set m2pData(frame: Mfn) {
    this.#u32[WORD.m2pData] = frame;
  }
  get m2pRoot(): Mfn {
    return mfn(this.#u32[WORD.m2pRoot]);
  }
  set m2pRoot(frame: Mfn) {
    this.#u32[WORD.m2pRoot] = frame;
  }

  assist(bit: number): boolean {
    return (this.#u32[WORD.assists] & bit) !== 0;
  }
  setAssist(bit: number, on: boolean): void {
    if (on) Atomics.or(this.#u32, WORD.assists, bit);
    else Atomics.and(this.#u32, WORD.assists, ~bit);
  }

  get flushClock(): number {
    return this.#u32[WORD.flushClock];
  }

  /** Records a flush of `vcpu`'s `space` that happens now. True when the clock is used up and `restartClock` is due. */
  recordFlush(vcpu: number, space: number): boolean {
    const clock = this.#u32[WORD.flushClock] + 1;
    this.#u32[WORD.flushClock] = clock;
    this.#u32[WORD.flushedAt + vcpu * 2 + space] = clock;
    return clock >= CLOCK_LIMIT;
  }

  /** Forgets that `vcpu` can hold translations: it has no roots any more. */
  recordNoTranslations(vcpu: number): void {
    this.#u32.fill(NEVER_RAN, WORD.flushedAt + vcpu * 2, WORD.flushedAt + vcpu * 2 + 2);
  }

  /** Whether `vcpu` may still hold a translation that was made before a use ended at `stamp`. */
  mayBeStale(vcpu: number, stamp: number): boolean {
    const at = WORD.flushedAt + vcpu * 2;
    return this.#u32[at] <= stamp || this.#u32[at + 1] <= stamp;
  }

  /** Starts the clock anew. The caller has just flushed every vCPU and clears all frame stamps. */
  restartClock(): void {
    this.#u32[WORD.flushClock] = 1;
    for (let at = WORD.flushedAt; at < WORD.flushedAt + 2 * this.vcpus; at += 1) {
      if (this.#u32[at] !== NEVER_RAN) this.#u32[at] = 1;
    }
  }
}
