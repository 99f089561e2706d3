// SPDX-License-Identifier: Apache-2.0
/**
 * Emulation of privileged instructions for a PV guest: what faults with #GP(0) in ring 3 although the guest's kernel may execute it,
 * and the forced-emulation form of CPUID, which arrives as #UD.
 *
 * Kernel mode is the guest's kernel address space; I/O privilege is virtual (PHYSDEVOP_set_iopl, PHYSDEVOP_set_iobitmap).
 * After an emulated instruction RF is clear, and TF raises #DB as it would have on a processor.
 *
 * GUEST: a repeated INS or OUTS does at most STEP_LIMIT elements before the guest runs on (at the same instruction).
 * Left out: RDPMC, HLT and descriptor-table instructions, which fault; I/O breakpoints.
 */
import { ACCESS } from '../../accel/accelerator.ts';
import { type Mfn, PAGE_SIZE } from '../../memory/frames.ts';
import { CTX, REG, RFLAGS, SEGREG } from '../../memory/vcpu-context.ts';
import { isGuestRange, VCPU_INFO, VMASST_TYPE_architectural_iopl } from '../abi/xen.ts';
import { cpuid } from '../cpuid-policy.ts';
import type { Domain } from '../domain.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';
import { debugRegister, setTaskSwitched, writeDebugRegister } from '../hypercalls/cpu-state.ts';
import { Instruction, OP } from './decode.ts';
import { type MsrValue, readMsr, writeMsr } from './msrs.ts';

/** What became of the instruction. */
export const EMULATED = { done: 0, notMine: 1, pageFault: 2, restart: 3 } as const;
export type EmulationResult = (typeof EMULATED)[keyof typeof EMULATED];

const STEP_LIMIT = 4096;
const CR0_TS = 8;
/** TSD, DE, FSGSBASE, OSXSAVE: what a PV kernel may change in CR4; the rest keeps its value. */
const CR4_GUEST_MASK = (1 << 2) | (1 << 3) | (1 << 16) | (1 << 18);
const CR4_TSD = 1 << 2;

const out = new Uint32Array(4);
const msr: MsrValue = { lo: 0, hi: 0 };
const gpr = (register: number): number => CTX.gpr + register * 8;

export class PrivilegedEmulator {
  readonly #d: Domain;
  readonly #instruction = new Instruction();

  constructor(d: Domain) {
    this.#d = d;
  }

  /** A #GP(0) at RIP. Done: RIP is past the instruction. */
  emulate(dv: DomainVcpu): EmulationResult {
    const i = this.#instruction;
    i.decode(dv);
    if (i.op === OP.unknown) return EMULATED.notMine;
    const result = this.#execute(dv, i);
    if (result === EMULATED.done) this.#retire(dv, i.length);
    return result;
  }

  /** A #UD at RIP: true when it was the forced-emulation form of CPUID and is done. */
  emulateForced(dv: DomainVcpu): boolean {
    if (!this.#instruction.decodeForced(dv)) return false;
    this.#cpuid(dv);
    this.#retire(dv, this.#instruction.length);
    return true;
  }

  #retire(dv: DomainVcpu, length: number): void {
    const ctx = dv.ctx;
    ctx.rip = ctx.rip + length;
    ctx.rflags = ctx.rflags & ~RFLAGS.RF;
    ctx.setU32(CTX.shadow, 0);
  }

