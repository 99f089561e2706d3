// SPDX-License-Identifier: Apache-2.0
/**
 * Segment registers and transfers through descriptors (Intel SDM volume 3A, chapters 3 and 5): host functions of the software CPU.
 *
 * Descriptors come from the vCPU's owner: a PV hypervisor reads them from the frames that its guest registered.
 * Leaves out so far: transfers that change the privilege level, gates and tasks (PV guests go through the hypervisor instead), and
 * segment limits of data accesses.
 */
import { ACCESS, type VcpuHost } from '../accel/accelerator.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { CTX, RFLAGS, SEGREG, type VcpuContext } from '../memory/vcpu-context.ts';
import { I32 } from '../wasm/expr.ts';
import type { HostFunction, HostFunctionEnvironment } from './functions.ts';
import { CPU } from './record.ts';

const NP = 11;
const SS_FAULT = 12;
const GP = 13;

const CR0_PE = 1;
const EFER_LMA = 1 << 10;

/** Access rights as `SEG.attributes` holds them: descriptor bits 40..47 and 52..55. */
const attributesOf = (high: number): number => ((high >>> 8) & 0xff) | ((high >>> 12) & 0xf00);
const limitOf = (low: number, high: number): number => {
  const limit = (low & 0xffff) | (high & 0xf0000);
  return (high & 0x800000) !== 0 ? ((limit << 12) | 0xfff) >>> 0 : limit;
};
const baseOf = (low: number, high: number): number => (((low >>> 16) | ((high & 0xff) << 16) | (high & 0xff000000)) >>> 0);

const isCode = (high: number): boolean => (high & 0x1800) === 0x1800;
const dplOf = (high: number): number => (high >>> 13) & 3;
const present = (high: number): boolean => (high & 0x8000) !== 0;

export const MODE_KEY_SHIFT = 24;

/** Sets what follows from the code segment: its size, the CPL and the key that separates code by size. */
export function setCodeSegment(ctx: VcpuContext, selector: number, low: number, high: number): void {
  ctx.setSegment(SEGREG.cs, selector, baseOf(low, high), limitOf(low, high), attributesOf(high));
  const long = (high & 0x200000) !== 0 && (ctx.u32(CTX.efer) & EFER_LMA) !== 0;
  setCodeBits(ctx, long ? 64 : (high & 0x400000) !== 0 ? 32 : 16);
  ctx.setU32(CTX.cpl, selector & 3);
}

/** Code of different sizes at one address is different code: the jump cache mixes this into its keys. */
export function setCodeBits(ctx: VcpuContext, bits: number): void {
  ctx.setU32(CTX.codeBits, bits);
  ctx.setLoHi(CPU.modeKey, 0, bits === 64 ? 0 : bits << MODE_KEY_SHIFT);
}

class Segments {
  readonly #ctx: VcpuContext;
  readonly #host: VcpuHost;
  readonly #memory: GuestMemory;
  readonly #translate: (va: number, access: number) => number;

  constructor(environment: HostFunctionEnvironment) {
    this.#ctx = environment.ctx;
    this.#host = environment.host;
    this.#memory = environment.memory;
    this.#translate = environment.translate;
  }

