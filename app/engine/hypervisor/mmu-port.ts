// SPDX-License-Identifier: Apache-2.0
/**
 * What the rest of the hypervisor asks of the PV memory management unit (`mm/`).
 *
 * Results are hypercall results: zero or positive, or a negated error number. Addresses are exact signed numbers, already
 * checked to be canonical; lengths and counts are as the guest gave them.
 */
import type { Mfn } from '../memory/frames.ts';
import type { PvVcpu } from './pv-vcpu.ts';
import type { GrantTarget } from './mm/grant-map.ts';
import type { WriteEmulator } from './mm/ptwr.ts';

/**
 * Result of a long operation that did a part of its work: it has already put the arguments for the rest into the vCPU's argument
 * registers, and the hypercall is to be issued again after events were looked at. Not used inside a multicall.
 */
export const HYPERCALL_RESTART = -(2 ** 52);

export interface MmuPort {
  mmuUpdate(pv: PvVcpu, reqsVa: number, count: number, doneVa: number, foreigndom: number): number;
  mmuextOp(pv: PvVcpu, opsVa: number, count: number, doneVa: number, foreigndom: number): number;
  /** `flagsLo` is the low half of the flags; `flagsNum` the whole as a signed number (a pointer to a vCPU bitmap may be in it). */
  updateVaMapping(pv: PvVcpu, va: number, lo: number, hi: number, flagsLo: number, flagsNum: number): number;
  memoryOp(pv: PvVcpu, cmd: number, argVa: number): number;
  setGdt(pv: PvVcpu, framesVa: number, entries: number): number;
  updateDescriptor(pv: PvVcpu, maLo: number, maHi: number, dLo: number, dHi: number): number;
  /** The descriptor `selector` names in the vCPU's GDT or LDT, or null when it is outside of its table. */
  readDescriptor(pv: PvVcpu, selector: number): readonly [number, number] | null;
  /** A write fault of the guest kernel: true when it was a write to a live L1 table and has been emulated (rip is past it). */
  tryPtwr(pv: PvVcpu, faultVa: number, errorCode: number): boolean;
  updateVaMappingOtherdomain(pv: PvVcpu, va: number, lo: number, hi: number, flagsLo: number, flagsNum: number, domid: number): number;
  /** Root tables and GDT of a vCPU that VCPUOP_initialise described; `userRoot` 0: none. On that vCPU's thread. */
  initializeVcpu(pv: PvVcpu, kernelRoot: number, userRoot: number, gdtFrames: readonly number[], gdtEntries: number): number;
  /** Pins tables and loads the kernel root: the builder's start state, and MOV to CR3. */
  attachStartState(pv: PvVcpu, start: { readonly kernelRoot: Mfn; readonly pinned: readonly Mfn[] }): number;
  /** HYPERVISOR_vm_assist 2 and 32. */
  setWritablePagetables(on: boolean): void;
  setM2pStrict(on: boolean): void;
  /** How emulated stores are carried out on a vCPU. */
  setWriteEmulator(pv: PvVcpu, emulator: WriteEmulator): void;
  /** Puts an entry for a granted frame into the guest's tables. 0; -EINVAL: no L1 entry is there; or the check of the entry failed. */
  mapGrant(pv: PvVcpu, target: GrantTarget, lo: number, hi: number): number;
  /** Ends what `mapGrant` made of `frame`; `from` is a virtual address whose mapping moves there, or 0. 0 or -EINVAL. */
  unmapGrant(pv: PvVcpu, target: GrantTarget, frame: Mfn, from: number): number;
  /** Holds a guest frame for the hypervisor; `writable`: it can be no page table meanwhile. 0, or a negated error. Any thread. */
  holdFrame(frame: number, writable: boolean): number;
  releaseFrame(frame: Mfn, writable: boolean): void;
}
