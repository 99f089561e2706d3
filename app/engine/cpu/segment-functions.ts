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

const RSP = 4;

const CR0_PE = 1;
const EFER_LMA = 1 << 10;

/** Access rights as `SEG.attributes` holds them: descriptor bits 40..47 and 52..55. */
const attributesOf = (high: number): number => ((high >>> 8) & 0xff) | ((high >>> 12) & 0xf00);
const limitOf = (low: number, high: number): number => {
  const limit = (low & 0xffff) | (high & 0xf0000);
  return (high & 0x800000) !== 0 ? ((limit << 12) | 0xfff) >>> 0 : limit;
};
const baseOf = (low: number, high: number): number => ((low >>> 16) | ((high & 0xff) << 16) | (high & 0xff000000)) >>> 0;

/** NaN, what does not fit into 53 bits, is not canonical either. */
const canonical = (address: number): boolean => address >= -(2 ** 47) && address < 2 ** 47;
/** A 64-bit value in halves. */
interface Word {
  readonly low: number;
  readonly high: number;
}
const canonicalWord = ({ high }: Word): boolean => (high << 16) >> 16 === high;

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
  readonly #wrote: (host: number, bytes: number) => void;

  constructor(environment: HostFunctionEnvironment) {
    this.#ctx = environment.ctx;
    this.#host = environment.host;
    this.#memory = environment.memory;
    this.#translate = environment.translate;
    this.#wrote = environment.wrote;
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

  /** The descriptor for a transfer at the same privilege level; null when it faults. */
  #codeDescriptor(selector: number): readonly [number, number] | null {
    const ctx = this.#ctx;
    const cpl = ctx.u32(CTX.cpl);
    const refuse = (vector: number, code: number): null => {
      this.#fault(vector, code);
      return null;
    };
    if ((selector & 0xfffc) === 0) return refuse(GP, 0);
    const descriptor = this.#host.readDescriptor(selector);
    if (!descriptor) return refuse(GP, selector);
    const [, high] = descriptor;
    if (!isCode(high)) return refuse(GP, selector);
    const conforming = (high & 0x400) !== 0;
    if (conforming ? dplOf(high) > cpl : dplOf(high) !== cpl || (selector & 3) > cpl) return refuse(GP, selector);
    // L and D together are reserved in long mode.
    if ((ctx.u32(CTX.efer) & EFER_LMA) !== 0 && (high & 0x600000) === 0x600000) return refuse(GP, selector);
    if (!present(high)) return refuse(NP, selector);
    return descriptor;
  }

  #enterCode(selector: number, descriptor: readonly [number, number]): void {
    setCodeSegment(this.#ctx, (selector & 0xfffc) | this.#ctx.u32(CTX.cpl), descriptor[0], descriptor[1]);
  }

  /** Reads a word of `bits` at `va`; null when it faults. */
  #word(va: number, bits: number): Word | null {
    // The first byte that cannot be read is the one that faults; byte by byte over the page end is rare enough to be the only way.
    let low = 0;
    let high = 0;
    for (let n = 0; n < bits / 8; n++) {
      const host = this.#translate(va + n, ACCESS.read);
      if (host <= 0) return null;
      const byte = this.#memory.u8[host];
      if (n < 4) low |= byte << (8 * n);
      else high |= byte << (8 * (n - 4));
    }
    return { low: low >>> 0, high };
  }

  /** Linear address of the top of the stack; null, with the fault recorded, when it is not canonical. */
  #stackTop(): number | null {
    const ctx = this.#ctx;
    if (ctx.u32(CTX.codeBits) !== 64) return (ctx.u32(CTX.gpr + RSP * 8) + ctx.segBase(SEGREG.ss)) >>> 0;
    const top = ctx.gpr(RSP);
    if (canonical(top)) return top;
    this.#fault(SS_FAULT, 0);
    return null;
  }
  #moveStack(long: boolean, bytes: number): void {
    const ctx = this.#ctx;
    if (long) ctx.setGpr(RSP, ctx.gpr(RSP) + bytes);
    else ctx.setLoHi(CTX.gpr + RSP * 8, (ctx.u32(CTX.gpr + RSP * 8) + bytes) >>> 0, 0);
  }

  /** IRET to the same privilege level. */
  iret(bits: number): 0 | 1 {
    const ctx = this.#ctx;
    const bytes = bits / 8;
    const long = ctx.u32(CTX.codeBits) === 64;
    const top = this.#stackTop();
    if (top === null) return 1;
    const words: Word[] = [];
    // In 64-bit mode SS:RSP is always popped.
    for (let n = 0; n < (long ? 5 : 3); n++) {
      const word = this.#word(top + n * bytes, bits);
      if (word === null) return 1;
      words.push(word);
    }
    const [rip, cs, flags] = words;
    const selector = cs.low & 0xffff;
    const cpl = ctx.u32(CTX.cpl);
    if ((selector & 3) !== cpl) return this.#fault(GP, selector);
    const descriptor = this.#codeDescriptor(selector);
    if (!descriptor) return 1;
    if (!canonicalWord(rip)) return this.#fault(GP, 0);
    if (long) {
      if (this.load(SEGREG.ss, words[4].low & 0xffff) !== 0) return 1;
      ctx.setLoHi(CTX.gpr + RSP * 8, words[3].low, words[3].high);
    } else this.#moveStack(false, 3 * bytes);
    this.#enterCode(selector, descriptor);
    ctx.setLoHi(CTX.rip, rip.low, rip.high);
    const iopl = (ctx.rflags >> 12) & 3;
    let mask = 0x8d5 | RFLAGS.TF | RFLAGS.DF | RFLAGS.NT;
    if (bits > 16) mask |= RFLAGS.RF | RFLAGS.AC | RFLAGS.ID;
    if (cpl <= iopl) mask |= RFLAGS.IF;
    if (cpl === 0) mask |= RFLAGS.IOPL;
    ctx.rflags = ((ctx.rflags & ~mask) | (flags.low & mask) | 2) >>> 0;
    ctx.setU32(CTX.ccOp, 0);
    return 0;
  }

  /** Far RET to the same privilege level. */
  farReturn(bits: number, extra: number): 0 | 1 {
    const ctx = this.#ctx;
    const top = this.#stackTop();
    if (top === null) return 1;
    const rip = this.#word(top, bits);
    if (rip === null) return 1;
    const cs = this.#word(top + bits / 8, bits);
    if (cs === null) return 1;
    const selector = cs.low & 0xffff;
    if ((selector & 3) !== ctx.u32(CTX.cpl)) return this.#fault(GP, selector);
    const descriptor = this.#codeDescriptor(selector);
    if (!descriptor) return 1;
    if (!canonicalWord(rip)) return this.#fault(GP, 0);
    this.#moveStack(ctx.u32(CTX.codeBits) === 64, (2 * bits) / 8 + extra);
    this.#enterCode(selector, descriptor);
    ctx.setLoHi(CTX.rip, rip.low, rip.high);
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
    const descriptor = this.#codeDescriptor(selector);
    if (!descriptor) return 1;
    if (!canonical(target)) return this.#fault(GP, 0);
    if (call !== 0) {
      const sp = this.#stackTop();
      if (sp === null) return 1;
      for (const word of [sp - bytes, sp - 2 * bytes])
        for (let n = 0; n < bytes; n++) if (this.#translate(word + n, ACCESS.write) <= 0) return 1;
      this.#push(sp - bytes, oldSelector, bytes);
      this.#push(sp - 2 * bytes, returnTo, bytes);
      this.#moveStack(ctx.u32(CTX.codeBits) === 64, -2 * bytes);
    }
    this.#enterCode(selector, descriptor);
    ctx.setNum(CTX.rip, target);
    return 0;
  }

  #push(va: number, value: number, bytes: number): void {
    for (let n = 0; n < bytes; n++) {
      const host = this.#translate(va + n, ACCESS.write);
      this.#memory.u8[host] = Math.floor(value / 256 ** n) & 0xff;
      this.#wrote(host, 1);
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
  {
    name: 'inspect_selector',
    params: [I32, I32],
    results: [I32],
    create: (e) => (selector, kind) => segmentsOf(e).inspect(selector, kind),
  },
];
