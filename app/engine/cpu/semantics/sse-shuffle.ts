// SPDX-License-Identifier: Apache-2.0
/**
 * Shuffles, blends, byte shifts, insertions, extractions and widening moves (Intel SDM volume 2).
 *
 * The interpreter knows an immediate only at run time, the translator knows it while it writes code. So lane numbers are computed as
 * vectors for `i8x16.swizzle`, and a constant immediate becomes a fixed shuffle instead.
 */
import { type Expr, i32, v128 } from '../../wasm/expr.ts';
import { load } from '../../wasm/function-builder.ts';
import { constantLanes, type SimdOperator, shuffle, shuffleLanes, simd } from '../../wasm/simd.ts';
import { CTX } from '../../memory/vcpu-context.ts';
import type { SemanticsTable, SemContext } from './context.ts';
import { enterMmx, isMmx, readVector, writeVector } from './vector-operands.ts';
import { joinHalves } from './sse-integer.ts';

const IOTA = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const iota = (): Expr => v128(IOTA);
const splatByte = (value: Expr): Expr => simd('i8x16.splat', value);

/** Selector `n` (2 bits) of a shuffle immediate. */
const selector = (imm: number, n: number): number => (imm >> (2 * n)) & 3;

/** Swizzle pattern of PSHUFD: dword `i` is that which selector `i` of `imm` names. */
function dwordPattern(imm: Expr): Expr {
  // A multiplication shifts every lane by its own amount.
  const selectors = simd(
    'v128.and',
    simd('i32x4.shr_u', simd('i32x4.mul', simd('i32x4.splat', imm), constantLanes(4, [64, 16, 4, 1])), i32(6)),
    constantLanes(4, [3]),
  );
  return simd('i32x4.add', simd('i32x4.mul', selectors, constantLanes(4, [0x0404_0404])), constantLanes(4, [0x0302_0100]));
}

/** Swizzle pattern for both halves: word `i` of a half is that which selector `i` names. */
function wordPattern(imm: Expr): Expr {
  const selectors = simd(
    'v128.and',
    simd('i16x8.shr_u', simd('i16x8.mul', simd('i16x8.splat', imm), constantLanes(2, [64, 16, 4, 1])), i32(6)),
    constantLanes(2, [3]),
  );
  return simd(
    'i16x8.add',
    simd('i16x8.mul', selectors, constantLanes(2, [0x0202])),
    constantLanes(2, [0x0100, 0x0100, 0x0100, 0x0100, 0x0908, 0x0908, 0x0908, 0x0908]),
  );
}

function defineShuffles(table: SemanticsTable): void {
  table.define('pshufd', (c) => {
    const source = c.readV(1);
    const imm = c.immediate(2);
    if (imm.isConst)
      c.writeV(
        0,
        shuffleLanes(
          4,
          source,
          source,
          [0, 1, 2, 3].map((n) => selector(Number(imm.value), n)),
        ),
      );
    else c.writeV(0, simd('i8x16.swizzle', source, dwordPattern(imm)));
  });
  const words = (name: string, low: boolean, high: boolean): void =>
    table.define(name, (c) => {
      const source = readVector(c, 1);
      const imm = c.immediate(2);
      if (imm.isConst) {
        const lane = (n: number): number => ((n < 4 ? low : high) ? (n & 4) + selector(Number(imm.value), n & 3) : n);
        return writeVector(c, 0, shuffleLanes(2, source, source, [0, 1, 2, 3, 4, 5, 6, 7].map(lane)));
      }
      const mixed = simd('i8x16.swizzle', source, wordPattern(imm));
      writeVector(c, 0, low && high ? mixed : shuffleLanes(8, mixed, source, low ? [0, 3] : [2, 1]));
    });
  words('pshuflw', true, false);
  words('pshufhw', false, true);
  words('pshufw', true, true);

  table.define('shufps', (c) => {
    const b = c.readV(1);
    const a = c.readV(0);
    const imm = c.immediate(2);
    if (imm.isConst) {
      const value = Number(imm.value);
      return c.writeV(0, shuffleLanes(4, a, b, [selector(value, 0), selector(value, 1), 4 + selector(value, 2), 4 + selector(value, 3)]));
    }
    const pattern = c.let(dwordPattern(imm));
    c.writeV(0, shuffleLanes(8, simd('i8x16.swizzle', a, pattern), simd('i8x16.swizzle', b, pattern), [0, 3]));
  });
  table.define('shufpd', (c) => {
    const b = c.readV(1);
    const a = c.readV(0);
    const imm = c.immediate(2);
    const low = imm.and(1).select(shuffleLanes(8, a, b, [1, 2]), shuffleLanes(8, a, b, [0, 2]));
    const high = imm.and(2).select(shuffleLanes(8, a, b, [1, 3]), shuffleLanes(8, a, b, [0, 2]));
    c.writeV(0, shuffleLanes(8, low, high, [0, 3]));
  });
  table.define('pshufb', (c) => {
    const control = readVector(c, 1);
    // An index with its top bit set gives zero; swizzle does so for every index above 15.
    const pattern = simd('v128.and', control, constantLanes(1, [isMmx(c, 0) ? 0x87 : 0x8f]));
    writeVector(c, 0, simd('i8x16.swizzle', readVector(c, 0), pattern));
  });

  const unpack = (names: string, bytes: 1 | 2 | 4 | 8, high: boolean): void =>
    table.define(names, (c) => {
      const mmx = isMmx(c, 0);
      // The low unpacks read 32 bits from memory for MMX.
      const b =
        mmx && c.isMemory(1) ? c.let(simd(c.width(1) === 32 ? 'i32x4.splat' : 'i64x2.splat', c.readLow(1, c.width(1)))) : readVector(c, 1);
      const lanes = 16 / bytes;
      const first = high ? (mmx ? lanes / 4 : lanes / 2) : 0;
      writeVector(
        c,
        0,
        shuffleLanes(
          bytes,
          readVector(c, 0),
          b,
          Array.from({ length: lanes }, (_, i) => ((first + (i >> 1)) % lanes) + (i & 1) * lanes),
        ),
      );
    });
  unpack('punpcklbw', 1, false);
  unpack('punpcklwd', 2, false);
  unpack('punpckldq unpcklps', 4, false);
  unpack('punpcklqdq unpcklpd', 8, false);
  unpack('punpckhbw', 1, true);
  unpack('punpckhwd', 2, true);
  unpack('punpckhdq unpckhps', 4, true);
  unpack('punpckhqdq unpckhpd', 8, true);
}

