// SPDX-License-Identifier: Apache-2.0
/**
 * HYPERVISOR_iret: the return from a bounce frame, to the guest's kernel or user mode (xen public/arch-x86/xen-x86_64.h iret_context).
 *
 * With VGCF_in_syscall the return is that of SYSRET: flat user selectors, RCX = RIP and R11 = RFLAGS; otherwise that of IRETQ with the
 * selectors of the frame. RFLAGS.IF of the frame becomes the event mask; the processor's own IF stays set.
 *
 * GUEST: the frame is read once. A selector that cannot be loaded raises the exception that IRETQ would, with the state of the frame: the
 * guest's handler sees it at the return's target.
 */
import { ACCESS } from '../../accel/accelerator.ts';
import { PAGE_SIZE } from '../../memory/frames.ts';
import { CTX, REG, RFLAGS, SEG, SEGREG } from '../../memory/vcpu-context.ts';
import { FLAT_RING3_CS32, IRET_FRAME, isGuestRange, VGCF_in_syscall, VMASST_TYPE_architectural_iopl } from '../abi/xen.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';
import type { BounceFailure } from './bounce.ts';
import { deliverException } from './deliver.ts';
import { type DescriptorReader, loadCode, loadFlatCode32, loadFlatCode64, loadFlatStack, LOADED, loadStack } from './segments.ts';

const WORDS = IRET_FRAME.size / 4;
const gprOffset = (register: number): number => CTX.gpr + register * 8;
const RAX = gprOffset(REG.rax);
const RCX = gprOffset(REG.rcx);
const R11 = gprOffset(REG.r11);
const RSP = gprOffset(REG.rsp);
const w = (offset: number): number => offset >>> 2;

/** One frame; a vCPU thread returns from one at a time. */
const frame = new Uint32Array(WORDS);

export function hypervisorIret(dv: DomainVcpu, readDescriptor: DescriptorReader): BounceFailure {
  const ctx = dv.ctx;
  if (!readFrame(dv, ctx.gpr(REG.rsp))) return 'HYPERVISOR_iret: the return frame cannot be read';
  const cs = frame[w(IRET_FRAME.cs)] & 0xffff;
  const rflags = frame[w(IRET_FRAME.rflags)];
  const inSyscall = (frame[w(IRET_FRAME.flags)] & VGCF_in_syscall) !== 0;

  if ((cs & 3) === 3) {
    if (dv.userRoot === -1) return 'HYPERVISOR_iret: return to user mode without user page tables';
    dv.toggleMode();
  }
  if (dv.shared.vmAssist(VMASST_TYPE_architectural_iopl)) dv.iopl = (rflags & RFLAGS.IOPL) >>> 12;

  ctx.setLoHi(CTX.rip, frame[w(IRET_FRAME.rip)], frame[w(IRET_FRAME.rip) + 1]);
  ctx.setLoHi(RSP, frame[w(IRET_FRAME.rsp)], frame[w(IRET_FRAME.rsp) + 1]);
  ctx.setLoHi(RAX, frame[w(IRET_FRAME.rax)], frame[w(IRET_FRAME.rax) + 1]);
  ctx.rflags = (rflags & RFLAGS_MASK) | RFLAGS.IF | RFLAGS_ONE;
  ctx.setU32(CTX.shadow, 0);
  dv.upcallMask = (rflags & RFLAGS.IF) === 0 ? 1 : 0;
  dv.nmiMasked = false;

  if (inSyscall) {
    ctx.setLoHi(RCX, frame[w(IRET_FRAME.rip)], frame[w(IRET_FRAME.rip) + 1]);
    ctx.setLoHi(R11, ctx.rflags, 0);
    if ((cs | 3) === FLAT_RING3_CS32) loadFlatCode32(ctx);
    else loadFlatCode64(ctx);
    loadFlatStack(ctx);
    return null;
  }
  ctx.setLoHi(RCX, frame[w(IRET_FRAME.rcx)], frame[w(IRET_FRAME.rcx) + 1]);
  ctx.setLoHi(R11, frame[w(IRET_FRAME.r11)], frame[w(IRET_FRAME.r11) + 1]);
  const ss = frame[w(IRET_FRAME.ss)] & 0xffff;
  const fault = loadCode(ctx, cs | 3, readDescriptor) || loadStack(ctx, ss | 3, readDescriptor);
  if (fault === LOADED) return null;
  ctx.setU16(CTX.seg + SEGREG.cs * SEG.stride + SEG.selector, cs | 3);
  ctx.setU16(CTX.seg + SEGREG.ss * SEG.stride + SEG.selector, ss | 3);
  return deliverException(dv, fault >>> 16, fault & 0xffff);
}

/** Bits of RFLAGS that a return in ring 3 may set; IOPL, VM and the virtual interrupt flags are not among them. */
const RFLAGS_MASK =
  RFLAGS.CF |
  RFLAGS.PF |
  RFLAGS.AF |
  RFLAGS.ZF |
  RFLAGS.SF |
  RFLAGS.TF |
  RFLAGS.DF |
  RFLAGS.OF |
  RFLAGS.NT |
  RFLAGS.RF |
  RFLAGS.AC |
  RFLAGS.ID;
const RFLAGS_ONE = 2;

function readFrame(dv: DomainVcpu, va: number): boolean {
  if (!isGuestRange(va, IRET_FRAME.size)) return false;
  const u8 = dv.shared.u8;
  const u32 = dv.shared.memory.u32;
  const inPage = PAGE_SIZE - (((va % PAGE_SIZE) + PAGE_SIZE) % PAGE_SIZE);
  const host = dv.vcpu.translate(va, ACCESS.read);
  if (host < 0) return false;
  if ((host & 3) === 0 && inPage >= IRET_FRAME.size) {
    for (let i = 0; i < WORDS; i++) frame[i] = u32[(host >>> 2) + i];
    return true;
  }
  const bytes = new Uint8Array(frame.buffer);
  const first = Math.min(inPage, IRET_FRAME.size);
  for (let i = 0; i < first; i++) bytes[i] = u8[host + i];
  if (first === IRET_FRAME.size) return true;
  const rest = dv.vcpu.translate(va + first, ACCESS.read);
  if (rest < 0) return false;
  for (let i = first; i < IRET_FRAME.size; i++) bytes[i] = u8[rest + i - first];
  return true;
}
