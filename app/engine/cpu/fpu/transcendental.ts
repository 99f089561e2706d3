// SPDX-License-Identifier: Apache-2.0
/**
 * Values of the transcendental x87 instructions, in fixed point on BigInt (rare enough for that), and the host function around them.
 *
 * Each function is computed with at least 128 significant bits, and the result is handed to the soft-float core as a 128-bit
 * significand whose lowest bit is sticky: so results are correctly rounded except when the true value lies within 2^-60 of a unit in
 * the last place to a rounding boundary. Processors promise an error below one unit in the last place and may differ in the last bit.
 *
 * Arguments of FSIN, FCOS, FSINCOS and FPTAN are reduced with the 66-bit approximation of pi that processors use (SDM volume 1
 * §8.3.8), and so share their error for large arguments and near multiples of pi. Results outside of the documented ranges
 * (F2XM1 beyond -1..1, FYL2XP1 at and below -1) are the operand, as on AMD processors.
 */
import { I32 } from '../../wasm/expr.ts';
import type { HostFunction } from '../functions.ts';
import { BIAS, CLS, EXC, FP, RESULT, SLOT } from './state.ts';

/** A finite number: (-1)^sign * magnitude * 2^-scale. */
interface Fixed {
  readonly sign: number;
  readonly magnitude: bigint;
  readonly scale: number;
}

const bitLength = (value: bigint): number =>
  value === 0n ? 0 : value.toString(16).length * 4 - Math.clz32(Number.parseInt(value.toString(16)[0], 16)) + 28;
const shift = (value: bigint, left: number): bigint => (left >= 0 ? value << BigInt(left) : value >> BigInt(-left));

const constants = new Map<string, bigint>();
function cached(name: string, bits: number, compute: () => bigint): bigint {
  const key = `${name}${bits}`;
  let value = constants.get(key);
  if (value === undefined) {
    value = compute();
    constants.set(key, value);
  }
  return value;
}

/** atan(1/n) * 2^bits by its series. */
function atanInverse(n: bigint, bits: number): bigint {
  let term = (1n << BigInt(bits)) / n;
  let sum = 0n;
  for (let k = 1n, positive = true; term !== 0n; k += 2n, positive = !positive) {
    sum += positive ? term / k : -(term / k);
    term /= n * n;
  }
  return sum;
}
/** pi * 2^bits (Machin's formula). */
export function piFixed(bits: number): bigint {
  return cached('pi', bits, () => (16n * atanInverse(5n, bits + 32) - 4n * atanInverse(239n, bits + 32)) >> 32n);
}
/** ln 2 * 2^bits: 2 atanh(1/3). */
function ln2Fixed(bits: number): bigint {
  return cached('ln2', bits, () => atanhFixed((1n << BigInt(bits + 32)) / 3n, bits + 32) >> 31n);
}

/** atanh(x) * 2^bits for |x| <= 1/3, x in units of 2^-bits. */
function atanhFixed(x: bigint, bits: number): bigint {
  const square = (x * x) >> BigInt(bits);
  let power = x;
  let sum = 0n;
  for (let k = 1n; power !== 0n && power !== -1n; k += 2n) {
    sum += power / k;
    power = (power * square) >> BigInt(bits);
  }
  return sum;
}

/** (e^x - 1) * 2^bits for 0 <= x < 1. */
function expm1Fixed(x: bigint, bits: number): bigint {
  let term = x;
  let sum = 0n;
  for (let k = 2n; term !== 0n; k++) {
    sum += term;
    term = ((term * x) / k) >> BigInt(bits);
  }
  return sum;
}

