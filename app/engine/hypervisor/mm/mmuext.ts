// SPDX-License-Identifier: Apache-2.0
/**
 * HYPERVISOR_mmuext_op: pinning, root tables, flushes, LDT, clearing and copying frames (xen public/xen.h, struct mmuext_op).
 *
 * @abi hypercall mmuext_op — MMUEXT_PIN_L1..L4_TABLE, UNPIN_TABLE, NEW_BASEPTR, NEW_USER_BASEPTR, TLB_FLUSH_LOCAL/MULTI/ALL, INVLPG_LOCAL/MULTI/ALL, SET_LDT, CLEAR_PAGE, COPY_PAGE
 *
 * Leaves out: cache flushes (-EACCES: no guest here has device memory), superpage marks (-EOPNOTSUPP).
 */
import { type Mfn, PAGE_SIZE } from '../../memory/frames.ts';
import { EACCES, EAGAIN, EFAULT, EINVAL, ENOSYS, EOPNOTSUPP } from '../errno.ts';
import type { PvVcpu } from '../pv-vcpu.ts';
import { checkDomid, type MmContext } from './context.ts';
import type { DescriptorTables } from './descriptor-tables.ts';
import { flushBitmap } from './flush-request.ts';
import { FRAME_TYPE, type FrameType } from './frame-table.ts';
import { canonical, guestAddressOk, signedNumber } from './pte.ts';
import type { Roots } from './roots.ts';
import { MAX_BATCH, WORK_FLUSH, WORK_PAGE } from './work-budget.ts';

export const MMUEXT_PIN_L1_TABLE = 0;
export const MMUEXT_PIN_L2_TABLE = 1;
export const MMUEXT_PIN_L3_TABLE = 2;
export const MMUEXT_PIN_L4_TABLE = 3;
export const MMUEXT_UNPIN_TABLE = 4;
export const MMUEXT_NEW_BASEPTR = 5;
export const MMUEXT_TLB_FLUSH_LOCAL = 6;
export const MMUEXT_INVLPG_LOCAL = 7;
export const MMUEXT_TLB_FLUSH_MULTI = 8;
export const MMUEXT_INVLPG_MULTI = 9;
export const MMUEXT_TLB_FLUSH_ALL = 10;
export const MMUEXT_INVLPG_ALL = 11;
export const MMUEXT_FLUSH_CACHE = 12;
export const MMUEXT_SET_LDT = 13;
export const MMUEXT_NEW_USER_BASEPTR = 15;
export const MMUEXT_CLEAR_PAGE = 16;
export const MMUEXT_COPY_PAGE = 17;
export const MMUEXT_FLUSH_CACHE_GLOBAL = 18;
export const MMUEXT_MARK_SUPER = 19;
export const MMUEXT_UNMARK_SUPER = 20;

const OP_BYTES = 24;

export class MmuextOp {
  /** Operations done, for `--stats`. */
  pins = 0;
  unpins = 0;
  rootLoads = 0;
  readonly #context: MmContext;
  readonly #roots: Roots;
  readonly #descriptors: DescriptorTables;

  constructor(context: MmContext, roots: Roots, descriptors: DescriptorTables) {
    this.#context = context;
    this.#roots = roots;
    this.#descriptors = descriptors;
  }

