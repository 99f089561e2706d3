// SPDX-License-Identifier: Apache-2.0
/**
 * Seeded floating-point states for comparing the software CPU with processors: every x87 and SSE float instruction, with operands that
 * crowd around the format limits (zeros, denormals, NaNs, unsupported encodings, halfway cases, range ends), all rounding and
 * precision modes, masked and unmasked exceptions, full and empty stack registers.
 *
 * A case is a state in `CASE` layout, and so is what a processor makes of it. `digest` folds the results of a run of cases into 32
 * bits, so that thousands of recorded results fit into a small table (`hardware-digests.ts`).
 */

/** Byte offsets of a state; integers are little-endian. */
export const CASE = {
  fcw: 0,
  /** With TOP. */
  fsw: 2,
  /** u16 abridged tags of the physical registers. */
  tags: 4,
  mxcsr: 8,
  /** u32 arithmetic flags only. */
  rflags: 12,
  rax: 16,
  /** u32 vector of the exception that ended the instruction, or 0. */
  vector: 24,
  /** ST(0) to ST(7), 16 bytes each, the upper six zero. */
  st: 32,
  /** XMM0 to XMM2. */
  xmm: 160,
  /** Memory at RBX. */
  memory: 208,
  memoryBytes: 64,
  bytes: 272,
} as const;
export const ARITHMETIC_FLAGS = 0x8d5;

type Operands =
  | 'real'
  | 'single'
  | 'double'
  | 'extended'
  | 'int16'
  | 'int32'
  | 'int64'
  | 'decimal'
  | 'integral'
  | 'scale'
  | 'remainder'
  | 'control'
  | 'ps'
  | 'pd'
  | 'pi';

export interface FloatInstruction {
  readonly name: string;
  /** Machine code in hexadecimal; memory operands are at RBX. */
  readonly code: string;
  readonly operands: Operands;
}

const hex = (value: number): string => value.toString(16).padStart(2, '0');

function x87Instructions(): FloatInstruction[] {
  const list: FloatInstruction[] = [];
  const add = (name: string, code: string, operands: Operands): void => {
    list.push({ name, code, operands });
  };
  ['fadd', 'fmul', 'fcom', 'fcomp', 'fsub', 'fsubr', 'fdiv', 'fdivr'].forEach((name, n) => {
    for (const i of [0, 1])
      for (const opcode of n === 3 ? ['d8', 'dc'] : ['d8', 'dc', 'de'])
        add(`${name} ${opcode}.${i}`, opcode + hex(0xc0 + n * 8 + i), 'real');
    for (const [opcode, operands] of [
      ['d8', 'single'],
      ['dc', 'double'],
      ['da', 'int32'],
      ['de', 'int16'],
    ] as const)
      add(`${name} ${operands}`, opcode + hex(n * 8 + 3), operands);
  });
  for (const code of [
    'ded9',
    'dae9',
    'dde1',
    'dde9',
    'dbe9',
    'dbf1',
    'dfe9',
    'dff1',
    'd9c0',
    'd9c1',
    'd9c9',
    'd9d9',
    'ddd1',
    'ddd9',
    'ddc1',
    'dfc1',
    'd9d0',
  ])
    add(`register ${code}`, code, 'real');
  for (let n = 0; n < 4; n++) {
    add(`fcmov ${n}`, `da${hex(0xc1 + n * 8)}`, 'real');
    add(`fcmovn ${n}`, `db${hex(0xc1 + n * 8)}`, 'real');
  }
  for (const [code, operands] of [
    ['d903', 'single'],
    ['dd03', 'double'],
    ['db2b', 'extended'],
    ['df03', 'int16'],
    ['db03', 'int32'],
    ['df2b', 'int64'],
    ['df23', 'decimal'],
  ] as const)
    add(`load ${operands}`, code, operands);
  for (const code of ['d913', 'd91b', 'dd13', 'dd1b', 'db3b']) add(`store ${code}`, code, 'real');
  for (const code of ['df13', 'df1b', 'db13', 'db1b', 'df3b', 'df0b', 'db0b', 'dd0b', 'df33']) add(`store ${code}`, code, 'integral');
  for (const n of [0xe0, 0xe1, 0xe4, 0xe5, 0xe8, 0xe9, 0xea, 0xeb, 0xec, 0xed, 0xee, 0xf4, 0xf6, 0xf7, 0xfa])
    add(`d9${hex(n)}`, `d9${hex(n)}`, 'real');
  add('frndint', 'd9fc', 'integral');
  add('fscale', 'd9fd', 'scale');
  add('fprem', 'd9f8', 'remainder');
  add('fprem1', 'd9f5', 'remainder');
  for (const code of ['dbe2', 'dbe3', 'd93b', 'dd3b', 'dfe0', '9b']) add(`control ${code}`, code, 'real');
  add('fldcw', 'd92b', 'control');
  add('fldenv', 'd923', 'control');
  return list;
}