/** [sin x, cos x] * 2^bits for 0 <= x < 1. */
function sinCosFixed(x: bigint, bits: number): [bigint, bigint] {
  const n = BigInt(bits);
  const square = (x * x) >> n;
  let sine = 0n;
  let cosine = 0n;
  let term = x;
  for (let k = 2n, positive = true; term !== 0n; k += 2n, positive = !positive) {
    sine += positive ? term : -term;
    term = ((term * square) >> n) / (k * (k + 1n));
  }
  term = 1n << n;
  for (let k = 1n, positive = true; term !== 0n; k += 2n, positive = !positive) {
    cosine += positive ? term : -term;
    term = ((term * square) >> n) / (k * (k + 1n));
  }
  return [sine, cosine];
}

/** atan(x) * 2^bits for 0 <= x <= 1: three halvings of the angle, then the series. */
function atanFixed(x: bigint, bits: number): bigint {
  const n = BigInt(bits);
  const one = 1n << n;
  let y = x;
  for (let k = 0; k < 3; k++) y = (y << n) / (one + squareRoot((one << n) + y * y));
  const square = (y * y) >> n;
  let power = y;
  let sum = 0n;
  for (let k = 1n, positive = true; power !== 0n; k += 2n, positive = !positive) {
    sum += positive ? power / k : -(power / k);
    power = (power * square) >> n;
  }
  return sum << 3n;
}

function squareRoot(value: bigint): bigint {
  let x = 1n << BigInt((bitLength(value) + 1) >> 1);
  for (;;) {
    const next = (x + value / x) >> 1n;
    if (next >= x) return x;
    x = next;
  }
}

/** Working precision: that much below the leading bit of the smallest intermediate result. */
const GUARD = 160;

/** 2^x - 1 for |x| <= 1; x = significand * 2^(exponent - 63). */
export function exp2m1(x: Fixed): Fixed {
  const bits = x.scale + GUARD;
  const argument = (shift(x.magnitude, bits - x.scale) * ln2Fixed(bits)) >> BigInt(bits);
  const grown = expm1Fixed(argument, bits);
  if (x.sign === 0) return { sign: 0, magnitude: grown, scale: bits };
  // 1 - 2^-|x| = (2^|x| - 1) / 2^|x|
  return { sign: 1, magnitude: (grown << BigInt(bits)) / ((1n << BigInt(bits)) + grown), scale: bits };
}

/** ln(1 + t) * 2^bits for a t > -1 given in units of 2^-bits that is not large. */
function log1p(t: bigint, bits: number): bigint {
  const one = 1n << BigInt(bits);
  // atanh's argument below 1/3 for factors between 1/2 and 2.
  return 2n * atanhFixed((t << BigInt(bits)) / (2n * one + t), bits);
}

/** log2 of a positive number as a fixed-point number with full relative precision. */
export function log2(significand: bigint, exponent: number): Fixed {
  // value = m * 2^e, 1 <= m < 2; around 1 move to m in (2/3, 4/3] so that nothing cancels.
  let e = exponent;
  let sig = significand << 1n;
  if (significand > 0xaaaaaaaaaaaaaaaan) {
    e += 1;
    sig = significand;
  }
  const bits = 64 + GUARD + 64;
  const t = shift(sig - (1n << 64n), bits - 64);
  const fraction = (log1p(t, bits) << BigInt(bits)) / ln2Fixed(bits);
  const value = (BigInt(e) << BigInt(bits)) + fraction;
  return { sign: value < 0n ? 1 : 0, magnitude: value < 0n ? -value : value, scale: bits };
}

/** log2(1 + x) for -1 < x. */
export function log2p1(x: Fixed): Fixed {
  const bits = x.scale + GUARD;
  const t = shift(x.magnitude, bits - x.scale);
  const value = (log1p(x.sign ? -t : t, bits) << BigInt(bits)) / ln2Fixed(bits);
  return { sign: x.sign, magnitude: value < 0n ? -value : value, scale: bits };
}

/** pi / 2 with 66 significant bits, in units of 2^-67. */
const HALF_PI_66 = 0xc90fdaa22168c234cn;

