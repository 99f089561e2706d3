// SPDX-License-Identifier: Apache-2.0
/**
 * Exact kernels on unpacked operands: add, subtract, multiply, divide, square root, remainder, compare.
 *
 * Operands stand in slots A and B and are not NaNs. A kernel leaves sign, exponent and a 128-bit significand (normalized, its lowest
 * bit sticky) in R and returns a `RESULT` class; invalid operations raise IE and division by zero ZE. Packing rounds.
 */
import { type Expr, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import { callExpr, type FunctionBuilder, load } from '../../wasm/function-builder.ts';
import type { CoreFunctions } from '../functions.ts';
import { shiftRightJam } from './softfloat-round.ts';
import { BIAS, CLS, EXC, FP, INTEGER_BIT, RESULT, raise, roundingOf, SLOT } from './state.ts';

interface Slot {
  readonly sign: Expr;
  readonly exp: Expr;
  readonly sig: Expr;
  /** Class without the denormal mark. */
  readonly cls: Expr;
}

export function readSlot(f: FunctionBuilder, cpu: Expr, at: number): Slot {
  return {
    sign: f.let(load('i32', cpu, at + SLOT.sign)),
    exp: f.let(load('i32', cpu, at + SLOT.exp)),
    sig: f.let(load('i64', cpu, at + SLOT.sig)),
    cls: f.let(load('i32', cpu, at + SLOT.cls).and(7)),
  };
}

/** Stores R and leaves the function with `RESULT.finite`. */
export function finite(f: FunctionBuilder, cpu: Expr, sign: Expr, exp: Expr, hi: Expr, lo: Expr): void {
  f.store('i32', cpu, sign, FP.sign);
  f.store('i32', cpu, exp, FP.exp);
  f.store('i64', cpu, hi, FP.hi);
  f.store('i64', cpu, lo, FP.lo);
  f.return(i32(RESULT.finite));
}

/** Leaves the function with a zero or an infinity. */
export function special(f: FunctionBuilder, cpu: Expr, sign: Expr, result: number): void {
  f.store('i32', cpu, sign, FP.sign);
  f.return(i32(result));
}

export function invalid(f: FunctionBuilder, cpu: Expr): void {
  raise(f, cpu, EXC.IE);
  f.return(i32(RESULT.nan));
}

/** 64 × 64 → 128 bits, into the locals `hi` and `lo`. */
export function multiply128(f: FunctionBuilder, a: Expr, b: Expr, hi: Expr, lo: Expr): void {
  f.scope(() => {
    const [a0, a1] = [f.let(a.and(0xffffffff)), f.let(a.shrU(32))];
    const [b0, b1] = [f.let(b.and(0xffffffff)), f.let(b.shrU(32))];
    const low = f.let(a0.mul(b0));
    const middle = f.let(a1.mul(b0).add(low.shrU(32)));
    const other = f.let(a0.mul(b1).add(middle.and(0xffffffff)));
    f.set(hi, a1.mul(b1).add(middle.shrU(32)).add(other.shrU(32)));
    f.set(lo, other.shl(32).or(low.and(0xffffffff)));
  });
}

/** Divides hi:lo by `d` (integer bit set, hi < d): quotient and remainder into locals. Knuth's algorithm D with 32-bit digits. */
export function divide128(f: FunctionBuilder, hi: Expr, lo: Expr, d: Expr, quotient: Expr, remainder: Expr): void {
  f.scope(() => {
    const d1 = f.let(d.shrU(32));
    const d0 = f.let(d.and(0xffffffff));
    const digit = (high: Expr, next: Expr, q: Expr): void => {
      f.set(q, high.divU(d1));
      const rest = f.let(high.sub(q.mul(d1)));
      f.block((done) => {
        f.loop((again) => {
          f.brIf(done, rest.shrU(32).ne(i64(0)));
          f.brIf(
            done,
            q
              .shrU(32)
              .eqz()
              .and(q.mul(d0).leU(rest.shl(32).or(next))),
          );
          f.set(q, q.sub(1));
          f.set(rest, rest.add(d1));
          f.br(again);
        });
      });
    };
    const q1 = f.local(I64);
    const q0 = f.local(I64);
    const n1 = f.let(lo.shrU(32));
    digit(hi, n1, q1);
    const middle = f.let(hi.shl(32).or(n1).sub(q1.mul(d)));
    const n0 = f.let(lo.and(0xffffffff));
    digit(middle, n0, q0);
    f.set(remainder, middle.shl(32).or(n0).sub(q0.mul(d)));
    f.set(quotient, q1.shl(32).add(q0));
  });
}

/** Low half of an exact quotient or root: what the remainder is compared with half a unit. */
function tailBits(zero: Expr, above: Expr, half: Expr): Expr {
  const nonzero = above.select(i64(0xc000_0000_0000_0000n), i64(0x4000_0000_0000_0000n));
  return zero.select(i64(0), half.select(i64(INTEGER_BIT), nonzero));
}

function defineAdd(core: CoreFunctions): void {
  // (cpu, ctl, negate B): A + B or A - B. Rounding control decides the sign of an exact zero.
  core.define('fpAdd', [I32, I32, I32], [I32], (f) => {
    const [cpu, ctl, negate] = [f.param(0), f.param(1), f.param(2)];
    const a = readSlot(f, cpu, FP.a);
    const b = readSlot(f, cpu, FP.b);
    f.set(b.sign, b.sign.xor(negate));
    f.if(a.cls.or(b.cls).ne(0), () => {
      f.if(a.cls.eq(CLS.inf), () => {
        f.if(b.cls.eq(CLS.inf).and(a.sign.ne(b.sign)), () => invalid(f, cpu));
        special(f, cpu, a.sign, RESULT.inf);
      });
      f.if(b.cls.eq(CLS.inf), () => special(f, cpu, b.sign, RESULT.inf));
      f.if(a.cls.eq(CLS.zero), () => {
        f.if(b.cls.eq(CLS.zero), () => special(f, cpu, a.sign.eq(b.sign).select(a.sign, roundingOf(ctl).eq(1)), RESULT.zero));
        finite(f, cpu, b.sign, b.exp, b.sig, i64(0));
      });
      finite(f, cpu, a.sign, a.exp, a.sig, i64(0));
    });
    const distance = f.let(a.exp.sub(b.exp));
    const subtract = f.let(a.sign.xor(b.sign));
    // The larger magnitude in A.
    f.if(distance.ltS(0).or(distance.eqz().and(a.sig.ltU(b.sig))), () => {
      const sig = f.let(a.sig);
      f.set(a.sig, b.sig);
      f.set(b.sig, sig);
      f.set(a.exp, b.exp);
      f.set(a.sign, b.sign);
      f.set(distance, i32(0).sub(distance));
    });
    const lo = f.local(I64);
    f.set(lo, i64(0));
    shiftRightJam(f, b.sig, lo, distance);
    f.if(subtract.eqz(), () => {
      f.set(a.sig, a.sig.add(b.sig));
      f.if(a.sig.ltU(b.sig), () => {
        f.set(lo, lo.shrU(1).or(lo.and(1)).or(a.sig.shl(63)));
        f.set(a.sig, a.sig.shrU(1).or(i64(INTEGER_BIT)));
        f.set(a.exp, a.exp.add(1));
      });
      finite(f, cpu, a.sign, a.exp, a.sig, lo);
    });
    f.set(a.sig, a.sig.sub(b.sig).sub(lo.ne(i64(0)).extU()));
    f.set(lo, i64(0).sub(lo));
    f.if(a.sig.eqz(), () => {
      f.if(lo.eqz(), () => special(f, cpu, roundingOf(ctl).eq(1), RESULT.zero));
      f.set(a.sig, lo);
      f.set(lo, i64(0));
      f.set(a.exp, a.exp.sub(64));
    });
    const shift = f.let(a.sig.clz());
    f.if(shift.ne(i64(0)), () => {
      f.set(a.sig, a.sig.shl(shift).or(lo.shrU(i64(64).sub(shift))));
      f.set(lo, lo.shl(shift));
      f.set(a.exp, a.exp.sub(shift.wrap()));
    });
    finite(f, cpu, a.sign, a.exp, a.sig, lo);
  });
}

function defineMultiply(core: CoreFunctions): void {
  core.define('fpMul', [I32], [I32], (f) => {
    const cpu = f.param(0);
    const a = readSlot(f, cpu, FP.a);
    const b = readSlot(f, cpu, FP.b);
    const sign = f.let(a.sign.xor(b.sign));
    f.if(a.cls.or(b.cls).ne(0), () => {
      f.if(a.cls.eq(CLS.inf).or(b.cls.eq(CLS.inf)), () => {
        f.if(a.cls.eq(CLS.zero).or(b.cls.eq(CLS.zero)), () => invalid(f, cpu));
        special(f, cpu, sign, RESULT.inf);
      });
      special(f, cpu, sign, RESULT.zero);
    });
    const hi = f.local(I64);
    const lo = f.local(I64);
    multiply128(f, a.sig, b.sig, hi, lo);
    const exp = f.let(a.exp.add(b.exp).sub(BIAS - 1));
    f.if(hi.geS(0), () => {
      f.set(hi, hi.shl(1).or(lo.shrU(63)));
      f.set(lo, lo.shl(1));
      f.set(exp, exp.sub(1));
    });
    finite(f, cpu, sign, exp, hi, lo);
  });
}

function defineDivide(core: CoreFunctions): void {
  core.define('fpDiv', [I32], [I32], (f) => {
    const cpu = f.param(0);
    const a = readSlot(f, cpu, FP.a);
    const b = readSlot(f, cpu, FP.b);
    const sign = f.let(a.sign.xor(b.sign));
    f.if(a.cls.or(b.cls).ne(0), () => {
      f.if(a.cls.eq(CLS.inf), () => {
        f.if(b.cls.eq(CLS.inf), () => invalid(f, cpu));
        special(f, cpu, sign, RESULT.inf);
      });
      f.if(b.cls.eq(CLS.zero), () => {
        f.if(a.cls.eq(CLS.zero), () => invalid(f, cpu));
        raise(f, cpu, EXC.ZE);
        special(f, cpu, sign, RESULT.inf);
      });
      special(f, cpu, sign, RESULT.zero);
    });
    const exp = f.let(a.exp.sub(b.exp).add(BIAS));
    const lo = f.local(I64);
    f.set(lo, i64(0));
    f.if(
      a.sig.ltU(b.sig),
      () => f.set(exp, exp.sub(1)),
      () => {
        f.set(lo, a.sig.shl(63));
        f.set(a.sig, a.sig.shrU(1));
      },
    );
    const quotient = f.local(I64);
    const rest = f.local(I64);
    divide128(f, a.sig, lo, b.sig, quotient, rest);
    const other = f.let(b.sig.sub(rest));
    finite(f, cpu, sign, exp, quotient, tailBits(rest.eqz(), rest.gtU(other), rest.eq(other)));
  });
}

/** Square root of A: Zimmermann's recursion with 32-bit digits, the first from a native double square root. */
function defineSqrt(core: CoreFunctions): void {
  core.define('fpSqrt', [I32], [I32], (f) => {
    const cpu = f.param(0);
    const a = readSlot(f, cpu, FP.a);
    f.if(a.cls.eq(CLS.zero), () => special(f, cpu, a.sign, RESULT.zero));
    f.if(a.sign, () => invalid(f, cpu));
    f.if(a.cls.eq(CLS.inf), () => special(f, cpu, a.sign, RESULT.inf));
    // N = hi:lo with an even exponent, 2^126 <= N < 2^128.
    const unbiased = f.let(a.exp.sub(BIAS));
    const lo = f.local(I64);
    f.set(lo, i64(0));
    const hi = f.let(a.sig);
    f.if(unbiased.and(1).eqz(), () => {
      f.set(lo, hi.shl(63));
      f.set(hi, hi.shrU(1));
    });
    const exp = f.let(unbiased.shrS(1).add(BIAS));
    // First digit: floor of the root of the upper 64 bits.
    const s = f.let(hi.convertU(0x7c).sqrt().truncSatU(I64));
    f.if(s.shrU(32).ne(i64(0)), () => f.set(s, i64(0xffffffff)));
    const r = f.let(hi.sub(s.mul(s)));
    f.if(
      r.ltS(0).and(s.mul(s).gtU(hi)),
      () => {
        f.set(s, s.sub(1));
        f.set(r, hi.sub(s.mul(s)));
      },
      () => {
        f.if(r.gtU(s.shl(1)), () => {
          f.set(s, s.add(1));
          f.set(r, hi.sub(s.mul(s)));
        });
      },
    );
    // Second digit: (r * 2^32 + n1) / 2s, halved so that it fits into 64 bits.
    const n1 = f.let(lo.shrU(32));
    const n0 = f.let(lo.and(0xffffffff));
    const numerator = f.let(r.shl(31).add(n1.shrU(1)));
    const q = f.let(numerator.divU(s));
    const u = f.let(numerator.sub(q.mul(s)).shl(1).or(n1.and(1)));
    const root = f.local(I64);
    // Remainder in 128 bits: u * 2^32 + n0 - q^2, may be negative once.
    const restHi = f.local(I64);
    const restLo = f.local(I64);
    const wide = f.let(u.shl(32).or(n0));
    const square = f.let(q.mul(q));
    // q may be 2^32 exactly; then its square is 2^64.
    const squareHi = f.let(q.shrU(32));
    f.set(root, s.shl(32).add(q));
    const rootHi = f.let(q.shrU(32).and(s.eq(0xffffffff).extU()));
    f.set(restLo, wide.sub(square));
    f.set(restHi, u.shrU(32).sub(squareHi).sub(wide.ltU(square).extU()));
    f.if(restHi.ltS(0), () => {
      // root - 1; the remainder grows by 2 root - 1.
      const more = f.let(root.shl(1).sub(1));
      const moreHi = f.let(root.shrU(63).add(rootHi.shl(1)).sub(root.shl(1).eqz().extU()));
      f.set(restLo, restLo.add(more));
      f.set(restHi, restHi.add(moreHi).add(restLo.ltU(more).extU()));
      f.set(root, root.sub(1));
    });
    const exact = restHi.or(restLo).eqz();
    const above = restHi.ne(i64(0)).or(restLo.gtU(root));
    finite(f, cpu, i32(0), exp, root, tailBits(exact, above, i32(0)));
  });
}

/** (cpu) → 0 equal, 1 A < B, 2 A > B; NaNs are the caller's business. */
function defineCompare(core: CoreFunctions): void {
  core.define('fpCompare', [I32], [I32], (f) => {
    const cpu = f.param(0);
    const a = readSlot(f, cpu, FP.a);
    const b = readSlot(f, cpu, FP.b);
    f.if(a.cls.eq(CLS.zero), () => {
      f.if(b.cls.eq(CLS.zero), () => f.return(i32(0)));
      f.return(b.sign.select(i32(2), i32(1)));
    });
    f.if(b.cls.eq(CLS.zero).or(a.sign.ne(b.sign)), () => f.return(a.sign.select(i32(1), i32(2))));
    // Infinities have the largest exponent and equal significands.
    f.if(a.exp.eq(b.exp).and(a.sig.eq(b.sig)), () => f.return(i32(0)));
    const smaller = a.exp.ltS(b.exp).or(a.exp.eq(b.exp).and(a.sig.ltU(b.sig)));
    f.return(smaller.xor(a.sign).select(i32(1), i32(2)));
  });
}

/**
 * (cpu, ctl, operation) → result class. Operations as in the x87 opcodes' reg field: 0 add, 1 multiply, 4 subtract,
 * 5 reversed subtract, 6 divide, 7 reversed divide; 8 is the square root of A. Raises DE for denormal operands.
 */
function defineOperate(core: CoreFunctions): void {
  core.define('fpOperate', [I32, I32, I32], [I32], (f) => {
    const [cpu, ctl, op] = [f.param(0), f.param(1), f.param(2)];
    const marks = f.let(load('i32', cpu, FP.a + SLOT.cls).or(load('i32', cpu, FP.b + SLOT.cls).and(op.ne(8).select(i32(-1), i32(0)))));
    const result = f.local(I32);
    const earlier = f.let(load('i32', cpu, FP.flags));
    f.store('i32', cpu, i32(0), FP.flags);
    const call = (name: string, ...args: Expr[]): Expr => callExpr(I32, core.index(name), [cpu, ...args]);
    const swap = (): void => {
      for (const [field, form] of [
        [SLOT.sign, 'i64'],
        [SLOT.sig, 'i64'],
        [SLOT.cls, 'i32'],
      ] as const) {
        f.scope(() => {
          const held = f.let(load(form, cpu, FP.a + field));
          f.store(form, cpu, load(form, cpu, FP.b + field), FP.a + field);
          f.store(form, cpu, held, FP.b + field);
        });
      }
    };
    f.block((done) => {
      const choose = (n: number, value: () => Expr): void => {
        f.if(op.eq(n), () => {
          f.set(result, value());
          f.br(done);
        });
      };
      choose(0, () => call('fpAdd', ctl, i32(0)));
      choose(1, () => call('fpMul'));
      choose(4, () => call('fpAdd', ctl, i32(1)));
      choose(8, () => call('fpSqrt'));
      f.if(op.and(1).ne(0), swap);
      f.if(
        op.ltS(6),
        () => f.set(result, call('fpAdd', ctl, i32(1))),
        () => f.set(result, call('fpDiv')),
      );
    });
    // Invalid operations and divisions by zero come before denormal operands.
    f.if(
      marks
        .and(CLS.denormal)
        .ne(0)
        .and(
          load('i32', cpu, FP.flags)
            .and(EXC.IE | EXC.ZE)
            .eqz(),
        ),
      () => raise(f, cpu, EXC.DE),
    );
    raise(f, cpu, earlier);
    f.return(result);
  });
}

export function defineArithmetic(core: CoreFunctions): void {
  defineAdd(core);
  defineMultiply(core);
  defineDivide(core);
  defineSqrt(core);
  defineCompare(core);
  defineOperate(core);
}
