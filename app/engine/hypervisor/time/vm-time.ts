// SPDX-License-Identifier: Apache-2.0
/**
 * The guest's time: one counter of nanoseconds since the VM started, which is system time and time-stamp counter at once.
 *
 * The TSC ticks at 1 GHz and never drifts from system time, so `vcpu_time_info` (xen public/xen.h) is written when it moves and
 * never again: the guest's formula gives the same nanosecond that `now` gives. On that ground the block says
 * XEN_PVCLOCK_TSC_STABLE_BIT, which lets user space read the clock without entering the kernel.
 *
 * INVARIANT: `now` never runs backwards; all threads of a VM share the clock's origin.
 */
import { SHARED_INFO, TIME_INFO, VCPU_INFO, XEN_PVCLOCK_TSC_STABLE_BIT } from '../abi/xen.ts';
import type { Clock } from '../../host/clock.ts';
import { type SharedState, STATE } from '../shared-state.ts';

export const TSC_KHZ = 1_000_000;
/** ns = (tsc << 1) * 0x80000000 >> 32 = tsc */
export const TSC_TO_SYSTEM_MUL = 0x8000_0000;
export const TSC_SHIFT = 1;

export class VmTime {
  readonly #state: SharedState;
  readonly #clock: Clock;
  #last = 0;

  constructor(state: SharedState, clock: Clock) {
    this.#state = state;
    this.#clock = clock;
  }

  /** Nanoseconds since the VM started: system time and TSC. */
  now(): number {
    const now = Math.floor(this.#clock.nowNs() - this.#state.getF64(STATE.startNs));
    if (now > this.#last) this.#last = now;
    return this.#last;
  }

  /** Wall-clock time now. */
  wallClock(): { readonly seconds: number; readonly nanoseconds: number } {
    return this.#clock.wallClock();
  }

  /** Writes `vcpu_time_info` of a vCPU under the version protocol. */
  writeTimeInfo(vcpu: number): void {
    this.writeTimeInfoAt(this.#state.vcpuInfo(vcpu) + VCPU_INFO.time);
  }

  /** As `writeTimeInfo`, at a byte offset of the shared buffer that is 4-byte aligned. */
  writeTimeInfoAt(at: number): void {
    const { i32, u8 } = this.#state;
    const word = at >>> 2;
    const version = Atomics.load(i32, word + (TIME_INFO.version >>> 2)) & ~1;
    Atomics.store(i32, word, version + 1);
    i32[(at + TIME_INFO.tscTimestamp) >>> 2] = 0;
    i32[((at + TIME_INFO.tscTimestamp) >>> 2) + 1] = 0;
    i32[(at + TIME_INFO.systemTime) >>> 2] = 0;
    i32[((at + TIME_INFO.systemTime) >>> 2) + 1] = 0;
    i32[(at + TIME_INFO.mul) >>> 2] = TSC_TO_SYSTEM_MUL;
    u8[at + TIME_INFO.shift] = TSC_SHIFT;
    u8[at + TIME_INFO.flags] = XEN_PVCLOCK_TSC_STABLE_BIT;
    Atomics.store(i32, word, version + 2);
  }

  /** Writes the wall-clock time at which system time was 0 into shared info. */
  writeWallClock(): void {
    const { i32 } = this.#state;
    const wall = this.#clock.wallClock();
    const now = this.now();
    let seconds = wall.seconds - Math.floor(now / 1e9);
    let nanoseconds = wall.nanoseconds - (now % 1e9);
    if (nanoseconds < 0) {
      nanoseconds += 1e9;
      seconds -= 1;
    }
    const base = this.#state.sharedInfo;
    const version = (base + SHARED_INFO.wcVersion) >>> 2;
    const before = Atomics.load(i32, version) & ~1;
    Atomics.store(i32, version, before + 1);
    i32[(base + SHARED_INFO.wcSec) >>> 2] = seconds >>> 0;
    i32[(base + SHARED_INFO.wcNsec) >>> 2] = Math.floor(nanoseconds);
    i32[(base + SHARED_INFO.wcSecHi) >>> 2] = Math.floor(seconds / 0x1_0000_0000);
    Atomics.store(i32, version, before + 2);
  }
}
