// SPDX-License-Identifier: Apache-2.0
/**
 * Rounding and packing of kernel results into the 32-, 64- and 80-bit formats (SDM volume 1 §4.8.4, §4.9, §8.5, §11.5.2).
 *
 * Tininess is detected after rounding to the destination's precision with an unbounded exponent, as x86 does. Masked underflow is
 * reported only when the result is also inexact; unmasked underflow whenever it is tiny. Unmasked overflow and underflow of the
 * 80-bit format give the result with its exponent moved by 24576; in the narrow formats nothing is stored then, so the value is void.
 */
import { type Expr, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import { type FunctionBuilder, load } from '../../wasm/function-builder.ts';
import type { CoreFunctions } from '../functions.ts';
import { BIAS, EXC, EXP_MAX, FP, INTEGER_BIT, QUIET_BIT, RESULT, raise, roundingOf, WRAP_BIAS } from './state.ts';

/** Shifts a 128-bit local pair right by `count` (i32 ≥ 0, not constant), folding what is lost into the lowest bit. */
export function shiftRightJam(f: FunctionBuilder, hi: Expr, lo: Expr, count: Expr): void {
  f.if(count.ne(0), () => {
    const n = f.let(count.extU());
    f.if(
      count.ltS(64),
      () => {
        const lost = lo.shl(i64(64).sub(n)).ne(i64(0));
        f.set(
          lo,
          lo
            .shrU(n)
            .or(hi.shl(i64(64).sub(n)))
            .or(lost.extU()),
        );
        f.set(hi, hi.shrU(n));
      },
      () => {
        f.if(
          count.ltS(128),
          () => {
            // At exactly 64 nothing of `hi` is lost: a shift by 64 would be one by 0.
            const lost = lo.ne(i64(0)).or(hi.shl(i64(128).sub(n)).ne(i64(0)).and(count.ne(64)));
            f.set(lo, hi.shrU(n.sub(64)).or(lost.extU()));
          },
          () => f.set(lo, hi.or(lo).ne(i64(0)).extU()),
        );
        f.set(hi, i64(0));
      },
    );
  });
}

interface Rounded {
  /** Local: rounded significand, its discarded bits zero. */
  readonly sum: Expr;
  /** Local i32: the rounding carried out of bit 63 (then `sum` is 0). */
  readonly carry: Expr;
  /** Local i32: 0x200 when the magnitude grew. */
  readonly up: Expr;
  /** Local i32: bits were discarded. */
  readonly inexact: Expr;
}

/** Emits the rounding of hi:lo to 64 - `discard` bits; `discard` is a constant or an i64 value. */
function emitRound(f: FunctionBuilder, hi: Expr, lo: Expr, discard: number | Expr, sign: Expr, rc: Expr, out: Rounded): void {
  f.scope(() => {
    const rest = f.local(I64);
    const half = f.local(I64);
    const unit = f.local(I64);
    const kept = f.local(I64);
    const whole = (): void => {
      f.set(rest, lo);
      f.set(half, i64(INTEGER_BIT));
      f.set(unit, i64(1));
      f.set(kept, hi);
    };
    const partial = (n: Expr): void => {
      f.set(unit, i64(1).shl(n));
      f.set(half, unit.shrU(1));
      f.set(rest, hi.and(unit.sub(1)).or(lo.ne(i64(0)).extU()));
      f.set(kept, hi.and(i64(0).sub(unit)));
    };
    if (discard === 0) whole();
    else if (typeof discard === 'number') partial(i64(discard));
    else f.if(discard.eqz(), whole, () => partial(discard));
    f.set(out.inexact, rest.ne(i64(0)));
    f.if(
      rc.eqz(),
      () => f.set(out.up, rest.gtU(half).or(rest.eq(half).and(kept.and(unit).ne(i64(0))))),
      () => f.set(out.up, out.inexact.and(rc.ne(3)).and(sign.eq(rc.eq(1)))),
    );
    f.set(out.sum, kept.add(out.up.eqz().select(i64(0), unit)));
    f.set(out.carry, out.up.and(out.sum.eqz()));
    f.set(out.up, out.up.shl(9));
  });
}

function newRounded(f: FunctionBuilder): Rounded {
  return { sum: f.local(I64), carry: f.local(I32), up: f.local(I32), inexact: f.local(I32) };
}

/** Whether masked overflow gives infinity rather than the largest finite number. */
function overflowToInfinity(rc: Expr, sign: Expr): Expr {
  return rc.eqz().or(rc.ne(3).and(sign.eq(rc.eq(1))));
}

/** `fpPack32`/`fpPack64` (cpu, ctl, result class) → bits as i64. */
function definePackNarrow(core: CoreFunctions, name: string, precision: number, exponentBits: number): void {
  const discard = 64 - precision;
  const fractionBits = precision - 1;
  const topExponent = (1 << exponentBits) - 1;
  const rebias = BIAS - (topExponent >> 1);
  const signShift = fractionBits + exponentBits;
  const infinity = BigInt(topExponent) << BigInt(fractionBits);
  core.define(name, [I32, I32, I32], [I64], (f) => {
    const [cpu, ctl, cls] = [f.param(0), f.param(1), f.param(2)];
    const sign = f.let(load('i32', cpu, FP.sign));
    const signBit = f.let(sign.extU().shl(signShift));
    f.if(cls.ne(RESULT.finite), () => {
      f.if(cls.eq(RESULT.zero), () => f.return(signBit));
      f.if(cls.eq(RESULT.inf), () => f.return(signBit.or(i64(infinity))));
      f.return(i64((1n << BigInt(signShift)) | infinity | (1n << BigInt(fractionBits - 1))));
    });
    const rc = f.let(roundingOf(ctl));
    const hi = f.let(load('i64', cpu, FP.hi));
    const lo = f.let(load('i64', cpu, FP.lo));
    // Encoded exponent; at most 0 means below the normal range.
    const exp = f.let(load('i32', cpu, FP.exp).sub(rebias));
    const r = newRounded(f);
    emitRound(f, hi, lo, discard, sign, rc, r);
    f.if(exp.leS(0).and(exp.eqz().and(r.carry).eqz()), () => {
      f.if(ctl.and(EXC.UE).eqz(), () => {
        raise(f, cpu, r.inexact.select(i32(EXC.UE | EXC.PE), i32(EXC.UE)).or(r.up));
        f.return(i64(0));
      });
      f.if(ctl.and(0x1000).ne(0), () => {
        raise(f, cpu, EXC.UE | EXC.PE);
        f.return(signBit);
      });
      shiftRightJam(f, hi, lo, i32(1).sub(exp));
      emitRound(f, hi, lo, discard, sign, rc, r);
      raise(f, cpu, r.inexact.select(i32(EXC.UE | EXC.PE), i32(0)).or(r.up));
      // A carry into the integer bit gives the smallest normal number by itself.
      f.return(r.sum.shrU(discard).or(signBit));
    });
    f.if(r.carry, () => {
      f.set(r.sum, i64(INTEGER_BIT));
      f.set(exp, exp.add(1));
    });
    f.if(exp.geS(topExponent), () => {
      f.if(ctl.and(EXC.OE).eqz(), () => {
        raise(f, cpu, r.inexact.select(i32(EXC.OE | EXC.PE), i32(EXC.OE)).or(r.up));
        f.return(i64(0));
      });
      const toInfinity = f.let(overflowToInfinity(rc, sign));
      raise(f, cpu, toInfinity.select(i32(EXC.OE | EXC.PE | EXC.C1), i32(EXC.OE | EXC.PE)));
      f.return(signBit.or(i64(infinity).sub(toInfinity.eqz().extU())));
    });
    raise(f, cpu, r.inexact.select(i32(EXC.PE), i32(0)).or(r.up));
    f.return(
      r.sum
        .shl(1)
        .shrU(discard + 1)
        .or(exp.extU().shl(fractionBits))
        .or(signBit),
    );
  });
}

/** `fpPack80` (cpu, ctl, result class): the result goes to `FP.sig` and `FP.se`. */
function definePack80(core: CoreFunctions): void {
  core.define('fpPack80', [I32, I32, I32], [], (f) => {
    const [cpu, ctl, cls] = [f.param(0), f.param(1), f.param(2)];
    const sign = f.let(load('i32', cpu, FP.sign));
    const signBit = f.let(sign.shl(15));
    const put = (sig: Expr, exp: Expr): void => {
      f.store('i64', cpu, sig, FP.sig);
      f.store('i32', cpu, exp.or(signBit), FP.se);
    };
    f.if(cls.ne(RESULT.finite), () => {
      f.if(
        cls.eq(RESULT.nan),
        () => {
          f.set(signBit, 0x8000);
          put(i64(INTEGER_BIT | QUIET_BIT), i32(EXP_MAX));
        },
        () => {
          const inf = f.let(cls.eq(RESULT.inf));
          put(inf.select(i64(INTEGER_BIT), i64(0)), inf.select(i32(EXP_MAX), i32(0)));
        },
      );
      f.return();
    });
    const rc = f.let(roundingOf(ctl));
    const hi = f.let(load('i64', cpu, FP.hi));
    const lo = f.let(load('i64', cpu, FP.lo));
    const exp = f.let(load('i32', cpu, FP.exp));
    // Precision control: 0 single, 2 double, 3 extended; the reserved 1 is taken as extended.
    const precision = f.let(ctl.shrU(8).and(3));
    const discard = f.let(precision.eqz().select(i64(40), precision.eq(2).select(i64(11), i64(0))));
    const r = newRounded(f);
    emitRound(f, hi, lo, discard, sign, rc, r);
    f.if(exp.leS(0).and(exp.eqz().and(r.carry).eqz()), () => {
      f.if(
        ctl.and(EXC.UE).eqz(),
        () => {
          raise(f, cpu, EXC.UE);
          f.set(exp, exp.add(WRAP_BIAS));
        },
        () => {
          shiftRightJam(f, hi, lo, i32(1).sub(exp));
          emitRound(f, hi, lo, discard, sign, rc, r);
          raise(f, cpu, r.inexact.select(i32(EXC.UE | EXC.PE), i32(0)).or(r.up));
          put(r.sum, r.sum.ltS(0));
          f.return();
        },
      );
    });
    f.if(r.carry, () => {
      f.set(r.sum, i64(INTEGER_BIT));
      f.set(exp, exp.add(1));
    });
    f.if(exp.geS(EXP_MAX), () => {
      f.if(
        ctl.and(EXC.OE).eqz(),
        () => {
          raise(f, cpu, EXC.OE);
          f.set(exp, exp.sub(WRAP_BIAS));
        },
        () => {
          f.if(
            overflowToInfinity(rc, sign),
            () => {
              raise(f, cpu, EXC.OE | EXC.PE | EXC.C1);
              put(i64(INTEGER_BIT), i32(EXP_MAX));
            },
            () => {
              raise(f, cpu, EXC.OE | EXC.PE);
              put(i64(-1).shl(discard), i32(EXP_MAX - 1));
            },
          );
          f.return();
        },
      );
    });
    raise(f, cpu, r.inexact.select(i32(EXC.PE), i32(0)).or(r.up));
    put(r.sum, exp);
  });
}

export function definePack(core: CoreFunctions): void {
  definePackNarrow(core, 'fpPack32', 24, 8);
  definePackNarrow(core, 'fpPack64', 53, 11);
  definePack80(core);
}
