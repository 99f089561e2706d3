// SPDX-License-Identifier: Apache-2.0
/**
 * What SSE floating-point semantics share: the two element formats, when a native WebAssembly operation gives exactly what hardware
 * gives, and the exact path lane by lane.
 *
 * A native result is taken only when no exception flag could change and no special rule (NaN choice, denormals, flushing, directed
 * rounding) could apply; everything else goes to the soft-float core (`fpu/softfloat-sse.ts`).
 */
import { CTX } from '../../memory/vcpu-context.ts';
import { type Expr, F32, F64, f32, f64, I32, I64, i32, i64, operator, V128, v128, type ValType } from '../../wasm/expr.ts';
import { ifElse, load } from '../../wasm/function-builder.ts';
import { FP } from '../fpu/state.ts';
import { type SemContext, VECTOR } from './context.ts';

/** MXCSR bits that native arithmetic depends on: DAZ, masks, rounding, FTZ and PE. */
const MODE_BITS = 0xffe0;
/** Round to nearest, all masked, no DAZ or FTZ, PE set already. */
const MODE_NATIVE = 0x1fa0;
/** The same with PE clear: exact results only. */
const MODE_EXACT = 0x1f80;

const CR4_OSXMMEXCPT = 1 << 10;

export interface Element {
  readonly bits: 32 | 64;
  readonly lanes: 4 | 2;
  readonly integer: ValType;
  readonly float: ValType;
  /** First SIMD opcodes: comparisons from eq, arithmetic from abs. */
  readonly compare: number;
  readonly arithmetic: number;
  readonly allTrue: number;
  readonly extract: number;
  readonly replace: number;
}
export const SINGLE: Element = {
  bits: 32,
  lanes: 4,
  integer: I32,
  float: F32,
  compare: 0xfd041,
  arithmetic: 0xfd0e0,
  allTrue: 0xfd0a3,
  extract: 0xfd01b,
  replace: 0xfd01c,
};
export const DOUBLE: Element = {
  bits: 64,
  lanes: 2,
  integer: I64,
  float: F64,
  compare: 0xfd047,
  arithmetic: 0xfd0ec,
  allTrue: 0xfd0c3,
  extract: 0xfd01d,
  replace: 0xfd01e,
};

/** Offsets from `Element.compare`. */
export const VCMP = { eq: 0, ne: 1, lt: 2, gt: 3, le: 4, ge: 5 } as const;
/** Offsets from `Element.arithmetic`. */
export const VOP = { abs: 0, neg: 1, sqrt: 3, add: 4, sub: 5, mul: 6, div: 7, pmin: 10, pmax: 11 } as const;

export const vAnd = (a: Expr, b: Expr): Expr => operator(V128, 0xfd04e, [a, b]);
export const vOr = (a: Expr, b: Expr): Expr => operator(V128, 0xfd050, [a, b]);
export const vXor = (a: Expr, b: Expr): Expr => operator(V128, 0xfd051, [a, b]);
export const vCompare = (e: Element, kind: keyof typeof VCMP, a: Expr, b: Expr): Expr => operator(V128, e.compare + VCMP[kind], [a, b]);
export const vAllTrue = (e: Element, a: Expr): Expr => operator(I32, e.allTrue, [a]);
export const extract = (e: Element, v: Expr, lane: number): Expr => operator(e.integer, e.extract, [v], lane);
export const replace = (e: Element, v: Expr, lane: number, value: Expr): Expr => operator(V128, e.replace, [v, value], lane);
/** Bytes 0..15 of `a`, 16..31 of `b`. */
export const shuffle = (a: Expr, b: Expr, bytes: readonly number[]): Expr => operator(V128, 0xfd00d, [a, b], -1, Uint8Array.from(bytes));

/** A vector with `value` in every lane. */
export function vConst(e: Element, value: number): Expr {
  const out = new Uint8Array(16);
  const view = new DataView(out.buffer);
  for (let n = 0; n < 16; n += e.bits / 8) {
    if (e.bits === 32) view.setFloat32(n, value, true);
    else view.setFloat64(n, value, true);
  }
  return v128(out);
}
export const smallestNormal = (e: Element): number => (e.bits === 32 ? 2 ** -126 : 2 ** -1022);
export const fConst = (e: Element, value: number): Expr => (e.bits === 32 ? f32(value) : f64(value));

export const mxcsr = (c: SemContext): Expr => load('i32', c.cpu, CTX.mxcsr);
/** i32: rounding is to nearest, everything masked, PE already set. */
export const isNative = (c: SemContext): Expr => mxcsr(c).and(MODE_BITS).eq(MODE_NATIVE);

/** i32 lanes mask: neither NaN nor denormal (zeros and infinities pass). */
export function vOrdinary(e: Element, v: Expr): Expr {
  const normal = vCompare(e, 'ge', operator(V128, e.arithmetic, [v]), vConst(e, smallestNormal(e)));
  return vOr(normal, vCompare(e, 'eq', v, vConst(e, 0)));
}

/** i32: the bit pattern is not that of a denormal. */
export function notDenormal(e: Element, bits: Expr): Expr {
  const range = e.bits === 32 ? i32(0xff_fffe) : i64(0x1f_ffff_ffff_fffen);
  return bits.shl(1).sub(2).geU(range);
}
/**
 * i32: the pattern is that of a normal number above the smallest. The smallest is left out because a result that only became normal
 * by rounding to a denormal's precision counts as tiny (underflow).
 */
export function isNormal(e: Element, bits: Expr): Expr {
  const low = e.bits === 32 ? i32(0x0100_0002) : i64(0x20_0000_0000_0002n);
  const range = e.bits === 32 ? i32(0xfdff_fffe | 0) : i64(0xffbf_ffff_ffff_fffen);
  return bits.shl(1).sub(low).ltU(range);
}
/** i32: neither infinity nor NaN. */
export function isFiniteBits(e: Element, bits: Expr): Expr {
  return bits.shl(1).ltU(e.bits === 32 ? i32(0xff00_0000 | 0) : i64(0xffe0_0000_0000_0000n));
}
/** i32: the pattern is +0 or -0. */
export const isZero = (bits: Expr): Expr => bits.shl(1).eqz();

/** i32: the significands of two normal numbers together are so short that their product is exact. */
export function productIsExact(e: Element, a: Expr, b: Expr): Expr {
  const one = e.bits === 32 ? i32(1 << 23) : i64(1n << 52n);
  const precision = e.bits === 32 ? 24 : 53;
  return a.or(one).ctz().add(b.or(one).ctz()).geS(precision);
}

/** i32: a native result may be taken: PE is set already, or it is clear and `exact` holds. */
export function nativeOr(c: SemContext, exact: () => Expr): Expr {
  const mode = c.let(mxcsr(c).and(MODE_BITS));
  return ifElse(mode.eq(MODE_NATIVE), i32(1), mode.eq(MODE_EXACT).and(exact()));
}

/** Runs lane functions: clears the flags before, and afterwards moves them into MXCSR or faults with #XM (#UD without CR4.OSXMMEXCPT). */
export function exactly(c: SemContext, body: () => void): void {
  c.set32(FP.flags, i32(0));
  body();
  c.f.if(c.call('sseCommit', [c.cpu]), () => {
    c.faultIf(c.get64(CTX.cr4).wrap().and(CR4_OSXMMEXCPT).eqz(), VECTOR.UD);
    c.fault(VECTOR.XM);
  });
}
