// SPDX-License-Identifier: Apache-2.0
/**
 * Reads and writes the few words of a hypercall's argument structures in guest memory, without allocation.
 *
 * GUEST: addresses are whatever the guest passed (NaN when they did not fit a number); anything that is not readable or writable
 * for the guest itself answers false. Values are copied before they are looked at.
 */
import { ACCESS } from '../../accel/accelerator.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { PvVcpu } from '../pv-vcpu.ts';
import { canonical, signedNumber } from './pte.ts';

const WIDEST = 128;

export class GuestWords {
  /** What the last `read64` found. */
  lo = 0;
  hi = 0;
  readonly #memory: GuestMemory;
  readonly #bytes = new Uint8Array(WIDEST);
  readonly #view = new DataView(this.#bytes.buffer);

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Reads 8 bytes into `lo` and `hi`. PERF: the hypercall fast path reads aligned words straight from the shared buffer. */
  read64(pv: PvVcpu, va: number): boolean {
    if (!canonical(va)) return false;
    if ((va & 7) === 0) {
      const at = pv.access.word(va, ACCESS.read);
      if (at < 0) return false;
      this.lo = this.#memory.u32[at >>> 2];
      this.hi = this.#memory.u32[(at >>> 2) + 1];
      return true;
    }
    if (!pv.access.copyIn(va, this.#bytes, 8)) return false;
    this.lo = this.#view.getUint32(0, true);
    this.hi = this.#view.getUint32(4, true);
    return true;
  }

  /** Reads a structure of at most 128 bytes; `u16At`, `u32At` and `numberAt` then look into it. */
  readStruct(pv: PvVcpu, va: number, length: number): boolean {
    return canonical(va) && pv.access.copyIn(va, this.#bytes, length);
  }
  u16At(offset: number): number {
    return this.#view.getUint16(offset, true);
  }
  u32At(offset: number): number {
    return this.#view.getUint32(offset, true);
  }
  /** A 64-bit field as a signed exact number, NaN when it needs more than 53 bits. */
  numberAt(offset: number): number {
    return signedNumber(this.#view.getUint32(offset, true), this.#view.getUint32(offset + 4, true));
  }

  write32(pv: PvVcpu, va: number, value: number): boolean {
    this.#view.setUint32(0, value, true);
    return canonical(va) && pv.access.copyOut(va, this.#bytes, 4);
  }

  /** Writes a 64-bit value given as a signed exact number. */
  write64(pv: PvVcpu, va: number, value: number): boolean {
    this.#view.setUint32(0, value >>> 0, true);
    this.#view.setInt32(4, Math.floor(value / 0x1_0000_0000), true);
    return canonical(va) && pv.access.copyOut(va, this.#bytes, 8);
  }

  writeBytes(pv: PvVcpu, va: number, bytes: Uint8Array): boolean {
    return canonical(va) && pv.access.copyOut(va, bytes);
  }
}
