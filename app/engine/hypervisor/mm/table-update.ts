// SPDX-License-Identifier: Apache-2.0
/**
 * One checked change of one entry of a validated page table: what HYPERVISOR_mmu_update, HYPERVISOR_update_va_mapping and the
 * emulation of stores to page tables have in common.
 *
 * The new entry's references are taken before the old entry's are dropped. A change of flags that decide nothing (accessed, dirty,
 * available bits, NX) is stored without another check.
 */
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Mfn } from '../../memory/frames.ts';
import { EINVAL } from '../errno.ts';
import {
  adjustL1Hi,
  adjustL1Lo,
  adjustTableLo,
  isGuestL4Slot,
  L1_DISALLOW_LO,
  L1_RECHECK_LO,
  PTE_A,
  PTE_D,
  PTE_P,
  RECHECK_HI,
  TABLE_DISALLOW_LO,
  TABLE_RECHECK_LO,
} from './pte.ts';
import type { EntryRefs } from './validate.ts';

export class TableUpdate {
  readonly #memory: GuestMemory;
  readonly #entries: EntryRefs;

  constructor(memory: GuestMemory, entries: EntryRefs) {
    this.#memory = memory;
    this.#entries = entries;
  }

  /**
   * Replaces entry `index` of `table`, whose type in use is the table type of `level`. `preserveAd` keeps the accessed and dirty
   * bits that the old entry has. 0 or a negative error with nothing changed: -EINVAL for forbidden bits, hypervisor slots and frames
   * that cannot be such a table; -EPERM and -EBUSY as `EntryRefs.getL1`.
   */
  modify(level: number, table: Mfn, index: number, lo: number, hi: number, preserveAd: boolean): number {
    if (level === 4 && !isGuestL4Slot(index)) return -EINVAL;
    const u32 = this.#memory.u32;
    const at = (this.#memory.frameOffset(table) >>> 2) + index * 2;
    const oldLo = u32[at];
    let newLo = lo;
    let newHi = hi;
    if ((lo & PTE_P) !== 0) {
      if ((lo & (level === 1 ? L1_DISALLOW_LO : TABLE_DISALLOW_LO)) !== 0) return -EINVAL;
      if (level === 1) {
        newLo = adjustL1Lo(lo, hi);
        newHi = adjustL1Hi(lo, hi);
      } else {
        newLo = adjustTableLo(lo, level);
      }
      const recheck = level === 1 ? L1_RECHECK_LO : TABLE_RECHECK_LO;
      if (((oldLo ^ newLo) & recheck) === 0 && ((u32[at + 1] ^ newHi) & RECHECK_HI) === 0) {
        this.#store(table, index, at, newLo, newHi, preserveAd);
        return 0;
      }
      const rc = level === 1 ? this.#entries.getL1(newLo, newHi) : this.#entries.getTable(level, newLo, newHi);
      if (rc !== 0) return rc;
    }
    this.#store(table, index, at, newLo, newHi, preserveAd);
    if (level === 1) this.#entries.putL1(oldLo);
    else this.#entries.putTable(oldLo);
    return 0;
  }

  /**
   * Stores both halves so that no walker on another thread sees a mixture: the entry is not present while its high half changes.
   */
  #store(table: Mfn, index: number, at: number, lo: number, hi: number, preserveAd: boolean): void {
    const u32 = this.#memory.u32;
    if (u32[at + 1] === hi) {
      if (preserveAd) {
        let old = Atomics.load(u32, at);
        for (;;) {
          const seen = Atomics.compareExchange(u32, at, old, lo | (old & (PTE_A | PTE_D)));
          if (seen === old) break;
          old = seen;
        }
      } else {
        Atomics.store(u32, at, lo);
      }
    } else {
      const old = Atomics.exchange(u32, at, 0);
      Atomics.store(u32, at + 1, hi);
      Atomics.store(u32, at, preserveAd ? lo | (old & (PTE_A | PTE_D)) : lo);
    }
    this.#memory.wrote(table, index * 8, 8);
  }
}
