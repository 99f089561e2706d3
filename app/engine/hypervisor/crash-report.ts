// SPDX-License-Identifier: Apache-2.0
/** The report of a crashed domain as lines of text: reason, registers of the vCPU that ended it, top of its stack. */
import { ACCESS } from '../accel/accelerator.ts';
import { CTX, REG, SEGREG } from '../memory/vcpu-context.ts';
import { isGuestRange, VCPU_INFO } from './abi/xen.ts';
import type { DomainVcpu } from './domain-vcpu.ts';
import { type SharedState, STATE } from './shared-state.ts';

const STACK_WORDS = 16;

export function crashReport(dv: DomainVcpu, reason: string): string[] {
  const ctx = dv.ctx;
  const r = (register: number): string => hex(ctx.lo(CTX.gpr + register * 8), ctx.hi(CTX.gpr + register * 8));
  const f = (offset: number): string => hex(ctx.lo(offset), ctx.hi(offset));
  const s = (seg: number): string => ctx.selector(seg).toString(16).padStart(4, '0');
  const cr2 = (dv.info + VCPU_INFO.cr2) >>> 2;
  return [
    `vCPU ${dv.id}: ${reason}`,
    `RIP ${f(CTX.rip)}  RFLAGS ${ctx.rflags.toString(16).padStart(8, '0')}  ${dv.inKernelMode ? 'guest kernel' : 'guest user'} mode`,
    `RAX ${r(REG.rax)}  RBX ${r(REG.rbx)}  RCX ${r(REG.rcx)}`,
    `RDX ${r(REG.rdx)}  RSI ${r(REG.rsi)}  RDI ${r(REG.rdi)}`,
    `RBP ${r(REG.rbp)}  RSP ${r(REG.rsp)}  R8  ${r(REG.r8)}`,
    `R9  ${r(REG.r9)}  R10 ${r(REG.r10)}  R11 ${r(REG.r11)}`,
    `R12 ${r(REG.r12)}  R13 ${r(REG.r13)}  R14 ${r(REG.r14)}`,
    `R15 ${r(REG.r15)}  FS  ${f(CTX.segBase + SEGREG.fs * 8)}  GS  ${f(CTX.segBase + SEGREG.gs * 8)}`,
    `CS ${s(SEGREG.cs)}  SS ${s(SEGREG.ss)}  DS ${s(SEGREG.ds)}  ES ${s(SEGREG.es)}  FS ${s(SEGREG.fs)}  GS ${s(SEGREG.gs)}`,
    `CR0 ${f(CTX.cr0)}  CR2 ${hex(dv.shared.i32[cr2], dv.shared.i32[cr2 + 1])}  root ${dv.kernelRoot.toString(16)}/${dv.userRoot.toString(16)}`,
    ...stackLines(dv),
  ];
}

function stackLines(dv: DomainVcpu): string[] {
  const sp = dv.ctx.gpr(REG.rsp);
  const words: string[] = [];
  for (let i = 0; i < STACK_WORDS; i++) {
    const va = sp + i * 8;
    const host = isGuestRange(va, 8) && (va & 7) === 0 ? dv.vcpu.translate(va, ACCESS.read) : -1;
    if (host < 0) break;
    words.push(hex(dv.shared.i32[host >>> 2], dv.shared.i32[(host >>> 2) + 1]));
  }
  const lines: string[] = words.length === 0 ? ['stack: not readable'] : ['stack:'];
  for (let i = 0; i < words.length; i += 4) lines.push(`  ${words.slice(i, i + 4).join(' ')}`);
  return lines;
}

/** Leaves a report where the owner of the domain finds it. Text is cut to the space there is. */
export function storeCrashReport(state: SharedState, lines: readonly string[]): void {
  const text = lines.join('\n').slice(0, STATE.crashBytes);
  const at = state.byte(STATE.crashText);
  for (let i = 0; i < text.length; i++) state.u8[at + i] = text.charCodeAt(i) & 0x7f;
  state.set(STATE.crashLength, text.length);
}

function hex(lo: number, hi: number): string {
  return (hi >>> 0).toString(16).padStart(8, '0') + (lo >>> 0).toString(16).padStart(8, '0');
}
