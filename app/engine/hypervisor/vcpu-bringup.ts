// SPDX-License-Identifier: Apache-2.0
/**
 * VCPUOP_initialise: the start state of a further vCPU (xen public/arch-x86/xen.h vcpu_guest_context).
 *
 * The calling vCPU checks and stores the structure in shared state; the new vCPU's thread loads it when VCPUOP_up comes.
 * GUEST: everything is checked before it is stored, and frame numbers again by the PV MMU when the tables are loaded.
 * Left out: the FPU image (a new vCPU starts with the FPU's reset state, as Linux expects).
 */
import { CTX, REG, RFLAGS, SEGREG, type VcpuContext } from '../memory/vcpu-context.ts';
import {
  GUEST_CONTEXT,
  isCanonical,
  USER_REGS,
  VGCF_failsafe_disables_events,
  VGCF_in_kernel,
  VGCF_syscall_disables_events,
} from './abi/xen.ts';
import type { Domain } from './domain.ts';
import type { DomainVcpu } from './domain-vcpu.ts';
import { EEXIST, EFAULT, EINVAL } from './errno.ts';
import { STATE, VCPU_INITIALISED, VCPU_STATE } from './shared-state.ts';
import { deliverFailsafe } from './traps/deliver.ts';
import { LOADED, loadCode, loadStack } from './traps/segments.ts';
import { TRAP_INFO_BYTES, TRAP_VECTORS } from './traps/trap-table.ts';

const REGISTER_OFFSETS: readonly (readonly [number, number])[] = [
  [REG.rax, USER_REGS.rax],
  [REG.rcx, USER_REGS.rcx],
  [REG.rdx, USER_REGS.rdx],
  [REG.rbx, USER_REGS.rbx],
  [REG.rsp, USER_REGS.rsp],
  [REG.rbp, USER_REGS.rbp],
  [REG.rsi, USER_REGS.rsi],
  [REG.rdi, USER_REGS.rdi],
  [REG.r8, USER_REGS.r8],
  [REG.r9, USER_REGS.r9],
  [REG.r10, USER_REGS.r10],
  [REG.r11, USER_REGS.r11],
  [REG.r12, USER_REGS.r12],
  [REG.r13, USER_REGS.r13],
  [REG.r14, USER_REGS.r14],
  [REG.r15, USER_REGS.r15],
];
const GDT_FRAMES_OF_GUEST = 14;
const MAX_GDT_ENTRIES = GDT_FRAMES_OF_GUEST * 512;
const CR0_RESET_PV = 0x8005_0033;
/** FCW 0x37f and MXCSR 0x1f80: the reset values of FNINIT and of the processor. */
const FCW_RESET = 0x37f;
const MXCSR_RESET = 0x1f80;

/** Reads, checks and stores the context of vCPU `id`. */
export function storeGuestContext(d: Domain, dv: DomainVcpu, id: number, va: number): number {
  const flags = d.state.getVcpu(id, VCPU_STATE.flags);
  if ((flags & VCPU_INITIALISED) !== 0) return -EEXIST;
  const copy = d.copy;
  if (!copy.in(dv, va, GUEST_CONTEXT.size)) return -EFAULT;
  for (let i = 0; i < TRAP_VECTORS; i++) if (!isCanonical(copy.num(GUEST_CONTEXT.trapCtxt + i * TRAP_INFO_BYTES + 8))) return -EINVAL;
  const addresses = [GUEST_CONTEXT.eventCallback, GUEST_CONTEXT.failsafeCallback, GUEST_CONTEXT.syscallCallback];
  if (!addresses.every((at) => isCanonical(copy.num(at)))) return -EINVAL;
  const bases = [GUEST_CONTEXT.fsBase, GUEST_CONTEXT.gsBaseKernel, GUEST_CONTEXT.gsBaseUser];
  if (!bases.every((at) => isCanonical(copy.num(at)))) return -EINVAL;
  if (!(copy.num(GUEST_CONTEXT.gdtEnts) >= 0 && copy.num(GUEST_CONTEXT.gdtEnts) <= MAX_GDT_ENTRIES)) return -EINVAL;
  if (!(copy.num(GUEST_CONTEXT.ldtEnts) >= 0 && copy.num(GUEST_CONTEXT.ldtEnts) <= 8192)) return -EINVAL;
  d.state.u8.set(copy.bytes.subarray(0, GUEST_CONTEXT.size), contextOffset(d, id));
  d.state.setVcpu(id, VCPU_STATE.flags, flags | VCPU_INITIALISED);
  return 0;
}

