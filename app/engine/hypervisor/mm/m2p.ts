// SPDX-License-Identifier: Apache-2.0
/**
 * The machine-to-physical array: 8 bytes for each machine frame, which the guest reads at 0xffff800000000000 (L4 slot 256).
 *
 * The array and the L3, L2 and L1 tables that map it live in hypervisor frames, mapped read-only with U (a PV kernel runs at CPL 3).
 * The whole window of 256 GiB that XENMEM_machphys_mapping advertises is mapped: what lies behind the array shares one page of
 * invalid entries, so that a guest that looks up any frame number never faults (arch-x86/xen-x86_64.h MACH2PHYS_VIRT_START/END).
 */
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { type Mfn, mfn } from '../../memory/frames.ts';
import type { MmState } from './mm-state.ts';
import { HYPERVISOR_VIRT_START, PTE_A, PTE_D, PTE_HI_NX, PTE_P, PTE_RW, PTE_U, ROOT_PAGETABLE_FIRST_XEN_SLOT } from './pte.ts';
import type { XenFrames } from './xen-frames.ts';

export const MACH2PHYS_VIRT_START = HYPERVISOR_VIRT_START;
/** 256 GiB later. */
export const MACH2PHYS_VIRT_END = MACH2PHYS_VIRT_START + 0x40_0000_0000;
export const MACH2PHYS_NR_ENTRIES = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) / 8;

const ENTRIES = 512;
/** L3 entries that make up the window; each covers 1 GiB. */
const WINDOW_L3_ENTRIES = 256;
const INVALID_M2P_ENTRY = 0xffff_ffff;
const TABLE_FLAGS = PTE_P | PTE_RW | PTE_U | PTE_A | PTE_D;
const PAGE_FLAGS = PTE_P | PTE_U | PTE_A;

/** Hypervisor frames for the array of a VM of `frameCount` frames, its tables and the filler. */
export function m2pFramesNeeded(frameCount: number): number {
  const data = Math.ceil(frameCount / ENTRIES);
  const l1 = Math.ceil(data / ENTRIES);
  const l2 = Math.ceil(l1 / ENTRIES);
  return data + l1 + l2 + 1 + 3;
}

export class M2p {
  readonly #memory: GuestMemory;
  readonly #state: MmState;

  constructor(memory: GuestMemory, state: MmState) {
    this.#memory = memory;
    this.#state = state;
  }

  /** Builds array and tables in a fresh VM. Every entry is invalid. Runs inside of the memory lock. */
  build(xen: XenFrames): void {
    const memory = this.#memory;
    const data: Mfn[] = [];
    for (let i = 0; i < Math.ceil(memory.frameCount / ENTRIES); i += 1) {
      const frame = xen.allocLocked();
      memory.frame(frame).fill(0xff);
      data.push(frame);
    }
    this.#state.m2pData = data[0];

    const fillerPage = xen.allocLocked();
    memory.frame(fillerPage).fill(0xff);
    const fillerL1 = table(memory, xen, [], fillerPage, ENTRIES, PAGE_FLAGS, PTE_HI_NX);
    const fillerL2 = table(memory, xen, [], fillerL1, ENTRIES, TABLE_FLAGS, 0);
    const l1 = tables(memory, xen, data, fillerPage, PAGE_FLAGS, PTE_HI_NX);
    const l2 = tables(memory, xen, l1, fillerL1, TABLE_FLAGS, 0);
    this.#state.m2pRoot = table(memory, xen, l2, fillerL2, WINDOW_L3_ENTRIES, TABLE_FLAGS, 0);
  }

  /** Sets the entry of `frame` (bounded by the caller) to a 64-bit value in halves. */
  set(frame: Mfn, lo: number, hi: number): void {
    this.#memory.setEntry(mfn(this.#state.m2pData + (frame >>> 9)), frame & 511, lo, hi);
  }

  invalidate(frame: Mfn): void {
    this.set(frame, INVALID_M2P_ENTRY, INVALID_M2P_ENTRY);
  }

  /** Low half of the entry of `frame`; all ones when the frame is unknown. */
  lo(frame: Mfn): number {
    return this.#memory.entryLo(mfn(this.#state.m2pData + (frame >>> 9)), frame & 511);
  }

  /** Puts the mapping into slot 256 of a guest's L4 table. */
  insert(l4: Mfn): void {
    const lo = (this.#state.m2pRoot * 0x1000 + TABLE_FLAGS) >>> 0;
    if (this.#memory.entryLo(l4, ROOT_PAGETABLE_FIRST_XEN_SLOT) !== lo) this.#memory.setEntry(l4, ROOT_PAGETABLE_FIRST_XEN_SLOT, lo, 0);
  }

  /** Takes the mapping out of a guest's L4 table. */
  remove(l4: Mfn): void {
    this.#memory.setEntry(l4, ROOT_PAGETABLE_FIRST_XEN_SLOT, 0, 0);
  }
}

/** One table whose first entries name `children` and whose others, up to `used`, name `filler`. */
function table(memory: GuestMemory, xen: XenFrames, children: readonly Mfn[], filler: Mfn, used: number, flags: number, hi: number): Mfn {
  const frame = xen.allocLocked();
  for (let i = 0; i < used; i += 1) {
    const child = i < children.length ? children[i] : filler;
    memory.setEntry(frame, i, (child * 0x1000 + flags) >>> 0, hi);
  }
  return frame;
}

/** As many tables as `children` need. */
function tables(memory: GuestMemory, xen: XenFrames, children: readonly Mfn[], filler: Mfn, flags: number, hi: number): Mfn[] {
  const out: Mfn[] = [];
  for (let i = 0; i < children.length; i += ENTRIES)
    out.push(table(memory, xen, children.slice(i, i + ENTRIES), filler, ENTRIES, flags, hi));
  return out;
}