/** sin or cos of |x| < 2^63, with the sign of x taken into account. */
export function sinCos(x: Fixed): { readonly sine: Fixed; readonly cosine: Fixed } {
  const bits = x.scale + GUARD + 128;
  const angle = shift(x.magnitude, bits - x.scale);
  const half = HALF_PI_66 << BigInt(bits - 67);
  let quadrant = angle / half;
  let rest = angle - quadrant * half;
  // Into the first octant, so that the series stay short.
  let swap = false;
  if (rest * 2n > half) {
    rest = half - rest;
    swap = true;
  }
  let [sine, cosine] = sinCosFixed(rest, bits);
  if (swap) [sine, cosine] = [cosine, sine];
  quadrant &= 3n;
  if ((quadrant & 1n) !== 0n) [sine, cosine] = [cosine, sine];
  const sineSign = (quadrant >= 2n ? 1 : 0) ^ x.sign;
  const cosineSign = quadrant === 1n || quadrant === 2n ? 1 : 0;
  return { sine: { sign: sineSign, magnitude: sine, scale: bits }, cosine: { sign: cosineSign, magnitude: cosine, scale: bits } };
}

/** A slot's finite number as a fixed-point number. */
function fixedOf(operand: Operand): Fixed {
  return { sign: operand.sign, magnitude: operand.sig, scale: 63 - operand.exp };
}

interface Operand {
  readonly sign: number;
  /** Unbiased. */
  readonly exp: number;
  readonly sig: bigint;
  readonly cls: number;
}

const BINARY = { fyl2x: 4, fyl2xp1: 5, fpatan: 6 } as const;
const UNARY = { f2xm1: 0, fsin: 1, fcos: 2, fptan: 3 } as const;
const OUT_OF_RANGE = 4;

type Outcome =
  | { readonly kind: 'class'; readonly result: number; readonly sign: number; readonly flags?: number }
  /** `exact`: the value stands for itself, not for something a little larger in magnitude. It is reported as inexact unless `silent`. */
  | { readonly kind: 'value'; readonly value: Fixed; readonly exact: boolean; readonly silent: boolean };

const zero = (sign: number): Outcome => ({ kind: 'class', result: RESULT.zero, sign });
const infinity = (sign: number, flags = 0): Outcome => ({ kind: 'class', result: RESULT.inf, sign, flags });
const INVALID: Outcome = { kind: 'class', result: RESULT.nan, sign: 1, flags: EXC.IE };
const value = (fixed: Fixed, exact = false, silent = false): Outcome => ({ kind: 'value', value: fixed, exact, silent });
const multiply = (a: Fixed, b: Fixed): Fixed => ({ sign: a.sign ^ b.sign, magnitude: a.magnitude * b.magnitude, scale: a.scale + b.scale });
/** A number so small that its first-order term decides: rounded towards zero (-1) or away from it (1) of the exact value. */
const nudged = (fixed: Fixed, direction: number): Fixed => ({
  sign: fixed.sign,
  magnitude: (fixed.magnitude << 200n) + BigInt(direction),
  scale: fixed.scale + 200,
});

function unary(op: number, a: Operand): Outcome {
  if (op === UNARY.f2xm1) {
    if (a.cls === CLS.zero) return zero(a.sign);
    if (a.cls === CLS.inf) return a.sign ? value({ sign: 1, magnitude: 1n, scale: 0 }, true, true) : infinity(0);
    // Outside of -1..1 the result is undefined; processors leave the operand.
    if (a.exp > 0 || (a.exp === 0 && a.sig > 1n << 63n)) return value(fixedOf(a), true);
    if (a.exp === 0) return value({ sign: a.sign, magnitude: 1n, scale: a.sign }, true);
    if (a.exp < -200) return value(multiply(fixedOf(a), { sign: 0, magnitude: ln2Fixed(256), scale: 256 }));
    return value(exp2m1(fixedOf(a)));
  }
  if (a.cls === CLS.inf) return INVALID;
  if (a.cls === CLS.zero) return op === UNARY.fcos ? value({ sign: 0, magnitude: 1n, scale: 0 }, true, true) : zero(a.sign);
  if (a.exp >= 63) return { kind: 'class', result: OUT_OF_RANGE, sign: 0 };
  if (a.exp < -200) {
    if (op === UNARY.fcos) return value(nudged({ sign: 0, magnitude: 1n, scale: 0 }, -1));
    return value(nudged(fixedOf(a), op === UNARY.fsin ? -1 : 1));
  }
  const { sine, cosine } = sinCos(fixedOf(a));
  if (op === UNARY.fsin) return value(sine);
  if (op === UNARY.fcos) return value(cosine);
  return value({
    sign: sine.sign ^ cosine.sign,
    magnitude: (sine.magnitude << BigInt(cosine.scale)) / cosine.magnitude,
    scale: sine.scale,
  });
}

