// SPDX-License-Identifier: Apache-2.0
/**
 * Whole tables: checks every entry of a frame that becomes a page table or a descriptor table, and gives everything back when it
 * stops being one.
 *
 * A failed check gives back what it took, so that a refused frame leaves no reference behind. Entries that were checked before the
 * failure keep the bits that the hypervisor added. L4 slots 256..271 are the hypervisor's: whatever the guest left there is
 * overwritten (with nothing, or with the machine-to-physical mapping under VMASST_m2p_strict).
 */
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { type Mfn, PAGE_SIZE } from '../../memory/frames.ts';
import { EAGAIN, EINVAL } from '../errno.ts';
import { ASSIST } from './assists.ts';
import { checkDescriptor, checkedDescriptor } from './descriptor.ts';
import { FRAME_TYPE, type FrameType } from './frame-table.ts';
import type { M2p } from './m2p.ts';
import type { MmState } from './mm-state.ts';
import type { TypeChecks } from './page-types.ts';
import {
  adjustL1Hi,
  adjustL1Lo,
  adjustTableLo,
  isGuestL4Slot,
  PTE_P,
  ROOT_PAGETABLE_FIRST_XEN_SLOT,
  ROOT_PAGETABLE_LAST_XEN_SLOT,
} from './pte.ts';
import type { EntryRefs } from './validate.ts';
import type { WorkBudget } from './work-budget.ts';

const ENTRIES = 512;
const WORDS = 1024;

export class Promotion implements TypeChecks {
  readonly #memory: GuestMemory;
  readonly #state: MmState;
  readonly #m2p: M2p;
  readonly #entries: EntryRefs;
  readonly #work: WorkBudget;

  constructor(memory: GuestMemory, state: MmState, m2p: M2p, entries: EntryRefs, work: WorkBudget) {
    this.#memory = memory;
    this.#state = state;
    this.#m2p = m2p;
    this.#entries = entries;
    this.#work = work;
  }

  promote(frame: Mfn, type: FrameType): number {
    if (this.#work.exhausted) return -EAGAIN;
    this.#work.charge(ENTRIES);
    let rc: number;
    if (type === FRAME_TYPE.l1) rc = this.#promoteL1(frame);
    else if (type >= FRAME_TYPE.l2 && type <= FRAME_TYPE.l4) rc = this.#promoteTable(frame, type);
    else if (type === FRAME_TYPE.segdesc) rc = this.#promoteSegdesc(frame);
    else return -EINVAL;
    this.#memory.wrote(frame, 0, PAGE_SIZE);
    return rc;
  }

  demote(frame: Mfn, type: FrameType): void {
    this.#work.charge(ENTRIES);
    const u32 = this.#memory.u32;
    const at = this.#memory.frameOffset(frame) >>> 2;
    if (type === FRAME_TYPE.l1) {
      for (let i = 0; i < WORDS; i += 2) this.#entries.putL1(u32[at + i]);
      return;
    }
    for (let slot = 0; slot < ENTRIES; slot += 1) {
      if (type !== FRAME_TYPE.l4 || isGuestL4Slot(slot)) this.#entries.putTable(u32[at + slot * 2]);
    }
    // The guest gets the frame back: leave no hypervisor frame number in it that would fail its next check as another table.
    if (type === FRAME_TYPE.l4) this.#clearXenSlots(frame);
  }

  #promoteL1(frame: Mfn): number {
    const u32 = this.#memory.u32;
    const at = this.#memory.frameOffset(frame) >>> 2;
    for (let i = 0; i < WORDS; i += 2) {
      const lo = u32[at + i];
      if ((lo & PTE_P) === 0) continue;
      const hi = u32[at + i + 1];
      const rc = this.#entries.getL1(lo, hi);
      if (rc !== 0) {
        for (let back = 0; back < i; back += 2) this.#entries.putL1(u32[at + back]);
        return rc;
      }
      u32[at + i] = adjustL1Lo(lo, hi);
      u32[at + i + 1] = adjustL1Hi(lo, hi);
    }
    return 0;
  }

  #promoteTable(frame: Mfn, level: number): number {
    const u32 = this.#memory.u32;
    const at = this.#memory.frameOffset(frame) >>> 2;
    for (let slot = 0; slot < ENTRIES; slot += 1) {
      if (level === 4 && !isGuestL4Slot(slot)) continue;
      const lo = u32[at + slot * 2];
      if ((lo & PTE_P) === 0) continue;
      const rc = this.#entries.getTable(level, lo, u32[at + slot * 2 + 1]);
      if (rc !== 0) {
        for (let back = 0; back < slot; back += 1) {
          if (level !== 4 || isGuestL4Slot(back)) this.#entries.putTable(u32[at + back * 2]);
        }
        return rc;
      }
      u32[at + slot * 2] = adjustTableLo(lo, level);
    }
    if (level === 4) {
      this.#clearXenSlots(frame);
      if (this.#state.assist(ASSIST.m2pStrict)) this.#m2p.insert(frame);
    }
    return 0;
  }

  #promoteSegdesc(frame: Mfn): number {
    const u32 = this.#memory.u32;
    const at = this.#memory.frameOffset(frame) >>> 2;
    for (let i = 0; i < WORDS; i += 2) {
      if (!checkDescriptor(u32[at + i], u32[at + i + 1])) return -EINVAL;
      u32[at + i] = checkedDescriptor[0];
      u32[at + i + 1] = checkedDescriptor[1];
    }
    return 0;
  }

  #clearXenSlots(frame: Mfn): void {
    const at = this.#memory.frameOffset(frame) >>> 2;
    this.#memory.u32.fill(0, at + ROOT_PAGETABLE_FIRST_XEN_SLOT * 2, at + (ROOT_PAGETABLE_LAST_XEN_SLOT + 1) * 2);
    this.#memory.wrote(frame, ROOT_PAGETABLE_FIRST_XEN_SLOT * 8, (ROOT_PAGETABLE_LAST_XEN_SLOT + 1 - ROOT_PAGETABLE_FIRST_XEN_SLOT) * 8);
  }
}