  run(pv: PvVcpu, opsVa: number, count: number, doneVa: number, foreigndom: number): number {
    const { words, work } = this.#context;
    let rc = checkDomid(this.#context, foreigndom & 0xffff);
    let done = 0;
    if (rc === 0 && !(count >= 0 && count <= MAX_BATCH)) rc = -EINVAL;
    while (rc === 0 && done < count) {
      if (work.exhausted) {
        rc = -EAGAIN;
        break;
      }
      const at = opsVa + done * OP_BYTES;
      if (!words.read64(pv, at)) {
        rc = -EFAULT;
        break;
      }
      const command = words.lo;
      if (!words.read64(pv, at + 8)) {
        rc = -EFAULT;
        break;
      }
      const lo1 = words.lo;
      const hi1 = words.hi;
      if (!words.read64(pv, at + 16)) {
        rc = -EFAULT;
        break;
      }
      rc = this.#one(pv, command, signedNumber(lo1, hi1), words.lo, words.hi);
      if (rc === 0) done += 1;
    }
    this.#roots.finish(pv);
    work.charge(done);
    if (doneVa !== 0) words.write32(pv, doneVa, done);
    return rc;
  }

  /** `arg1` is a frame number or an address (NaN when it fits neither); the second argument comes in halves. */
  #one(pv: PvVcpu, command: number, arg1: number, lo2: number, hi2: number): number {
    const { tlb, work } = this.#context;
    switch (command) {
      case MMUEXT_PIN_L1_TABLE:
      case MMUEXT_PIN_L2_TABLE:
      case MMUEXT_PIN_L3_TABLE:
      case MMUEXT_PIN_L4_TABLE:
        return this.pin(arg1, (command - MMUEXT_PIN_L1_TABLE + FRAME_TYPE.l1) as FrameType);
      case MMUEXT_UNPIN_TABLE:
        return this.#unpin(arg1);
      case MMUEXT_NEW_BASEPTR:
        this.rootLoads += 1;
        work.charge(WORK_FLUSH);
        return this.#roots.setKernel(pv, arg1);
      case MMUEXT_NEW_USER_BASEPTR:
        this.rootLoads += 1;
        work.charge(WORK_FLUSH);
        return this.#roots.setUser(pv, arg1);
      case MMUEXT_TLB_FLUSH_LOCAL:
        work.charge(WORK_FLUSH);
        tlb.flush(pv.id);
        return 0;
      case MMUEXT_INVLPG_LOCAL:
        if (canonical(arg1)) tlb.invalidate(pv.id, arg1);
        return 0;
      case MMUEXT_TLB_FLUSH_MULTI:
        return flushBitmap(this.#context, pv, signedNumber(lo2, hi2), null) ? 0 : -EINVAL;
      case MMUEXT_INVLPG_MULTI:
        if (!guestAddressOk(arg1)) return 0;
        return flushBitmap(this.#context, pv, signedNumber(lo2, hi2), arg1) ? 0 : -EINVAL;
      case MMUEXT_TLB_FLUSH_ALL:
        work.charge(WORK_FLUSH);
        tlb.flushAll();
        return 0;
      case MMUEXT_INVLPG_ALL:
        if (guestAddressOk(arg1)) tlb.invalidateAll(arg1);
        return 0;
      case MMUEXT_FLUSH_CACHE:
      case MMUEXT_FLUSH_CACHE_GLOBAL:
        return -EACCES;
      case MMUEXT_SET_LDT:
        return this.#descriptors.setLdt(pv, arg1, lo2);
      case MMUEXT_CLEAR_PAGE:
        return this.#clearPage(arg1);
      case MMUEXT_COPY_PAGE:
        return this.#copyPage(arg1, signedNumber(lo2, hi2));
      case MMUEXT_MARK_SUPER:
      case MMUEXT_UNMARK_SUPER:
        return -EOPNOTSUPP;
      default:
        return -ENOSYS;
    }
  }

  /** Checks the table `frame` and everything below, and holds it as such until it is unpinned. 0, -EINVAL, or the check's error. */
  pin(frame: number, type: FrameType): number {
    const { frames, types } = this.#context;
    const rc = types.getPageAndType(frame, type);
    if (rc !== 0) return rc;
    const table = frame as Mfn;
    if (frames.pinned(table)) {
      types.putPageAndType(table);
      return -EINVAL;
    }
    frames.setPinned(table, true);
    this.pins += 1;
    return 0;
  }

  #unpin(frame: number): number {
    const { frames, types } = this.#context;
    if (!frames.valid(frame) || !frames.guestMayUse(frame) || !frames.pinned(frame)) return -EINVAL;
    frames.setPinned(frame, false);
    types.putPageAndType(frame as Mfn);
    this.unpins += 1;
    return 0;
  }

  #clearPage(frame: number): number {
    const { memory, types, work } = this.#context;
    work.charge(WORK_PAGE);
    if (types.getPageAndType(frame, FRAME_TYPE.writable) !== 0) return -EINVAL;
    const page = frame as Mfn;
    memory.frame(page).fill(0);
    memory.wrote(page, 0, PAGE_SIZE);
    types.putPageAndType(page);
    return 0;
  }

  #copyPage(to: number, from: number): number {
    const { memory, types, work } = this.#context;
    work.charge(WORK_PAGE);
    if (!types.getPage(from)) return -EINVAL;
    if (types.getPageAndType(to, FRAME_TYPE.writable) !== 0) {
      types.putPage(from);
      return -EINVAL;
    }
    const page = to as Mfn;
    memory.frame(page).set(memory.frame(from));
    memory.wrote(page, 0, PAGE_SIZE);
    types.putPageAndType(page);
    types.putPage(from);
    return 0;
  }
}
