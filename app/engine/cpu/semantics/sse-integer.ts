// SPDX-License-Identifier: Apache-2.0
/**
 * Integer arithmetic, comparison, logic and shifts on MMX and XMM registers (Intel SDM volume 2).
 *
 * Most instructions are one WebAssembly operator; the others are composed of operators that are exact.
 */
import { type Expr, i32, i64, v128 } from '../../wasm/expr.ts';
import { constantLanes, extractLane, replaceLane, type SimdOperator, shuffleLanes, simd } from '../../wasm/simd.ts';
import { ARITHMETIC_FLAGS, type SemanticsTable, type SemContext } from './context.ts';
import { isMmx, readVector, writeVector } from './vector-operands.ts';

/** Instructions whose result is `operator(destination, source)`. */
// biome-ignore format: a table
const OPERATORS: Readonly<Record<string, SimdOperator>> = {
  paddb: 'i8x16.add', paddw: 'i16x8.add', paddd: 'i32x4.add', paddq: 'i64x2.add',
  paddsb: 'i8x16.add_sat_s', paddsw: 'i16x8.add_sat_s', paddusb: 'i8x16.add_sat_u', paddusw: 'i16x8.add_sat_u',
  psubb: 'i8x16.sub', psubw: 'i16x8.sub', psubd: 'i32x4.sub', psubq: 'i64x2.sub',
  psubsb: 'i8x16.sub_sat_s', psubsw: 'i16x8.sub_sat_s', psubusb: 'i8x16.sub_sat_u', psubusw: 'i16x8.sub_sat_u',
  pmullw: 'i16x8.mul', pmulld: 'i32x4.mul', pmaddwd: 'i32x4.dot_i16x8_s', pavgb: 'i8x16.avgr_u', pavgw: 'i16x8.avgr_u',
  pminub: 'i8x16.min_u', pminuw: 'i16x8.min_u', pminud: 'i32x4.min_u', pminsb: 'i8x16.min_s', pminsw: 'i16x8.min_s', pminsd: 'i32x4.min_s',
  pmaxub: 'i8x16.max_u', pmaxuw: 'i16x8.max_u', pmaxud: 'i32x4.max_u', pmaxsb: 'i8x16.max_s', pmaxsw: 'i16x8.max_s', pmaxsd: 'i32x4.max_s',
  pcmpeqb: 'i8x16.eq', pcmpeqw: 'i16x8.eq', pcmpeqd: 'i32x4.eq', pcmpeqq: 'i64x2.eq',
  pcmpgtb: 'i8x16.gt_s', pcmpgtw: 'i16x8.gt_s', pcmpgtd: 'i32x4.gt_s', pcmpgtq: 'i64x2.gt_s',
  pand: 'v128.and', por: 'v128.or', pxor: 'v128.xor', andps: 'v128.and', andpd: 'v128.and', orps: 'v128.or', orpd: 'v128.or', xorps: 'v128.xor', xorpd: 'v128.xor',
};

const ODD_WORDS = [1, 3, 5, 7, 9, 11, 13, 15];
const EVEN_WORDS = [0, 2, 4, 6, 8, 10, 12, 14];
const ODD_DWORDS = [1, 3, 5, 7];
const EVEN_DWORDS = [0, 2, 4, 6];

/** Both operands are bound: they may be used more than once. */
type Binary = (a: Expr, b: Expr) => Expr;

const absoluteDifference: Binary = (a, b) => simd('v128.or', simd('i8x16.sub_sat_u', a, b), simd('i8x16.sub_sat_u', b, a));

/** PMULHW and PMULHUW: upper halves of the 32-bit products. */
const multiplyHigh =
  (low: SimdOperator, high: SimdOperator): Binary =>
  (a, b) =>
    shuffleLanes(2, simd(low, a, b), simd(high, a, b), ODD_WORDS);

/** PMULUDQ and PMULDQ: products of the even lanes. */
const multiplyEven =
  (operator: SimdOperator): Binary =>
  (a, b) =>
    simd(operator, shuffleLanes(4, a, a, [0, 2, 0, 2]), shuffleLanes(4, b, b, [0, 2, 0, 2]));

/** PMADDUBSW: the products of unsigned and signed bytes fit into words; their sums saturate. */
const multiplyAddBytes: Binary = (a, b) => {
  const eight = i32(8);
  const even = simd('i16x8.mul', simd('v128.and', a, constantLanes(2, [0xff])), simd('i16x8.shr_s', simd('i16x8.shl', b, eight), eight));
  const odd = simd('i16x8.mul', simd('i16x8.shr_u', a, eight), simd('i16x8.shr_s', b, eight));
  return simd('i16x8.add_sat_s', even, odd);
};

