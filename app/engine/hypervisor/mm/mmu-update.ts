// SPDX-License-Identifier: Apache-2.0
/**
 * HYPERVISOR_mmu_update: a batch of {ptr, val} pairs; the low two bits of ptr say what each does (xen public/xen.h).
 *
 * @abi hypercall mmu_update — MMU_NORMAL_PT_UPDATE, MMU_MACHPHYS_UPDATE, MMU_PT_UPDATE_PRESERVE_AD, MMU_PT_UPDATE_NO_TRANSLATE
 *
 * PERF: half of a kernel boot's hypercalls; no allocation, no copies of aligned requests.
 */
import { type Mfn, PAGE_SIZE } from '../../memory/frames.ts';
import { EAGAIN, EFAULT, EINVAL, ESRCH } from '../errno.ts';
import type { PvVcpu } from '../pv-vcpu.ts';
import { checkDomid, type MmContext } from './context.ts';
import { FRAME_TYPE } from './frame-table.ts';
import { MAX_BATCH } from './work-budget.ts';

export const MMU_NORMAL_PT_UPDATE = 0;
export const MMU_MACHPHYS_UPDATE = 1;
export const MMU_PT_UPDATE_PRESERVE_AD = 2;
export const MMU_PT_UPDATE_NO_TRANSLATE = 3;

const REQUEST_BYTES = 16;

export class MmuUpdate {
  /** Entries changed, for `--stats`. */
  updates = 0;
  readonly #context: MmContext;

  constructor(context: MmContext) {
    this.#context = context;
  }

  run(pv: PvVcpu, reqsVa: number, count: number, doneVa: number, foreigndom: number): number {
    const { words, work } = this.#context;
    // The upper half names the owner of the page tables plus one; the lower half the owner of what they map.
    const tableDomain = foreigndom >>> 16;
    if (tableDomain !== 0 && tableDomain - 1 !== this.#context.domId) return -ESRCH;
    let rc = checkDomid(this.#context, foreigndom & 0xffff);
    let done = 0;
    if (rc === 0 && !(count >= 0 && count <= MAX_BATCH)) rc = -EINVAL;
    while (rc === 0 && done < count) {
      if (work.exhausted) {
        rc = -EAGAIN;
        break;
      }
      const at = reqsVa + done * REQUEST_BYTES;
      if (!words.read64(pv, at)) {
        rc = -EFAULT;
        break;
      }
      const ptrLo = words.lo;
      const ptrHi = words.hi;
      if (!words.read64(pv, at + 8)) {
        rc = -EFAULT;
        break;
      }
      rc = this.#one(ptrLo, ptrHi, words.lo, words.hi);
      if (rc === 0) done += 1;
    }
    this.updates += done;
    work.charge(done);
    // A bad pointer here is the guest's loss.
    if (doneVa !== 0) words.write32(pv, doneVa, done);
    return rc;
  }

  #one(ptrLo: number, ptrHi: number, lo: number, hi: number): number {
    const { frames, types, tables, memory, m2p } = this.#context;
    const frame = ptrHi * 0x10_0000 + (ptrLo >>> 12);
    if (!frames.valid(frame) || !frames.guestMayUse(frame)) return -EINVAL;
    const table = frame as Mfn;
    const command = ptrLo & 3;
    if (command === MMU_MACHPHYS_UPDATE) {
      m2p.set(table, lo, hi);
      return 0;
    }
    // A pointer into the middle of an entry means the entry.
    const index = (ptrLo & (PAGE_SIZE - 1)) >>> 3;
    const type = frames.type(table);
    if (type >= FRAME_TYPE.l1 && type <= FRAME_TYPE.l4)
      return tables.modify(type, table, index, lo, hi, command === MMU_PT_UPDATE_PRESERVE_AD);
    if (type === FRAME_TYPE.writable) {
      memory.setEntry(table, index, lo, hi);
      return 0;
    }
    if (frames.typeCount(table) !== 0) return -EINVAL;
    const rc = types.getPageAndType(table, FRAME_TYPE.writable);
    if (rc !== 0) return rc;
    memory.setEntry(table, index, lo, hi);
    types.putPageAndType(table);
    return 0;
  }
}
