// SPDX-License-Identifier: Apache-2.0
/** Flushes of the vCPUs that a guest names in a bitmap (MMUEXT_*_MULTI, UVMF_MULTI). */
import type { PvVcpu } from '../pv-vcpu.ts';
import type { MmContext } from './context.ts';
import { WORK_FLUSH } from './work-budget.ts';

/**
 * Flushes everything (`va` null) or one page of every vCPU whose bit is set in the bitmap at `bitmapVa`. False when the bitmap is not
 * readable; bits past the last vCPU are ignored.
 */
export function flushBitmap(context: MmContext, pv: PvVcpu, bitmapVa: number, va: number | null): boolean {
  const { words, tlb, work, state } = context;
  for (let base = 0; base < state.vcpus; base += 64) {
    if (!words.read64(pv, bitmapVa + base / 8)) return false;
    const lo = words.lo;
    const hi = words.hi;
    for (let bit = 0; bit < 64 && base + bit < state.vcpus; bit += 1) {
      if ((((bit < 32 ? lo : hi) >>> (bit & 31)) & 1) === 0) continue;
      if (va === null) {
        work.charge(WORK_FLUSH);
        tlb.flush(base + bit);
      } else {
        tlb.invalidate(base + bit, va);
      }
    }
  }
  return true;
}
