// SPDX-License-Identifier: Apache-2.0
/** Time a vCPU has spent running, runnable, blocked and offline (xen public/vcpu.h vcpu_runstate_info), kept in shared state. */
import { type SharedState, VCPU_STATE } from '../shared-state.ts';

export const RUNSTATE = { running: 0, runnable: 1, blocked: 2, offline: 3 } as const;
export const RUNSTATE_INFO_BYTES = 48;

/** Moves a vCPU into `next` at time `now`. */
export function changeRunstate(state: SharedState, vcpu: number, next: number, now: number): void {
  const current = state.getVcpu(vcpu, VCPU_STATE.runstate) & 3;
  const slot = VCPU_STATE.runstateTimes + current * 8;
  const entered = state.getVcpuF64(vcpu, VCPU_STATE.runstateEntry);
  state.setVcpuF64(vcpu, slot, state.getVcpuF64(vcpu, slot) + Math.max(0, now - entered));
  state.setVcpuF64(vcpu, VCPU_STATE.runstateEntry, Math.max(now, entered));
  state.setVcpu(vcpu, VCPU_STATE.runstate, next);
}

/** Fills `out` (48 bytes) with the vCPU's record as of `now`. */
export function runstateInfo(state: SharedState, vcpu: number, now: number, out: DataView): void {
  const current = state.getVcpu(vcpu, VCPU_STATE.runstate) & 3;
  const entered = state.getVcpuF64(vcpu, VCPU_STATE.runstateEntry);
  out.setInt32(0, current, true);
  out.setInt32(4, 0, true);
  setNs(out, 8, entered);
  for (let i = 0; i < 4; i++) {
    const spent = state.getVcpuF64(vcpu, VCPU_STATE.runstateTimes + i * 8);
    setNs(out, 16 + i * 8, i === current ? spent + Math.max(0, now - entered) : spent);
  }
}

function setNs(out: DataView, at: number, ns: number): void {
  out.setUint32(at, ns >>> 0, true);
  out.setUint32(at + 4, Math.floor(ns / 0x1_0000_0000), true);
}
