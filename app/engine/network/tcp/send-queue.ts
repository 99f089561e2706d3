// SPDX-License-Identifier: Apache-2.0
/**
 * Bytes on their way to the guest, from the first unacknowledged one on.
 *
 * Chunks are kept as the host delivered them, without copying; small ones are collected, so that many tiny writes do not cost an object
 * each. Bytes are copied once, into the frame.
 */

/** Chunks up to this size are collected in blocks. */
const SMALL_BYTES = 2048;
const BLOCK_BYTES = 16_384;

interface Chunk {
  /** Only the first `length` bytes count; a block may have room behind. */
  readonly bytes: Uint8Array;
  length: number;
}

export class SendQueue {
  #chunks: Chunk[] = [];
  /** Chunks before this one were acknowledged. */
  #first = 0;
  /** Acknowledged bytes of the first chunk. */
  #skip = 0;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** Takes `bytes` over. */
  append(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.#length += bytes.length;
    if (bytes.length > SMALL_BYTES) {
      this.#chunks.push({ bytes, length: bytes.length });
      return;
    }
    const last = this.#first < this.#chunks.length ? this.#chunks[this.#chunks.length - 1] : undefined;
    if (last !== undefined && last.bytes.length === BLOCK_BYTES && last.length + bytes.length <= BLOCK_BYTES) {
      last.bytes.set(bytes, last.length);
      last.length += bytes.length;
      return;
    }
    const block = new Uint8Array(last !== undefined ? BLOCK_BYTES : SMALL_BYTES);
    block.set(bytes);
    this.#chunks.push({ bytes: block, length: bytes.length });
  }

  /** Copies `count` bytes from `offset` on to `target[at...]`; the range must lie in the queue. */
  copy(offset: number, count: number, target: Uint8Array, at: number): void {
    let index = this.#first;
    let from = offset + this.#skip;
    while (index < this.#chunks.length && from >= this.#chunks[index].length) {
      from -= this.#chunks[index].length;
      index++;
    }
    let done = 0;
    while (done < count) {
      const chunk = this.#chunks[index];
      const size = Math.min(count - done, chunk.length - from);
      target.set(chunk.bytes.subarray(from, from + size), at + done);
      done += size;
      from = 0;
      index++;
    }
  }

  /** Forgets the first `count` bytes, which must be there. */
  discard(count: number): void {
    this.#length -= count;
    let rest = count + this.#skip;
    while (this.#first < this.#chunks.length && rest >= this.#chunks[this.#first].length) {
      rest -= this.#chunks[this.#first].length;
      this.#first++;
    }
    this.#skip = rest;
    if (this.#first > 32 && this.#first * 2 > this.#chunks.length) {
      this.#chunks = this.#chunks.slice(this.#first);
      this.#first = 0;
    } else if (this.#first === this.#chunks.length) {
      this.#chunks = [];
      this.#first = 0;
    }
  }

  clear(): void {
    this.#chunks = [];
    this.#first = 0;
    this.#skip = 0;
    this.#length = 0;
  }
}