  #fault(vector: number, selector: number): 1 {
    const ctx = this.#ctx;
    ctx.setU32(CTX.exitVector, vector);
    ctx.setU32(CTX.exitError, selector & 0xfffc);
    ctx.setU32(CTX.exitHasError, 1);
    return 1;
  }

  /** MOV and POP to a segment register other than CS. Returns 1 when it faults. */
  load(segment: number, selector: number): 0 | 1 {
    const ctx = this.#ctx;
    if ((ctx.u32(CTX.cr0) & CR0_PE) === 0) {
      ctx.setSegment(segment, selector, selector << 4, 0xffff, 0x93);
      return 0;
    }
    const cpl = ctx.u32(CTX.cpl);
    const rpl = selector & 3;
    if ((selector & 0xfffc) === 0) {
      // A null selector: not for SS, except in 64-bit mode below CPL 3.
      if (segment === SEGREG.ss && !(ctx.u32(CTX.codeBits) === 64 && cpl < 3 && rpl === cpl)) return this.#fault(GP, 0);
      // The base survives on processors that clear it and on those that do not alike where it matters: FS and GS get base 0.
      ctx.setSegment(segment, selector, 0, 0, 0);
      return 0;
    }
    const descriptor = this.#host.readDescriptor(selector);
    if (!descriptor) return this.#fault(GP, selector);
    const [low, high] = descriptor;
    const dpl = dplOf(high);
    if ((high & 0x1000) === 0) return this.#fault(GP, selector);
    if (segment === SEGREG.ss) {
      if (rpl !== cpl || dpl !== cpl || isCode(high) || (high & 0x200) === 0) return this.#fault(GP, selector);
      if (!present(high)) return this.#fault(SS_FAULT, selector);
    } else {
      if (isCode(high) && (high & 0x200) === 0) return this.#fault(GP, selector);
      const conforming = isCode(high) && (high & 0x400) !== 0;
      if (!conforming && (rpl > dpl || cpl > dpl)) return this.#fault(GP, selector);
      if (!present(high)) return this.#fault(NP, selector);
    }
    ctx.setSegment(segment, selector, baseOf(low, high), limitOf(low, high), attributesOf(high));
    return 0;
  }

  /** A code segment for a transfer at the same privilege level. */
  #loadCode(selector: number): 0 | 1 {
    const ctx = this.#ctx;
    const cpl = ctx.u32(CTX.cpl);
    if ((selector & 0xfffc) === 0) return this.#fault(GP, 0);
    const descriptor = this.#host.readDescriptor(selector);
    if (!descriptor) return this.#fault(GP, selector);
    const [low, high] = descriptor;
    if (!isCode(high)) return this.#fault(GP, selector);
    const conforming = (high & 0x400) !== 0;
    if (conforming ? dplOf(high) > cpl : dplOf(high) !== cpl || (selector & 3) > cpl) return this.#fault(GP, selector);
    // L and D together are reserved in long mode.
    if ((ctx.u32(CTX.efer) & EFER_LMA) !== 0 && (high & 0x600000) === 0x600000) return this.#fault(GP, selector);
    if (!present(high)) return this.#fault(NP, selector);
    setCodeSegment(ctx, (selector & 0xfffc) | cpl, low, high);
    return 0;
  }

  /** Reads `bits` from the stack at `offset` bytes above its top, as an exact number or NaN; null when it faults. */
  #stack(offset: number, bits: number, sp: number): number | null {
    const va = sp + offset;
    let value = 0;
    // Byte by byte over the page end is rare enough to be the only way.
    for (let n = bits / 8 - 1; n >= 0; n--) {
      const host = this.#translate(va + n, ACCESS.read);
      if (host <= 0) return null;
      const byte = this.#memory.u8[host];
      value = n === bits / 8 - 1 && bits === 64 ? (byte << 24) >> 24 : value * 256 + byte;
    }
    return value;
  }

  #stackPointer(): number {
    const ctx = this.#ctx;
    return ctx.u32(CTX.codeBits) === 64 ? ctx.gpr(4) : ((ctx.u32(CTX.gpr + 32) + ctx.segBase(SEGREG.ss)) >>> 0);
  }
  #setStackPointer(value: number): void {
    if (this.#ctx.u32(CTX.codeBits) === 64) this.#ctx.setGpr(4, value);
    else this.#ctx.setLoHi(CTX.gpr + 32, value >>> 0, 0);
  }

  /** IRET to the same privilege level. */
  iret(bits: number): 0 | 1 {
    const ctx = this.#ctx;
    const bytes = bits / 8;
    const long = ctx.u32(CTX.codeBits) === 64;
    const sp = this.#stackPointer();
    const words: number[] = [];
    // In 64-bit mode SS:RSP is always popped.
    for (let n = 0; n < (long ? 5 : 3); n++) {
      const word = this.#stack(n * bytes, bits, sp);
      if (word === null) return 1;
      words.push(word);
    }
    const [rip, cs, flags] = words;
    const cpl = ctx.u32(CTX.cpl);
    if ((cs & 3) !== cpl) return this.#fault(GP, cs);
    if (long && !(rip >= -(2 ** 47) && rip < 2 ** 47)) return this.#fault(GP, 0);
    if (this.#loadCode(cs & 0xffff) !== 0) return 1;
    if (long) {
      if (this.load(SEGREG.ss, words[4] & 0xffff) !== 0) return 1;
      ctx.setGpr(4, words[3]);
    } else this.#setStackPointer(ctx.u32(CTX.gpr + 32) + 3 * bytes);
    ctx.setNum(CTX.rip, bits === 64 ? rip : rip >>> 0);
    const iopl = (ctx.rflags >> 12) & 3;
    let mask = 0x8d5 | RFLAGS.TF | RFLAGS.DF | RFLAGS.NT;
    if (bits > 16) mask |= RFLAGS.RF | RFLAGS.AC | RFLAGS.ID;
    if (cpl <= iopl) mask |= RFLAGS.IF;
    if (cpl === 0) mask |= RFLAGS.IOPL;
    const low = flags % 0x1_0000_0000;
    ctx.rflags = ((ctx.rflags & ~mask) | (low & mask) | 2) >>> 0;
    ctx.setU32(CTX.ccOp, 0);
    return 0;
  }

  /** Far RET to the same privilege level. */
  farReturn(bits: number, extra: number): 0 | 1 {
    const ctx = this.#ctx;
    const sp = this.#stackPointer();
    const rip = this.#stack(0, bits, sp);
    if (rip === null) return 1;
    const cs = this.#stack(bits / 8, bits, sp);
    if (cs === null) return 1;
    if ((cs & 3) !== ctx.u32(CTX.cpl)) return this.#fault(GP, cs);
    const wasLong = ctx.u32(CTX.codeBits) === 64;
    const top = wasLong ? ctx.gpr(4) : ctx.u32(CTX.gpr + 32);
    if (this.#loadCode(cs & 0xffff) !== 0) return 1;
    const after = top + (2 * bits) / 8 + extra;
    if (wasLong) ctx.setGpr(4, after);
    else ctx.setLoHi(CTX.gpr + 32, after >>> 0, 0);
    ctx.setNum(CTX.rip, rip);
    return 0;
  }

  /** Far JMP and CALL to a code segment of the same privilege level; the far pointer stands in the scratch area. */
  farTransfer(bits: number, call: number): 0 | 1 {
    const ctx = this.#ctx;
    const target = ctx.num(CTX.scratch);
    const selector = ctx.u32(CTX.scratch + 8) & 0xffff;
    const oldSelector = ctx.selector(SEGREG.cs);
    const returnTo = ctx.num(CTX.rip);
    const bytes = bits / 8;
    const wasLong = ctx.u32(CTX.codeBits) === 64;
    const top = wasLong ? ctx.gpr(4) : ctx.u32(CTX.gpr + 32);
    if (call !== 0) {
      const sp = this.#stackPointer();
      for (let n = 1; n <= 2 * bytes; n++) if (this.#translate(sp - n, ACCESS.write) <= 0) return 1;
      if (this.#loadCode(selector) !== 0) return 1;
      this.#push(sp - bytes, oldSelector, bytes);
      this.#push(sp - 2 * bytes, returnTo, bytes);
      if (wasLong) ctx.setGpr(4, top - 2 * bytes);
      else ctx.setLoHi(CTX.gpr + 32, (top - 2 * bytes) >>> 0, 0);
    } else if (this.#loadCode(selector) !== 0) return 1;
    ctx.setNum(CTX.rip, target);
    return 0;
  }

  #push(va: number, value: number, bytes: number): void {
    for (let n = 0; n < bytes; n++) {
      const host = this.#translate(va + n, ACCESS.write);
      this.#memory.u8[host] = Math.floor(value / 256 ** n) & 0xff;
    }
  }

  /** LAR 0, LSL 1, VERR 2, VERW 3: 1 with the result in the scratch area when the selector can be seen. */
  inspect(selector: number, kind: number): 0 | 1 {
    const ctx = this.#ctx;
    if ((selector & 0xfffc) === 0) return 0;
    const descriptor = this.#host.readDescriptor(selector);
    if (!descriptor) return 0;
    const [low, high] = descriptor;
    const system = (high & 0x1000) === 0;
    const dpl = dplOf(high);
    const conforming = isCode(high) && (high & 0x400) !== 0;
    if (!conforming && (dpl < ctx.u32(CTX.cpl) || dpl < (selector & 3))) return 0;
    if (system) {
      // Long mode knows LDT, TSS (both) and call gates for LAR; LDT and TSS for LSL.
      const type = (high >>> 8) & 15;
      const known = kind === 0 ? [2, 9, 11, 12] : kind === 1 ? [2, 9, 11] : [];
      if (!known.includes(type)) return 0;
    }
    if (kind === 0) ctx.setU32(CTX.scratch, high & 0x00ff_ff00);
    else if (kind === 1) ctx.setU32(CTX.scratch, limitOf(low, high));
    else if (kind === 2 && isCode(high) && (high & 0x200) === 0) return 0;
    else if (kind === 3 && (isCode(high) || (high & 0x200) === 0)) return 0;
    return 1;
  }
}

/** One object serves the functions of one vCPU. */
const instances = new WeakMap<VcpuContext, Segments>();
function segmentsOf(environment: HostFunctionEnvironment): Segments {
  let segments = instances.get(environment.ctx);
  if (!segments) {
    segments = new Segments(environment);
    instances.set(environment.ctx, segments);
  }
  return segments;
}

export const SEGMENT_FUNCTIONS: readonly HostFunction[] = [
  { name: 'load_segment', params: [I32, I32], results: [I32], create: (e) => (segment, selector) => segmentsOf(e).load(segment, selector) },
  { name: 'far_iret', params: [I32], results: [I32], create: (e) => (bits) => segmentsOf(e).iret(bits) },
  { name: 'far_return', params: [I32, I32], results: [I32], create: (e) => (bits, extra) => segmentsOf(e).farReturn(bits, extra) },
  { name: 'far_transfer', params: [I32, I32], results: [I32], create: (e) => (bits, call) => segmentsOf(e).farTransfer(bits, call) },
  { name: 'inspect_selector', params: [I32, I32], results: [I32], create: (e) => (selector, kind) => segmentsOf(e).inspect(selector, kind) },
];

