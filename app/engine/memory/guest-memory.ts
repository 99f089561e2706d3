// SPDX-License-Identifier: Apache-2.0
/**
 * Physical memory of one VM, as frames over the shared buffer.
 *
 * Every accessor takes a machine frame and an offset and checks both: a frame past the end throws a RangeError, because
 * callers must have bounded guest-controlled values before (`has`). Writes made through this class to frames that hold
 * translated code are reported to `onCodeWrite`, so that stale translations are dropped.
 */
import { type Mfn, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE } from './frames.ts';
import { computeLayout, type MemoryLayout, type MemoryShape, WASM_PAGE } from './layout.ts';

/** Called after a write by the host side into a frame that holds translated code. */
export type CodeWriteListener = (frame: Mfn, offset: number, length: number) => void;

export class GuestMemory {
  readonly memory: WebAssembly.Memory;
  readonly buffer: SharedArrayBuffer;
  readonly layout: MemoryLayout;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly i32: Int32Array;
  readonly u32: Uint32Array;
  readonly frameCount: number;
  /** Set by the thread that owns this view; see `VcpuCodeInvalidation`. */
  onCodeWrite: CodeWriteListener = () => {};
  readonly #ramBase: number;
  readonly #codeFlags: number;

  /** Wraps an existing shared memory (another thread's), or allocates one for `shape`. */
  constructor(shape: MemoryShape, memory?: WebAssembly.Memory) {
    this.layout = computeLayout(shape);
    const pages = this.layout.totalBytes / WASM_PAGE;
    this.memory = memory ?? new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.buffer = this.memory.buffer as unknown as SharedArrayBuffer;
    this.u8 = new Uint8Array(this.buffer);
    this.u16 = new Uint16Array(this.buffer);
    this.i32 = new Int32Array(this.buffer);
    this.u32 = new Uint32Array(this.buffer);
    this.frameCount = this.layout.frameCount;
    this.#ramBase = this.layout.ramBase;
    this.#codeFlags = this.layout.codeFlags;
  }

  has(frame: number): boolean {
    return frame >= 0 && frame < this.frameCount;
  }

  /** Byte offset of `frame` in the shared buffer. */
  frameOffset(frame: Mfn): number {
    if (!(frame >= 0 && frame < this.frameCount)) throw new RangeError(`frame ${frame} is outside of guest memory`);
    return this.#ramBase + frame * PAGE_SIZE;
  }

  /** The bytes of one frame, live. Writers call `wrote` afterwards. */
  frame(frame: Mfn): Uint8Array {
    const at = this.frameOffset(frame);
    return this.u8.subarray(at, at + PAGE_SIZE);
  }

  /** Says that the host changed bytes of a frame (after direct writes through `frame` or the raw views). */
  wrote(frame: Mfn, offset: number, length: number): void {
    if (this.u8[this.#codeFlags + frame] !== 0) this.onCodeWrite(frame, offset, length);
  }

  /** Low and high halves of the 8-byte entry `index` (0..511) of a frame: page tables, descriptor tables, lists. */
  entryLo(frame: Mfn, index: number): number {
    return this.u32[(this.frameOffset(frame) + (index & 511) * 8) >>> 2];
  }
  entryHi(frame: Mfn, index: number): number {
    return this.u32[(this.frameOffset(frame) + (index & 511) * 8 + 4) >>> 2];
  }
  setEntry(frame: Mfn, index: number, lo: number, hi: number): void {
    const at = (this.frameOffset(frame) + (index & 511) * 8) >>> 2;
    this.u32[at] = lo;
    this.u32[at + 1] = hi;
    this.wrote(frame, (index & 511) * 8, 8);
  }

  /** Reads from physical byte address `address`; the range may span frames. Throws RangeError outside of memory. */
  read(address: number, length: number): Uint8Array {
    this.#check(address, length);
    return this.u8.slice(this.#ramBase + address, this.#ramBase + address + length);
  }

  /** Writes at physical byte address `address`; the range may span frames. Throws RangeError outside of memory. */
  write(address: number, bytes: Uint8Array): void {
    this.#check(address, bytes.length);
    this.u8.set(bytes, this.#ramBase + address);
    let at = address;
    const end = address + bytes.length;
    while (at < end) {
      const stop = Math.min(end, (Math.floor(at / PAGE_SIZE) + 1) * PAGE_SIZE);
      this.wrote(Math.floor(at / PAGE_SIZE) as Mfn, at & PAGE_MASK, stop - at);
      at = stop;
    }
  }

  fill(address: number, length: number, value: number): void {
    this.#check(address, length);
    this.u8.fill(value, this.#ramBase + address, this.#ramBase + address + length);
  }

  #check(address: number, length: number): void {
    if (!(address >= 0 && length >= 0 && address + length <= this.frameCount * PAGE_SIZE)) {
      throw new RangeError(`bytes ${address}..${address + length} are outside of guest memory`);
    }
  }
}

export { PAGE_MASK, PAGE_SHIFT, PAGE_SIZE };