/** ST(1) * log2(ST(0)). */
function yLog2x(x: Operand, y: Operand): Outcome {
  const isOne = x.cls === CLS.finite && x.exp === 0 && x.sig === 1n << 63n;
  if (x.cls === CLS.zero) {
    if (y.cls === CLS.zero) return INVALID;
    return infinity(y.sign ^ 1, y.cls === CLS.inf ? 0 : EXC.ZE);
  }
  if (x.sign) return INVALID;
  if (x.cls === CLS.inf) return y.cls === CLS.zero ? INVALID : infinity(y.sign);
  const below = x.exp < 0;
  if (y.cls === CLS.inf) return isOne ? INVALID : infinity(y.sign ^ (below ? 1 : 0));
  if (y.cls === CLS.zero || isOne) return zero(y.sign ^ (below ? 1 : 0));
  const exact = x.sig === 1n << 63n;
  return value(multiply(log2(x.sig, x.exp), fixedOf(y)), exact);
}

/** ST(1) * log2(ST(0) + 1). */
function yLog2xPlus1(x: Operand, y: Operand): Outcome {
  const sign = x.sign ^ y.sign;
  if (x.cls === CLS.zero) return y.cls === CLS.inf ? INVALID : zero(sign);
  if (x.cls === CLS.inf) return x.sign || y.cls === CLS.zero ? INVALID : infinity(y.sign);
  // Undefined range.
  if (x.sign && x.exp >= 0 && y.cls === CLS.finite) return value(fixedOf(x), true);
  if (y.cls === CLS.inf) return infinity(sign);
  if (y.cls === CLS.zero) return zero(sign);
  if (x.exp < -200) {
    const inverse = { sign: 0, magnitude: (1n << 512n) / ln2Fixed(256), scale: 256 };
    return value(multiply(multiply(fixedOf(x), inverse), fixedOf(y)));
  }
  if (x.exp > 63) return value(multiply(log2(x.sig, x.exp), fixedOf(y)));
  if (x.exp >= -2) {
    const scale = 63 - x.exp;
    const one = 1n << BigInt(scale);
    return value(multiply(log2Wide(x.sign ? one - x.sig : one + x.sig, scale), fixedOf(y)));
  }
  return value(multiply(log2p1(fixedOf(x)), fixedOf(y)));
}

/** log2 of sum * 2^-scale, not close to 1. */
function log2Wide(sum: bigint, scale: number): Fixed {
  const length = bitLength(sum);
  const bits = length + GUARD;
  // 1 <= m < 2
  const t = shift(sum, bits - length + 1) - (1n << BigInt(bits));
  const fraction = (log1p(t, bits) << BigInt(bits)) / ln2Fixed(bits);
  const result = (BigInt(length - 1 - scale) << BigInt(bits)) + fraction;
  return { sign: result < 0n ? 1 : 0, magnitude: result < 0n ? -result : result, scale: bits };
}

