// SPDX-License-Identifier: Apache-2.0
/**
 * Reading the lazy flags: core functions over `ccOp`, `ccDst`, `ccA` and `ccB`.
 *
 * Operands and results are kept sign-extended to 64 bits, which keeps unsigned order within a width, so that no formula depends on the
 * operand size.
 */
import { CTX } from '../../memory/vcpu-context.ts';
import { type Expr, I32, i32 } from '../../wasm/expr.ts';
import { callExpr, type FunctionBuilder, load } from '../../wasm/function-builder.ts';
import type { CoreFunctions } from '../functions.ts';
import { FLAGS } from '../record.ts';
import { ARITHMETIC_FLAGS } from './context.ts';

interface Lazy {
  readonly cpu: Expr;
  readonly op: Expr;
  readonly result: Expr;
  readonly a: Expr;
  readonly b: Expr;
}

function lazy(f: FunctionBuilder): Lazy {
  const cpu = f.param(0);
  return {
    cpu,
    op: f.let(load('i32', cpu, CTX.ccOp)),
    result: f.let(load('i64', cpu, CTX.ccDst)),
    a: f.let(load('i64', cpu, CTX.ccA)),
    b: f.let(load('i64', cpu, CTX.ccB)),
  };
}

const top = (value: Expr): Expr => value.shrU(63).wrap();

/** The carry out of every bit position of an addition or subtraction. */
const carriesOfAdd = ({ a, b, result }: Lazy): Expr => a.and(b).or(a.or(b).and(result.not()));
const borrowsOfSub = ({ a, b, result }: Lazy): Expr => a.not().and(b).or(a.not().or(b).and(result));

export function defineFlags(core: CoreFunctions): void {
  const carry = core.define('carry', [I32], [I32], (f) => {
    const z = lazy(f);
    f.if(z.op.eq(FLAGS.sub), () => f.return(z.a.ltU(z.b)));
    f.if(z.op.eq(FLAGS.add), () => f.return(z.result.ltU(z.a)));
    f.if(z.op.eq(FLAGS.logic), () => f.return(i32(0)));
    f.if(z.op.eq(FLAGS.bits), () => f.return(z.a.wrap().and(1)));
    f.if(z.op.eq(FLAGS.adc), () => f.return(top(carriesOfAdd(z))));
    f.if(z.op.eq(FLAGS.sbb), () => f.return(top(borrowsOfSub(z))));
    f.return(load('i32', z.cpu, CTX.rflags).and(1));
  });
  const overflow = core.define('overflow', [I32], [I32], (f) => {
    const z = lazy(f);
    f.if(z.op.eq(FLAGS.sub).or(z.op.eq(FLAGS.sbb)), () => f.return(top(z.a.xor(z.b).and(z.a.xor(z.result)))));
    f.if(z.op.eq(FLAGS.add).or(z.op.eq(FLAGS.adc)), () => f.return(top(z.a.xor(z.result).and(z.b.xor(z.result)))));
    f.if(z.op.eq(FLAGS.logic), () => f.return(i32(0)));
    f.if(z.op.eq(FLAGS.bits), () => f.return(z.a.wrap().shrU(11).and(1)));
    f.return(load('i32', z.cpu, CTX.rflags).shrU(11).and(1));
  });
  const parity = core.define('parity', [I32], [I32], (f) => {
    const cpu = f.param(0);
    f.if(load('i32', cpu, CTX.ccOp).eqz(), () => f.return(load('i32', cpu, CTX.rflags).shrU(2).and(1)));
    f.return(load('i32_8u', cpu, CTX.ccDst).popcnt().and(1).xor(1));
  });
  const zero = core.define('zero', [I32], [I32], (f) => {
    const cpu = f.param(0);
    f.if(load('i32', cpu, CTX.ccOp).eqz(), () => f.return(load('i32', cpu, CTX.rflags).shrU(6).and(1)));
    f.return(load('i64', cpu, CTX.ccDst).eqz());
  });
  const sign = core.define('sign', [I32], [I32], (f) => {
    const cpu = f.param(0);
    f.if(load('i32', cpu, CTX.ccOp).eqz(), () => f.return(load('i32', cpu, CTX.rflags).shrU(7).and(1)));
    f.return(load('i64', cpu, CTX.ccDst).ltS(0));
  });
  const of = (f: FunctionBuilder, index: number): Expr => callExpr(I32, index, [f.param(0)]);
  core.define('below_or_equal', [I32], [I32], (f) => f.return(of(f, carry).or(of(f, zero))));
  core.define('less', [I32], [I32], (f) => f.return(of(f, sign).xor(of(f, overflow))));
  core.define('less_or_equal', [I32], [I32], (f) => f.return(of(f, sign).xor(of(f, overflow)).or(of(f, zero))));

  core.define('materialize', [I32], [], (f) => {
    const z = lazy(f);
    f.if(z.op.eqz(), () => f.return());
    const isArithmetic = z.op.eq(FLAGS.add).or(z.op.eq(FLAGS.sub)).or(z.op.eq(FLAGS.adc)).or(z.op.eq(FLAGS.sbb));
    const adjust = f.let(
      isArithmetic.select(z.a.xor(z.b).xor(z.result).wrap().and(0x10), z.op.eq(FLAGS.bits).select(z.a.wrap().and(0x10), i32(0))),
    );
    const flags = of(f, carry)
      .or(of(f, parity).shl(2))
      .or(adjust)
      .or(of(f, zero).shl(6))
      .or(of(f, sign).shl(7))
      .or(of(f, overflow).shl(11));
    f.store('i32', z.cpu, load('i32', z.cpu, CTX.rflags).and(~ARITHMETIC_FLAGS).or(flags), CTX.rflags);
    f.store('i32', z.cpu, i32(FLAGS.exact), CTX.ccOp);
  });
}