  #execute(dv: DomainVcpu, i: Instruction): EmulationResult {
    switch (i.op) {
      case OP.in:
      case OP.out:
      case OP.ins:
      case OP.outs:
        return this.#io(dv, i);
      case OP.cli:
      case OP.sti:
        return ioplAllows(dv) ? EMULATED.done : EMULATED.notMine;
      case OP.rdtsc:
      case OP.rdtscp:
        return this.#readTsc(dv, i.op === OP.rdtscp);
      case OP.cpuid:
        return this.#cpuid(dv);
      default:
        return dv.inKernelMode && this.#kernelOnly(dv, i) ? EMULATED.done : EMULATED.notMine;
    }
  }

  #kernelOnly(dv: DomainVcpu, i: Instruction): boolean {
    const ctx = dv.ctx;
    switch (i.op) {
      case OP.clts:
        setTaskSwitched(ctx, false);
        return true;
      case OP.wbinvd:
        return true;
      case OP.movFromCr:
        return this.#readControl(dv, i.special, i.register);
      case OP.movToCr:
        return this.#writeControl(dv, i.special, i.register);
      case OP.movFromDr: {
        const reg = debugRegister(ctx, i.special);
        if (reg < 0) return false;
        ctx.setLoHi(gpr(i.register), ctx.lo(CTX.dr + reg * 8), ctx.hi(CTX.dr + reg * 8));
        return true;
      }
      case OP.movToDr:
        return writeDebugRegister(ctx, i.special, ctx.gpr(i.register)) === 0;
      case OP.rdmsr:
        if (!readMsr(this.#d, dv, ctx.lo(gpr(REG.rcx)), msr)) return false;
        ctx.setLoHi(gpr(REG.rax), msr.lo, 0);
        ctx.setLoHi(gpr(REG.rdx), msr.hi, 0);
        return true;
      case OP.wrmsr:
        return writeMsr(this.#d, dv, ctx.lo(gpr(REG.rcx)), ctx.lo(gpr(REG.rax)), ctx.lo(gpr(REG.rdx)));
      case OP.xsetbv:
        return this.#xsetbv(dv);
      default:
        return false;
    }
  }

  #readControl(dv: DomainVcpu, register: number, to: number): boolean {
    const ctx = dv.ctx;
    switch (register) {
      case 0:
        ctx.setLoHi(gpr(to), ctx.lo(CTX.cr0), ctx.hi(CTX.cr0));
        return true;
      case 2: {
        const at = (dv.info + VCPU_INFO.cr2) >>> 2;
        ctx.setLoHi(gpr(to), dv.shared.i32[at], dv.shared.i32[at + 1]);
        return true;
      }
      case 3:
        ctx.setNum(gpr(to), dv.kernelRoot === -1 ? 0 : dv.kernelRoot * PAGE_SIZE);
        return true;
      case 4:
        ctx.setLoHi(gpr(to), ctx.lo(CTX.cr4), 0);
        return true;
      case 8:
        ctx.setLoHi(gpr(to), 0, 0);
        return true;
      default:
        return false;
    }
  }

  #writeControl(dv: DomainVcpu, register: number, from: number): boolean {
    const ctx = dv.ctx;
    const lo = ctx.lo(gpr(from));
    const hi = ctx.hi(gpr(from));
    switch (register) {
      case 0:
        if (hi !== 0 || ((lo ^ ctx.lo(CTX.cr0)) & ~CR0_TS) !== 0) return false;
        setTaskSwitched(ctx, (lo & CR0_TS) !== 0);
        return true;
      case 2: {
        const at = (dv.info + VCPU_INFO.cr2) >>> 2;
        dv.shared.i32[at] = lo;
        dv.shared.i32[at + 1] = hi;
        return true;
      }
      case 3:
        return this.#d.loadKernelRoot(dv, Math.floor(ctx.gpr(from) / PAGE_SIZE));
      case 4:
        ctx.setLoHi(CTX.cr4, (ctx.lo(CTX.cr4) & ~CR4_GUEST_MASK) | (lo & CR4_GUEST_MASK), 0);
        return true;
      case 8:
        return true;
      default:
        return false;
    }
  }

  #xsetbv(dv: DomainVcpu): boolean {
    const ctx = dv.ctx;
    const value = ctx.lo(gpr(REG.rax));
    const valid = ctx.lo(gpr(REG.rcx)) === 0 && ctx.lo(gpr(REG.rdx)) === 0 && (value & 1) !== 0;
    if (!valid || (value & ~this.#d.config.cpuid.xcr0Mask) !== 0) return false;
    ctx.setLoHi(CTX.xcr0, value, 0);
    return true;
  }

  #readTsc(dv: DomainVcpu, aux: boolean): EmulationResult {
    const ctx = dv.ctx;
    if (!dv.inKernelMode && (ctx.lo(CTX.cr4) & CR4_TSD) !== 0) return EMULATED.notMine;
    const now = this.#d.time.now();
    ctx.setLoHi(gpr(REG.rax), now >>> 0, 0);
    ctx.setLoHi(gpr(REG.rdx), Math.floor(now / 0x1_0000_0000), 0);
    if (aux) ctx.setLoHi(gpr(REG.rcx), ctx.lo(CTX.tscAux), 0);
    return EMULATED.done;
  }

  #cpuid(dv: DomainVcpu): EmulationResult {
    const ctx = dv.ctx;
    cpuid(this.#d.config.cpuid, dv.id, ctx.lo(gpr(REG.rax)), ctx.lo(gpr(REG.rcx)), out);
    ctx.setLoHi(gpr(REG.rax), out[0], 0);
    ctx.setLoHi(gpr(REG.rbx), out[1], 0);
    ctx.setLoHi(gpr(REG.rcx), out[2], 0);
    ctx.setLoHi(gpr(REG.rdx), out[3], 0);
    return EMULATED.done;
  }

  #io(dv: DomainVcpu, i: Instruction): EmulationResult {
    const ctx = dv.ctx;
    const port = i.port >= 0 ? i.port : ctx.lo(gpr(REG.rdx)) & 0xffff;
    if (!this.#portAllowed(dv, port, i.size)) return EMULATED.notMine;
    if (i.op === OP.ins || i.op === OP.outs) return this.#stringIo(dv, i, port);
    if (i.op === OP.in) {
      const value = this.#d.ports.read(port, i.size);
      const keep = i.size === 4 ? 0 : i.size === 2 ? 0xffff_0000 : 0xffff_ff00;
      const before = ctx.lo(gpr(REG.rax));
      ctx.setLoHi(gpr(REG.rax), (before & keep) | value, i.size === 4 ? 0 : ctx.hi(gpr(REG.rax)));
    } else {
      this.#d.ports.write(port, i.size, ctx.lo(gpr(REG.rax)));
    }
    return EMULATED.done;
  }

  #portAllowed(dv: DomainVcpu, port: number, size: number): boolean {
    if (ioplAllows(dv)) return true;
    if (port + size > dv.ioBitmapPorts) return false;
    for (let at = port; at < port + size; at++) {
      const va = dv.ioBitmapVa + (at >>> 3);
      const host = isGuestRange(va, 1) ? dv.vcpu.translate(va, ACCESS.read) : -1;
      if (host < 0 || (dv.shared.u8[host] & (1 << (at & 7))) !== 0) return false;
    }
    return true;
  }

  /** INS and OUTS, one element at a time; RCX, RSI and RDI advance with each, so a fault in the middle is precise. */
  #stringIo(dv: DomainVcpu, i: Instruction, port: number): EmulationResult {
    const ctx = dv.ctx;
    const input = i.op === OP.ins;
    const pointer = input ? REG.rdi : REG.rsi;
    const segment = input ? SEGREG.es : i.segment >= 0 ? i.segment : SEGREG.ds;
    const step = (ctx.rflags & RFLAGS.DF) !== 0 ? -i.size : i.size;
    for (let done = 0; !i.repeat || masked(ctx.gpr(REG.rcx), i.addressBits) !== 0; done++) {
      if (done >= STEP_LIMIT) return EMULATED.restart;
      const offset = i.addressBits === 64 ? ctx.gpr(pointer) : masked(ctx.gpr(pointer), i.addressBits);
      const base = i.addressBits === 64 && segment !== SEGREG.fs && segment !== SEGREG.gs ? 0 : ctx.segBase(segment);
      if (!isGuestRange(base + offset, i.size)) return EMULATED.notMine;
      if (!this.#element(dv, base + offset, port, i.size, input)) return EMULATED.pageFault;
      ctx.setGpr(pointer, advanced(ctx.gpr(pointer), step, i.addressBits));
      if (!i.repeat) break;
      ctx.setGpr(REG.rcx, advanced(ctx.gpr(REG.rcx), -1, i.addressBits));
    }
    return EMULATED.done;
  }

  #element(dv: DomainVcpu, va: number, port: number, size: number, input: boolean): boolean {
    const memory = dv.shared.memory;
    let value = 0;
    // Both ends are translated first, so that an element that crosses into a missing page has no effect.
    for (let at = 0; at < size; at++) {
      const host = dv.vcpu.translate(va + at, input ? ACCESS.write : ACCESS.read);
      if (host < 0) return false;
      if (!input) value += memory.u8[host] * 2 ** (8 * at);
    }
    if (!input) {
      this.#d.ports.write(port, size, value);
      return true;
    }
    value = this.#d.ports.read(port, size);
    for (let at = 0; at < size; at++) {
      const host = dv.vcpu.translate(va + at, ACCESS.write);
      memory.u8[host] = (value >>> (8 * at)) & 0xff;
      const ram = host - memory.layout.ramBase;
      memory.wrote(Math.floor(ram / PAGE_SIZE) as Mfn, ram % PAGE_SIZE, 1);
    }
    return true;
  }
}

/** Does the virtual I/O privilege level allow port instructions, CLI and STI? The kernel counts as ring 1, or as ring 0 with the assist. */
function ioplAllows(dv: DomainVcpu): boolean {
  const level = dv.inKernelMode ? (dv.shared.vmAssist(VMASST_TYPE_architectural_iopl) ? 0 : 1) : 3;
  return dv.iopl >= level;
}

/** The part of a register that an address size uses, unsigned for 16 and 32 bits. */
function masked(value: number, bits: number): number {
  if (bits === 64) return value;
  const low = value >>> 0;
  return bits === 32 ? low : low & 0xffff;
}

function advanced(value: number, step: number, bits: number): number {
  if (bits === 64) return value + step;
  if (bits === 32) return (value + step) >>> 0;
  return value - (value & 0xffff) + ((value + step) & 0xffff);
}