function defineByteShifts(table: SemanticsTable): void {
  table.define('psrldq', (c) => {
    const count = splatByte(c.immediate(1));
    c.writeV(0, simd('i8x16.swizzle', c.readV(0), simd('i8x16.add_sat_u', iota(), count)));
  });
  table.define('pslldq', (c) => {
    const imm = c.immediate(1);
    // Indices below zero wrap to more than 15.
    const count = splatByte(imm.gtU(16).select(i32(16), imm));
    c.writeV(0, simd('i8x16.swizzle', c.readV(0), simd('i8x16.sub', iota(), count)));
  });
  table.define('palignr', (c) => {
    const b = readVector(c, 1);
    const a = readVector(c, 0);
    const imm = c.immediate(2);
    if (isMmx(c, 0)) {
      // Both registers make one vector.
      return writeVector(c, 0, simd('i8x16.swizzle', joinHalves(b, a), simd('i8x16.add_sat_u', iota(), splatByte(imm))));
    }
    if (imm.isConst) {
      const count = Number(imm.value);
      if (count <= 16)
        return c.writeV(
          0,
          shuffle(
            b,
            a,
            IOTA.map((i) => i + count),
          ),
        );
    }
    const low = simd('i8x16.swizzle', b, simd('i8x16.add_sat_u', iota(), splatByte(imm)));
    const high = simd('i8x16.swizzle', a, simd('i8x16.add', iota(), splatByte(imm.sub(16))));
    c.writeV(0, simd('v128.or', low, high));
  });
}

function defineBlends(table: SemanticsTable): void {
  const byImmediate = (name: string, bytes: 2 | 4 | 8, equals: SimdOperator, splat: SimdOperator): void =>
    table.define(name, (c) => {
      const b = c.readV(1);
      const a = c.readV(0);
      const imm = c.immediate(2);
      const lanes = 16 / bytes;
      if (imm.isConst) {
        return c.writeV(
          0,
          shuffleLanes(
            bytes,
            a,
            b,
            Array.from({ length: lanes }, (_, i) => i + ((Number(imm.value) >> i) & 1) * lanes),
          ),
        );
      }
      const bits = constantLanes(
        bytes,
        Array.from({ length: lanes }, (_, i) => 1 << i),
      );
      const chosen = simd(equals, simd('v128.and', simd(splat, bytes === 8 ? imm.extU() : imm), bits), bits);
      c.writeV(0, simd('v128.bitselect', b, a, chosen));
    });
  byImmediate('pblendw', 2, 'i16x8.eq', 'i16x8.splat');
  byImmediate('blendps', 4, 'i32x4.eq', 'i32x4.splat');
  byImmediate('blendpd', 8, 'i64x2.eq', 'i64x2.splat');

  // By the sign bits of XMM0.
  const bySign = (name: string, shift: SimdOperator, bits: number): void =>
    table.define(name, (c) => {
      const b = c.readV(1);
      const chosen = simd(shift, load('v128', c.cpu, CTX.xmm), i32(bits - 1));
      c.writeV(0, simd('v128.bitselect', b, c.readV(0), chosen));
    });
  bySign('pblendvb', 'i8x16.shr_s', 8);
  bySign('blendvps', 'i32x4.shr_s', 32);
  bySign('blendvpd', 'i64x2.shr_s', 64);
}

