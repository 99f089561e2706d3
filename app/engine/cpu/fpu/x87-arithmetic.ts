// SPDX-License-Identifier: Apache-2.0
/**
 * x87 arithmetic, comparison and stores as core functions (Intel SDM volume 1 §8.3, volume 2).
 *
 * Memory operands are unpacked into slot B by the caller. Stores are made in two steps, because memory may fault in between:
 * `x87StorePrepare` computes the value and the status word that will follow, `x87StoreCommit` takes them.
 */
import { CTX } from '../../memory/vcpu-context.ts';
import { type Expr, I32, i32, I64, i64 } from '../../wasm/expr.ts';
import { callExpr, load } from '../../wasm/function-builder.ts';
import type { CoreFunctions } from '../functions.ts';
import { CLS, EXC, FP, INTEGER_BIT, QUIET_BIT, SLOT } from './state.ts';
import { FSW, FSW_CONDITIONS, isNanClass, Stack, STACK_UNDERFLOW } from './x87-stack.ts';

/** Destinations of stores. */
export const STORE = { single: 0, double: 1, int16: 2, int32: 3, int64: 4, bcd: 5, extended: 6 } as const;

function defineArithmetic(core: CoreFunctions): void {
  // (cpu, operation): A op B into `FP.sig`/`FP.se`.
  core.define('x87Operate', [I32, I32], [], (f) => {
    const s = new Stack(core, f);
    f.if(s.call('x87Nan', f.param(1).ne(8)), () => f.return());
    const ctl = f.let(s.ctl());
    s.callVoid('fpPack80', ctl, s.call('fpOperate', ctl, f.param(1)));
  });
  // (cpu, operation, i, destination, pops): ST(0) op ST(i), the result to ST(destination).
  core.define('x87Arithmetic', [I32, I32, I32, I32, I32], [], (f) => {
    const s = new Stack(core, f);
    s.begin();
    const [p, q] = [s.physical(0), s.physical(f.param(2))];
    f.if(
      s.empty(p).or(s.empty(q)),
      () => {
        s.raise(STACK_UNDERFLOW);
        s.defaultNan();
      },
      () => {
        s.unpack(FP.a, p);
        s.unpack(FP.b, q);
        s.callVoid('x87Operate', f.param(1));
      },
    );
    s.reportOrLeave();
    s.writeResult(s.physical(f.param(3)));
    f.if(f.param(4), () => s.pop());
  });
  // (cpu, operation): ST(0) op B; also the square root (8), which ignores B.
  core.define('x87ArithmeticB', [I32, I32], [], (f) => {
    const s = new Stack(core, f);
    s.begin();
    const p = s.physical(0);
    f.if(
      s.empty(p),
      () => {
        s.raise(STACK_UNDERFLOW);
        s.defaultNan();
      },
      () => {
        s.unpack(FP.a, p);
        s.callVoid('x87Operate', f.param(1));
      },
    );
    s.reportOrLeave();
    s.writeResult(p);
  });
}

