// SPDX-License-Identifier: Apache-2.0
/**
 * Page-table entries of a 64-bit PV guest, as two unsigned 32-bit halves.
 *
 * Which bits a guest may set, which ones the hypervisor adds, and which addresses a guest may map. Follows Intel SDM 3A §4.5
 * (four-level paging) and, for the PV rules, xen public/xen.h (HYPERVISOR_mmu_update) and arch-x86/xen-x86_64.h.
 *
 * Both modes of a 64-bit PV guest run at CPL 3, so every present entry gets U; bit 52 (GUEST_KERNEL) keeps the guest's own
 * distinction in L1 entries. The engine's memory is below 4 GiB: a frame number that needs the high half cannot exist.
 *
 * Leaves out: large pages (refused), cache attributes (refused: no domain here has device memory), protection keys.
 */

/** Low half. */
export const PTE_P = 0x001;
export const PTE_RW = 0x002;
export const PTE_U = 0x004;
export const PTE_PWT = 0x008;
export const PTE_PCD = 0x010;
export const PTE_A = 0x020;
export const PTE_D = 0x040;
/** PSE in L2 and L3 entries, PAT in L1 entries. */
export const PTE_PSE = 0x080;
export const PTE_G = 0x100;
export const PTE_AVAIL = 0xe00;

/** High half. */
export const PTE_HI_GUEST_KERNEL = 0x0010_0000;
export const PTE_HI_AVAIL = 0x7ff0_0000;
export const PTE_HI_NX = 0x8000_0000;
/** Frame number bits 20..39 (address bits 32..51). */
export const PTE_HI_FRAME = 0x000f_ffff;

/** Bits that a guest may not set in a present entry (low half; no bit of the high half outside of the frame number is refused). */
export const L1_DISALLOW_LO = PTE_PWT | PTE_PCD | PTE_PSE;
export const TABLE_DISALLOW_LO = PTE_PWT | PTE_PCD | PTE_PSE | PTE_G;

/** Bits whose change alone needs no new check of the entry: everything but P, RW, cache attributes and the frame number. */
export const L1_RECHECK_LO = ~(PTE_G | PTE_D | PTE_A | PTE_U | PTE_AVAIL);
/** Tables: RW as well, because what it governs is decided in the L1 entries. */
export const TABLE_RECHECK_LO = ~(PTE_G | PTE_D | PTE_A | PTE_U | PTE_AVAIL | PTE_RW);
export const RECHECK_HI = PTE_HI_FRAME;

/** L4 slots that belong to the hypervisor (0xffff800000000000..0xffff87ffffffffff). */
export const ROOT_PAGETABLE_FIRST_XEN_SLOT = 256;
export const ROOT_PAGETABLE_LAST_XEN_SLOT = 271;

export function isGuestL4Slot(slot: number): boolean {
  return slot < ROOT_PAGETABLE_FIRST_XEN_SLOT || slot > ROOT_PAGETABLE_LAST_XEN_SLOT;
}

/** Frame number of an entry, or of a machine address; a plain number because nobody has checked it yet. */
export function entryFrame(lo: number, hi: number): number {
  return (hi & PTE_HI_FRAME) * 0x10_0000 + (lo >>> 12);
}

/** What the hypervisor adds to the low half of a guest's present L1 entry. */
export function adjustL1Lo(lo: number, hi: number): number {
  if ((lo & PTE_P) === 0) return lo;
  // Without U the entry becomes a kernel entry; one that is marked as a kernel entry stays one; any other is the user's and global.
  if ((lo & PTE_U) === 0 || (hi & PTE_HI_GUEST_KERNEL) !== 0) return (lo | PTE_U) >>> 0;
  return (lo | PTE_U | PTE_G) >>> 0;
}

/** What the hypervisor adds to the high half; `lo` is the half as the guest gave it. */
export function adjustL1Hi(lo: number, hi: number): number {
  return (lo & (PTE_P | PTE_U)) === PTE_P ? (hi | PTE_HI_GUEST_KERNEL) >>> 0 : hi;
}

/** The low half of a guest's L2, L3 or L4 entry as it is stored. */
export function adjustTableLo(lo: number, level: number): number {
  if ((lo & PTE_P) === 0) return lo;
  return (level === 4 ? lo | PTE_U | PTE_A : lo | PTE_U) >>> 0;
}

const HALF = 0x1_0000_0000;
const CANONICAL = 0x8000_0000_0000;
/** First address after the hypervisor's hole, as a signed number (0xffff880000000000). */
export const HYPERVISOR_VIRT_END = -0x7800_0000_0000;
/** Start of the hypervisor's hole, which is also where the M2P array is readable (0xffff800000000000). */
export const HYPERVISOR_VIRT_START = -0x8000_0000_0000;

/** Whether `va` is canonical and outside of the hypervisor's part of the address space. False for NaN. */
export function guestAddressOk(va: number): boolean {
  return (va >= 0 && va < CANONICAL) || (va >= HYPERVISOR_VIRT_END && va < 0);
}

/** Whether `va` is a canonical address. False for NaN. */
export function canonical(va: number): boolean {
  return va >= -CANONICAL && va < CANONICAL;
}

/** Table index of `va` (a signed exact number) at `level` 1..4. */
export function tableIndex(va: number, level: number): number {
  const lo = va >>> 0;
  if (level === 1) return (lo >>> 12) & 511;
  if (level === 2) return (lo >>> 21) & 511;
  const hi = Math.floor(va / HALF);
  return level === 3 ? ((lo >>> 30) | (hi << 2)) & 511 : (hi >>> 7) & 511;
}

/** A signed exact number from two halves, or NaN when it needs more than 53 bits (no canonical address does). */
export function signedNumber(lo: number, hi: number): number {
  const high = hi | 0;
  if (high < -0x20_0000 || high >= 0x20_0000) return Number.NaN;
  return high * HALF + (lo >>> 0);
}