function sseInstructions(): FloatInstruction[] {
  const list: FloatInstruction[] = [];
  const forms = [
    ['ps', '', 'ps'],
    ['pd', '66', 'pd'],
    ['ss', 'f3', 'ps'],
    ['sd', 'f2', 'pd'],
  ] as const;
  for (const [suffix, prefix, operands] of forms) {
    for (const opcode of ['51', '58', '59', '5c', '5d', '5e', '5f', '5a'])
      list.push({ name: `${opcode} ${suffix}`, code: `${prefix}0f${opcode}c1`, operands });
    for (let n = 0; n < 8; n++) list.push({ name: `cmp${n} ${suffix}`, code: `${prefix}0fc2c1${hex(n)}`, operands });
  }
  for (const opcode of ['2e', '2f'])
    for (const [suffix, prefix, operands] of forms.slice(0, 2))
      list.push({ name: `${opcode} ${suffix}`, code: `${prefix}0f${opcode}c1`, operands });
  for (const opcode of ['7c', '7d', 'd0']) {
    list.push(
      { name: `${opcode} pd`, code: `660f${opcode}c1`, operands: 'pd' },
      { name: `${opcode} ps`, code: `f20f${opcode}c1`, operands: 'ps' },
    );
  }
  for (const [prefix, operands] of [
    ['f3', 'ps'],
    ['f2', 'pd'],
  ] as const) {
    for (const wide of ['', '48']) {
      for (const opcode of ['2c', '2d']) list.push({ name: `${prefix}${wide} ${opcode}`, code: `${prefix}${wide}0f${opcode}c1`, operands });
      list.push({ name: `${prefix}${wide} 2a`, code: `${prefix}${wide}0f2ac0`, operands: 'pi' });
    }
  }
  for (const [code, operands] of [
    ['0f5bc1', 'pi'],
    ['660f5bc1', 'ps'],
    ['f30f5bc1', 'ps'],
    ['660fe6c1', 'pd'],
    ['f30fe6c1', 'pi'],
    ['f20fe6c1', 'pd'],
    ['0f2ac1', 'pi'],
    ['660f2ac1', 'pi'],
    ['0f2cc1', 'ps'],
    ['660f2cc1', 'pd'],
    ['0f2dc1', 'ps'],
    ['660f2dc1', 'pd'],
  ] as const) {
    list.push({ name: `convert ${code}`, code, operands });
  }
  for (const control of [0, 1, 2, 3, 4, 8]) {
    for (const [opcode, operands] of [
      ['08', 'ps'],
      ['09', 'pd'],
      ['0a', 'ps'],
      ['0b', 'pd'],
    ] as const)
      list.push({ name: `round ${opcode} ${control}`, code: `660f3a${opcode}c1${hex(control)}`, operands });
  }
  for (const control of ['f1', '75'])
    list.push(
      { name: `dpps ${control}`, code: `660f3a40c1${control}`, operands: 'ps' },
      { name: `dppd ${control}`, code: `660f3a41c1${control}`, operands: 'pd' },
    );
  return list;
}

