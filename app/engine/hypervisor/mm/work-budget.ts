// SPDX-License-Identifier: Apache-2.0
/**
 * How much one hypercall may do before it has to stop between two of its operations.
 *
 * A bare-metal hypervisor preempts long operations and continues them later. Here a batch that costs too much ends with -EAGAIN and
 * says through its done-count how far it came. No kernel comes near the limit; a hostile one cannot hold the vCPU thread
 * for longer than about a second a call. Units are table entries looked at.
 */

/** GUEST: most operations in one batch. Linux sends at most a few hundred. */
export const MAX_BATCH = 1 << 20;
const BUDGET = 1 << 26;

export const WORK_FLUSH = 2048;
export const WORK_PAGE = 256;

export class WorkBudget {
  #left = BUDGET;

  start(): void {
    this.#left = BUDGET;
  }
  charge(units: number): void {
    this.#left -= units;
  }
  get exhausted(): boolean {
    return this.#left < 0;
  }
}
