// SPDX-License-Identifier: Apache-2.0
/**
 * GDT and LDT of a PV guest's vCPU (xen public arch-x86/xen.h "segdesc"; pv-interface: HYPERVISOR_set_gdt, update_descriptor,
 * MMUEXT_SET_LDT).
 *
 * @abi hypercall set_gdt — up to 14 frames
 * @abi hypercall update_descriptor — frames in use as descriptor tables, or writable
 *
 * The guest's tables live in its own frames, which have the type segdesc while they are used: checked, and nowhere writable.
 * Selectors from 0xe000 are the hypervisor's flat descriptors. The LDT is known by its linear address; a page of it is looked up in
 * the kernel tables and checked at its first use, and held until the LDT or the kernel root changes.
 */
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { type Mfn, PAGE_SIZE } from '../../memory/frames.ts';
import { EFAULT, EINVAL } from '../errno.ts';
import type { PvVcpu } from '../pv-vcpu.ts';
import type { MmContext } from './context.ts';
import { checkDescriptor, checkedDescriptor, FIRST_RESERVED_GDT_ENTRY, flatDescriptor } from './descriptor.ts';
import { FRAME_TYPE } from './frame-table.ts';
import { entryFrame, guestAddressOk, PTE_P } from './pte.ts';

const ENTRIES_PER_PAGE = 512;
const MAX_LDT_ENTRIES = 8192;
const LDT_PAGES = MAX_LDT_ENTRIES / ENTRIES_PER_PAGE;
const TABLE_INDICATOR = 4;

export class DescriptorTables {
  readonly #context: MmContext;
  readonly #memory: GuestMemory;
  /** Frames of the LDT pages that were looked up, -1 for those that were not. */
  readonly #ldtFrames = new WeakMap<PvVcpu, Int32Array>();
  readonly #flat = new Uint32Array(2);

  constructor(context: MmContext) {
    this.#context = context;
    this.#memory = context.memory;
  }

  /** HYPERVISOR_set_gdt. -EINVAL: too many entries or an unfit frame; -EFAULT. The old table stays in place on errors. */
  setGdt(pv: PvVcpu, framesVa: number, entries: number): number {
    if (!(entries >= 0 && entries <= FIRST_RESERVED_GDT_ENTRY)) return -EINVAL;
    const { words } = this.#context;
    const wanted: number[] = [];
    for (let i = 0; i * ENTRIES_PER_PAGE < entries; i += 1) {
      if (!words.read64(pv, framesVa + i * 8)) return -EFAULT;
      wanted.push(words.hi * 0x1_0000_0000 + words.lo);
    }
    const rc = this.setGdtFrames(pv, wanted, entries);
    if (rc === 0) this.#context.tlb.flush(pv.id);
    return rc;
  }

  /** Installs a GDT of frames in order. */
  setGdtFrames(pv: PvVcpu, wanted: readonly number[], entries: number): number {
    const { types } = this.#context;
    const taken: Mfn[] = [];
    for (const frame of wanted) {
      if (types.getPageAndType(frame, FRAME_TYPE.segdesc) !== 0) {
        for (const held of taken) types.putPageAndType(held);
        return -EINVAL;
      }
      taken.push(frame as Mfn);
    }
    this.dropGdt(pv);
    pv.gdtFrames = taken;
    pv.gdtEntries = entries;
    return 0;
  }

  dropGdt(pv: PvVcpu): void {
    for (const frame of pv.gdtFrames) this.#context.types.putPageAndType(frame);
    pv.gdtFrames = [];
    pv.gdtEntries = 0;
  }

  /** MMUEXT_SET_LDT. */
  setLdt(pv: PvVcpu, base: number, entries: number): number {
    if (entries > MAX_LDT_ENTRIES) return -EINVAL;
    if (entries !== 0 && ((base & (PAGE_SIZE - 1)) !== 0 || !guestAddressOk(base))) return -EINVAL;
    const linear = entries === 0 ? 0 : base;
    if (pv.ldtEntries === entries && pv.ldtBase === linear) return 0;
    this.dropLdt(pv);
    pv.ldtBase = linear;
    pv.ldtEntries = entries;
    return 0;
  }

