// SPDX-License-Identifier: Apache-2.0
/**
 * Segment descriptors of a 64-bit PV guest: which ones it may use, and the flat ones that every guest gets from selector 0xe000 up.
 *
 * Follows Intel SDM 3A §3.4.5 (descriptors), §3.5 (system descriptors) and xen public arch-x86/xen.h, xen-x86_64.h. A present
 * code or data descriptor is moved to privilege level 3; of system descriptors only call gates remain, with their
 * privilege level lowered to 0 so that their use faults and can be emulated (the level asked for moves into the selector's RPL).
 */

const SEGMENT_TYPE = 0xf00;
const SEGMENT_S = 0x1000;
const SEGMENT_DPL = 0x6000;
const SEGMENT_P = 0x8000;
const CALL_GATE = 0xc00;

export const FIRST_RESERVED_GDT_PAGE = 14;
export const FIRST_RESERVED_GDT_ENTRY = FIRST_RESERVED_GDT_PAGE * 512;

export const FLAT_RING3_CS32 = 0xe023;
export const FLAT_RING3_CS64 = 0xe033;
export const FLAT_RING3_DS32 = 0xe02b;
export const FLAT_RING3_SS64 = 0xe02b;
export const FLAT_KERNEL_CS = FLAT_RING3_CS64;

/** The descriptor that the last successful `checkDescriptor` allows, low and high half. */
export const checkedDescriptor = new Uint32Array(2);

/** Whether a guest may have this descriptor; the form it takes then stands in `checkedDescriptor`. */
export function checkDescriptor(lo: number, hi: number): boolean {
  checkedDescriptor[0] = lo;
  checkedDescriptor[1] = hi;
  // Not present: every use faults. Type 0 is the second half of a gate.
  if ((hi & SEGMENT_P) === 0) return true;
  if ((hi & SEGMENT_S) !== 0) {
    checkedDescriptor[1] = hi | SEGMENT_DPL;
    return true;
  }
  if ((hi & SEGMENT_TYPE) === 0) return true;
  if ((hi & SEGMENT_TYPE) !== CALL_GATE || (hi & 0xff) !== 0) return false;
  const target = lo >>> 16;
  if (!gateSelectorOk(target)) return false;
  checkedDescriptor[0] = (lo & 0xffff) | ((target | 3) << 16);
  checkedDescriptor[1] = hi & ~SEGMENT_DPL;
  return true;
}

/** Whether a gate may lead to `selector`: the guest's own descriptors, its LDT, or the flat kernel code segment. */
function gateSelectorOk(selector: number): boolean {
  return selector >>> 3 < FIRST_RESERVED_GDT_ENTRY || selector === FLAT_KERNEL_CS || (selector & 4) !== 0;
}

/** The hypervisor's own descriptor of GDT entry `index` (selector >> 3), into `out`; false when it has none there for a guest. */
export function flatDescriptor(index: number, out: Uint32Array): boolean {
  out[0] = 0x0000_ffff;
  if (index === FLAT_RING3_CS32 >>> 3) out[1] = 0x00cf_fb00;
  else if (index === FLAT_RING3_DS32 >>> 3) out[1] = 0x00cf_f300;
  else if (index === FLAT_RING3_CS64 >>> 3) out[1] = 0x00af_fb00;
  else return false;
  return true;
}
