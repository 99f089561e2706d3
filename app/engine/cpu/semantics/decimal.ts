// SPDX-License-Identifier: Apache-2.0
/** Decimal adjustment of the accumulator, outside of 64-bit mode (Intel SDM volume 2: DAA, DAS, AAA, AAS, AAM, AAD), and SALC. */
import type { Expr } from '../../wasm/expr.ts';
import { RFLAGS } from '../../memory/vcpu-context.ts';
import { type SemContext, type SemanticsTable, VECTOR } from './context.ts';

const RAX = 0;

/** DAA and DAS: 6 and 60h are added or subtracted where a digit is above nine or carried. */
function adjustPacked(c: SemContext, subtract: boolean): void {
  const flags = c.eflags();
  const before = c.gpr(RAX, 8);
  const carry = c.let(flags.and(RFLAGS.CF));
  const low = c.let(before.and(15).gtU(9).or(flags.and(RFLAGS.AF).ne(0)));
  const high = c.let(before.gtU(0x99).or(carry));
  const delta = c.let(low.mul(6).add(high.mul(0x60)));
  const result = c.let((subtract ? before.sub(delta) : before.add(delta)).and(0xff));
  // A borrow out of the low digit's correction stays a carry of DAS.
  const borrow = subtract ? high.or(low.and(before.ltU(6))) : high;
  c.setGpr(RAX, 8, result);
  c.setFlagsBits(8, result, c.let(borrow.or(low.shl(4))));
}

/** AAA and AAS: one unpacked digit in AL, its carry into AH. */
function adjustUnpacked(c: SemContext, subtract: boolean): void {
  const flags = c.eflags();
  const before = c.gpr(RAX, 16);
  const adjust = c.let(before.and(15).gtU(9).or(flags.and(RFLAGS.AF).ne(0)));
  const delta = adjust.mul(0x106);
  const result = c.let((subtract ? before.sub(delta) : before.add(delta)).and(0xff0f));
  c.setGpr(RAX, 16, result);
  c.setFlagsBits(8, c.let(result.and(0xff)), c.let(adjust.mul(RFLAGS.CF | RFLAGS.AF)));
}

export function defineDecimal(table: SemanticsTable): void {
  table.define('daa', (c) => adjustPacked(c, false));
  table.define('das', (c) => adjustPacked(c, true));
  table.define('aaa', (c) => adjustUnpacked(c, false));
  table.define('aas', (c) => adjustUnpacked(c, true));
  table.define('aam', (c) => {
    const base = c.immediate(0);
    c.faultIf(base.eqz(), VECTOR.DE);
    const value = c.gpr(RAX, 8);
    const digit = c.let(value.remU(base));
    c.setGpr(RAX, 16, c.let(value.divU(base).shl(8).or(digit)));
    c.setFlagsBits(8, digit, noFlags(c));
  });
  table.define('aad', (c) => {
    const value = c.gpr(RAX, 16);
    const result = c.let(value.add(value.shrU(8).mul(c.immediate(0))).and(0xff));
    c.setGpr(RAX, 16, result);
    c.setFlagsBits(8, result, noFlags(c));
  });
  table.define('salc', (c) => c.setGpr(RAX, 8, c.carry().neg()));
}

const noFlags = (c: SemContext): Expr => c.constant(32, 0);
