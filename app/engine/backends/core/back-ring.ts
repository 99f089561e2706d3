// SPDX-License-Identifier: Apache-2.0
/**
 * The backend's half of a shared request/response ring: what xen public/io/ring.h does with macros, for rings of one or
 * more pages. Layout: req_prod, req_event, rsp_prod, rsp_event (u32 each), 48 bytes of padding, then a power of two of
 * entries, each as large as the larger of request and response.
 *
 * The pages of one ring are separate frames, and an entry may lie across two of them.
 *
 * GUEST: the ring is shared with the guest, which may change anything at any time. Entries are copied out whole before they
 * are looked at. The private indices decide where to read and write; the guest's `req_prod` only says how far, and one that
 * claims more requests than the ring has places is an overflow: the ring must then be given up.
 */

/** Bytes before the first entry. */
export const SRING_HEADER_SIZE = 64;

const REQ_PROD = 0;
const REQ_EVENT = 1;
const RSP_PROD = 2;
const RSP_EVENT = 3;

/** How many entries of `entrySize` bytes fit into a ring of `totalBytes` (__RING_SIZE). */
export function ringEntries(totalBytes: number, entrySize: number): number {
  const fit = Math.floor((totalBytes - SRING_HEADER_SIZE) / entrySize);
  return fit < 1 ? 0 : 2 ** Math.floor(Math.log2(fit));
}

export class BackRing {
  /** Number of entries (RING_SIZE). */
  readonly size: number;
  readonly entrySize: number;
  readonly #pages: readonly Uint8Array[];
  readonly #pageSize: number;
  readonly #header: Int32Array;
  #reqCons: number;
  #rspProdPvt: number;
  /** What `rsp_prod` was last set to. */
  #rspPushed: number;
  #broken = false;

  /**
   * Attaches where the shared response index stands (BACK_RING_ATTACH), which is 0 for a ring fresh from the frontend.
   * `pages` are live views of equal size over shared memory, 4-byte aligned. Check `overflowed` before the first use.
   */
  constructor(pages: readonly Uint8Array[], entrySize: number) {
    const [first] = pages;
    if (first === undefined || first.byteOffset % 4 !== 0) throw new RangeError('a shared ring needs aligned pages');
    if (pages.some((page) => page.length !== first.length)) throw new RangeError('the pages of a ring are of equal size');
    this.size = ringEntries(first.length * pages.length, entrySize);
    if (this.size === 0) throw new RangeError(`no entry of ${entrySize} bytes fits into the ring`);
    this.entrySize = entrySize;
    this.#pages = pages;
    this.#pageSize = first.length;
    this.#header = new Int32Array(first.buffer, first.byteOffset, 4);
    this.#rspProdPvt = this.#load(RSP_PROD);
    this.#reqCons = this.#rspProdPvt;
    this.#rspPushed = this.#rspProdPvt;
    this.unconsumedRequests();
  }

  /** The frontend claimed more requests than there can be (RING_REQUEST_PROD_OVERFLOW). Final: nothing more is taken. */
  get overflowed(): boolean {
    return this.#broken;
  }

  /** Requests taken whose responses have not been put yet. */
  get inFlight(): number {
    return (this.#reqCons - this.#rspProdPvt) >>> 0;
  }

  /** Requests that can be taken now; 0 as well when the ring overflowed. */
  unconsumedRequests(): number {
    if (this.#broken) return 0;
    const produced = this.#load(REQ_PROD);
    if ((produced - this.#rspProdPvt) >>> 0 > this.size) {
      this.#broken = true;
      return 0;
    }
    const waiting = (produced - this.#reqCons) >>> 0;
    // GUEST: a req_prod that went back behind what was taken would read as a huge number.
    return waiting > this.size - this.inFlight ? 0 : waiting;
  }

  /** Copies the next request into `into` (at least `entrySize` bytes; RING_COPY_REQUEST) and takes it. False when there is none. */
  takeRequest(into: Uint8Array): boolean {
    if (this.unconsumedRequests() === 0) return false;
    this.#copyOut(this.#reqCons, into);
    this.#reqCons = (this.#reqCons + 1) >>> 0;
    return true;
  }

  /**
   * To be called when no request is left, before going idle (RING_FINAL_CHECK_FOR_REQUESTS): asks for a notification with
   * the next request. True when requests came in meanwhile: go on instead.
   */
  finalCheckForRequests(): boolean {
    if (this.unconsumedRequests() > 0) return true;
    Atomics.store(this.#header, REQ_EVENT, (this.#reqCons + 1) | 0);
    return this.unconsumedRequests() > 0;
  }

  /** Writes the next response; the frontend sees it after `pushResponses`. `bytes` may be shorter than an entry. */
  putResponse(bytes: Uint8Array): void {
    if (bytes.length > this.entrySize) throw new RangeError(`a response of ${bytes.length} bytes does not fit its entry`);
    if (this.inFlight === 0) throw new Error('a response without a request');
    this.#copyIn(this.#rspProdPvt, bytes);
    this.#rspProdPvt = (this.#rspProdPvt + 1) >>> 0;
  }

  /** Shows the responses to the frontend (RING_PUSH_RESPONSES_AND_CHECK_NOTIFY). True when it wants to be notified. */
  pushResponses(): boolean {
    const before = this.#rspPushed;
    const after = this.#rspProdPvt;
    this.#rspPushed = after;
    Atomics.store(this.#header, RSP_PROD, after | 0);
    return (after - this.#load(RSP_EVENT)) >>> 0 < (after - before) >>> 0;
  }

  #copyOut(index: number, into: Uint8Array): void {
    let at = this.#entryOffset(index);
    for (let done = 0; done < this.entrySize; ) {
      const inPage = at % this.#pageSize;
      const count = Math.min(this.entrySize - done, this.#pageSize - inPage);
      into.set(this.#pages[Math.floor(at / this.#pageSize)].subarray(inPage, inPage + count), done);
      done += count;
      at += count;
    }
  }

  #copyIn(index: number, bytes: Uint8Array): void {
    let at = this.#entryOffset(index);
    for (let done = 0; done < bytes.length; ) {
      const inPage = at % this.#pageSize;
      const count = Math.min(bytes.length - done, this.#pageSize - inPage);
      this.#pages[Math.floor(at / this.#pageSize)].set(bytes.subarray(done, done + count), inPage);
      done += count;
      at += count;
    }
  }

  #entryOffset(index: number): number {
    return SRING_HEADER_SIZE + (index & (this.size - 1)) * this.entrySize;
  }

  #load(word: number): number {
    return Atomics.load(this.#header, word) >>> 0;
  }
}