export const FLOAT_INSTRUCTIONS: readonly FloatInstruction[] = [...x87Instructions(), ...sseInstructions()];

/** Deterministic random states. */
export class CaseSource {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  u32(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }
  below(n: number): number {
    return this.u32() % n;
  }
  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }

  /** A fraction of `bits` bits: round numbers, near-round ones, halfway cases, random ones. */
  #fraction(bits: number): bigint {
    const all = (1n << BigInt(bits)) - 1n;
    switch (this.below(7)) {
      case 0:
        return 0n;
      case 1:
        return all - BigInt(this.below(3));
      case 2:
        return BigInt(this.below(4));
      case 3:
        return this.u64() & all & ~((1n << BigInt((bits >> 1) + 3)) - 1n);
      case 4:
        return 1n << BigInt(this.below(bits));
      case 5:
        return ((this.u64() & all) >> BigInt(Math.max(0, bits - 53))) << BigInt(Math.max(0, bits - 53));
      default:
        return this.u64() & all;
    }
  }
  /** An encoded exponent of a format with bias `bias`. */
  #exponent(bias: number): number {
    const kind = this.below(16);
    if (kind < 2) return 0;
    if (kind === 2) return bias * 2 + 1;
    if (kind === 3) return 1 + this.below(4);
    if (kind === 4) return bias * 2 - this.below(4);
    if (kind < 12) return bias - 8 + this.below(72);
    return this.below(bias * 2 + 2);
  }
  narrow(bits: 32 | 64): bigint {
    const fraction = bits === 32 ? 23 : 52;
    const sign = BigInt(this.below(2)) << BigInt(bits - 1);
    if (this.below(16) === 0) return sign;
    return sign | (BigInt(this.#exponent(bits === 32 ? 127 : 1023)) << BigInt(fraction)) | this.#fraction(fraction);
  }
  /** [significand, sign and exponent] */
  extended(): [bigint, number] {
    const sign = this.below(2) << 15;
    if (this.below(20) === 0) return [0n, sign];
    let exponent = this.#exponent(16383);
    // Around the ends of the narrow formats' ranges.
    if (this.below(5) === 0) exponent = 16383 + (this.below(2) ? 1 : -1) * ((this.below(2) ? 120 : 1015) + this.below(70));
    let significand = this.#fraction(63) | (exponent === 0 ? 0n : 1n << 63n);
    if (this.below(25) === 0) significand ^= 1n << 63n;
    return [significand, exponent | sign];
  }
}

function fillRegisters(s: CaseSource, view: DataView, operands: Operands): void {
  for (let n = 0; n < 8; n++) {
    let [significand, exponent] = s.extended();
    const at = (base: number, span: number): void => {
      exponent = (exponent & 0x8000) | (base + s.below(span));
      significand |= 1n << 63n;
    };
    if (operands === 'integral' && n === 0 && s.below(4) > 0) {
      at(16380, 70);
      const low = BigInt(s.below(64));
      if (s.below(2)) significand = ((significand >> low) << low) | (1n << 63n) | (s.below(3) ? 0n : 1n << low);
    }
    if (operands === 'scale' && n === 1 && s.below(4) > 0) at(16381, 20);
    if (operands === 'remainder' && n < 2 && s.below(4) > 0) at(16383, s.below(3) === 0 ? 200 : 8);
    view.setBigUint64(CASE.st + n * 16, significand, true);
    view.setUint16(CASE.st + n * 16 + 8, exponent, true);
  }
  // Equal and nearly equal operands, for cancellation and comparison.
  if (s.below(6) === 0) {
    view.setBigUint64(CASE.st + 16, view.getBigUint64(CASE.st, true) ^ BigInt(s.below(4)), true);
    view.setUint16(CASE.st + 24, view.getUint16(CASE.st + 8, true) ^ (s.below(2) << 15), true);
  }
}

function fillMemory(s: CaseSource, view: DataView, operands: Operands): void {
  for (let n = 0; n < CASE.memoryBytes; n += 8) view.setBigUint64(CASE.memory + n, s.u64(), true);
  const at = CASE.memory;
  const integer = (): bigint => BigInt.asIntN(64, s.u64()) >> BigInt(s.below(64));
  if (operands === 'single') view.setUint32(at, Number(s.narrow(32)), true);
  else if (operands === 'double') view.setBigUint64(at, s.narrow(64), true);
  else if (operands === 'extended') {
    const [significand, exponent] = s.extended();
    view.setBigUint64(at, significand, true);
    view.setUint16(at + 8, exponent, true);
  } else if (operands.startsWith('int')) view.setBigInt64(at, integer(), true);
  else if (operands === 'decimal') for (let n = 0; n < 9; n++) view.setUint8(at + n, s.below(10) * 16 + s.below(10));
  else if (operands === 'control') {
    view.setUint16(at, view.getUint16(CASE.fcw, true), true);
    view.setUint16(at + 4, view.getUint16(CASE.fsw, true), true);
  }
}

/** The next case for `instruction`. */
export function makeCase(s: CaseSource, instruction: FloatInstruction): Uint8Array {
  const out = new Uint8Array(CASE.bytes);
  const view = new DataView(out.buffer);
  const { operands } = instruction;
  const sse = operands === 'ps' || operands === 'pd' || operands === 'pi';
  // Half of the cases mask everything; half of the rest have every mask random.
  const fcw = 0x40 | (s.below(4) < 3 ? 0x3f | (s.u32() & 0xf00) : s.u32() & 0xf3f);
  let fsw = (s.below(8) << 11) | (s.below(2) ? 0 : s.u32() & 0x4740) | (s.below(2) ? 0 : s.u32() & 0x3f & fcw);
  if (sse) fsw &= 0x3800;
  view.setUint16(CASE.fcw, sse ? 0x37f : fcw, true);
  view.setUint16(CASE.fsw, fsw, true);
  const free = 1 << (((fsw >> 11) + 7) & 7);
  view.setUint16(CASE.tags, s.below(4) === 0 ? s.u32() & 0xff : 0xff & ~free, true);
  const kind = s.below(8);
  view.setUint32(CASE.mxcsr, sse ? (kind < 2 ? 0x1fa0 : kind < 6 ? 0x1f80 | (s.u32() & 0xe07f) : s.u32() & 0xffff) : 0x1f80, true);
  view.setUint32(CASE.rflags, s.u32() & ARITHMETIC_FLAGS, true);
  view.setBigInt64(CASE.rax, BigInt.asIntN(64, s.u64()) >> BigInt(s.below(64)), true);
  fillRegisters(s, view, operands);
  fillMemory(s, view, operands);
  for (let n = 0; n < 48; n += 4) {
    if (operands === 'ps') view.setUint32(CASE.xmm + n, Number(s.narrow(32)), true);
    else if (operands === 'pi') view.setInt32(CASE.xmm + n, (s.u32() | 0) >> s.below(32), true);
    else if (n % 8 === 0) view.setBigUint64(CASE.xmm + n, s.narrow(64), true);
  }
  if (s.below(6) === 0) {
    out.copyWithin(CASE.xmm, CASE.xmm + 16, CASE.xmm + 32);
    out[CASE.xmm + 3] ^= 0x80;
    out[CASE.xmm + 15] ^= 0x80;
  }
  return out;
}

/** Cases of one instruction in a digest, and digests an instruction. */
export const CASES_PER_DIGEST = 50;
export const DIGESTS = 4;
export const SEED = 0x5eed;

/** Folds `bytes` into a running 32-bit digest (FNV-1a); start with `DIGEST_START`. */
export const DIGEST_START = 0x811c9dc5;
export function digest(bytes: Uint8Array, running: number): number {
  let value = running;
  for (const byte of bytes) value = Math.imul(value ^ byte, 0x01000193);
  return value >>> 0;
}
