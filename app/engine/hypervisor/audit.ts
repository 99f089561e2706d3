// SPDX-License-Identifier: Apache-2.0
/**
 * The memory audit of a whole domain: `auditFrames` with everything that holds frames outside of page tables, taken from shared state.
 * For fuzzers and post-mortems; the domain must stand still.
 */
import { type Mfn, mfn } from '../memory/frames.ts';
import { GNTMAP_device_map, GNTMAP_readonly } from './abi/grant-table.ts';
import type { Domain } from './domain.ts';
import { auditFrames, type Holder } from './mm/audit.ts';
import type { PvMmu } from './mm/pv-mmu.ts';
import { STATE, VCPU_STATE } from './shared-state.ts';

/** One sentence for each thing that is wrong. `dom0Frames` are those that backends hold writable. */
export function auditDomain(d: Domain, mmu: PvMmu, dom0Frames: readonly Mfn[]): string[] {
  const { state } = d;
  const holders: Holder[] = dom0Frames.map((frame) => ({ frame, writable: true }));
  const held = (frame: number): void => {
    if (frame >= 0) holders.push({ frame: mfn(frame), writable: true });
  };
  for (let vcpu = 0; vcpu < state.vcpuCount; vcpu++) {
    held(state.getVcpu(vcpu, VCPU_STATE.infoFrame));
    held(state.getVcpu(vcpu, VCPU_STATE.controlFrame));
  }
  for (let page = 0; page < state.get(STATE.fifoPageCount); page++) held(state.get(STATE.fifoPages + page * 4));
  for (const { flags, frame } of d.maptrack.all()) {
    if ((flags & GNTMAP_device_map) !== 0) holders.push({ frame: mfn(frame), writable: (flags & GNTMAP_readonly) === 0 });
  }
  return auditFrames(mmu, [d.vcpu], holders);
}