function defineComparison(core: CoreFunctions): void {
  // (cpu, quiet) → 0 equal, 1 less, 2 greater, 3 unordered, for A and B.
  core.define('x87Order', [I32, I32], [I32], (f) => {
    const s = new Stack(core, f);
    const a = f.let(s.class(FP.a));
    const b = f.let(s.class(FP.b));
    f.if(isNanClass(a).or(isNanClass(b)), () => {
      const signals = a.sub(CLS.snan).ltU(2).or(b.sub(CLS.snan).ltU(2));
      f.if(signals.or(f.param(1).eqz()), () => s.raise(EXC.IE));
      f.return(i32(3));
    });
    f.if(a.or(b).and(CLS.denormal), () => s.raise(EXC.DE));
    f.return(s.call('fpCompare'));
  });
  // (cpu, i, quiet, pops) and (cpu, 8: B in memory, quiet, pops): FCOM and its family.
  core.define('x87Compare', [I32, I32, I32, I32], [], (f) => {
    const s = new Stack(core, f);
    const [i, quiet, pops] = [f.param(1), f.param(2), f.param(3)];
    s.begin();
    const p = s.physical(0);
    const order = f.local(I32);
    const q = f.let(i.eq(8).select(p, s.physical(i)));
    f.if(
      s.empty(p).or(s.empty(q)),
      () => {
        s.raise(STACK_UNDERFLOW);
        f.set(order, 3);
      },
      () => {
        s.unpack(FP.a, p);
        f.if(i.ne(8), () => s.unpack(FP.b, q));
        f.set(order, s.call('x87Order', quiet));
      },
    );
    s.set16(
      CTX.fsw,
      s
        .get16(CTX.fsw)
        .and(0xffff & ~FSW_CONDITIONS)
        .or(conditionsOf(order)),
    );
    s.reportOrLeave();
    f.if(pops, () => {
      s.pop();
      f.if(pops.eq(2), () => s.pop());
    });
  });
  // (cpu, i, quiet, pops) → RFLAGS bits ZF PF CF.
  core.define('x87CompareFlags', [I32, I32, I32, I32], [I32], (f) => {
    const s = new Stack(core, f);
    s.begin();
    const [p, q] = [s.physical(0), s.physical(f.param(1))];
    const order = f.local(I32);
    f.if(
      s.empty(p).or(s.empty(q)),
      () => {
        s.raise(STACK_UNDERFLOW);
        f.set(order, 3);
      },
      () => {
        s.unpack(FP.a, p);
        s.unpack(FP.b, q);
        f.set(order, s.call('x87Order', f.param(2)));
      },
    );
    // Unmasked exceptions keep the operands, but RFLAGS tell the order all the same.
    const withheld = f.let(s.reportKeepingC1());
    f.if(f.param(3).and(withheld.eqz()), () => s.pop());
    f.return(i32(0x45000140).shrU(order.shl(3)).and(0xff));
  });
  // (cpu): FXAM.
  core.define('x87Examine', [I32], [], (f) => {
    const s = new Stack(core, f);
    const p = s.physical(0);
    s.unpack(FP.a, p);
    const cls = f.let(s.class(FP.a));
    const bits = f.local(I32);
    // finite, zero, infinity, quiet NaN, signalling NaN, unsupported, -, -, denormal
    const kinds = [FSW.C2, FSW.C3, FSW.C2 | FSW.C0, FSW.C0, FSW.C0, 0, 0, 0, FSW.C2 | FSW.C3];
    f.set(bits, i32(0));
    kinds.forEach((kind, n) => {
      if (kind !== 0) f.if(cls.eq(n), () => f.set(bits, i32(kind)));
    });
    f.if(s.empty(p), () => f.set(bits, i32(FSW.C3 | FSW.C0)));
    const sign = load('i32', s.cpu, FP.a + SLOT.sign).shl(9);
    s.set16(
      CTX.fsw,
      s
        .get16(CTX.fsw)
        .and(0xffff & ~FSW_CONDITIONS)
        .or(bits)
        .or(sign),
    );
  });
}

/** Outcome of `x87Order` as condition codes. */
function conditionsOf(order: Expr): Expr {
  return order.eqz().select(i32(FSW.C3), order.eq(1).select(i32(FSW.C0), order.eq(2).select(i32(0), i32(FSW.C0 | FSW.C2 | FSW.C3))));
}

