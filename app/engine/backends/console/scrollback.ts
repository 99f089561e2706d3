// SPDX-License-Identifier: Apache-2.0
/** The last bytes of a stream: a ring that forgets from the front. Counts all that ever came, so that readers know what they missed. */
export class Scrollback {
  readonly #bytes: Uint8Array;
  #total = 0;

  /** `capacity` in bytes, a positive number. */
  constructor(capacity: number) {
    this.#bytes = new Uint8Array(capacity);
  }

  /** Bytes that ever came. */
  get total(): number {
    return this.#total;
  }

  push(bytes: Uint8Array): void {
    const { length: capacity } = this.#bytes;
    const kept = bytes.length > capacity ? bytes.subarray(bytes.length - capacity) : bytes;
    const start = (this.#total + bytes.length - kept.length) % capacity;
    const first = Math.min(kept.length, capacity - start);
    this.#bytes.set(kept.subarray(0, first), start);
    this.#bytes.set(kept.subarray(first), 0);
    this.#total += bytes.length;
  }

  /** A copy of what is still there, oldest first. */
  contents(): Uint8Array {
    const { length: capacity } = this.#bytes;
    if (this.#total <= capacity) return this.#bytes.slice(0, this.#total);
    const start = this.#total % capacity;
    const out = new Uint8Array(capacity);
    out.set(this.#bytes.subarray(start));
    out.set(this.#bytes.subarray(0, start), capacity - start);
    return out;
  }
}
