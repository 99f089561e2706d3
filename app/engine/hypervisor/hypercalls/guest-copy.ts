// SPDX-License-Identifier: Apache-2.0
/**
 * Copies of hypercall structures between guest memory and a scratch block, with the range check of a guest handle: canonical,
 * not wrapping, outside of the hypervisor's range. One block for each vCPU thread; a copy is valid until the next one.
 */
import { ACCESS } from '../../accel/accelerator.ts';
import { isGuestRange } from '../abi/xen.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';

export const SCRATCH_BYTES = 8192;

export class GuestCopy {
  readonly bytes = new Uint8Array(SCRATCH_BYTES);
  readonly view = new DataView(this.bytes.buffer);

  /** Copies `length` bytes (at most SCRATCH_BYTES) in; false: -EFAULT. */
  in(dv: DomainVcpu, va: number, length: number): boolean {
    return isGuestRange(va, length) && dv.access.copyIn(va, this.bytes, length);
  }
  out(dv: DomainVcpu, va: number, length: number): boolean {
    return isGuestRange(va, length) && dv.access.copyOut(va, this.bytes, length);
  }

  u16(offset: number): number {
    return this.view.getUint16(offset, true);
  }
  u32(offset: number): number {
    return this.view.getUint32(offset, true);
  }
  setU32(offset: number, value: number): void {
    this.view.setUint32(offset, value, true);
  }
  /** A 64-bit field as an exact signed number, or NaN. */
  num(offset: number): number {
    const high = this.view.getInt32(offset + 4, true);
    if (high < -0x20_0000 || high >= 0x20_0000) return Number.NaN;
    return high * 0x1_0000_0000 + this.view.getUint32(offset, true);
  }
  /** A 64-bit time in nanoseconds, unsigned: values past 2^53 lose their low bits and only mean "far away". */
  ns(offset: number): number {
    return this.view.getUint32(offset + 4, true) * 0x1_0000_0000 + this.view.getUint32(offset, true);
  }
  setNum(offset: number, value: number): void {
    this.view.setUint32(offset, value >>> 0, true);
    this.view.setInt32(offset + 4, Math.floor(value / 0x1_0000_0000), true);
  }
  /** Fills `length` bytes with `text`, zero-padded and always terminated. */
  text(offset: number, text: string, length: number): void {
    this.bytes.fill(0, offset, offset + length);
    for (let i = 0; i < Math.min(text.length, length - 1); i++) this.bytes[offset + i] = text.charCodeAt(i) & 0x7f;
  }
}

/** One 32-bit word, or -1 on a fault. PERF: no copy for an aligned word. */
export function readU32(dv: DomainVcpu, copy: GuestCopy, va: number): number {
  if ((va & 3) === 0 && isGuestRange(va, 4)) {
    const host = dv.access.word(va, ACCESS.read);
    return host < 0 ? -1 : dv.shared.memory.u32[host >>> 2];
  }
  return copy.in(dv, va, 4) ? copy.u32(0) : -1;
}