  /** Forgets which frames hold the LDT; they are looked up again at the next use. */
  dropLdt(pv: PvVcpu): void {
    if (pv.ldtEntries === 0) return;
    const held = this.#ldtFrames.get(pv);
    if (held === undefined) return;
    for (let page = 0; page < LDT_PAGES; page += 1) {
      if (held[page] >= 0) this.#context.types.putPageAndType(held[page] as Mfn);
    }
    this.#ldtFrames.delete(pv);
  }

  /** Frames that the vCPU's LDT holds now; for the audit. */
  ldtFrames(pv: PvVcpu): readonly Mfn[] {
    return [...(this.#ldtFrames.get(pv) ?? [])].filter((frame) => frame >= 0) as Mfn[];
  }

  /** HYPERVISOR_update_descriptor: stores a checked descriptor at a machine address. */
  update(maLo: number, maHi: number, lo: number, hi: number): number {
    if ((maLo & 7) !== 0 || !checkDescriptor(lo, hi)) return -EINVAL;
    const { frames, types } = this.#context;
    const frame = maHi * 0x10_0000 + (maLo >>> 12);
    if (!types.getPage(frame)) return -EINVAL;
    const type = frames.type(frame) === FRAME_TYPE.segdesc ? FRAME_TYPE.segdesc : FRAME_TYPE.writable;
    const rc = types.getType(frame, type);
    if (rc === 0) {
      this.#memory.setEntry(frame, (maLo & (PAGE_SIZE - 1)) >>> 3, checkedDescriptor[0], checkedDescriptor[1]);
      types.putType(frame);
    }
    types.putPage(frame);
    return rc === 0 ? 0 : -EINVAL;
  }

  /** Reads the descriptor of a selector into `out` (low, high); false when its table has no such entry. Takes no lock. */
  readGdt(pv: PvVcpu, selector: number, out: Uint32Array): boolean {
    const index = selector >>> 3;
    if (index >= FIRST_RESERVED_GDT_ENTRY) {
      if (!flatDescriptor(index, this.#flat)) return false;
      out.set(this.#flat);
      return true;
    }
    const page = index >>> 9;
    if (page >= pv.gdtFrames.length) return false;
    out[0] = this.#memory.entryLo(pv.gdtFrames[page], index);
    out[1] = this.#memory.entryHi(pv.gdtFrames[page], index);
    return true;
  }

  /** As `readGdt` for the LDT; runs inside of the memory lock because a page may have to be checked. */
  readLdt(pv: PvVcpu, selector: number, out: Uint32Array): boolean {
    const index = selector >>> 3;
    if (index >= pv.ldtEntries) return false;
    const frame = this.#ldtPage(pv, index >>> 9);
    if (frame < 0) return false;
    out[0] = this.#memory.entryLo(frame as Mfn, index);
    out[1] = this.#memory.entryHi(frame as Mfn, index);
    return true;
  }

  #ldtPage(pv: PvVcpu, page: number): number {
    const held = this.#ldtFrames.get(pv);
    if (held !== undefined && held[page] >= 0) return held[page];
    const { walk, types } = this.#context;
    const va = pv.ldtBase + page * PAGE_SIZE;
    if (!guestAddressOk(va) || !walk.find(pv.kernelRoot, va) || (walk.lo & PTE_P) === 0) return -1;
    const frame = entryFrame(walk.lo, walk.hi);
    if (types.getPageAndType(frame, FRAME_TYPE.segdesc) !== 0) return -1;
    const list = held ?? new Int32Array(LDT_PAGES).fill(-1);
    list[page] = frame;
    this.#ldtFrames.set(pv, list);
    return frame;
  }
}

/** True when the selector names the LDT. */
export function selectsLdt(selector: number): boolean {
  return (selector & TABLE_INDICATOR) !== 0;
}