/** Loads the stored context into the vCPU of this thread. Null, or why the domain has to end. */
export function loadGuestContext(d: Domain, dv: DomainVcpu): string | null {
  const at = contextOffset(d, dv.id);
  const view = new DataView(d.state.memory.buffer, at, GUEST_CONTEXT.size);
  const num = (offset: number): number => view.getInt32(offset + 4, true) * 0x1_0000_0000 + view.getUint32(offset, true);
  const flags = view.getUint32(GUEST_CONTEXT.flags, true);

  for (let i = 0; i < TRAP_VECTORS; i++) {
    const entry = GUEST_CONTEXT.trapCtxt + i * TRAP_INFO_BYTES;
    const address = num(entry + 8);
    if (address !== 0) dv.traps.set(view.getUint8(entry), view.getUint8(entry + 1) & 7, view.getUint16(entry + 2, true) | 3, address);
  }
  const kernelRoot = rootFrame(num(GUEST_CONTEXT.ctrlreg + 3 * 8));
  const userRoot = rootFrame(num(GUEST_CONTEXT.ctrlreg + 8));
  const entries = num(GUEST_CONTEXT.gdtEnts);
  const gdtFrames: number[] = [];
  for (let i = 0; i < Math.ceil(entries / 512); i++) gdtFrames.push(num(GUEST_CONTEXT.gdtFrames + i * 8));
  if (d.mmu.initializeVcpu(dv, kernelRoot, userRoot, gdtFrames, entries) !== 0)
    return `vCPU ${dv.id}: its page tables or descriptor table are refused`;
  dv.ldtBase = num(GUEST_CONTEXT.ldtBase);
  dv.ldtEntries = num(GUEST_CONTEXT.ldtEnts);
  dv.kernelSs = view.getUint16(GUEST_CONTEXT.kernelSs, true) | 3;
  dv.kernelSp = num(GUEST_CONTEXT.kernelSp);
  dv.event.address = num(GUEST_CONTEXT.eventCallback);
  dv.failsafe.address = num(GUEST_CONTEXT.failsafeCallback);
  dv.failsafe.maskEvents = (flags & VGCF_failsafe_disables_events) !== 0;
  dv.syscall.address = num(GUEST_CONTEXT.syscallCallback);
  dv.syscall.maskEvents = (flags & VGCF_syscall_disables_events) !== 0;
  const refused = loadRegisters(d, dv, view, (flags & VGCF_in_kernel) !== 0);
  return refused === null ? null : `vCPU ${dv.id}: ${refused}`;
}

/** Null, or what is wrong. Data selectors that cannot be loaded are the failsafe callback's business. */
function loadRegisters(d: Domain, dv: DomainVcpu, view: DataView, kernel: boolean): string | null {
  const ctx = dv.ctx;
  const regs = GUEST_CONTEXT.userRegs;
  const pair = (to: number, from: number): void => ctx.setLoHi(to, view.getUint32(from, true), view.getUint32(from + 4, true));
  for (const [register, offset] of REGISTER_OFFSETS) pair(CTX.gpr + register * 8, regs + offset);
  pair(CTX.rip, regs + USER_REGS.rip);
  ctx.rflags = (view.getUint32(regs + USER_REGS.rflags, true) & ~(RFLAGS.IOPL | RFLAGS.VM)) | RFLAGS.IF | 2;
  resetFpu(ctx);
  dv.vcpu.enterSpace(kernel ? 0 : 1);
  const read = d.readDescriptor;
  if (loadCode(ctx, view.getUint16(regs + USER_REGS.cs, true) | 3, read) !== LOADED) return 'its code segment cannot be loaded';
  const ss = view.getUint16(regs + USER_REGS.ss, true);
  // A 64-bit kernel may start with a null stack selector, which Xen turns into its flat one.
  if (loadStack(ctx, (ss & 0xfffc) === 0 ? 0xe02b : ss | 3, read) !== LOADED) return 'its stack segment cannot be loaded';
  const data: readonly (readonly [number, number])[] = [
    [SEGREG.ds, USER_REGS.ds],
    [SEGREG.es, USER_REGS.es],
    [SEGREG.fs, USER_REGS.fs],
    [SEGREG.gs, USER_REGS.gs],
  ];
  let bad = false;
  for (const [seg, offset] of data) {
    const selector = view.getUint16(regs + offset, true);
    if (dv.vcpu.loadSegment(seg, selector)) continue;
    bad = true;
    ctx.setSegment(seg, selector, 0, 0, 0);
  }
  pair(CTX.segBase + SEGREG.fs * 8, GUEST_CONTEXT.fsBase);
  pair(CTX.segBase + SEGREG.gs * 8, kernel ? GUEST_CONTEXT.gsBaseKernel : GUEST_CONTEXT.gsBaseUser);
  pair(CTX.kernelGsBase, kernel ? GUEST_CONTEXT.gsBaseUser : GUEST_CONTEXT.gsBaseKernel);
  ctx.setLoHi(CTX.cr0, CR0_RESET_PV, 0);
  if (!bad) return null;
  const failure = deliverFailsafe(dv);
  for (const [seg] of data) ctx.setSegment(seg, 0, 0, 0, 0);
  return failure;
}

function resetFpu(ctx: VcpuContext): void {
  ctx.setU16(CTX.fcw, FCW_RESET);
  ctx.setU16(CTX.fsw, 0);
  ctx.setU16(CTX.ftop, 0);
  ctx.setU16(CTX.ftag, 0);
  ctx.setU32(CTX.mxcsr, MXCSR_RESET);
}

function rootFrame(cr3: number): number {
  return Math.floor(cr3 / 4096);
}

function contextOffset(d: Domain, id: number): number {
  return d.state.byte(STATE.contexts + id * STATE.contextStride);
}