/** PMULHRSW wraps for -1 × -1, where the WebAssembly operator saturates to 0x7fff. */
const multiplyHighRounded: Binary = (a, b) => {
  const minimum = constantLanes(2, [0x8000]);
  const wraps = simd('v128.and', simd('i16x8.eq', a, minimum), simd('i16x8.eq', b, minimum));
  return simd('v128.xor', simd('i16x8.q15mulr_sat_s', a, b), wraps);
};

/** PSADBW: sums of eight absolute differences in each half. */
const sumOfDifferences: Binary = (a, b) => {
  const words = simd('i16x8.extadd_pairwise_i8x16_u', absoluteDifference(a, b));
  // At most 8 × 255: the sum of a half's words is the upper word of a multiplication by ones, without carries between words.
  const dwords = simd('i32x4.extadd_pairwise_i16x8_u', words);
  return simd('i64x2.shr_u', simd('i64x2.mul', dwords, constantLanes(8, [0x1_0000_0001n])), i32(32));
};

/** PSIGN: zero, negated or unchanged by the sign of `b`. */
const applySign =
  (shape: 'i8x16' | 'i16x8' | 'i32x4'): Binary =>
  (a, b) => {
    const zero = v128(new Uint8Array(16));
    const signed = simd('v128.bitselect', simd(`${shape}.neg`, a), a, simd(`${shape}.lt_s`, b, zero));
    return simd('v128.andnot', signed, simd(`${shape}.eq`, b, zero));
  };

/** PHADD and PHSUB: neighbours of `a`, then of `b`. */
const horizontal =
  (bytes: 2 | 4, operator: SimdOperator): Binary =>
  (a, b) => {
    const [even, odd] = bytes === 2 ? [EVEN_WORDS, ODD_WORDS] : [EVEN_DWORDS, ODD_DWORDS];
    return simd(operator, shuffleLanes(bytes, a, b, even), shuffleLanes(bytes, a, b, odd));
  };

/** Instructions that treat both halves of the vector alike, or exist for XMM only. */
const COMPOSED: Readonly<Record<string, Binary>> = {
  'pandn andnps andnpd': (a, b) => simd('v128.andnot', b, a),
  pmulhw: multiplyHigh('i32x4.extmul_low_i16x8_s', 'i32x4.extmul_high_i16x8_s'),
  pmulhuw: multiplyHigh('i32x4.extmul_low_i16x8_u', 'i32x4.extmul_high_i16x8_u'),
  pmuludq: multiplyEven('i64x2.extmul_low_i32x4_u'),
  pmuldq: multiplyEven('i64x2.extmul_low_i32x4_s'),
  pmaddubsw: multiplyAddBytes,
  pmulhrsw: multiplyHighRounded,
  psadbw: sumOfDifferences,
  psignb: applySign('i8x16'),
  psignw: applySign('i16x8'),
  psignd: applySign('i32x4'),
  pabsb: (_, b) => simd('i8x16.abs', b),
  pabsw: (_, b) => simd('i16x8.abs', b),
  pabsd: (_, b) => simd('i32x4.abs', b),
};

/** Instructions whose result for MMX is made of both operands' lower halves: see `joinHalves`. */
const HORIZONTAL: Readonly<Record<string, Binary>> = {
  phaddw: horizontal(2, 'i16x8.add'),
  phaddd: horizontal(4, 'i32x4.add'),
  phaddsw: horizontal(2, 'i16x8.add_sat_s'),
  phsubw: horizontal(2, 'i16x8.sub'),
  phsubd: horizontal(4, 'i32x4.sub'),
  phsubsw: horizontal(2, 'i16x8.sub_sat_s'),
  packsswb: (a, b) => simd('i8x16.narrow_i16x8_s', a, b),
  packuswb: (a, b) => simd('i8x16.narrow_i16x8_u', a, b),
  packssdw: (a, b) => simd('i16x8.narrow_i32x4_s', a, b),
  packusdw: (a, b) => simd('i16x8.narrow_i32x4_u', a, b),
};

/** The lower half of `a` below that of `b`: the operands of a 64-bit instruction, as one operand of the 128-bit one. */
export const joinHalves = (a: Expr, b: Expr): Expr => shuffleLanes(8, a, b, [0, 2]);

type Shape = 'i16x8' | 'i32x4' | 'i64x2';
const SHAPE_BITS = { i16x8: 16, i32x4: 32, i64x2: 64 } as const;

