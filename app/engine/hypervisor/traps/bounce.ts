// SPDX-License-Identifier: Apache-2.0
/**
 * The bounce frame: how a PV guest's kernel is entered for an exception, an event, a system call or a failed return
 * (the format that arch/x86/xen/xen-asm of any PV kernel expects; see pv-interface in the design documents).
 *
 * From the interrupted user mode the frame goes onto the registered kernel stack, after kernel page tables and GS base were
 * switched in; from kernel mode onto the current stack. Aligned down to 16 bytes, growing down:
 *
 *   SS, RSP, RFLAGS, CS | saved_upcall_mask << 32, RIP, [error code], [GS, FS, ES, DS], R11, RCX
 *
 * GUEST: a frame that cannot be written, a stack inside the hypervisor's range and a missing handler end the domain; the reason is
 * the return value. PERF: no allocation, no 64-bit integers; one translation for a frame that does not cross a page.
 */
import { ACCESS } from '../../accel/accelerator.ts';
import { type Mfn, PAGE_SIZE } from '../../memory/frames.ts';
import { CTX, REG, RFLAGS, SEGREG } from '../../memory/vcpu-context.ts';
import { HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START, isCanonical, VMASST_TYPE_architectural_iopl } from '../abi/xen.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';
import { loadFlatKernelSegments } from './segments.ts';

/** The frame carries an error code. */
export const BOUNCE_ERROR_CODE = 1;
/** Events are masked on entry. */
export const BOUNCE_MASK_EVENTS = 2;
/** The frame carries the data segment registers (failsafe callback). */
export const BOUNCE_SEGMENTS = 4;

/** Why a domain has to end; null: the frame stands. */
export type BounceFailure = string | null;

/** Flags that a fresh handler does not inherit. */
const CLEARED = RFLAGS.AC | RFLAGS.VM | RFLAGS.RF | RFLAGS.NT | RFLAGS.TF;
const GPR_RSP = CTX.gpr + REG.rsp * 8;
const GPR_RCX = CTX.gpr + REG.rcx * 8;
const GPR_R11 = CTX.gpr + REG.r11 * 8;

/** Writes downward through the current address space. One per vCPU thread is enough: a frame is written in one go. */
class FrameWriter {
  #dv: DomainVcpu | null = null;
  #va = 0;
  #page = Number.NaN;
  #host = 0;
  failed = false;

  start(dv: DomainVcpu, top: number): void {
    this.#dv = dv;
    this.#va = top;
    this.#page = Number.NaN;
    this.failed = false;
  }

  push(lo: number, hi: number): void {
    if (this.failed) return;
    const dv = this.#dv as DomainVcpu;
    this.#va -= 8;
    const page = Math.floor(this.#va / PAGE_SIZE);
    const memory = dv.shared.memory;
    if (page !== this.#page) {
      const host = dv.vcpu.translate(this.#va, ACCESS.write);
      if (host < 0) {
        this.failed = true;
        return;
      }
      this.#page = page;
      this.#host = host - (this.#va - page * PAGE_SIZE);
    }
    const offset = this.#va - page * PAGE_SIZE;
    const at = (this.#host + offset) >>> 2;
    memory.u32[at] = lo;
    memory.u32[at + 1] = hi;
    const frame = Math.floor((this.#host - memory.layout.ramBase) / PAGE_SIZE) as Mfn;
    memory.wrote(frame, offset, 8);
  }

  get va(): number {
    return this.#va;
  }
}

const writer = new FrameWriter();

/**
 * Enters the guest kernel at `address`. RIP, RFLAGS, CS, SS and RSP in the vCPU's context are what the frame records; afterwards
 * they are the handler's.
 */
export function bounce(dv: DomainVcpu, address: number, flags: number, errorCode: number): BounceFailure {
  const ctx = dv.ctx;
  let selector = ctx.selector(SEGREG.cs);
  let sp: number;
  if (dv.inKernelMode) {
    sp = ctx.gpr(REG.rsp);
    selector &= 0xfffc;
  } else {
    sp = dv.kernelSp;
    dv.toggleMode();
  }
  if (!isCanonical(sp)) return 'the kernel stack pointer is not an address';
  const top = Math.floor(sp / 16) * 16;
  // A frame has at most 12 words; none of them may reach into the hypervisor's range.
  if (top >= HYPERVISOR_VIRT_START && top < HYPERVISOR_VIRT_END + 12 * 8) return "the kernel stack lies in the hypervisor's address range";

  const mask = dv.upcallMask & 0xff;
  if ((flags & BOUNCE_MASK_EVENTS) !== 0) dv.upcallMask = 1;
  let rflags = (ctx.rflags & ~(RFLAGS.IF | RFLAGS.IOPL)) | (mask === 0 ? RFLAGS.IF : 0);
  if (dv.shared.vmAssist(VMASST_TYPE_architectural_iopl)) rflags |= dv.iopl << 12;

  writer.start(dv, top);
  writer.push(ctx.selector(SEGREG.ss), 0);
  writer.push(ctx.lo(GPR_RSP), ctx.hi(GPR_RSP));
  writer.push(rflags, 0);
  writer.push(selector, mask);
  writer.push(ctx.lo(CTX.rip), ctx.hi(CTX.rip));
  if ((flags & BOUNCE_ERROR_CODE) !== 0) writer.push(errorCode, 0);
  if ((flags & BOUNCE_SEGMENTS) !== 0) {
    writer.push(ctx.selector(SEGREG.gs), 0);
    writer.push(ctx.selector(SEGREG.fs), 0);
    writer.push(ctx.selector(SEGREG.es), 0);
    writer.push(ctx.selector(SEGREG.ds), 0);
  }
  writer.push(ctx.lo(GPR_R11), ctx.hi(GPR_R11));
  writer.push(ctx.lo(GPR_RCX), ctx.hi(GPR_RCX));
  if (writer.failed) return 'the kernel stack is not writable';
  if (address === 0) return 'no handler is registered';

  ctx.rflags = ctx.rflags & ~CLEARED;
  loadFlatKernelSegments(ctx);
  ctx.setGpr(REG.rsp, writer.va);
  ctx.rip = address;
  ctx.setU32(CTX.shadow, 0);
  return null;
}
