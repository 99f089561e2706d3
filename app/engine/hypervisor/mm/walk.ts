// SPDX-License-Identifier: Apache-2.0
/**
 * A walk over a guest's four-level page tables (Intel SDM 3A §4.5.4), as the hypervisor needs it: to find the L1 entry that maps an
 * address, without touching accessed and dirty bits.
 *
 * The tables under a loaded root are validated, so that every present entry names an existing frame; the walk checks bounds all the
 * same. Large pages do not occur in a PV guest and end the walk.
 */
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Mfn } from '../../memory/frames.ts';
import { canonical, entryFrame, PTE_HI_NX, PTE_P, PTE_PSE, PTE_RW, PTE_U, tableIndex } from './pte.ts';

export class PageWalk {
  /** The L1 table and the index of the entry in it. */
  table: Mfn = 0 as Mfn;
  index = 0;
  /** The entry; it may be not present. */
  lo = 0;
  hi = 0;
  /** Whether every level allows writing, user-mode access and execution. */
  writable = false;
  user = false;
  executable = false;
  readonly #memory: GuestMemory;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Finds the L1 entry of `va` under `root`. False when the address is not canonical or no L1 table covers it. */
  find(root: Mfn | -1, va: number): boolean {
    if (root < 0 || !canonical(va)) return false;
    let table: Mfn = root as Mfn;
    this.writable = true;
    this.user = true;
    this.executable = true;
    for (let level = 4; level >= 1; level -= 1) {
      if (!this.#memory.has(table)) return false;
      const index = tableIndex(va, level);
      const lo = this.#memory.entryLo(table, index);
      const hi = this.#memory.entryHi(table, index);
      if ((lo & PTE_RW) === 0) this.writable = false;
      if ((lo & PTE_U) === 0) this.user = false;
      if ((hi & PTE_HI_NX) !== 0) this.executable = false;
      if (level === 1) {
        this.table = table;
        this.index = index;
        this.lo = lo;
        this.hi = hi;
        return true;
      }
      if ((lo & (PTE_P | PTE_PSE)) !== PTE_P) return false;
      table = entryFrame(lo, hi) as Mfn;
    }
    return false;
  }
}
