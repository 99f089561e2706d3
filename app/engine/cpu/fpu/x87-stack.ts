// SPDX-License-Identifier: Apache-2.0
/**
 * The x87 register stack, exception reporting and stack transfers, as core functions (Intel SDM volume 1 §8.1, §8.5).
 *
 * Every arithmetic core function clears `FP.flags`, computes, and ends with `x87Report`, which moves the flags into the status word
 * and says whether an unmasked invalid operation, denormal operand or zero divide keeps the result from being stored. Unmasked
 * exceptions set ES and B; the next waiting instruction raises #MF.
 */
import { CTX } from '../../memory/vcpu-context.ts';
import { type Expr, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import { callExpr, type FunctionBuilder, load } from '../../wasm/function-builder.ts';
import type { CoreFunctions } from '../functions.ts';
import { CLS, EXC, EXP_MAX, FP, INTEGER_BIT, QUIET_BIT, raise, SLOT } from './state.ts';

/** Status word bits beside the exceptions. */
export const FSW = { SF: 0x40, ES: 0x80, C0: 0x100, C1: 0x200, C2: 0x400, C3: 0x4000, B: 0x8000 } as const;
export const FSW_CONDITIONS = FSW.C0 | FSW.C1 | FSW.C2 | FSW.C3;
const SUMMARY = FSW.ES | FSW.B;
export const STACK_UNDERFLOW = EXC.IE | FSW.SF;
export const STACK_OVERFLOW = EXC.IE | FSW.SF | FSW.C1;
/** Exceptions that are found before an operation: unmasked ones keep it from having a result. */
export const BEFORE = EXC.IE | EXC.DE | EXC.ZE;

/** Emission of stack accesses inside one core function. */
export class Stack {
  readonly f: FunctionBuilder;
  readonly core: CoreFunctions;
  readonly cpu: Expr;

  constructor(core: CoreFunctions, f: FunctionBuilder) {
    this.core = core;
    this.f = f;
    this.cpu = f.param(0);
  }
  get16(offset: number): Expr {
    return load('i32_16u', this.cpu, offset);
  }
  set16(offset: number, value: Expr): void {
    this.f.store('i32_16', this.cpu, value, offset);
  }
  /** Physical number of ST(i), bound. */
  physical(i: Expr | number): Expr {
    return this.f.let(this.get16(CTX.ftop).add(i).and(7));
  }
  /** i32: physical register `p` is empty. */
  empty(p: Expr): Expr {
    return this.get16(CTX.ftag).shrU(p).and(1).eqz();
  }
  /** Host address of physical register `p`; its fields stand at `CTX.fpr` (significand) and `CTX.fpr + 8` (sign and exponent). */
  address(p: Expr): Expr {
    return this.cpu.add(p.shl(4));
  }
  unpack(slot: number, p: Expr): void {
    const at = this.f.let(this.address(p));
    this.f.call(this.core.index('fpUnpack80'), [this.cpu.add(slot), load('i64', at, CTX.fpr), load('i32_16u', at, CTX.fpr + 8)]);
  }
  /** Writes physical register `p` and marks it as in use. */
  write(p: Expr, sig: Expr, se: Expr): void {
    const at = this.f.let(this.address(p));
    this.f.store('i64', at, sig, CTX.fpr);
    this.f.store('i32_16', at, se, CTX.fpr + 8);
    this.set16(CTX.ftag, this.get16(CTX.ftag).or(i32(1).shl(p)));
  }
  writeResult(p: Expr): void {
    this.write(p, load('i64', this.cpu, FP.sig), load('i32', this.cpu, FP.se));
  }
  setResult(sig: Expr, se: Expr): void {
    this.f.store('i64', this.cpu, sig, FP.sig);
    this.f.store('i32', this.cpu, se, FP.se);
  }
  defaultNan(): void {
    this.setResult(i64(INTEGER_BIT | QUIET_BIT), i32(0xffff));
  }
  pop(): void {
    const top = this.physical(0);
    this.set16(CTX.ftag, this.get16(CTX.ftag).and(i32(1).shl(top).not()));
    this.set16(CTX.ftop, top.add(1).and(7));
  }
  begin(): void {
    this.f.store('i32', this.cpu, i32(0), FP.flags);
  }
  raise(flags: Expr | number): void {
    raise(this.f, this.cpu, flags);
  }
  /** Ends the function when an unmasked exception forbids the result. */
  reportOrLeave(result?: Expr): void {
    this.f.if(this.call('x87Report'), () => this.f.return(result));
  }
  /** Reports for instructions that leave C1 alone except at a stack fault; the value is that of `x87Report`. */
  reportKeepingC1(): Expr {
    const { f, cpu } = this;
    const kept = f.let(load('i32', cpu, FP.flags).and(FSW.SF).eqz().select(this.get16(CTX.fsw).and(FSW.C1), i32(0)));
    const withheld = f.let(this.call('x87Report'));
    this.set16(CTX.fsw, this.get16(CTX.fsw).or(kept));
    return withheld;
  }
  call(name: string, ...args: Expr[]): Expr {
    return callExpr(I32, this.core.index(name), [this.cpu, ...args]);
  }
  callVoid(name: string, ...args: Expr[]): void {
    this.f.call(this.core.index(name), [this.cpu, ...args]);
  }
  /** Control for rounding from FCW. */
  ctl(): Expr {
    return this.get16(CTX.fcw).and(0xf3f);
  }
  /** The same with full precision, for instructions that ignore precision control. */
  ctlFull(): Expr {
    return this.get16(CTX.fcw).and(0xc3f).or(0x300);
  }
  class(slot: number): Expr {
    return load('i32', this.cpu, slot + SLOT.cls);
  }
}

export const isNanClass = (cls: Expr): Expr => cls.sub(CLS.qnan).ltU(3);

function defineReport(core: CoreFunctions): void {
  // (cpu) → non-zero when the result must not be stored.
  core.define('x87Report', [I32], [I32], (f) => {
    const s = new Stack(core, f);
    const flags = f.let(load('i32', s.cpu, FP.flags));
    const unmasked = f.let(flags.and(0x3f).and(s.get16(CTX.fcw).not()));
    const status = f.let(s.get16(CTX.fsw).and(0xffff & ~FSW.C1));
    f.if(unmasked.eqz(), () => {
      s.set16(CTX.fsw, status.or(flags));
      f.return(i32(0));
    });
    const before = f.let(unmasked.and(BEFORE));
    // What would have been found after the operation is not reported; C1 tells stack overflow and stays.
    f.if(before, () => f.set(flags, flags.and(BEFORE | FSW.SF).or(flags.and(FSW.SF).shl(3).and(flags).and(FSW.C1))));
    s.set16(CTX.fsw, status.or(flags).or(SUMMARY));
    f.return(before);
  });
}

/** NaN operands of one- and two-operand instructions: leaves the chosen NaN, quieted, as the result. */
function defineNans(core: CoreFunctions): void {
  // (cpu, two operands) → 1 when a NaN or an unsupported operand decided the result.
  core.define('x87Nan', [I32, I32], [I32], (f) => {
    const s = new Stack(core, f);
    const two = f.param(1);
    const a = f.let(s.class(FP.a));
    const b = f.let(two.select(s.class(FP.b), i32(CLS.finite)));
    f.if(isNanClass(a).or(isNanClass(b)).eqz(), () => f.return(i32(0)));
    f.if(a.eq(CLS.unsupported).or(b.eq(CLS.unsupported)), () => {
      s.raise(EXC.IE);
      s.defaultNan();
      f.return(i32(1));
    });
    f.if(a.eq(CLS.snan).or(b.eq(CLS.snan)), () => s.raise(EXC.IE));
    // Two NaNs: a quiet one before a signalling one, then the larger significand, then the positive one.
    const sigA = f.let(load('i64', s.cpu, FP.a + SLOT.sig));
    const sigB = f.let(load('i64', s.cpu, FP.b + SLOT.sig));
    const signA = load('i32', s.cpu, FP.a + SLOT.sign);
    const larger = sigA.gtU(sigB).or(sigA.eq(sigB).and(signA.eqz()));
    const both = isNanClass(a).and(isNanClass(b));
    const chooseA = f.let(both.select(a.eq(b).select(larger, a.ltU(b)), isNanClass(a)));
    const sign = chooseA.select(signA, load('i32', s.cpu, FP.b + SLOT.sign));
    s.setResult(chooseA.select(sigA, sigB).or(i64(QUIET_BIT)), sign.shl(15).or(EXP_MAX));
    f.return(i32(1));
  });
}

function defineTransfers(core: CoreFunctions): void {
  // (cpu, significand, sign and exponent): pushes, with `FP.flags` already holding what the load raised.
  core.define('x87Push', [I32, I64, I32], [], (f) => {
    const s = new Stack(core, f);
    const [sig, se] = [f.param(1), f.param(2)];
    const target = s.physical(7);
    // An empty source, reported by the caller, comes first.
    f.if(
      s
        .empty(target)
        .eqz()
        .and(load('i32', s.cpu, FP.flags).and(FSW.SF).eqz()),
      () => {
        f.store('i32', s.cpu, i32(STACK_OVERFLOW), FP.flags);
        s.reportOrLeave();
        s.set16(CTX.ftop, target);
        s.write(target, i64(INTEGER_BIT | QUIET_BIT), i32(0xffff));
        f.return();
      },
    );
    // An unmasked denormal operand is reported, but loaded.
    f.if(s.call('x87Report').and(EXC.IE), () => f.return());
    s.set16(CTX.ftop, target);
    s.write(target, sig, se);
  });
  // (cpu): pushes slot A, an unpacked narrow float or integer.
  core.define('x87PushA', [I32], [], (f) => {
    const s = new Stack(core, f);
    s.begin();
    const cls = f.let(s.class(FP.a));
    f.if(s.call('x87Nan', i32(0)).eqz(), () => {
      f.if(cls.and(CLS.denormal), () => s.raise(EXC.DE));
      // Exact in the 80-bit format whatever the rounding; a denormal single or double is a normal number there.
      s.callVoid('fpPack80', i32(0x33f), s.call('fpCopy'));
    });
    s.callVoid('x87Push', load('i64', s.cpu, FP.sig), load('i32', s.cpu, FP.se));
  });
  // (cpu, i): FLD ST(i).
  core.define('x87PushReg', [I32, I32], [], (f) => {
    const s = new Stack(core, f);
    s.begin();
    const source = s.physical(f.param(1));
    const at = f.let(s.address(source));
    const sig = f.let(load('i64', at, CTX.fpr));
    const se = f.let(load('i32_16u', at, CTX.fpr + 8));
    f.if(s.empty(source), () => {
      s.raise(STACK_UNDERFLOW);
      f.set(sig, i64(INTEGER_BIT | QUIET_BIT));
      f.set(se, i32(0xffff));
    });
    s.callVoid('x87Push', sig, se);
  });
  // (cpu, i, pops): FST ST(i), FSTP ST(i).
  core.define('x87StoreReg', [I32, I32, I32], [], (f) => {
    const s = new Stack(core, f);
    s.begin();
    const top = s.physical(0);
    const at = f.let(s.address(top));
    s.setResult(load('i64', at, CTX.fpr), load('i32_16u', at, CTX.fpr + 8));
    f.if(s.empty(top), () => {
      s.raise(STACK_UNDERFLOW);
      s.defaultNan();
    });
    s.reportOrLeave();
    s.writeResult(s.physical(f.param(1)));
    f.if(f.param(2), () => s.pop());
  });
  // (cpu, i, -): the alias D9 D8+i of FSTP, which reports no empty register and moves nothing then.
  core.define('x87StoreRegSilently', [I32, I32, I32], [], (f) => {
    const s = new Stack(core, f);
    const p = s.physical(0);
    const q = s.physical(f.param(1));
    const at = f.let(s.address(p));
    f.if(s.empty(p).eqz(), () => s.write(q, load('i64', at, CTX.fpr), load('i32_16u', at, CTX.fpr + 8)));
    s.set16(CTX.fsw, s.get16(CTX.fsw).and(0xffff & ~FSW.C1));
    s.pop();
  });
  // (cpu, i): FXCH.
  core.define('x87Exchange', [I32, I32], [], (f) => {
    const s = new Stack(core, f);
    s.begin();
    const [p, q] = [s.physical(0), s.physical(f.param(1))];
    const fill = (r: Expr): void => {
      f.if(s.empty(r), () => {
        s.raise(STACK_UNDERFLOW);
      });
    };
    fill(p);
    fill(q);
    s.reportOrLeave();
    for (const r of [p, q]) f.if(s.empty(r), () => s.write(r, i64(INTEGER_BIT | QUIET_BIT), i32(0xffff)));
    const [a, b] = [f.let(s.address(p)), f.let(s.address(q))];
    const sig = f.let(load('i64', a, CTX.fpr));
    const se = f.let(load('i32_16u', a, CTX.fpr + 8));
    f.store('i64', a, load('i64', b, CTX.fpr), CTX.fpr);
    f.store('i32_16', a, load('i32_16u', b, CTX.fpr + 8), CTX.fpr + 8);
    f.store('i64', b, sig, CTX.fpr);
    f.store('i32_16', b, se, CTX.fpr + 8);
  });
  // (cpu, i, condition): FCMOVcc. Empty registers are an exception whether the condition holds or not.
  core.define('x87Move', [I32, I32, I32], [], (f) => {
    const s = new Stack(core, f);
    s.begin();
    const [p, q] = [s.physical(0), s.physical(f.param(1))];
    f.if(s.empty(p).or(s.empty(q)), () => {
      s.raise(STACK_UNDERFLOW);
      s.reportOrLeave();
      s.write(p, i64(INTEGER_BIT | QUIET_BIT), i32(0xffff));
      f.return();
    });
    f.drop(s.reportKeepingC1());
    f.if(f.param(2), () => {
      const at = f.let(s.address(q));
      s.write(p, load('i64', at, CTX.fpr), load('i32_16u', at, CTX.fpr + 8));
    });
  });
  // (cpu, and mask, xor mask): FABS, FCHS on the sign and exponent of ST(0); NaNs are not looked at.
  core.define('x87Sign', [I32, I32, I32], [], (f) => {
    const s = new Stack(core, f);
    s.begin();
    const p = s.physical(0);
    const at = f.let(s.address(p));
    s.setResult(
      load('i64', at, CTX.fpr),
      load('i32_16u', at, CTX.fpr + 8)
        .and(f.param(1))
        .xor(f.param(2)),
    );
    f.if(s.empty(p), () => {
      s.raise(STACK_UNDERFLOW);
      s.defaultNan();
    });
    s.reportOrLeave();
    s.writeResult(p);
  });
}

export function defineX87Stack(core: CoreFunctions): void {
  defineReport(core);
  defineNans(core);
  defineTransfers(core);
}
