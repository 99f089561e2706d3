// SPDX-License-Identifier: Apache-2.0
/**
 * Timers of one vCPU as deadlines in system time (nanoseconds); Infinity means not set. The run loop asks for the next deadline
 * and collects what has expired; nothing here waits.
 *
 * Every PV vCPU starts with a periodic timer of 100 Hz (xen public/vcpu.h), which a modern kernel stops at once.
 */
export const DEFAULT_PERIOD_NS = 10_000_000;
/** The shortest period a guest may set. */
export const MIN_PERIOD_NS = 1_000_000;

export class VcpuTimers {
  singleShot = Number.POSITIVE_INFINITY;
  /** 0: stopped. */
  periodNs = DEFAULT_PERIOD_NS;
  nextPeriod = DEFAULT_PERIOD_NS;

  setPeriodic(periodNs: number, now: number): void {
    this.periodNs = periodNs;
    this.nextPeriod = now + periodNs;
  }
  stopPeriodic(): void {
    this.periodNs = 0;
    this.nextPeriod = Number.POSITIVE_INFINITY;
  }

  get deadline(): number {
    return Math.min(this.singleShot, this.periodNs === 0 ? Number.POSITIVE_INFINITY : this.nextPeriod);
  }

  /** Takes what has expired at `now`; true when VIRQ_TIMER is due. Missed periods count once. */
  expire(now: number): boolean {
    let due = false;
    if (this.singleShot <= now) {
      this.singleShot = Number.POSITIVE_INFINITY;
      due = true;
    }
    if (this.periodNs !== 0 && this.nextPeriod <= now) {
      this.nextPeriod += Math.ceil((now - this.nextPeriod + 1) / this.periodNs) * this.periodNs;
      due = true;
    }
    return due;
  }
}

/** SCHEDOP_watchdog: two timers a domain; one that is not set again in time ends the domain. */
export class Watchdogs {
  readonly #deadlines = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
  readonly #used = [false, false];

  /** The result of SCHEDOP_watchdog: an id, 0, or null when the arguments are wrong, undefined when no timer is free. */
  set(id: number, seconds: number, now: number): number | null | undefined {
    if (id > this.#used.length) return null;
    if (id === 0) {
      if (seconds === 0) return null;
      const free = this.#used.indexOf(false);
      if (free < 0) return undefined;
      this.#used[free] = true;
      this.#deadlines[free] = now + seconds * 1e9;
      return free + 1;
    }
    if (!this.#used[id - 1]) return null;
    this.#used[id - 1] = seconds !== 0;
    this.#deadlines[id - 1] = seconds === 0 ? Number.POSITIVE_INFINITY : now + seconds * 1e9;
    return 0;
  }

  get deadline(): number {
    return Math.min(this.#deadlines[0], this.#deadlines[1]);
  }
}
