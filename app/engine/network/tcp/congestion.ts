// SPDX-License-Identifier: Apache-2.0
/**
 * The congestion window towards the guest: RFC 5681 with the byte counting of RFC 3465.
 *
 * The link is memory and reports congestion by itself, so the window starts large and loss shrinks it with restraint: by 0.7 as in RFC 9438,
 * and not below FLOOR_BYTES. It exists for what is lost all the same (a full ring, injected loss, a switch between VMs).
 */

const INITIAL_WINDOW_BYTES = 128 * 1024;
const FLOOR_BYTES = 64 * 1024;
const DECREASE = 0.7;

export class Congestion {
  #windowBytes: number;
  #thresholdBytes = Number.MAX_SAFE_INTEGER;
  readonly #mss: number;
  readonly #maxBytes: number;

  constructor(mss: number, maxBytes: number) {
    this.#mss = mss;
    this.#maxBytes = maxBytes;
    this.#windowBytes = Math.max(INITIAL_WINDOW_BYTES, 4 * mss);
  }

  get windowBytes(): number {
    return this.#windowBytes;
  }

  /** New bytes were acknowledged outside of recovery. */
  acknowledged(bytes: number): void {
    const growth = this.#windowBytes < this.#thresholdBytes ? bytes : Math.max(1, Math.floor((this.#mss * bytes) / this.#windowBytes));
    this.#windowBytes = Math.min(this.#maxBytes, this.#windowBytes + growth);
  }

  /** Duplicate acknowledgements told of a loss. */
  lossDetected(inFlightBytes: number): void {
    this.#thresholdBytes = this.#reduced(inFlightBytes);
    this.#windowBytes = this.#thresholdBytes;
  }

  /** The retransmission timer expired. `first`: it is not a repetition. */
  timedOut(inFlightBytes: number, first: boolean): void {
    if (first) this.#thresholdBytes = this.#reduced(inFlightBytes);
    this.#windowBytes = 2 * this.#mss;
  }

  #reduced(inFlightBytes: number): number {
    return Math.max(Math.floor(inFlightBytes * DECREASE), FLOOR_BYTES, 4 * this.#mss);
  }
}
