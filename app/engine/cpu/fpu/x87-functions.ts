// SPDX-License-Identifier: Apache-2.0
/**
 * x87 instructions beyond the four operations: constants, FRNDINT, FSCALE, FXTRACT, FPREM, FPREM1, and the frame around the
 * transcendental functions, whose values come from the host function `x87_transcendental` (`transcendental.ts`).
 */
import { CTX } from '../../memory/vcpu-context.ts';
import { type Expr, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import { callExpr, load } from '../../wasm/function-builder.ts';
import type { CoreFunctions } from '../functions.ts';
import { divide128, finite, invalid, readSlot, special } from './softfloat-arithmetic.ts';
import { BIAS, CLS, EXC, EXP_MAX, FP, INTEGER_BIT, QUIET_BIT, RESULT, raise, roundingOf, SLOT } from './state.ts';
import { FSW, FSW_CONDITIONS, Stack, STACK_OVERFLOW, STACK_UNDERFLOW } from './x87-stack.ts';

/** Operations of `x87Unary` and `x87Binary`; the transcendental ones go to the host under the same number. */
export const FUNCTION = {
  f2xm1: 0,
  fsin: 1,
  fcos: 2,
  fptan: 3,
  fyl2x: 4,
  fyl2xp1: 5,
  fpatan: 6,
  frndint: 7,
  fsincos: 8,
  fxtract: 9,
  fscale: 10,
  fprem: 11,
  fprem1: 12,
} as const;
/** Outcome of the host function beside `RESULT`: the operand is out of range (C2). */
export const OUT_OF_RANGE = 4;

/** Constants of FLD1 to FLDZ: truncated significand, exponent field, and whether the bits behind it round up to nearest. */
const CONSTANTS: readonly (readonly [bigint, number, boolean])[] = [
  [0x8000000000000000n, 0x3fff, false],
  [0xd49a784bcd1b8afen, 0x4000, false],
  [0xb8aa3b295c17f0bbn, 0x3fff, true],
  [0xc90fdaa22168c234n, 0x4000, true],
  [0x9a209a84fbcff798n, 0x3ffd, true],
  [0xb17217f7d1cf79abn, 0x3ffe, true],
  [0n, 0, false],
];

function defineConstants(core: CoreFunctions): void {
  // (cpu, n): FLD1 and the following opcodes.
  core.define('x87PushConstant', [I32, I32], [], (f) => {
    const s = new Stack(core, f);
    s.begin();
    const rc = f.let(roundingOf(s.ctl()));
    CONSTANTS.forEach(([sig, exponent, up], n) => {
      f.if(f.param(1).eq(n), () => {
        const inexact = n !== 0 && n !== 6;
        const nearest = up ? rc.eqz() : i32(0);
        s.setResult(inexact ? i64(sig).add(rc.eq(2).or(nearest).extU()) : i64(sig), i32(exponent));
      });
    });
    s.callVoid('x87Push', load('i64', s.cpu, FP.sig), load('i32', s.cpu, FP.se));
  });
}

function defineScale(core: CoreFunctions): void {
  // (cpu) → result class: A * 2^trunc(B).
  core.define('fpScale', [I32], [I32], (f) => {
    const cpu = f.param(0);
    const a = readSlot(f, cpu, FP.a);
    const b = readSlot(f, cpu, FP.b);
    f.if(b.cls.eq(CLS.inf), () => {
      f.if(b.sign.select(a.cls.eq(CLS.inf), a.cls.eq(CLS.zero)), () => invalid(f, cpu));
      f.if(b.sign, () => special(f, cpu, a.sign, RESULT.zero));
      special(f, cpu, a.sign, RESULT.inf);
    });
    f.if(a.cls.eq(CLS.zero), () => special(f, cpu, a.sign, RESULT.zero));
    f.if(a.cls.eq(CLS.inf), () => special(f, cpu, a.sign, RESULT.inf));
    // The scale saturates far outside of the exponent range, also of the range that unmasked overflow wraps.
    const n = f.local(I32);
    const count = f.let(i32(BIAS + 63).sub(b.exp));
    f.set(n, i32(0));
    f.if(b.cls.eq(CLS.finite).and(count.leS(63)), () => {
      f.if(
        count.leS(46),
        () => f.set(n, i32(0x1ffff)),
        () => f.set(n, b.sig.shrU(count.extU()).wrap()),
      );
      f.if(b.sign, () => f.set(n, i32(0).sub(n)));
    });
    finite(f, cpu, a.sign, a.exp.add(n), a.sig, i64(0));
  });
}

function defineRemainder(core: CoreFunctions): void {
  // (cpu, to nearest) → result class: one step of A rem B. C2 and quotient bits go to `FP.conditions`.
  core.define('fpRemainder', [I32, I32], [I32], (f) => {
    const [cpu, nearest] = [f.param(0), f.param(1)];
    const a = readSlot(f, cpu, FP.a);
    const b = readSlot(f, cpu, FP.b);
    const conditions = (value: Expr): void => f.store('i32', cpu, value, FP.conditions);
    f.if(a.cls.eq(CLS.inf).or(b.cls.eq(CLS.zero)), () => invalid(f, cpu));
    conditions(i32(0));
    f.if(a.cls.eq(CLS.zero), () => special(f, cpu, a.sign, RESULT.zero));
    f.if(b.cls.eq(CLS.inf), () => finite(f, cpu, a.sign, a.exp, a.sig, i64(0)));
    const distance = f.let(a.exp.sub(b.exp));
    f.if(distance.ltS(nearest.select(i32(-1), i32(0))), () => finite(f, cpu, a.sign, a.exp, a.sig, i64(0)));
    const quotient = f.local(I64);
    const rest = f.local(I64);
    const exp = f.let(b.exp);
    const steps = f.let(distance);
    f.if(distance.geS(64), () => {
      // Too far for one step: reduce the exponent difference and say so.
      f.set(steps, distance.and(31).or(32));
      f.set(exp, exp.add(distance).sub(steps));
    });
    f.if(
      distance.ltS(0),
      () => {
        // A < B, but A may be more than half of B: both in units of A's last place.
        f.set(quotient, i64(0));
        f.set(rest, a.sig);
        f.if(a.sig.gtU(b.sig), () => {
          f.set(quotient, i64(1));
          f.set(rest, b.sig.shl(1).sub(a.sig));
          f.set(a.sign, a.sign.xor(1));
        });
        f.set(exp, a.exp);
        conditions(quotient.wrap().and(1).shl(9));
        const shift = f.let(rest.clz());
        finite(f, cpu, a.sign, exp.sub(shift.wrap()), rest.shl(shift), i64(0));
      },
      () => {
        const n = f.let(steps.extU());
        const hi = f.let(steps.eqz().select(i64(0), a.sig.shrU(i64(64).sub(n))));
        divide128(f, hi, a.sig.shl(n), b.sig, quotient, rest);
      },
    );
    f.if(
      distance.geS(64),
      () => conditions(i32(FSW.C2)),
      () => {
        f.if(nearest, () => {
          const other = f.let(b.sig.sub(rest));
          f.if(rest.gtU(other).or(rest.eq(other).and(quotient.wrap().and(1))), () => {
            f.set(quotient, quotient.add(1));
            f.set(rest, other);
            f.set(a.sign, a.sign.xor(1));
          });
        });
        const q = f.let(quotient.wrap());
        // Bits 0, 1 and 2 of the quotient are C1, C3 and C0.
        conditions(q.and(1).shl(9).or(q.and(2).shl(13)).or(q.and(4).shl(6)));
      },
    );
    f.if(rest.eqz(), () => special(f, cpu, load('i32', cpu, FP.a + SLOT.sign), RESULT.zero));
    const shift = f.let(rest.clz());
    finite(f, cpu, a.sign, exp.sub(shift.wrap()), rest.shl(shift), i64(0));
  });
}

function defineFrames(core: CoreFunctions): void {
  const transcendental = (op: Expr): Expr => callExpr(I32, core.index('x87_transcendental'), [op]);
  // (cpu, FUNCTION): ST(0) = f(ST(0)); FSINCOS, FPTAN and FXTRACT push a second result.
  core.define('x87Unary', [I32, I32], [], (f) => {
    const s = new Stack(core, f);
    const { cpu } = s;
    const op = f.param(1);
    s.begin();
    const p = s.physical(0);
    const target = s.physical(7);
    const pushes = f.let(op.eq(FUNCTION.fptan).or(op.eq(FUNCTION.fsincos)).or(op.eq(FUNCTION.fxtract)));
    const partial = f.local(I32);
    const second = (): void => {
      f.store('i64', cpu, load('i64', cpu, FP.sig), FP.sig2);
      f.store('i32', cpu, load('i32', cpu, FP.se), FP.se2);
    };
    f.set(partial, i32(0));
    f.block((done) => {
      f.if(s.empty(p), () => {
        s.raise(STACK_UNDERFLOW);
        s.defaultNan();
        second();
        f.br(done);
      });
      f.if(pushes.and(s.empty(target).eqz()), () => {
        s.raise(STACK_OVERFLOW);
        s.defaultNan();
        second();
        f.br(done);
      });
      s.unpack(FP.a, p);
      f.if(s.call('x87Nan', i32(0)), () => {
        second();
        f.br(done);
      });
      const cls = f.let(s.class(FP.a));
      const denormal = cls.and(CLS.denormal);
      const ctl = f.let(s.ctlFull());
      f.if(op.eq(FUNCTION.frndint), () => {
        f.if(denormal, () => s.raise(EXC.DE));
        s.callVoid('fpPack80', ctl, s.call('fpRoundInt', ctl));
        f.br(done);
      });
      f.if(op.eq(FUNCTION.fxtract), () => {
        const sign = load('i32', cpu, FP.a + SLOT.sign).shl(15);
        f.if(denormal, () => s.raise(EXC.DE));
        f.if(cls.eq(CLS.zero).or(cls.eq(CLS.inf)), () => {
          const zero = f.let(cls.eq(CLS.zero));
          f.if(zero, () => s.raise(EXC.ZE));
          // Significand on top, exponent below it: -inf for zero, +inf for infinities.
          f.store('i64', cpu, zero.select(i64(0), i64(INTEGER_BIT)), FP.sig2);
          f.store('i32', cpu, sign.or(zero.select(i32(0), i32(EXP_MAX))), FP.se2);
          s.setResult(i64(INTEGER_BIT), zero.shl(15).or(EXP_MAX));
          f.br(done);
        });
        f.store('i64', cpu, load('i64', cpu, FP.a + SLOT.sig), FP.sig2);
        f.store('i32', cpu, sign.or(BIAS), FP.se2);
        f.call(core.index('fpUnpackInt'), [
          cpu.add(FP.a),
          load('i32', cpu, FP.a + SLOT.exp)
            .sub(BIAS)
            .extS(),
        ]);
        s.callVoid('fpPack80', ctl, s.call('fpCopy'));
        f.br(done);
      });
      f.if(denormal, () => s.raise(EXC.DE));
      const result = f.let(transcendental(op.eq(FUNCTION.fsincos).select(i32(FUNCTION.fsin), op)));
      f.if(result.eq(OUT_OF_RANGE), () => {
        f.set(partial, i32(1));
        f.br(done);
      });
      s.callVoid('fpPack80', ctl, result);
      f.if(
        op.eq(FUNCTION.fsincos),
        () => {
          const sine = f.let(load('i64', cpu, FP.sig));
          const sineSe = f.let(load('i32', cpu, FP.se));
          s.callVoid('fpPack80', ctl, transcendental(i32(FUNCTION.fcos)));
          second();
          s.setResult(sine, sineSe);
        },
        () => {
          f.if(op.eq(FUNCTION.fptan), () => {
            const isNan = f.let(result.eq(RESULT.nan));
            f.store('i64', cpu, isNan.select(i64(INTEGER_BIT | QUIET_BIT), i64(INTEGER_BIT)), FP.sig2);
            f.store('i32', cpu, isNan.select(i32(0xffff), i32(BIAS)), FP.se2);
          });
        },
      );
    });
    f.if(op.sub(FUNCTION.fsin).ltU(3).or(op.eq(FUNCTION.fsincos)), () =>
      s.set16(
        CTX.fsw,
        s
          .get16(CTX.fsw)
          .and(0xffff & ~FSW.C2)
          .or(partial.shl(10)),
      ),
    );
    s.reportOrLeave();
    f.if(partial, () => f.return());
    s.writeResult(p);
    f.if(pushes, () => {
      s.set16(CTX.ftop, target);
      s.write(target, load('i64', cpu, FP.sig2), load('i32', cpu, FP.se2));
    });
  });

  // (cpu, FUNCTION): two operands ST(0) in A and ST(1) in B. FSCALE and the remainders keep both, the others store to ST(1) and pop.
  core.define('x87Binary', [I32, I32], [], (f) => {
    const s = new Stack(core, f);
    const { cpu } = s;
    const op = f.param(1);
    s.begin();
    const [p, q] = [s.physical(0), s.physical(1)];
    const keeps = f.let(op.geS(FUNCTION.fscale));
    // Without a quotient C0 and C3 stay as they are.
    f.store('i32', cpu, s.get16(CTX.fsw).and(FSW.C0 | FSW.C3), FP.conditions);
    f.block((done) => {
      f.if(s.empty(p).or(s.empty(q)), () => {
        s.raise(STACK_UNDERFLOW);
        s.defaultNan();
        f.br(done);
      });
      s.unpack(FP.a, p);
      s.unpack(FP.b, q);
      f.brIf(done, s.call('x87Nan', i32(1)));
      const denormal = f.let(s.class(FP.a).or(s.class(FP.b)).and(CLS.denormal));
      const result = f.local(I32);
      f.if(
        keeps,
        () => {
          f.if(
            op.eq(FUNCTION.fscale),
            () => f.set(result, s.call('fpScale')),
            () => f.set(result, s.call('fpRemainder', op.eq(FUNCTION.fprem1))),
          );
        },
        () => f.set(result, transcendental(op)),
      );
      f.if(
        denormal.ne(0).and(
          load('i32', cpu, FP.flags)
            .and(EXC.IE | EXC.ZE)
            .eqz(),
        ),
        () => raise(f, cpu, EXC.DE),
      );
      const ctl = f.let(s.ctlFull());
      // Scaled beyond what a wrapped exponent can tell: unmasked overflow gives infinity and underflow zero.
      const distance = load('i32', cpu, FP.exp).sub(BIAS);
      f.if(
        op
          .eq(FUNCTION.fscale)
          .and(result.eqz())
          .and(distance.geS(0xa000).or(distance.ltS(-0xa000))),
        () => {
          f.if(ctl.and(distance.geS(0).select(i32(EXC.OE), i32(EXC.UE))).eqz(), () => f.set(ctl, i32(0x33f)));
        },
      );
      s.callVoid('fpPack80', ctl, result);
    });
    const withheld = f.let(s.call('x87Report'));
    f.if(withheld, () => f.store('i32', cpu, s.get16(CTX.fsw).and(FSW.C0 | FSW.C3), FP.conditions));
    f.if(op.geS(FUNCTION.fprem), () =>
      s.set16(
        CTX.fsw,
        s
          .get16(CTX.fsw)
          .and(0xffff & ~FSW_CONDITIONS)
          .or(load('i32', cpu, FP.conditions)),
      ),
    );
    f.if(withheld, () => f.return());
    f.if(
      keeps,
      () => s.writeResult(p),
      () => {
        s.writeResult(q);
        s.pop();
      },
    );
  });
}

export function defineX87Functions(core: CoreFunctions): void {
  defineConstants(core);
  defineScale(core);
  defineRemainder(core);
  defineFrames(core);
}