/** Address of lane `index` (i32, within range) of register operand `n`, to be used with the offset `registerBase`. */
const laneAddress = (c: SemContext, n: number, index: Expr, bytes: number): Expr => c.vectorSlot(n).add(index.mul(bytes));
const registerBase = (c: SemContext, n: number): number => (isMmx(c, n) ? CTX.fpr : CTX.xmm);

function defineLanes(table: SemanticsTable): void {
  const extract = (name: string, laneBytes: (c: SemContext) => 1 | 2 | 4 | 8): void =>
    table.define(name, (c) => {
      const bytes = laneBytes(c);
      const index = c.immediate(2).and((isMmx(c, 1) ? 8 : 16) / bytes - 1);
      const form = bytes === 1 ? 'i32_8u' : bytes === 2 ? 'i32_16u' : bytes === 4 ? 'i32' : 'i64';
      c.write(0, load(form, laneAddress(c, 1, index, bytes), registerBase(c, 1)));
      if (isMmx(c, 1)) enterMmx(c);
    });
  extract('pextrb', () => 1);
  extract('pextrw', () => 2);
  extract('pextrd', (c) => (c.form.rexW ? 8 : 4));
  extract('extractps', () => 4);

  const insert = (name: string, laneBytes: (c: SemContext) => 1 | 2 | 4 | 8): void =>
    table.define(name, (c) => {
      const bytes = laneBytes(c);
      const value = c.read(1);
      const index = c.immediate(2).and((isMmx(c, 0) ? 8 : 16) / bytes - 1);
      const form = bytes === 1 ? 'i32_8' : bytes === 2 ? 'i32_16' : bytes === 4 ? 'i32' : 'i64';
      c.f.store(form, laneAddress(c, 0, index, bytes), value, registerBase(c, 0));
      if (isMmx(c, 0)) {
        c.f.store('i32_16', c.vectorSlot(0), i32(0xffff), CTX.fpr + 8);
        enterMmx(c);
      }
    });
  insert('pinsrb', () => 1);
  insert('pinsrw', () => 2);
  insert('pinsrd', (c) => (c.form.rexW ? 8 : 4));

  // Source lane in bits 7:6 (registers only), destination lane in 5:4, lanes to clear in 3:0.
  table.define('insertps', (c) => {
    const imm = c.immediate(2);
    const value = c.isMemory(1) ? c.readLow(1, 32) : c.let(load('i32', laneAddress(c, 1, imm.shrU(6).and(3), 4), CTX.xmm));
    const lanes = constantLanes(4, [0, 1, 2, 3]);
    const chosen = simd('i32x4.eq', simd('i32x4.splat', imm.shrU(4).and(3)), lanes);
    const bits = constantLanes(4, [1, 2, 4, 8]);
    const cleared = simd('i32x4.eq', simd('v128.and', simd('i32x4.splat', imm), bits), bits);
    const inserted = simd('v128.bitselect', simd('i32x4.splat', value), c.readV(0), chosen);
    c.writeV(0, simd('v128.andnot', inserted, cleared));
  });
}

/** PMOVSX and PMOVZX: `steps` widen the low lanes one size at a time. */
function defineWidening(table: SemanticsTable): void {
  const steps = { b: 'i16x8.extend_low_i8x16', w: 'i32x4.extend_low_i16x8', d: 'i64x2.extend_low_i32x4' } as const;
  const order = 'bwdq';
  for (const kind of ['pmovsx', 'pmovzx'] as const) {
    for (const suffix of ['bw', 'bd', 'bq', 'wd', 'wq', 'dq']) {
      const from = order.indexOf(suffix[0]);
      const to = order.indexOf(suffix[1]);
      table.define(kind + suffix, (c) => {
        const bits = 128 >> (to - from);
        let value = c.readLow(1, bits);
        value = bits === 64 ? simd('i64x2.splat', value) : simd('i32x4.splat', value);
        for (let at = from; at < to; at++) value = simd(`${steps[order[at] as 'b' | 'w' | 'd']}_${kind === 'pmovsx' ? 's' : 'u'}`, value);
        c.writeV(0, value);
      });
    }
  }
}

export function defineSseShuffle(table: SemanticsTable): void {
  defineShuffles(table);
  defineByteShifts(table);
  defineBlends(table);
  defineLanes(table);
  defineWidening(table);
}
