// SPDX-License-Identifier: Apache-2.0
/**
 * Scratch fields of the floating-point functions in the vCPU block, and the codes they share.
 *
 * Soft-float functions pass operands and results through memory, because a WebAssembly function built here has one result: operands
 * are unpacked into slots A and B, kernels leave an exact result in R, and pack functions round R into a format.
 *
 * All formats unpack into one form: sign, exponent with the 80-bit format's bias but without its limits, and a significand with the
 * integer bit at bit 63. The value of a finite number is `sig / 2^63 * 2^(exp - 16383)`.
 *
 * INVARIANT: nothing here outlives an instruction.
 */
import type { Expr } from '../../wasm/expr.ts';
import { type FunctionBuilder, load } from '../../wasm/function-builder.ts';

/** Byte offsets in the vCPU block. */
export const FP = {
  /** i32: exceptions raised since it was cleared, at their places in MXCSR and the x87 status word; C1 (0x200) says "rounded up". */
  flags: 0xf00,
  /** i32: x87 status word that a store commits once memory accepted the value. */
  pendingStatus: 0xf04,
  /** i32: second half of what an x87 store writes (exponent of 80-bit values). */
  valueHigh: 0xf08,
  /** i64: what an x87 store writes. */
  value: 0xf10,
  /** Operand slots (see `SLOT`). */
  a: 0xf18,
  b: 0xf38,
  /** Result before rounding: sign, exponent, 128-bit significand whose lowest bit is sticky. */
  sign: 0xf58,
  exp: 0xf5c,
  hi: 0xf60,
  lo: 0xf68,
  /** Result in the 80-bit format: i64 significand, i32 sign and exponent. */
  sig: 0xf70,
  se: 0xf78,
  /** i32: x87 condition codes that an operation sets beside its result. */
  conditions: 0xf7c,
  /** i32, i64: a second 80-bit result (FSINCOS, FPTAN, FXTRACT). */
  se2: 0xf80,
  sig2: 0xf88,
  /** Quotient digits (FPREM). */
  quotient: 0xf90,
} as const;

/** Fields of an operand slot. */
export const SLOT = { sign: 0, exp: 4, sig: 8, cls: 16 } as const;

/** Operand classes; `denormal` is added to `finite`. */
export const CLS = { finite: 0, zero: 1, inf: 2, qnan: 3, snan: 4, unsupported: 5, denormal: 8 } as const;
/** Classes of a kernel's result; `nan` is the default NaN of an invalid operation. */
export const RESULT = { finite: 0, zero: 1, inf: 2, nan: 3 } as const;

export const EXC = { IE: 1, DE: 2, ZE: 4, OE: 8, UE: 16, PE: 32, C1: 0x200 } as const;
/**
 * Control of rounding is passed in the layout of the x87 control word: masks in bits 0..5, precision control in 8..9, rounding
 * control in 10..11; bit 12 is flush-to-zero.
 */
export const CTL = { flushToZero: 0x1000, nearest: 0, down: 1, up: 2, truncate: 3 } as const;

export const BIAS = 16383;
export const EXP_MAX = 0x7fff;
/** Bias adjustment of unmasked x87 overflow and underflow (SDM volume 1 §8.5.4). */
export const WRAP_BIAS = 24576;
export const INTEGER_BIT = 0x8000_0000_0000_0000n;
export const QUIET_BIT = 0x4000_0000_0000_0000n;

/** Adds exceptions to the scratch flags. */
export function raise(f: FunctionBuilder, cpu: Expr, flags: Expr | number): void {
  f.store('i32', cpu, load('i32', cpu, FP.flags).or(flags), FP.flags);
}

/** Rounding control of a `ctl` value, 0..3. */
export function roundingOf(ctl: Expr): Expr {
  return ctl.shrU(10).and(3);
}

/** `ctl` for the current MXCSR. */
export function ctlFromMxcsr(mxcsr: Expr): Expr {
  return mxcsr.shrU(7).and(0x3f).or(mxcsr.shrU(3).and(0x1c00));
}
