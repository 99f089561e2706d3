// SPDX-License-Identifier: Apache-2.0
/** Retransmission time-outs from measured round trips: RFC 6298, with Linux' lower bound of 200 ms. Karn's rule is the caller's. */

const INITIAL_RTO_MS = 1000;
const MIN_RTO_MS = 200;
export const MAX_RTO_MS = 60_000;

export class RoundTrip {
  #smoothedMs = -1;
  #variationMs = 0;
  #backoff = 0;

  /** The time-out to use now, with the back-off of repeated expiries. */
  get rtoMs(): number {
    const base = this.#smoothedMs < 0 ? INITIAL_RTO_MS : Math.max(MIN_RTO_MS, this.#smoothedMs + 4 * this.#variationMs);
    return Math.min(MAX_RTO_MS, base * 2 ** this.#backoff);
  }

  sample(ms: number): void {
    if (this.#smoothedMs < 0) {
      this.#smoothedMs = ms;
      this.#variationMs = ms / 2;
    } else {
      this.#variationMs += (Math.abs(this.#smoothedMs - ms) - this.#variationMs) / 4;
      this.#smoothedMs += (ms - this.#smoothedMs) / 8;
    }
    this.#backoff = 0;
  }

  expired(): void {
    if (this.#backoff < 16) this.#backoff++;
  }

  /** The guest answered: the next time-out is not backed off. */
  progress(): void {
    this.#backoff = 0;
  }
}
