// SPDX-License-Identifier: Apache-2.0
/**
 * Grant mappings in the guest's own page tables (xen public/grant_table.h, GNTTABOP_map_grant_ref): a granted frame is put into an L1
 * entry, and taken out again.
 *
 * The entry holds its references like every other, so a guest that overwrites it by other means loses only the accounting of its grant.
 * GUEST: addresses are looked up in validated tables only; what is asked for must be an L1 entry.
 */
import { type Mfn, PAGE_SIZE } from '../../memory/frames.ts';
import { EINVAL } from '../errno.ts';
import type { PvVcpu } from '../pv-vcpu.ts';
import type { MmContext } from './context.ts';
import { FRAME_TYPE } from './frame-table.ts';
import { entryFrame, guestAddressOk, PTE_P } from './pte.ts';

/** Where a grant is mapped: a virtual address of the current kernel tables, or (`entry`) the machine address of an L1 entry. */
export interface GrantTarget {
  readonly lo: number;
  readonly hi: number;
  /** The same 64 bits as an exact signed number, or NaN. */
  readonly address: number;
  readonly entry: boolean;
}

export class GrantMap {
  readonly #context: MmContext;
  #table = 0 as Mfn;
  #index = 0;

  constructor(context: MmContext) {
    this.#context = context;
  }

  /** Replaces the L1 entry at `target`. 0, -EINVAL when there is none, or what the check of the new entry answers. */
  map(pv: PvVcpu, target: GrantTarget, lo: number, hi: number): number {
    if (!this.#find(pv, target)) return -EINVAL;
    const rc = this.#context.tables.modify(1, this.#table, this.#index, lo, hi, false);
    if (rc === 0) this.#flush(target);
    return rc;
  }

  /**
   * Clears the entry at `target`, which must map `frame`, or moves the entry that maps virtual address `from` there (0: clears).
   * 0, or -EINVAL with nothing changed.
   */
  unmap(pv: PvVcpu, target: GrantTarget, frame: Mfn, from: number): number {
    const { tables, tlb, memory } = this.#context;
    let lo = 0;
    let hi = 0;
    let source: { readonly table: Mfn; readonly index: number } | null = null;
    if (from !== 0) {
      if (target.entry || !this.#find(pv, { lo: 0, hi: 0, address: from, entry: false })) return -EINVAL;
      source = { table: this.#table, index: this.#index };
      lo = memory.entryLo(source.table, source.index);
      hi = memory.entryHi(source.table, source.index);
    }
    if (!this.#find(pv, target)) return -EINVAL;
    const present = memory.entryLo(this.#table, this.#index);
    if ((present & PTE_P) === 0 || entryFrame(present, memory.entryHi(this.#table, this.#index)) !== frame) return -EINVAL;
    const rc = tables.modify(1, this.#table, this.#index, lo, hi, false);
    if (rc !== 0) return rc;
    this.#flush(target);
    if (source === null || (source.table === this.#table && source.index === this.#index)) return 0;
    tlb.invalidateAll(from);
    return tables.modify(1, source.table, source.index, 0, 0, false);
  }

  /** Old translations end before the guest goes on; behind the machine address of an entry may be any virtual address. */
  #flush(target: GrantTarget): void {
    if (target.entry) this.#context.tlb.flushAll();
    else this.#context.tlb.invalidateAll(target.address);
  }

  #find(pv: PvVcpu, target: GrantTarget): boolean {
    const { frames, walk } = this.#context;
    let table: number;
    if (target.entry) {
      if ((target.lo & 7) !== 0) return false;
      table = target.hi * 0x10_0000 + (target.lo >>> 12);
      this.#index = (target.lo & (PAGE_SIZE - 1)) >>> 3;
    } else {
      if (!guestAddressOk(target.address) || !walk.find(pv.kernelRoot, target.address)) return false;
      table = walk.table;
      this.#index = walk.index;
    }
    this.#table = table as Mfn;
    return frames.valid(table) && frames.guestMayUse(table) && frames.type(table) === FRAME_TYPE.l1;
  }
}
