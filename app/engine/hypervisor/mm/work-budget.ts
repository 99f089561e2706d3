// SPDX-License-Identifier: Apache-2.0
/**
 * How much one hypercall may do before it has to stop between two of its operations.
 *
 * A bare-metal hypervisor preempts long operations and continues them later. Here a batch that costs too much ends with -EAGAIN and
 * says through its done-count how far it came, and so does the check of a tree of tables that is too large. No kernel comes near the limit; a hostile one cannot hold the vCPU thread
 * for longer than about a second a call. Units are table entries looked at.
 */

/** GUEST: most operations in one batch. Linux sends at most a few hundred. */
export const MAX_BATCH = 1 << 20;
/** Table entries that one hypercall may look at: 65,536 tables, more than any guest that fits into the engine builds at once. */
export const DEFAULT_WORK_LIMIT = 1 << 25;

export const WORK_FLUSH = 2048;
export const WORK_PAGE = 256;

export class WorkBudget {
  readonly #limit: number;
  #left: number;

  constructor(limit: number) {
    this.#limit = limit;
    this.#left = limit;
  }

  start(): void {
    this.#left = this.#limit;
  }
  charge(units: number): void {
    this.#left -= units;
  }
  get exhausted(): boolean {
    return this.#left < 0;
  }
}
