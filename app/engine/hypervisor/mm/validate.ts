// SPDX-License-Identifier: Apache-2.0
/**
 * What one page-table entry stands for: a reference on the frame it names, and a typed one (writable for a writable L1 entry, the
 * next level's table type for an upper one).
 *
 * Taking is where a guest's entry is checked (xen public/xen.h, HYPERVISOR_mmu_update: table pages are mapped read-only, a frame
 * must be the guest's or shared with it). Linear page tables (a table that names one of its own level) are refused: optional in
 * the interface, unused by Linux.
 */
import type { Mfn } from '../../memory/frames.ts';
import { EBUSY, EINVAL, EPERM } from '../errno.ts';
import { FRAME_TYPE, type FrameTable, type FrameType } from './frame-table.ts';
import type { PageTypes } from './page-types.ts';
import { entryFrame, L1_DISALLOW_LO, PTE_HI_FRAME, PTE_P, PTE_RW, TABLE_DISALLOW_LO } from './pte.ts';

export class EntryRefs {
  readonly #frames: FrameTable;
  readonly #types: PageTypes;

  constructor(frames: FrameTable, types: PageTypes) {
    this.#frames = frames;
    this.#types = types;
  }

  /**
   * Takes what a present L1 entry stands for. 0; -EINVAL: forbidden bits or the invalid frame number; -EPERM: no such memory;
   * -EBUSY: the frame is not the guest's, or a writable mapping of a page table or descriptor table.
   */
  getL1(lo: number, hi: number): number {
    if ((lo & L1_DISALLOW_LO) !== 0) return -EINVAL;
    const frame = entryFrame(lo, hi);
    if (!this.#frames.valid(frame)) return (hi & PTE_HI_FRAME) === PTE_HI_FRAME && lo >>> 12 === 0xf_ffff ? -EINVAL : -EPERM;
    if (!this.#types.getPage(frame)) return -EBUSY;
    if ((lo & PTE_RW) !== 0 && this.#types.getType(frame, FRAME_TYPE.writable) !== 0) {
      this.#types.putPage(frame);
      return -EBUSY;
    }
    return 0;
  }

  /** Drops what a stored L1 entry stands for. */
  putL1(lo: number): void {
    if ((lo & PTE_P) === 0) return;
    const frame = (lo >>> 12) as Mfn;
    if ((lo & PTE_RW) !== 0) this.#types.putType(frame);
    this.#types.putPage(frame);
  }

  /** Takes what a present entry of a table of `level` 2..4 stands for. 0, -EINVAL, or what checking the lower table answered. */
  getTable(level: number, lo: number, hi: number): number {
    if ((lo & TABLE_DISALLOW_LO) !== 0) return -EINVAL;
    return this.#types.getPageAndType(entryFrame(lo, hi), (level - 1) as FrameType);
  }

  /** Drops what a stored entry of a table of level 2..4 stands for. */
  putTable(lo: number): void {
    if ((lo & PTE_P) !== 0) this.#types.putPageAndType((lo >>> 12) as Mfn);
  }
}
