// SPDX-License-Identifier: Apache-2.0
/**
 * PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM: comparison of two strings of bytes or words (Intel SDM volume 2 §4.1).
 *
 * Comparisons of single elements are held as one bit for each element of the second operand ("the string"), for one element of the
 * first ("the set") at a time: a loop over the set makes the intermediate result.
 */
import { CTX, REG } from '../../memory/vcpu-context.ts';
import { type Expr, I32, i32, V128, v128 } from '../../wasm/expr.ts';
import { callExpr, type FunctionBuilder, load } from '../../wasm/function-builder.ts';
import { constantLanes, replaceLane, type SimdOperator, simd } from '../../wasm/simd.ts';
import type { CoreFunctions } from '../functions.ts';
import { FLAGS } from '../record.ts';
import { ARITHMETIC_FLAGS, type SemanticsTable, type SemContext } from './context.ts';

/** Fields of the immediate. */
const IMM = {
  words: 1,
  signed: 2,
  aggregation: 0xc,
  ranges: 4,
  equalEach: 8,
  equalOrdered: 0xc,
  negate: 0x10,
  maskedNegate: 0x20,
  output: 0x40,
} as const;

/** What differs between strings of bytes and of words. */
interface Shape {
  readonly name: 'i8x16' | 'i16x8';
  readonly count: number;
  /** Bits of a full mask. */
  readonly full: number;
}
const BYTES: Shape = { name: 'i8x16', count: 16, full: 0xffff };
const WORDS: Shape = { name: 'i16x8', count: 8, full: 0xff };

const bits = (shape: Shape, lanes: Expr): Expr => simd(`${shape.name}.bitmask` as SimdOperator, lanes);

/** The element `index` of `vector` in every lane. */
function splatElement(shape: Shape, vector: Expr, index: Expr): Expr {
  if (shape.count === 16) return simd('i8x16.swizzle', vector, simd('i8x16.splat', index));
  return simd('i8x16.swizzle', vector, simd('i16x8.splat', index.mul(0x0202).add(0x0100)));
}

/** A mask of the lowest `count` bits; `count` is below 32. */
const lowBits = (count: Expr): Expr => i32(1).shl(count).sub(1);

/** (set, string, valid elements of the set, of the string, immediate) → intermediate result 1, one bit for each element of the string. */
function defineAggregation(core: CoreFunctions, name: string, shape: Shape): number {
  return core.define(name, [V128, V128, I32, I32, I32], [I32], (f) => {
    const [set, string, setLength, stringLength, imm] = [0, 1, 2, 3, 4].map((n) => f.param(n));
    const valid = f.let(lowBits(stringLength));
    const aggregation = f.let(imm.and(IMM.aggregation));
    const result = f.local(I32);
    const index = f.local(I32);
    const equal = (element: Expr): Expr => bits(shape, simd(`${shape.name}.eq`, string, element));

    f.if(aggregation.eq(IMM.equalEach), () => {
      // Two elements past the end are equal; one past the end differs from any that is not.
      const validSet = f.let(lowBits(setLength));
      f.set(result, equal(set).and(valid).and(validSet).or(valid.or(validSet).not().and(shape.full)));
      f.return(result);
    });

    f.if(aggregation.eq(IMM.equalOrdered), () => {
      f.set(result, shape.full);
      f.block((out) => {
        f.loop((again) => {
          f.brIf(out, index.geU(setLength));
          // Positions whose counterpart would lie behind the vector's end are not compared.
          const matches = equal(splatElement(shape, set, index))
            .and(valid)
            .or(~shape.full);
          f.set(result, result.and(matches.shrS(index)));
          f.set(index, index.add(1));
          f.br(again);
        });
      });
      f.return(result.and(shape.full));
    });

    f.if(aggregation.eq(IMM.ranges), () => {
      const inside = (signed: boolean): Expr => {
        const suffix = signed ? 's' : 'u';
        const from = simd(`${shape.name}.ge_${suffix}`, string, splatElement(shape, set, index));
        const to = simd(`${shape.name}.le_${suffix}`, string, splatElement(shape, set, index.add(1)));
        return bits(shape, simd('v128.and', from, to));
      };
      f.block((out) => {
        f.loop((again) => {
          // A pair whose upper bound is not valid holds nothing.
          f.brIf(out, index.add(1).geU(setLength));
          f.if(
            imm.and(IMM.signed),
            () => f.set(result, result.or(inside(true))),
            () => f.set(result, result.or(inside(false))),
          );
          f.set(index, index.add(2));
          f.br(again);
        });
      });
      f.return(result.and(valid));
    });

    f.block((out) => {
      f.loop((again) => {
        f.brIf(out, index.geU(setLength));
        f.set(result, result.or(equal(splatElement(shape, set, index))));
        f.set(index, index.add(1));
        f.br(again);
      });
    });
    f.return(result.and(valid));
  });
}

/**
 * Defines `pcmpstr_length` (vector, immediate → elements before the first zero) and `pcmpstr` (cpu, set, string, lengths, immediate →
 * intermediate result 2), which also sets the flags.
 */
