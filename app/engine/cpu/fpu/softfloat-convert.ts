// SPDX-License-Identifier: Apache-2.0
/**
 * Conversions out of operand slot A: to signed integers, to an integral value (FRNDINT), and of NaNs into the narrow formats.
 * Conversions between floating-point formats are an unpack, `fpCopy` and a pack.
 */
import { type Expr, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import { type FunctionBuilder, load } from '../../wasm/function-builder.ts';
import type { CoreFunctions } from '../functions.ts';
import { finite, readSlot, special } from './softfloat-arithmetic.ts';
import { shiftRightJam } from './softfloat-round.ts';
import { BIAS, CLS, EXC, FP, INTEGER_BIT, QUIET_BIT, RESULT, raise, roundingOf, SLOT } from './state.ts';

/** Rounds hi.lo to an integer: adds to `hi`, raises PE and C1 through `flags`. Returns nothing; `up` is 0 or 1. */
function roundUpBit(f: FunctionBuilder, hi: Expr, lo: Expr, sign: Expr, rc: Expr): Expr {
  const up = f.local(I32);
  f.if(
    rc.eqz(),
    () => f.set(up, lo.gtU(i64(INTEGER_BIT)).or(lo.eq(i64(INTEGER_BIT)).and(hi.wrap().and(1)))),
    () =>
      f.set(
        up,
        lo
          .ne(i64(0))
          .and(rc.ne(3))
          .and(sign.eq(rc.eq(1))),
      ),
  );
  return up;
}

function defineToInteger(core: CoreFunctions): void {
  // (cpu, ctl, bits) → the integer, sign-extended; the indefinite integer with IE when it does not fit.
  core.define('fpToInt', [I32, I32, I32], [I64], (f) => {
    const [cpu, ctl, bits] = [f.param(0), f.param(1), f.param(2)];
    const a = readSlot(f, cpu, FP.a);
    f.if(a.cls.eq(CLS.zero), () => f.return(i64(0)));
    const limit = f.let(i64(1).shl(bits.sub(1).extU()));
    const tooLarge = (): void => {
      raise(f, cpu, EXC.IE);
      f.return(i64(0).sub(limit));
    };
    const count = f.let(i32(BIAS + 63).sub(a.exp));
    f.if(a.cls.ne(CLS.finite).or(count.ltS(0)), tooLarge);
    const lo = f.local(I64);
    f.set(lo, i64(0));
    shiftRightJam(f, a.sig, lo, count);
    const up = roundUpBit(f, a.sig, lo, a.sign, roundingOf(ctl));
    f.set(a.sig, a.sig.add(up.extU()));
    f.if(a.sig.gtU(limit.sub(a.sign.eqz().extU())), tooLarge);
    f.if(lo.ne(i64(0)), () => raise(f, cpu, up.shl(9).or(EXC.PE)));
    f.return(a.sign.select(a.sig.neg(), a.sig));
  });
}

function defineRoundToIntegral(core: CoreFunctions): void {
  // (cpu, ctl) → result class; for operands that are not NaNs.
  core.define('fpRoundInt', [I32, I32], [I32], (f) => {
    const [cpu, ctl] = [f.param(0), f.param(1)];
    const a = readSlot(f, cpu, FP.a);
    f.if(a.cls.eq(CLS.zero), () => special(f, cpu, a.sign, RESULT.zero));
    f.if(a.cls.eq(CLS.inf), () => special(f, cpu, a.sign, RESULT.inf));
    const count = f.let(i32(BIAS + 63).sub(a.exp));
    f.if(count.leS(0), () => finite(f, cpu, a.sign, a.exp, a.sig, i64(0)));
    const lo = f.local(I64);
    f.set(lo, i64(0));
    shiftRightJam(f, a.sig, lo, count);
    const up = roundUpBit(f, a.sig, lo, a.sign, roundingOf(ctl));
    f.if(lo.ne(i64(0)), () => raise(f, cpu, up.shl(9).or(EXC.PE)));
    f.set(a.sig, a.sig.add(up.extU()));
    f.if(a.sig.eqz(), () => special(f, cpu, a.sign, RESULT.zero));
    const shift = f.let(a.sig.clz());
    finite(f, cpu, a.sign, i32(BIAS + 63).sub(shift.wrap()), a.sig.shl(shift), i64(0));
  });
}

function defineCopies(core: CoreFunctions): void {
  // (cpu) → result class: A itself as a result. Not for NaNs.
  core.define('fpCopy', [I32], [I32], (f) => {
    const cpu = f.param(0);
    const a = readSlot(f, cpu, FP.a);
    f.if(a.cls.eq(CLS.zero), () => special(f, cpu, a.sign, RESULT.zero));
    f.if(a.cls.eq(CLS.inf), () => special(f, cpu, a.sign, RESULT.inf));
    finite(f, cpu, a.sign, a.exp, a.sig, i64(0));
  });
  // (cpu) → bits of NaN A, quieted.
  for (const [name, fractionBits, exponentBits] of [
    ['fpNan32', 23, 8],
    ['fpNan64', 52, 11],
  ] as const) {
    core.define(name, [I32], [I64], (f) => {
      const cpu = f.param(0);
      const fraction = load('i64', cpu, FP.a + SLOT.sig)
        .or(i64(QUIET_BIT))
        .shl(1)
        .shrU(64 - fractionBits);
      const sign = load('i32', cpu, FP.a + SLOT.sign)
        .extU()
        .shl(fractionBits + exponentBits);
      f.return(fraction.or(sign).or(i64(((1n << BigInt(exponentBits)) - 1n) << BigInt(fractionBits))));
    });
  }
}

export function defineConvert(core: CoreFunctions): void {
  defineToInteger(core);
  defineRoundToIntegral(core);
  defineCopies(core);
}
