// SPDX-License-Identifier: Apache-2.0
/** Delivery of exceptions, software interrupts, system calls, NMIs and events to a PV guest's kernel. */
import { CTX, REG, RFLAGS, SEG, SEGREG } from '../../memory/vcpu-context.ts';
import { VCPU_INFO } from '../abi/xen.ts';
import type { Callback, DomainVcpu } from '../domain-vcpu.ts';
import { VCPU_STATE } from '../shared-state.ts';
import { bounce, BOUNCE_ERROR_CODE, BOUNCE_MASK_EVENTS, BOUNCE_SEGMENTS, type BounceFailure } from './bounce.ts';
import { loadFlatCode32, loadFlatCode64, loadFlatStack } from './segments.ts';

export const TRAP = {
  divide: 0,
  debug: 1,
  nmi: 2,
  int3: 3,
  overflow: 4,
  bounds: 5,
  invalidOp: 6,
  noDevice: 7,
  doubleFault: 8,
  invalidTss: 10,
  noSegment: 11,
  stackError: 12,
  gpFault: 13,
  pageFault: 14,
  fpuError: 16,
  alignment: 17,
  machineCheck: 18,
  simd: 19,
} as const;

/** Bits of a page-fault error code. */
export const PFEC = { present: 1, write: 2, user: 4, reserved: 8, fetch: 16 } as const;

const CR0_TS = 8;
const CS_SELECTOR = CTX.seg + SEGREG.cs * SEG.stride + SEG.selector;

/** Delivers exception `vector`; `errorCode` is -1 when it has none. The context's RIP is what the frame shows. */
export function deliverException(dv: DomainVcpu, vector: number, errorCode: number): BounceFailure {
  let flags = dv.traps.masksEvents(vector) ? BOUNCE_MASK_EVENTS : 0;
  if (errorCode >= 0) flags |= BOUNCE_ERROR_CODE;
  const failure = bounce(dv, dv.traps.address[vector], flags, errorCode);
  return failure === null ? null : `exception ${vector} could not be delivered: ${failure}`;
}

/** #PF: the address goes to `vcpu_info.arch.cr2`; the user bit says which of the guest's two modes faulted. */
export function deliverPageFault(dv: DomainVcpu, addressLo: number, addressHi: number, errorCode: number): BounceFailure {
  const word = (dv.info + VCPU_INFO.cr2) >>> 2;
  const i32 = dv.shared.i32;
  i32[word] = addressLo;
  i32[word + 1] = addressHi;
  const code = (errorCode & ~PFEC.user) | (dv.inKernelMode ? 0 : PFEC.user);
  return deliverException(dv, TRAP.pageFault, code);
}

/** #NM: the guest's TS is clear in its handler. */
export function deliverNoDevice(dv: DomainVcpu): BounceFailure {
  const failure = deliverException(dv, TRAP.noDevice, -1);
  dv.ctx.setLoHi(CTX.cr0, dv.ctx.lo(CTX.cr0) & ~CR0_TS, dv.ctx.hi(CTX.cr0));
  return failure;
}

/**
 * INT n at RIP, `length` bytes long. 0x80 has a gate of its own as long as the guest registered it; the breakpoint and overflow vectors
 * are open to everybody; the rest is as the guest's table permits: level 1 for its kernel, level 3 for its user mode.
 */
export function deliverSoftwareInterrupt(dv: DomainVcpu, vector: number, length: number): BounceFailure {
  const required = dv.inKernelMode ? 1 : 3;
  const open = vector === TRAP.int3 || vector === TRAP.overflow || (vector === 0x80 && dv.traps.address[0x80] !== 0);
  if (!open && dv.traps.dpl(vector) < required) return deliverException(dv, TRAP.gpFault, vector * 8 + 2);
  if (dv.traps.address[vector] === 0) return deliverException(dv, TRAP.gpFault, vector * 8 + 2);
  dv.ctx.rip = dv.ctx.rip + length;
  return deliverException(dv, vector, -1);
}

/** SYSCALL in the guest's user mode; RIP is past the instruction. */
export function deliverSyscall(dv: DomainVcpu): BounceFailure {
  const ctx = dv.ctx;
  const compat = ctx.u32(CTX.codeBits) !== 64;
  const callback = compat ? dv.syscall32 : dv.syscall;
  if (callback.address === 0) {
    ctx.rip = ctx.rip - ctx.u32(CTX.exitLength);
    return deliverException(dv, TRAP.invalidOp, -1);
  }
  setSyscallRegisters(dv);
  if (compat) loadFlatCode32(ctx);
  else loadFlatCode64(ctx);
  loadFlatStack(ctx);
  return enter(dv, callback, 'a system call');
}

/** What SYSCALL itself does to the registers: RCX becomes the return address, R11 the flags. */
export function setSyscallRegisters(dv: DomainVcpu): void {
  const ctx = dv.ctx;
  ctx.setLoHi(CTX.gpr + REG.rcx * 8, ctx.lo(CTX.rip), ctx.hi(CTX.rip));
  ctx.setLoHi(CTX.gpr + REG.r11 * 8, ctx.rflags & ~RFLAGS.RF, 0);
}

/** SYSENTER in the guest's user mode: the instruction keeps neither stack, return address nor code segment; the frame shows a null CS. */
export function deliverSysenter(dv: DomainVcpu): BounceFailure {
  const ctx = dv.ctx;
  if (dv.sysenter.address === 0 || dv.inKernelMode) {
    ctx.rip = ctx.rip - ctx.u32(CTX.exitLength);
    return deliverException(dv, TRAP.gpFault, 0);
  }
  ctx.rip = 0;
  ctx.setGpr(REG.rsp, 0);
  loadFlatCode32(ctx);
  ctx.setU16(CS_SELECTOR, 3);
  loadFlatStack(ctx);
  return enter(dv, dv.sysenter, 'SYSENTER');
}

/** Data segments that cannot be loaded when a vCPU starts: the failsafe callback shows the selectors. */
export function deliverFailsafe(dv: DomainVcpu): BounceFailure {
  const failure = bounce(dv, dv.failsafe.address, BOUNCE_SEGMENTS | (dv.failsafe.maskEvents ? BOUNCE_MASK_EVENTS : 0), 0);
  return failure === null ? null : `the failsafe callback could not be entered: ${failure}`;
}

/** Injects what waits for this vCPU on its way back to the guest: an NMI, then events. An NMI that has no handler is lost. */
export function deliverPending(dv: DomainVcpu): BounceFailure {
  if (!dv.nmiMasked && dv.shared.getVcpu(dv.id, VCPU_STATE.nmiPending) !== 0) {
    dv.shared.setVcpu(dv.id, VCPU_STATE.nmiPending, 0);
    if (dv.traps.address[TRAP.nmi] !== 0) {
      dv.nmiMasked = true;
      const failure = deliverException(dv, TRAP.nmi, -1);
      if (failure !== null) return failure;
    }
  }
  if (!dv.eventDeliverable) return null;
  dv.stats.upcalls++;
  const failure = bounce(dv, dv.event.address, BOUNCE_MASK_EVENTS, 0);
  return failure === null ? null : `an event could not be delivered: ${failure}`;
}

function enter(dv: DomainVcpu, callback: Callback, what: string): BounceFailure {
  const failure = bounce(dv, callback.address, callback.maskEvents ? BOUNCE_MASK_EVENTS : 0, 0);
  if (failure !== null) return `${what} could not be delivered: ${failure}`;
  dv.ctx.rflags = dv.ctx.rflags & ~RFLAGS.DF;
  return null;
}
