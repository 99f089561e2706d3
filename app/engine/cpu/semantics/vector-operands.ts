// SPDX-License-Identifier: Apache-2.0
/**
 * Vector operands of instructions that exist for MMX and for XMM registers.
 *
 * Both travel as v128. An MMX operand stands in both halves of the vector, so that operations which never cross the middle need no
 * second version.
 *
 * MMX registers are the significands of the *physical* x87 registers. An MMX instruction sets TOP to 0 and every tag to valid, and a
 * written register's sign and exponent to all ones (Intel SDM volume 1 §9.5.1 and volume 3A §12.2).
 */
import { CTX } from '../../memory/vcpu-context.ts';
import { type Expr, i32 } from '../../wasm/expr.ts';
import { extractLane, simd } from '../../wasm/simd.ts';
import { OPERAND_KIND as K } from '../isa/row.ts';
import type { SemContext } from './context.ts';

/** Offset of an MMX register's sign and exponent. */
const FPR_EXPONENT = CTX.fpr + 8;
/** `ftop` (u16) and `ftag` (u16) as one word: TOP 0, all eight registers in use. */
const MMX_TOP_AND_TAGS = 0x00ff_0000;

export function isMmx(c: SemContext, n: number): boolean {
  const kind = c.kind(n);
  return kind === K.mmxReg || kind === K.mmxRm || kind === K.mmxOnly;
}

/** Enters MMX state; every MMX instruction does, also one that only reads. Comes after everything that can fault. */
export function enterMmx(c: SemContext): void {
  c.set32(CTX.ftop, i32(MMX_TOP_AND_TAGS));
}

/** Writes MMX register operand `n` and enters MMX state. */
export function writeMmx(c: SemContext, n: number, value: Expr): void {
  c.writeLow(n, 64, value);
  c.f.store('i32_16', c.vectorSlot(n), i32(0xffff), FPR_EXPONENT);
  enterMmx(c);
}

/** An MMX operand in both halves of a vector, or an XMM or 128-bit memory operand; bound. */
export function readVector(c: SemContext, n: number): Expr {
  return isMmx(c, n) ? c.let(simd('i64x2.splat', c.readLow(n, 64))) : c.readV(n);
}

/** Writes an XMM register, or the lower half into an MMX register. */
export function writeVector(c: SemContext, n: number, value: Expr): void {
  if (isMmx(c, n)) writeMmx(c, n, extractLane('i64x2', value, 0));
  else c.writeV(n, value);
}
