// SPDX-License-Identifier: Apache-2.0
/**
 * The page of a PV console seen from the host: takes what the guest printed, puts what was typed.
 * Layout after xen public/io/console.h (`struct xencons_interface`): in[1024], out[2048], in_cons, in_prod, out_cons, out_prod.
 *
 * GUEST: all four indices are the guest's to write. Each is read once and bounded before use; a distance that cannot be
 * drops what it claims and goes on from where the guest says it is.
 */

/** Bytes from host to guest. */
export const XENCONS_IN_SIZE = 1024;
/** Bytes from guest to host. */
export const XENCONS_OUT_SIZE = 2048;
export const XENCONS_OUT = 1024;
export const XENCONS_IN_CONS = 3072;
export const XENCONS_IN_PROD = 3076;
export const XENCONS_OUT_CONS = 3080;
export const XENCONS_OUT_PROD = 3084;

export class ConsoleRing {
  readonly #page: Uint8Array;
  readonly #words: Int32Array;
  #inconsistencies = 0;

  /** `page`: 4096 bytes over shared memory, 4-byte aligned. */
  constructor(page: Uint8Array) {
    if (page.length !== 4096 || page.byteOffset % 4 !== 0) throw new RangeError('a console ring needs one aligned page');
    this.#page = page;
    this.#words = new Int32Array(page.buffer, page.byteOffset, 1024);
  }

  /** How often the guest's indices made no sense. */
  get inconsistencies(): number {
    return this.#inconsistencies;
  }

  /** Takes all that the guest printed: a copy, at most 2048 bytes. */
  takeOutput(): Uint8Array {
    const cons = this.#load(XENCONS_OUT_CONS);
    const prod = this.#load(XENCONS_OUT_PROD);
    const count = (prod - cons) >>> 0;
    if (count > XENCONS_OUT_SIZE) {
      this.#inconsistencies++;
      this.#store(XENCONS_OUT_CONS, prod);
      return new Uint8Array(0);
    }
    const out = new Uint8Array(count);
    const start = cons & (XENCONS_OUT_SIZE - 1);
    const first = Math.min(count, XENCONS_OUT_SIZE - start);
    out.set(this.#page.subarray(XENCONS_OUT + start, XENCONS_OUT + start + first));
    out.set(this.#page.subarray(XENCONS_OUT, XENCONS_OUT + count - first), first);
    if (count > 0) this.#store(XENCONS_OUT_CONS, prod);
    return out;
  }

  /** Puts as much of `bytes` as there is room for and says how much that was. */
  putInput(bytes: Uint8Array): number {
    const cons = this.#load(XENCONS_IN_CONS);
    const prod = this.#load(XENCONS_IN_PROD);
    const used = (prod - cons) >>> 0;
    if (used > XENCONS_IN_SIZE) {
      // The guest owns in_cons; in_prod is set to it, which empties the ring.
      this.#inconsistencies++;
      this.#store(XENCONS_IN_PROD, cons);
      return 0;
    }
    const count = Math.min(bytes.length, XENCONS_IN_SIZE - used);
    const start = prod & (XENCONS_IN_SIZE - 1);
    const first = Math.min(count, XENCONS_IN_SIZE - start);
    this.#page.set(bytes.subarray(0, first), start);
    this.#page.set(bytes.subarray(first, count), 0);
    if (count > 0) this.#store(XENCONS_IN_PROD, prod + count);
    return count;
  }

  #load(at: number): number {
    return Atomics.load(this.#words, at >>> 2) >>> 0;
  }

  #store(at: number, value: number): void {
    Atomics.store(this.#words, at >>> 2, value | 0);
  }
}