export function defineSseStringCore(core: CoreFunctions): void {
  const inBytes = defineAggregation(core, 'pcmpstr_bytes', BYTES);
  const inWords = defineAggregation(core, 'pcmpstr_words', WORDS);

  core.define('pcmpstr_length', [V128, I32], [I32], (f) => {
    const zero = v128(new Uint8Array(16));
    const firstZero = (shape: Shape): Expr =>
      bits(shape, simd(`${shape.name}.eq`, f.param(0), zero))
        .or(shape.full + 1)
        .ctz();
    f.if(f.param(1).and(IMM.words), () => f.return(firstZero(WORDS)));
    f.return(firstZero(BYTES));
  });

  core.define('pcmpstr', [I32, V128, V128, I32, I32, I32], [I32], (f) => {
    const [cpu, set, string, setLength, stringLength, imm] = [0, 1, 2, 3, 4, 5].map((n) => f.param(n));
    const words = f.let(imm.and(IMM.words));
    const count = f.let(words.select(i32(WORDS.count), i32(BYTES.count)));
    const full = f.let(lowBits(count));
    const result = f.local(I32);
    const args = [set, string, setLength, stringLength, imm];
    f.if(
      words,
      () => f.set(result, callExpr(I32, inWords, args)),
      () => f.set(result, callExpr(I32, inBytes, args)),
    );
    f.if(imm.and(IMM.negate), () => {
      f.set(result, result.xor(imm.and(IMM.maskedNegate).select(lowBits(stringLength), full)));
    });
    storeFlags(f, cpu, result.ne(0).or(stringLength.ltU(count).shl(6)).or(setLength.ltU(count).shl(7)).or(result.and(1).shl(11)));
    f.return(result);
  });
}

function storeFlags(f: FunctionBuilder, cpu: Expr, flags: Expr): void {
  f.store('i32', cpu, load('i32', cpu, CTX.rflags).and(~ARITHMETIC_FLAGS).or(flags), CTX.rflags);
  f.store('i32', cpu, i32(FLAGS.exact), CTX.ccOp);
}

/** The length in RAX or RDX: its absolute value, saturated to the number of elements. */
function explicitLength(c: SemContext, register: number, imm: Expr): Expr {
  const bitsWide = c.form.rexW ? 64 : 32;
  const value = c.gpr(register, bitsWide);
  const limit = c.let(imm.and(IMM.words).select(i32(WORDS.count), i32(BYTES.count)));
  // The most negative number has no absolute value; as an unsigned number it is large, as it should be.
  const absolute = c.let(value.ltS(0).select(value.neg(), value));
  return c.let(absolute.ltU(bitsWide === 64 ? limit.extU() : limit).select(absolute.wrap(), limit));
}

/** Intermediate result 2, with the flags set; the memory operand is read first. */
function compareStrings(c: SemContext, explicit: boolean, imm: Expr): Expr {
  const string = c.readV(1);
  const set = c.readV(0);
  const length = (vector: Expr, register: number): Expr =>
    explicit ? explicitLength(c, register, imm) : c.call('pcmpstr_length', [vector, imm]);
  const setLength = length(set, REG.rax);
  const stringLength = length(string, REG.rdx);
  return c.call('pcmpstr', [c.cpu, set, string, setLength, stringLength, imm]);
}

/** The index of the lowest or highest set bit, or the number of elements. */
function writeIndex(c: SemContext, result: Expr, imm: Expr): void {
  const limit = imm.and(IMM.words).select(i32(WORDS.count), i32(BYTES.count));
  const index = imm.and(IMM.output).select(i32(31).sub(result.clz()), result.ctz());
  c.setGpr(REG.rcx, 32, result.select(index, limit));
}

/** Bits in the low end of XMM0, or whole elements. */
function writeMask(c: SemContext, result: Expr, imm: Expr): void {
  const zero = v128(new Uint8Array(16));
  const store = (value: Expr): void => c.f.store('v128', c.cpu, value, CTX.xmm);
  c.f.if(
    imm.and(IMM.output),
    () => {
      c.f.if(
        imm.and(IMM.words),
        () => {
          const ones = constantLanes(2, [1, 2, 4, 8, 16, 32, 64, 128]);
          store(simd('i16x8.eq', simd('v128.and', simd('i16x8.splat', result), ones), ones));
        },
        () => {
          const ones = constantLanes(1, [1, 2, 4, 8, 16, 32, 64, 128]);
          const bytes = simd('i8x16.swizzle', simd('i16x8.splat', result), v128([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]));
          store(simd('i8x16.eq', simd('v128.and', bytes, ones), ones));
        },
      );
    },
    () => store(replaceLane('i32x4', zero, 0, result)),
  );
}

export function defineSseString(table: SemanticsTable): void {
  for (const explicit of [true, false]) {
    const prefix = explicit ? 'pcmpestr' : 'pcmpistr';
    for (const output of ['i', 'm']) {
      table.define(prefix + output, (c) => {
        const imm = c.immediate(2);
        const result = compareStrings(c, explicit, imm);
        if (output === 'i') writeIndex(c, result, imm);
        else writeMask(c, result, imm);
      });
    }
  }
}
