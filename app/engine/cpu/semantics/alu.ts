// SPDX-License-Identifier: Apache-2.0
/** Moves, arithmetic, logic and comparisons on general operands (Intel SDM volume 2). */
import { ADDRESS } from '../isa/decoder.ts';
import { type Expr, I64, i32 } from '../../wasm/expr.ts';
import { FLAGS } from '../record.ts';
import { type SemContext, type SemanticsTable, VECTOR } from './context.ts';

const CF_OF = 0x801;

/** CF and OF set when `overflow` (0 or 1). */
const carryAndOverflow = (overflow: Expr): Expr => overflow.mul(CF_OF);

const widen = (c: SemContext, flag: Expr, bits: number): Expr => (c.typeOf(bits) === I64 ? flag.extU() : flag);

export function defineAlu(table: SemanticsTable): void {
  table.define('mov', (c) => c.write(0, c.read(1)));
  table.define('movzx', (c) => c.write(0, c.width(0) === 64 ? c.read(1).extU() : c.read(1)));
  table.define('movsx', (c) => {
    const value = c.signExtend(c.read(1), c.width(1));
    c.write(0, c.width(0) === 64 ? value : value.wrap());
  });
  table.define('lea', (c) => {
    if (c.form.addressing === ADDRESS.none) c.fault(VECTOR.UD);
    else c.write(0, c.width(0) === 64 ? c.effectiveAddress() : c.effectiveAddress().wrap());
  });
  table.define('nop pause fence', () => {});

  const arithmetic = (name: string, kind: 1 | 2, apply: (a: Expr, b: Expr) => Expr): void => {
    table.define(name, (c) => {
      const b = c.read(1);
      const { old, result } = c.rmw(0, (a) => apply(a, b));
      c.setFlags(kind, c.width(0), result, old, b);
    });
  };
  arithmetic('add', FLAGS.add, (a, b) => a.add(b));
  arithmetic('sub', FLAGS.sub, (a, b) => a.sub(b));
  table.define('cmp', (c) => {
    const a = c.read(0);
    const b = c.read(1);
    c.setFlags(FLAGS.sub, c.width(0), a.sub(b), a, b);
  });
  table.define('adc', (c) => {
    const bits = c.width(0);
    const b = c.read(1);
    const carry = c.let(widen(c, c.carry(), bits));
    const { old, result } = c.rmw(0, (a) => a.add(b).add(carry));
    c.setFlags(FLAGS.adc, bits, result, old, b);
  });
  table.define('sbb', (c) => {
    const bits = c.width(0);
    const b = c.read(1);
    const carry = c.let(widen(c, c.carry(), bits));
    const { old, result } = c.rmw(0, (a) => a.sub(b).sub(carry));
    c.setFlags(FLAGS.sbb, bits, result, old, b);
  });
  const logic = (name: string, apply: (a: Expr, b: Expr) => Expr): void => {
    table.define(name, (c) => {
      const b = c.read(1);
      const { result } = c.rmw(0, (a) => apply(a, b));
      c.setFlags(FLAGS.logic, c.width(0), result);
    });
  };
  logic('and', (a, b) => a.and(b));
  logic('or', (a, b) => a.or(b));
  logic('xor', (a, b) => a.xor(b));
  table.define('test', (c) => c.setFlags(FLAGS.logic, c.width(0), c.let(c.read(0).and(c.read(1)))));

  /** INC and DEC keep CF; OF and AF follow from the result. */
  const step = (name: string, delta: 1 | -1): void => {
    table.define(name, (c) => {
      const bits = c.width(0);
      const carry = c.carry();
      const { result } = c.rmw(0, (a) => a.add(delta));
      const limit = delta === 1 ? -(2n ** BigInt(bits - 1)) : 2n ** BigInt(bits - 1) - 1n;
      const overflow = c.signExtend(result, bits).eq(limit);
      const adjust = result
        .wrap()
        .and(15)
        .eq(delta === 1 ? 0 : 15);
      c.setFlagsBits(bits, result, carry.or(adjust.shl(4)).or(overflow.shl(11)));
    });
  };
  step('inc', 1);
  step('dec', -1);
  table.define('not', (c) => void c.rmw(0, (a) => a.not()));
  table.define('neg', (c) => {
    const bits = c.width(0);
    const zero = c.constant(bits, 0);
    const { old, result } = c.rmw(0, (a) => zero.sub(a));
    c.setFlags(FLAGS.sub, bits, result, zero, old);
  });

  table.define('xchg', (c) => {
    const value = c.read(1);
    if (c.isMemory(0)) c.write(1, c.rmw(0, () => value, true).old);
    else {
      const other = c.read(0);
      c.write(0, value);
      c.write(1, other);
    }
  });
  table.define('xadd', (c) => {
    const bits = c.width(0);
    const b = c.read(1);
    if (c.isMemory(0)) {
      const { old, result } = c.rmw(0, (a) => a.add(b));
      c.write(1, old);
      c.setFlags(FLAGS.add, bits, result, old, b);
    } else {
      const old = c.read(0);
      const result = c.let(old.add(b));
      c.write(1, old);
      c.write(0, result);
      c.setFlags(FLAGS.add, bits, result, old, b);
    }
  });
  table.define('cmpxchg', (c) => {
    const bits = c.width(0);
    const accumulator = c.gpr(0, bits);
    const replacement = c.read(1);
    if (!c.isMemory(0)) {
      // A register that does not match is not written: its upper half stays.
      const value = c.read(0);
      c.setFlags(FLAGS.sub, bits, accumulator.sub(value), accumulator, value);
      c.f.if(
        value.eq(accumulator),
        () => c.write(0, replacement),
        () => c.setGpr(0, bits, value),
      );
      return;
    }
    const { old } = c.rmw(0, (a) => a.eq(accumulator).select(replacement, a));
    c.f.if(old.ne(accumulator), () => c.setGpr(0, bits, old));
    c.setFlags(FLAGS.sub, bits, accumulator.sub(old), accumulator, old);
  });
  table.define('cmpxchg8b', (c) => {
    const expected = c.let(c.gpr(2, 32).extU().shl(32).or(c.gpr(0, 32).extU()));
    const replacement = c.let(c.gpr(1, 32).extU().shl(32).or(c.gpr(3, 32).extU()));
    const { old } = c.rmw(0, (a) => a.eq(expected).select(replacement, a));
    c.f.if(old.ne(expected), () => {
      c.setGpr(0, 32, old.wrap());
      c.setGpr(2, 32, old.shrU(32).wrap());
    });
    setZeroFlag(c, old.eq(expected));
  });
  table.define('cmpxchg16b', (c) => {
    const address = c.linearAddress();
    c.faultIf(address.and(15).ne(0), VECTOR.GP, i32(0));
    const low = c.gpr(0, 64);
    const high = c.gpr(2, 64);
    c.probeWrite(address, 16);
    const oldLow = c.load(64, address);
    const oldHigh = c.load(64, address.add(8));
    const equal = c.let(oldLow.eq(low).and(oldHigh.eq(high)));
    c.store(64, address, equal.select(c.gpr(3, 64), oldLow));
    c.store(64, address.add(8), equal.select(c.gpr(1, 64), oldHigh));
    c.f.if(equal.eqz(), () => {
      c.setGpr(0, 64, oldLow);
      c.setGpr(2, 64, oldHigh);
    });
    setZeroFlag(c, equal);
  });

  table.define('bswap', (c) => {
    const value = c.read(0);
    c.write(0, c.width(0) === 64 ? c.call('bswap64', [value]) : c.width(0) === 32 ? swap32(c, value) : i32(0));
  });
  table.define('cbw', (c) => {
    const bits = c.size;
    const value = c.signExtend(c.gpr(0, bits / 2), bits / 2);
    c.setGpr(0, bits, bits === 64 ? value : value.wrap());
  });
  table.define('cwd', (c) => {
    const bits = c.size;
    const sign = c.signExtend(c.gpr(0, bits), bits).shrS(63);
    c.setGpr(2, bits, bits === 64 ? sign : sign.wrap());
  });
  for (let cc = 0; cc < 16; cc++) {
    const names = ['o', 'no', 'b', 'nb', 'z', 'nz', 'be', 'nbe', 's', 'ns', 'p', 'np', 'l', 'nl', 'le', 'nle'];
    table.define(`set${names[cc]}`, (c) => c.write(0, c.let(c.condition(cc))));
    table.define(`cmov${names[cc]}`, (c) => {
      const source = c.read(1);
      const kept = c.read(0);
      c.write(0, c.condition(cc).select(source, kept));
    });
  }
  table.define('xlat', (c) => {
    const bits = c.form.addressSize;
    const base = c.gpr(3, bits);
    const sum = c.let((bits === 64 ? base : base.extU()).add(c.gpr(0, 8).extU()));
    const offset = bits === 64 ? sum : sum.and(bits === 32 ? 0xffff_ffff : 0xffff);
    c.setGpr(0, 8, c.load(8, c.let(offset.add(c.sourceSegmentBase()))));
  });

  table.define('clc', (c) => c.setEflags(1, i32(0)));
  table.define('stc', (c) => c.setEflags(1, i32(1)));
  table.define('cmc', (c) => c.setEflags(1, c.carry().xor(1)));
  table.define('cld', (c) => c.setEflags(0x400, i32(0)));
  table.define('std', (c) => c.setEflags(0x400, i32(0x400)));
  table.define('lahf', (c) => c.setGprHigh(0, c.eflags().and(0xd5).or(2)));
  table.define('sahf', (c) => c.setEflags(0xd5, c.gprHigh(0)));

  defineMultiply(table);
}

