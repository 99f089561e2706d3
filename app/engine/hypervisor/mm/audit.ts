// SPDX-License-Identifier: Apache-2.0
/**
 * Recounts every reference from scratch and compares: the invariant of the PV MMU, written down once more and independently of the
 * code that keeps it. For tests, fuzzers and post-mortems; walks all of memory.
 *
 * INVARIANT: no validated L1 entry maps a page table or descriptor table writable; counts equal what roots, pins, descriptor
 * tables, validated entries, shares and holders add up to; the reservation equals the number of owned frames.
 */
import type { Mfn } from '../../memory/frames.ts';
import type { PvVcpu } from '../pv-vcpu.ts';
import { FRAME_TYPE, FRAME_TYPE_NAMES, OWNER } from './frame-table.ts';
import { entryFrame, isGuestL4Slot, PTE_P, PTE_RW, PTE_U } from './pte.ts';
import type { PvMmu } from './pv-mmu.ts';

/** A reference that the audit cannot see in memory: `PvMmu.holdFrame`. */
export interface Holder {
  readonly frame: Mfn;
  readonly writable: boolean;
}

/** One sentence for each thing that is wrong; empty when all is well. */
export function auditFrames(mmu: PvMmu, vcpus: readonly PvVcpu[], holders: readonly Holder[] = []): string[] {
  const { frames, memory, state } = mmu.context;
  const problems: string[] = [];
  const refs = new Uint32Array(frames.frameCount);
  const types = new Uint32Array(frames.frameCount);
  let owned = 0;

  /** A typed use of `frame`. */
  const use = (frame: number, type: number, by: string): void => {
    if (!frames.valid(frame)) {
      problems.push(`${by} names frame ${frame}, which does not exist`);
      return;
    }
    refs[frame] += 1;
    types[frame] += 1;
    if (frames.type(frame) !== type)
      problems.push(`${by} uses frame ${frame} as ${FRAME_TYPE_NAMES[type]}, but it is ${FRAME_TYPE_NAMES[frames.type(frame)]}`);
  };

  for (let frame = 0; frame < frames.frameCount; frame += 1) {
    const owner = frames.owner(frame);
    if (owner === OWNER.guest) {
      owned += 1;
      if (frame >= state.guestFrames) problems.push(`frame ${frame} is the hypervisor's but belongs to the guest`);
    }
    if (frames.allocated(frame)) refs[frame] += 1;
    if (frames.shared(frame)) types[frame] += 1;
    if (frames.pinned(frame)) use(frame, frames.lastType(frame), `the pin of frame ${frame}`);
    const type = frames.type(frame);
    if (type !== FRAME_TYPE.none && !frames.validated(frame))
      problems.push(`frame ${frame} is in use as ${FRAME_TYPE_NAMES[type]} unchecked`);
    if (type < FRAME_TYPE.l1 || type > FRAME_TYPE.l4) continue;
    for (let slot = 0; slot < 512; slot += 1) {
      if (type === FRAME_TYPE.l4 && !isGuestL4Slot(slot)) continue;
      const lo = memory.entryLo(frame as Mfn, slot);
      if ((lo & PTE_P) === 0) continue;
      const target = entryFrame(lo, memory.entryHi(frame as Mfn, slot));
      const by = `entry ${slot} of ${FRAME_TYPE_NAMES[type]} ${frame}`;
      if ((lo & PTE_U) === 0) problems.push(`${by} lacks U`);
      if (type !== FRAME_TYPE.l1) use(target, type - 1, by);
      else if ((lo & PTE_RW) !== 0) use(target, FRAME_TYPE.writable, by);
      else if (frames.valid(target)) refs[target] += 1;
      else problems.push(`${by} names frame ${target}, which does not exist`);
    }
  }
  for (const pv of vcpus) {
    if (pv.kernelRoot !== -1) use(pv.kernelRoot, FRAME_TYPE.l4, `kernel root of vCPU ${pv.id}`);
    if (pv.userRoot !== -1) use(pv.userRoot, FRAME_TYPE.l4, `user root of vCPU ${pv.id}`);
    for (const frame of pv.gdtFrames) use(frame, FRAME_TYPE.segdesc, `GDT of vCPU ${pv.id}`);
    for (const frame of mmu.ldtFrames(pv)) use(frame, FRAME_TYPE.segdesc, `LDT of vCPU ${pv.id}`);
  }
  for (const { frame, writable } of holders) {
    if (writable) use(frame, FRAME_TYPE.writable, 'a holder');
    else refs[frame] += 1;
  }
  for (let frame = 0; frame < frames.frameCount; frame += 1) {
    if (frames.refs(frame) !== refs[frame]) problems.push(`frame ${frame} has ${frames.refs(frame)} references, recounted ${refs[frame]}`);
    if (frames.typeCount(frame) !== types[frame])
      problems.push(`frame ${frame} has type count ${frames.typeCount(frame)}, recounted ${types[frame]}`);
    if (frames.owner(frame) === OWNER.free && refs[frame] !== 0) problems.push(`frame ${frame} is free and referred to`);
  }
  if (owned !== state.reservation) problems.push(`the reservation says ${state.reservation} frames, the guest owns ${owned}`);
  return problems;
}