function defineShifts(table: SemanticsTable): void {
  const shift = (name: string, shape: Shape, operation: 'shl' | 'shr_u' | 'shr_s'): void =>
    table.define(name, (c) => {
      const bits = SHAPE_BITS[shape];
      // By an immediate the destination is the only vector; by a register the count is the source's low 64 bits.
      const wide = c.width(1) === 8 ? c.immediate(1).extU() : extractLane('i64x2', readVector(c, 1), 0);
      const large = c.let(wide);
      const vector = readVector(c, 0);
      const inRange = large.ltU(i64(bits));
      const operator = `${shape}.${operation}` as SimdOperator;
      if (operation === 'shr_s') writeVector(c, 0, simd(operator, vector, inRange.select(large.wrap(), i32(bits - 1))));
      else writeVector(c, 0, inRange.select(simd(operator, vector, large.wrap()), v128(new Uint8Array(16))));
    });
  shift('psllw', 'i16x8', 'shl');
  shift('pslld', 'i32x4', 'shl');
  shift('psllq', 'i64x2', 'shl');
  shift('psrlw', 'i16x8', 'shr_u');
  shift('psrld', 'i32x4', 'shr_u');
  shift('psrlq', 'i64x2', 'shr_u');
  shift('psraw', 'i16x8', 'shr_s');
  shift('psrad', 'i32x4', 'shr_s');
}

/** MPSADBW: eight sums of four differences between a sliding window of the destination and a block of the source. */
function blockDifferences(c: SemContext, a: Expr, b: Expr, imm: Expr): Expr {
  const windowStart = imm.shrU(2).and(1).shl(2);
  const blockStart = imm.and(3).shl(2);
  const iota = v128([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
  let sum: Expr | null = null;
  for (let j = 0; j < 4; j++) {
    const window = c.let(simd('i8x16.swizzle', a, simd('i8x16.add', iota, simd('i8x16.splat', windowStart.add(j)))));
    const block = c.let(simd('i8x16.swizzle', b, simd('i8x16.splat', blockStart.add(j))));
    const words = simd('i16x8.extend_low_i8x16_u', absoluteDifference(window, block));
    sum = sum ? simd('i16x8.add', sum, words) : words;
  }
  return sum as Expr;
}

/** PHMINPOSUW: the smallest word and the lowest index that has it, found as the minimum of words with their index appended. */
function minimumWithPosition(source: Expr): Expr {
  const sixteen = i32(16);
  const withIndex = (words: Expr, first: number): Expr =>
    simd('v128.or', simd('i32x4.shl', words, sixteen), constantLanes(4, [first, first + 1, first + 2, first + 3]));
  return simd(
    'i32x4.min_u',
    withIndex(simd('i32x4.extend_low_i16x8_u', source), 0),
    withIndex(simd('i32x4.extend_high_i16x8_u', source), 4),
  );
}

export function defineSseInteger(table: SemanticsTable): void {
  for (const [name, operator] of Object.entries(OPERATORS))
    table.define(name, (c) => {
      const b = readVector(c, 1);
      writeVector(c, 0, simd(operator, readVector(c, 0), b));
    });
  for (const [names, operation] of Object.entries(COMPOSED))
    table.define(names, (c) => {
      const b = readVector(c, 1);
      writeVector(c, 0, operation(readVector(c, 0), b));
    });
  for (const [name, operation] of Object.entries(HORIZONTAL))
    table.define(name, (c) => {
      const b = readVector(c, 1);
      const a = readVector(c, 0);
      if (!isMmx(c, 0)) return writeVector(c, 0, operation(a, b));
      const both = c.let(joinHalves(a, b));
      writeVector(c, 0, operation(both, both));
    });
  defineShifts(table);

  table.define('mpsadbw', (c) => {
    const b = readVector(c, 1);
    const imm = c.immediate(2);
    writeVector(c, 0, blockDifferences(c, readVector(c, 0), b, imm));
  });
  table.define('phminposuw', (c) => {
    const four = c.let(minimumWithPosition(c.readV(1)));
    const two = c.let(simd('i32x4.min_u', four, shuffleLanes(4, four, four, [2, 3, 2, 3])));
    const one = simd('i32x4.min_u', two, shuffleLanes(4, two, two, [1, 1, 1, 1]));
    c.writeV(0, replaceLane('i32x4', v128(new Uint8Array(16)), 0, extractLane('i32x4', one, 0).rotl(16)));
  });
  table.define('ptest', (c) => {
    const b = c.readV(1);
    const a = c.readV(0);
    const zero = simd('v128.any_true', simd('v128.and', a, b)).eqz();
    const carry = simd('v128.any_true', simd('v128.andnot', b, a)).eqz();
    c.setEflags(ARITHMETIC_FLAGS, zero.shl(6).or(carry));
  });
}
