// SPDX-License-Identifier: Apache-2.0
/**
 * HYPERVISOR_update_va_mapping: changes the L1 entry that maps an address in the current tables, and flushes as asked.
 *
 * @abi hypercall update_va_mapping — UVMF_NONE, UVMF_TLB_FLUSH, UVMF_INVLPG; UVMF_LOCAL, UVMF_ALL, UVMF_MULTI
 * @abi hypercall update_va_mapping_otherdomain — the calling domain only
 */
import { EFAULT, EINVAL } from '../errno.ts';
import type { PvVcpu } from '../pv-vcpu.ts';
import { checkDomid, type MmContext } from './context.ts';
import { flushBitmap } from './flush-request.ts';
import { FRAME_TYPE } from './frame-table.ts';
import { guestAddressOk } from './pte.ts';

export const UVMF_NONE = 0;
export const UVMF_TLB_FLUSH = 1;
export const UVMF_INVLPG = 2;
export const UVMF_FLUSHTYPE_MASK = 3;
export const UVMF_LOCAL = 0;
export const UVMF_ALL = 4;

export class UpdateVaMapping {
  readonly #context: MmContext;

  constructor(context: MmContext) {
    this.#context = context;
  }

  /** `flagsLo` are the low 32 bits of the flags, `flagsNum` the whole as a signed number (a pointer with UVMF_MULTI). */
  run(pv: PvVcpu, va: number, lo: number, hi: number, flagsLo: number, flagsNum: number): number {
    const { walk, frames, tables } = this.#context;
    if (!guestAddressOk(va) || !walk.find(pv.kernelRoot, va)) return -EINVAL;
    const table = walk.table;
    if (!frames.valid(table) || frames.type(table) !== FRAME_TYPE.l1) return -EINVAL;
    const rc = tables.modify(1, table, walk.index, lo, hi, false);
    return rc !== 0 ? rc : this.#flush(pv, va, flagsLo & UVMF_FLUSHTYPE_MASK, flagsNum - (flagsLo & UVMF_FLUSHTYPE_MASK));
  }

  runOtherdomain(pv: PvVcpu, va: number, lo: number, hi: number, flagsLo: number, flagsNum: number, domid: number): number {
    const rc = checkDomid(this.#context, domid);
    return rc !== 0 ? rc : this.run(pv, va, lo, hi, flagsLo, flagsNum);
  }

  #flush(pv: PvVcpu, va: number, kind: number, target: number): number {
    const { tlb } = this.#context;
    if (kind === UVMF_TLB_FLUSH) {
      if (target === UVMF_LOCAL) tlb.flush(pv.id);
      else if (target === UVMF_ALL) tlb.flushAll();
      else if (!flushBitmap(this.#context, pv, target, null)) return -EFAULT;
    } else if (kind === UVMF_INVLPG) {
      if (target === UVMF_LOCAL) tlb.invalidate(pv.id, va);
      else if (target === UVMF_ALL) tlb.invalidateAll(va);
      else if (!flushBitmap(this.#context, pv, target, va)) return -EFAULT;
    }
    return 0;
  }
}
