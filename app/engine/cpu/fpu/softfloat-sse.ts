// SPDX-License-Identifier: Apache-2.0
/**
 * One lane of an SSE floating-point instruction, exactly (SDM volume 1 §11.5 and appendix E; §4.8.3.5 for NaNs): the slow path behind
 * the native operations. Lane functions add to `FP.flags`; `sseCommit` moves them into MXCSR when all lanes are done.
 *
 * A NaN result is the first operand when that is a NaN, else the second, quieted.
 */
import { type Expr, I32, I64, i32, i64, type ValType } from '../../wasm/expr.ts';
import { callExpr, type FunctionBuilder, load } from '../../wasm/function-builder.ts';
import { CTX } from '../../memory/vcpu-context.ts';
import type { CoreFunctions } from '../functions.ts';
import { CLS, ctlFromMxcsr, EXC, FP, raise, SLOT } from './state.ts';

interface Format {
  readonly bits: 32 | 64;
  readonly type: ValType;
  readonly quiet: bigint;
}
const FORMATS: readonly Format[] = [
  { bits: 32, type: I32, quiet: 0x400000n },
  { bits: 64, type: I64, quiet: 0x8_0000_0000_0000n },
];

const quieted = (format: Format, value: Expr): Expr => value.or(format.bits === 32 ? i32(Number(format.quiet)) : i64(format.quiet));
const isNan = (cls: Expr): Expr => cls.shrU(1).eq(1).and(cls.and(1)).or(cls.eq(CLS.snan));

class Lane {
  readonly f: FunctionBuilder;
  readonly core: CoreFunctions;
  readonly cpu: Expr;
  readonly format: Format;
  readonly mxcsr: Expr;
  readonly daz: Expr;

  constructor(core: CoreFunctions, f: FunctionBuilder, format: Format) {
    this.f = f;
    this.core = core;
    this.cpu = f.param(0);
    this.format = format;
    this.mxcsr = f.let(load('i32', this.cpu, CTX.mxcsr));
    this.daz = f.let(this.mxcsr.shrU(6).and(1));
  }
  ctl(): Expr {
    return this.f.let(ctlFromMxcsr(this.mxcsr));
  }
  /** Unpacks into the slot at `at` and gives the class, bound. */
  unpack(at: number, value: Expr): Expr {
    this.f.call(this.core.index(`fpUnpack${this.format.bits}`), [this.cpu.add(at), value, this.daz]);
    return this.f.let(load('i32', this.cpu, at + SLOT.cls));
  }
  call(type: ValType, name: string, ...args: Expr[]): Expr {
    return callExpr(type, this.core.index(name), [this.cpu, ...args]);
  }
  /** Packs a result class into this lane's format. */
  pack(ctl: Expr, result: Expr): Expr {
    const bits = this.call(I64, `fpPack${this.format.bits}`, ctl, result);
    return this.format.bits === 32 ? bits.wrap() : bits;
  }
  raiseDenormal(classes: Expr): void {
    this.f.if(classes.and(CLS.denormal).ne(0), () => raise(this.f, this.cpu, EXC.DE));
  }
}

function defineOperation(core: CoreFunctions, format: Format): void {
  // (cpu, operation of `fpOperate`, a, b) → result bits. The square root ignores b.
  core.define(`sseOperate${format.bits}`, [I32, I32, format.type, format.type], [format.type], (f) => {
    const lane = new Lane(core, f, format);
    const [op, a, b] = [f.param(1), f.param(2), f.param(3)];
    const ca = lane.unpack(FP.a, a);
    const cb = lane.unpack(FP.b, b);
    f.if(isNan(ca).or(isNan(cb)), () => {
      f.if(ca.eq(CLS.snan).or(cb.eq(CLS.snan)), () => raise(f, lane.cpu, EXC.IE));
      f.return(isNan(ca).select(quieted(format, a), quieted(format, b)));
    });
    const ctl = lane.ctl();
    f.return(lane.pack(ctl, lane.call(I32, 'fpOperate', ctl, op)));
  });
}

function defineComparisons(core: CoreFunctions, format: Format): void {
  const t = format.type;
  // (cpu, signal quiet NaNs, a, b) → 0 equal, 1 less, 2 greater, 3 unordered.
  core.define(`sseCompare${format.bits}`, [I32, I32, t, t], [I32], (f) => {
    const lane = new Lane(core, f, format);
    const [signal, a, b] = [f.param(1), f.param(2), f.param(3)];
    const ca = lane.unpack(FP.a, a);
    const cb = lane.unpack(FP.b, b);
    f.if(isNan(ca).or(isNan(cb)), () => {
      f.if(signal.or(ca.eq(CLS.snan)).or(cb.eq(CLS.snan)), () => raise(f, lane.cpu, EXC.IE));
      f.return(i32(3));
    });
    lane.raiseDenormal(ca.or(cb));
    f.return(lane.call(I32, 'fpCompare'));
  });
  // (cpu, maximum, a, b): the second operand when either is a NaN or both are zeros. Denormals read as zeros count as zeros.
  core.define(`sseMinMax${format.bits}`, [I32, I32, t, t], [t], (f) => {
    const cpu = f.param(0);
    const [maximum, a, b] = [f.param(1), f.param(2), f.param(3)];
    const order = f.let(callExpr(I32, core.index(`sseCompare${format.bits}`), [cpu, i32(1), a, b]));
    const chosen = f.local(t);
    const first = order.eq(maximum.add(1));
    f.set(chosen, first.select(a, b));
    // DAZ: the chosen operand was read as a signed zero.
    f.if(load('i32', cpu, CTX.mxcsr).and(0x40).ne(0), () => {
      const sign = format.bits === 32 ? i32(0x8000_0000 | 0) : i64(0x8000_0000_0000_0000n);
      const exponent = format.bits === 32 ? i32(0x7f80_0000) : i64(0x7ff0_0000_0000_0000n);
      f.if(chosen.and(exponent).eqz(), () => f.set(chosen, chosen.and(sign)));
    });
    f.return(chosen);
  });
}