function defineStores(core: CoreFunctions): void {
  // (cpu): B is the packed decimal of integer `value`'s 18 digits; (value) → low eight bytes and, in `FP.valueHigh`, the ninth.
  core.define('x87ToDecimal', [I32, I64], [I64], (f) => {
    const [cpu, value] = [f.param(0), f.param(1)];
    const rest = f.let(value);
    const low = f.local(I64);
    const n = f.local(I64);
    f.set(n, i64(0));
    f.loop((again) => {
      f.set(low, low.or(rest.remU(i64(10)).shl(n)));
      f.set(rest, rest.divU(i64(10)));
      f.set(n, n.add(4));
      f.brIf(again, n.ltU(i64(64)));
    });
    f.store(
      'i32',
      cpu,
      rest
        .divU(i64(10))
        .shl(4)
        .or(rest.remU(i64(10)))
        .wrap(),
      FP.valueHigh,
    );
    f.return(low);
  });
  // (cpu, low eight bytes, ninth and tenth byte): FBLD's value into slot A. Digits above 9 count as they weigh.
  core.define('x87FromDecimal', [I32, I64, I32], [], (f) => {
    const [cpu, low, high] = [f.param(0), f.param(1), f.param(2)];
    const sum = f.let(high.shrU(4).and(15).mul(10).add(high.and(15)).extU());
    const n = f.local(I64);
    f.set(n, i64(60));
    f.loop((again) => {
      f.set(sum, sum.mul(i64(10)).add(low.shrU(n).and(15)));
      f.set(n, n.sub(4));
      f.brIf(again, n.geS(i64(0)));
    });
    f.call(core.index('fpUnpackInt'), [cpu.add(FP.a), sum]);
    f.store('i32', cpu, high.shrU(15).and(1), FP.a + SLOT.sign);
  });
  // (cpu, STORE kind, truncate) → 1 when `FP.value` is to be stored (and then `x87StoreCommit` called), 0 when an unmasked exception
  // forbids it (the status is then final).
  core.define('x87StorePrepare', [I32, I32, I32], [I32], (f) => {
    const s = new Stack(core, f);
    const cpu = s.cpu;
    const kind = f.param(1);
    s.begin();
    const p = s.physical(0);
    const value = f.local(I64);
    const narrow = (n: number, name: 'fpPack32' | 'fpPack64', nan: 'fpNan32' | 'fpNan64', indefinite: bigint): void => {
      f.if(kind.eq(n), () => {
        f.set(value, i64(indefinite));
        f.if(s.empty(p).eqz(), () => {
          const cls = f.let(s.class(FP.a));
          f.if(
            isNanClass(cls),
            () => {
              f.if(cls.ne(CLS.qnan), () => s.raise(EXC.IE));
              f.if(cls.ne(CLS.unsupported), () => f.set(value, callExpr(I64, core.index(nan), [cpu])));
            },
            () => f.set(value, callExpr(I64, core.index(name), [cpu, s.ctl(), s.call('fpCopy')])),
          );
        });
      });
    };
    f.if(
      s.empty(p),
      () => s.raise(STACK_UNDERFLOW),
      () => s.unpack(FP.a, p),
    );
    narrow(STORE.single, 'fpPack32', 'fpNan32', 0xffc00000n);
    narrow(STORE.double, 'fpPack64', 'fpNan64', 0xfff8000000000000n);
    f.if(kind.eq(STORE.extended), () => {
      const at = f.let(s.address(p));
      const empty = f.let(s.empty(p));
      f.set(value, empty.select(i64(INTEGER_BIT | QUIET_BIT), load('i64', at, CTX.fpr)));
      f.store('i32', cpu, empty.select(i32(0xffff), load('i32_16u', at, CTX.fpr + 8)), FP.valueHigh);
    });
    f.if(kind.geS(STORE.int16).and(kind.leS(STORE.bcd)), () => {
      const bits = f.let(kind.eq(STORE.bcd).select(i32(64), i32(8).shl(kind.sub(1))));
      f.set(value, i64(-1).shl(bits.sub(1).extU()));
      f.if(s.empty(p).eqz(), () => {
        const ctl = s.ctl().or(f.param(2).ne(0).select(i32(0xc00), i32(0)));
        f.set(value, callExpr(I64, core.index('fpToInt'), [cpu, ctl, bits]));
      });
      f.if(kind.eq(STORE.bcd), () => {
        const limit = 1_000_000_000_000_000_000n;
        const magnitude = f.let(value.ltS(0).select(value.neg(), value));
        const bad = load('i32', cpu, FP.flags).and(EXC.IE);
        f.if(
          bad.or(magnitude.geU(i64(limit))),
          () => {
            // Too large may have been found only now: then it is not inexact.
            f.store('i32', cpu, load('i32', cpu, FP.flags).and(FSW.SF).or(EXC.IE), FP.flags);
            f.set(value, i64(0xc000000000000000n));
            f.store('i32', cpu, i32(0xffff), FP.valueHigh);
          },
          () => {
            const sign = f.let(load('i32', cpu, FP.a + SLOT.sign));
            f.set(value, callExpr(I64, core.index('x87ToDecimal'), [cpu, magnitude]));
            f.store('i32', cpu, load('i32', cpu, FP.valueHigh).or(sign.shl(15)), FP.valueHigh);
          },
        );
      });
    });
    f.store('i64', cpu, value, FP.value);
    const flags = f.let(load('i32', cpu, FP.flags));
    // Underflow and overflow keep a store to memory from being made, too; inexact does not.
    const forbids = f.let(flags.and(s.get16(CTX.fcw).not()).and(0x1f));
    f.if(forbids, () => {
      f.store('i32', cpu, flags.and(~(EXC.PE | EXC.C1)), FP.flags);
      f.drop(s.call('x87Report'));
    });
    f.return(forbids.eqz());
  });
  core.define('x87StoreCommit', [I32, I32], [], (f) => {
    const s = new Stack(core, f);
    f.drop(s.call('x87Report'));
    f.if(f.param(1), () => s.pop());
  });
}

export function defineX87Arithmetic(core: CoreFunctions): void {
  defineArithmetic(core);
  defineComparison(core);
  defineStores(core);
}