/** atan2(ST(1), ST(0)). */
function arctangent(x: Operand, y: Operand): Outcome {
  const bits = 384;
  const pi = (numerator: bigint, denominator: bigint): Outcome =>
    value({ sign: y.sign, magnitude: (piFixed(bits) * numerator) / denominator, scale: bits });
  if (y.cls === CLS.inf) return x.cls === CLS.inf ? (x.sign ? pi(3n, 4n) : pi(1n, 4n)) : pi(1n, 2n);
  if (x.cls === CLS.inf) return x.sign ? pi(1n, 1n) : zero(y.sign);
  if (y.cls === CLS.zero) return x.sign ? pi(1n, 1n) : zero(y.sign);
  if (x.cls === CLS.zero) return pi(1n, 2n);
  const distance = y.exp - x.exp;
  if (distance <= -200) {
    // y/x is the first-order term.
    if (x.sign) return value({ sign: y.sign, magnitude: piFixed(bits) - 1n, scale: bits });
    const quotient = (y.sig << 256n) / x.sig;
    const exact = (y.sig << 256n) % x.sig === 0n;
    return value(nudged({ sign: y.sign, magnitude: quotient, scale: 256 - distance }, exact ? -1 : 1));
  }
  if (distance >= 200) return value({ sign: y.sign, magnitude: (piFixed(bits) >> 1n) + (x.sign ? 1n : -1n), scale: bits });
  // Tangent or cotangent, whichever is below one, with enough bits below its leading one.
  const flip = distance > 0 || (distance === 0 && y.sig > x.sig);
  const working = 640;
  const n = BigInt(working);
  const [small, large] = flip ? [x.sig, y.sig] : [y.sig, x.sig];
  const tangent = shift((small << n) / large, -Math.abs(distance));
  let angle = atanFixed(tangent, working);
  const piWorking = piFixed(working);
  if (flip) angle = (piWorking >> 1n) - angle;
  if (x.sign) angle = piWorking - angle;

  return value({ sign: y.sign, magnitude: angle, scale: working });
}

export const FPU_HOST_FUNCTIONS: readonly HostFunction[] = [
  {
    // (operation) → `RESULT` class or out of range. Operands in slots A (ST(0)) and B (ST(1)), not NaNs.
    name: 'x87_transcendental',
    params: [I32],
    results: [I32],
    create: ({ ctx }) => {
      const operand = (at: number): Operand => ({
        sign: ctx.u32(at + SLOT.sign),
        exp: (ctx.u32(at + SLOT.exp) | 0) - BIAS,
        sig: ctx.big(at + SLOT.sig),
        cls: ctx.u32(at + SLOT.cls) & 7,
      });
      return (op) => {
        const a = operand(FP.a);
        let outcome: Outcome;
        if (op === BINARY.fyl2x) outcome = yLog2x(a, operand(FP.b));
        else if (op === BINARY.fyl2xp1) outcome = yLog2xPlus1(a, operand(FP.b));
        else if (op === BINARY.fpatan) outcome = arctangent(a, operand(FP.b));
        else outcome = unary(op, a);
        if (outcome.kind === 'class') {
          ctx.setU32(FP.sign, outcome.sign);
          ctx.setU32(FP.flags, ctx.u32(FP.flags) | (outcome.flags ?? 0));
          return outcome.result;
        }
        const { sign, magnitude, scale } = outcome.value;
        ctx.setU32(FP.sign, sign);
        if (magnitude === 0n) return RESULT.zero;
        const length = bitLength(magnitude);
        const exponent = BIAS + length - 1 - scale;
        const wide = shift(magnitude, 128 - length);
        const lost = length > 128 && shift(wide, length - 128) !== magnitude;
        // An exact value has no sticky bit that would make packing report it.
        if (outcome.exact && !outcome.silent) ctx.setU32(FP.flags, ctx.u32(FP.flags) | EXC.PE | (exponent < 1 ? EXC.UE : 0));
        ctx.setU32(FP.exp, exponent >>> 0);
        ctx.setBig(FP.hi, wide >> 64n);
        ctx.setBig(FP.lo, (wide & 0xffff_ffff_ffff_ffffn) | (lost || !outcome.exact ? 1n : 0n));
        return RESULT.finite;
      };
    },
  },
];