function defineConversions(core: CoreFunctions): void {
  const [single, double] = FORMATS;
  const between = (name: string, from: Format, to: Format): void => {
    core.define(name, [I32, from.type], [to.type], (f) => {
      const lane = new Lane(core, f, from);
      const cls = lane.unpack(FP.a, f.param(1));
      const out = (bits: Expr): void => f.return(to.bits === 32 ? bits.wrap() : bits);
      f.if(isNan(cls), () => {
        f.if(cls.eq(CLS.snan), () => raise(f, lane.cpu, EXC.IE));
        out(lane.call(I64, `fpNan${to.bits}`));
      });
      lane.raiseDenormal(cls);
      out(lane.call(I64, `fpPack${to.bits}`, lane.ctl(), lane.call(I32, 'fpCopy')));
    });
  };
  between('sseCvt32to64', single, double);
  between('sseCvt64to32', double, single);
  for (const format of FORMATS) {
    // (cpu, truncate, result bits, value) → integer
    core.define(`sseToInt${format.bits}`, [I32, I32, I32, format.type], [I64], (f) => {
      const lane = new Lane(core, f, format);
      const [truncate, bits, value] = [f.param(1), f.param(2), f.param(3)];
      f.drop(lane.unpack(FP.a, value));
      f.return(lane.call(I64, 'fpToInt', lane.ctl().or(truncate.ne(0).select(i32(0xc00), i32(0))), bits));
    });
    // (cpu, signed integer) → value
    core.define(`sseFromInt${format.bits}`, [I32, I64], [format.type], (f) => {
      const lane = new Lane(core, f, format);
      f.call(core.index('fpUnpackInt'), [lane.cpu.add(FP.a), f.param(1)]);
      f.return(lane.pack(lane.ctl(), lane.call(I32, 'fpCopy')));
    });
  }
}

function defineRound(core: CoreFunctions, format: Format): void {
  // (cpu, immediate of ROUNDSS, value) → integral value. Native rounding keeps the sign of zero and is exact.
  core.define(`sseRound${format.bits}`, [I32, I32, format.type], [format.type], (f) => {
    const lane = new Lane(core, f, format);
    const [control, value] = [f.param(1), f.param(2)];
    const cls = lane.unpack(FP.a, value);
    f.if(isNan(cls), () => {
      f.if(cls.eq(CLS.snan), () => raise(f, lane.cpu, EXC.IE));
      f.return(quieted(format, value));
    });
    const input = f.local(format.type);
    const sign = format.bits === 32 ? i32(0x8000_0000 | 0) : i64(0x8000_0000_0000_0000n);
    f.set(input, cls.eq(CLS.zero).select(value.and(sign), value));
    const x = input.reinterpret();
    const rc = f.let(control.and(4).select(lane.mxcsr.shrU(13).and(3), control.and(3)));
    const result = f.let(rc.eqz().select(x.nearest(), rc.eq(1).select(x.floor(), rc.eq(2).select(x.ceil(), x.trunc()))));
    f.if(result.ne(x).and(control.and(8).eqz()), () => raise(f, lane.cpu, EXC.PE));
    f.return(result.reinterpret());
  });
}

export function defineSseLanes(core: CoreFunctions): void {
  for (const format of FORMATS) {
    defineOperation(core, format);
    defineComparisons(core, format);
    defineRound(core, format);
  }
  defineConversions(core);
  // (cpu) → non-zero when an exception of `FP.flags` is unmasked: #XM. MXCSR has the flags in either case; with an unmasked
  // exception that is found before the operation, those found after it are not reported.
  core.define('sseCommit', [I32], [I32], (f) => {
    const cpu = f.param(0);
    const mxcsr = f.let(load('i32', cpu, CTX.mxcsr));
    const flags = f.let(load('i32', cpu, FP.flags).and(0x3f));
    const unmasked = f.let(flags.and(mxcsr.shrU(7).not()));
    f.if(unmasked.and(EXC.IE | EXC.DE | EXC.ZE).ne(0), () => f.set(flags, flags.and(EXC.IE | EXC.DE | EXC.ZE)));
    f.store('i32', cpu, mxcsr.or(flags), CTX.mxcsr);
    f.return(unmasked);
  });
}