function setZeroFlag(c: SemContext, zero: Expr): void {
  c.setEflags(0x40, zero.shl(6));
}

function swap32(c: SemContext, value: Expr): Expr {
  const v = c.let(value);
  return v.rotl(8).and(0x00ff00ff).or(v.rotr(8).and(0xff00ff00));
}

function defineMultiply(table: SemanticsTable): void {
  const wide = (signed: boolean) => (c: SemContext) => {
    const bits = c.width(0);
    const a = c.gpr(0, bits);
    const b = c.read(0);
    if (bits === 64) {
      const low = c.let(a.mul(b));
      const high = c.call(signed ? 'mulhi_s' : 'mulhi_u', [a, b]);
      c.setGpr(0, 64, low);
      c.setGpr(2, 64, high);
      c.setFlagsBits(64, low, carryAndOverflow(high.ne(signed ? low.shrS(63) : 0)));
      return;
    }
    // The full product fits into 64 bits.
    const extend = (value: Expr): Expr => (signed ? c.signExtend(value, bits) : value.extU());
    const product = c.let(extend(a).mul(extend(b)));
    const low = c.let(product.wrap());
    const overflow = signed ? product.ne(c.signExtend(low, bits)) : product.shrU(bits).ne(0);
    if (bits === 8) c.setGpr(0, 16, low);
    else {
      c.setGpr(0, bits, low);
      c.setGpr(2, bits, product.shrU(bits).wrap());
    }
    c.setFlagsBits(bits, low, carryAndOverflow(overflow));
  };
  table.define('mul', wide(false));
  table.define('imul1', wide(true));
  table.define('imul', (c) => {
    const bits = c.width(0);
    const three = c.form.row.operands.length === 3;
    const b = c.read(three ? 2 : 1);
    const a = three ? c.read(1) : c.read(0);
    // Operand 1 of the two-operand form may be memory: it is read before the register.
    if (bits === 64) {
      const low = c.let(a.mul(b));
      c.setFlagsBits(64, low, carryAndOverflow(c.call('mulhi_s', [a, b]).ne(low.shrS(63))));
      c.write(0, low);
      return;
    }
    const product = c.let(c.signExtend(a, bits).mul(c.signExtend(b, bits)));
    const low = c.let(product.wrap());
    c.setFlagsBits(bits, low, carryAndOverflow(product.ne(c.signExtend(low, bits))));
    c.write(0, low);
  });

  const divide = (signed: boolean) => (c: SemContext) => {
    const bits = c.width(0);
    const divisor = c.read(0);
    if (bits === 64) {
      const failed = c.call(signed ? 'idiv128' : 'div128', [c.cpu, c.gpr(2, 64), c.gpr(0, 64), divisor]);
      c.faultIf(failed, VECTOR.DE);
      c.setGpr(0, 64, c.get64(DIVIDE_RESULT.quotient));
      c.setGpr(2, 64, c.get64(DIVIDE_RESULT.remainder));
      return;
    }
    c.faultIf(c.zeroExtend(divisor, bits).eqz(), VECTOR.DE);
    const dividend = bits === 8 ? c.let(signed ? c.signExtend(c.gpr(0, 16), 16) : c.gpr(0, 16).extU()) : c.let(joined(c, bits, signed));
    const d = c.let(signed ? c.signExtend(divisor, bits) : divisor.extU());
    if (signed) {
      // The one quotient that WebAssembly traps on overflows here as well.
      c.faultIf(dividend.eq(-(2n ** 63n)).and(d.eq(-1)), VECTOR.DE);
    }
    const quotient = c.let(signed ? dividend.divS(d) : dividend.divU(d));
    const fits = signed ? quotient.eq(c.signExtend(quotient.wrap(), bits)) : quotient.shrU(bits).eqz();
    c.faultIf(fits.eqz(), VECTOR.DE);
    const remainder = c.let(dividend.sub(quotient.mul(d)).wrap());
    if (bits === 8) c.setGpr(0, 16, quotient.wrap().and(0xff).or(remainder.shl(8)));
    else {
      c.setGpr(0, bits, quotient.wrap());
      c.setGpr(2, bits, remainder);
    }
  };
  table.define('div', divide(false));
  table.define('idiv', divide(true));
}

/** DX:AX or EDX:EAX as i64. */
function joined(c: SemContext, bits: number, signed: boolean): Expr {
  const high = c.gpr(2, bits);
  const low = c.gpr(0, bits).extU();
  if (bits === 16) return (signed ? c.signExtend(high, 16) : high.extU()).shl(16).or(low);
  return high.extU().shl(32).or(low);
}

/** Where `div128` and `idiv128` leave their results in the vCPU block. */
export const DIVIDE_RESULT = { quotient: 0x4c0, remainder: 0x4c8 } as const;
