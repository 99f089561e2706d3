// SPDX-License-Identifier: Apache-2.0
/** Shifts, rotates and bit instructions (Intel SDM volume 2: SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD, SHRD, BT*, BSF, BSR, POPCNT, CRC32). */
import { type Expr, I64, i32 } from '../../wasm/expr.ts';
import { ADDRESS } from '../isa/decoder.ts';
import { OPERAND_KIND } from '../isa/row.ts';
import { FLAGS } from '../record.ts';
import { ARITHMETIC_FLAGS, type SemContext, type SemanticsTable } from './context.ts';

const CF = 0x001;
const ZF = 0x040;
const OF = 0x800;

/** The count as the processor masks it, as i32, and in the operand's own type. */
function shiftCount(c: SemContext, n: number): { readonly count: Expr; readonly wide: Expr } {
  const bits = c.width(0);
  const count = c.let(
    c
      .read(n)
      .wrap()
      .and(bits === 64 ? 63 : 31),
  );
  return { count, wide: bits === 64 ? c.let(count.extU()) : count };
}

/** The highest bit of a value of `bits`, as 0 or 1. */
const topBit = (value: Expr, bits: number): Expr =>
  value
    .shrU(bits - 1)
    .wrap()
    .and(1);

export function defineShifts(table: SemanticsTable): void {
  const shift = (
    name: string,
    apply: (c: SemContext, value: Expr, count: Expr) => Expr,
    flags: (c: SemContext, old: Expr, result: Expr, count: Expr) => Expr,
  ): void => {
    table.define(name, (c) => {
      const { count, wide } = shiftCount(c, 1);
      const bits = c.width(0);
      const { old, result } = c.rmw(0, (value) => apply(c, value, wide));
      c.f.if(count.ne(0), () => c.setFlagsBits(bits, result, flags(c, old, result, wide)));
    });
  };
  shift(
    'shl',
    (_c, value, count) => value.shl(count),
    (c, old, result, count) => {
      const bits = c.width(0);
      const carry = c.let(bits >= 32 ? old.shrU(c.constant(bits, bits).sub(count)).wrap().and(1) : old.shl(count).shrU(bits).and(1));
      return carry.or(topBit(result, bits).xor(carry).shl(11));
    },
  );
  shift(
    'shr',
    (_c, value, count) => value.shrU(count),
    (c, old, _result, count) =>
      old
        .shrU(count.sub(1))
        .wrap()
        .and(1)
        .or(topBit(old, c.width(0)).shl(11)),
  );
  const signed = (c: SemContext, value: Expr): Expr => {
    const bits = c.width(0);
    return bits === 8 ? value.ext8S() : bits === 16 ? value.ext16S() : value;
  };
  shift(
    'sar',
    (c, value, count) => signed(c, value).shrS(count),
    (c, old, _result, count) => signed(c, old).shrS(count.sub(1)).wrap().and(1),
  );

  const rotate = (name: string, left: boolean): void => {
    table.define(name, (c) => {
      const bits = c.width(0);
      const { count, wide } = shiftCount(c, 1);
      const { result } = c.rmw(0, (value) => {
        if (bits >= 32) return left ? value.rotl(wide) : value.rotr(wide);
        const n = c.let(count.and(bits - 1));
        const back = c.let(
          i32(bits)
            .sub(n)
            .and(bits - 1),
        );
        return left ? value.shl(n).or(value.shrU(back)) : value.shrU(n).or(value.shl(back));
      });
      c.f.if(count.ne(0), () => {
        const top = c.let(topBit(result, bits));
        if (left) {
          const carry = c.let(result.wrap().and(1));
          c.setEflags(CF | OF, carry.or(carry.xor(top).shl(11)));
        } else {
          const next = result
            .shrU(bits - 2)
            .wrap()
            .and(1);
          c.setEflags(CF | OF, top.or(top.xor(next).shl(11)));
        }
      });
    });
  };
  rotate('rol', true);
  rotate('ror', false);

  /** Rotates through carry: an operand of bits + 1. */
  const rotateCarry = (name: string, left: boolean): void => {
    table.define(name, (c) => {
      const bits = c.width(0);
      const { count } = shiftCount(c, 1);
      const carryIn = c.carry();
      const n = bits < 32 ? c.let(count.remU(bits + 1)) : count;
      const wide = c.let(n.extU());
      const carryOut = c.f.local(I64);
      const { old, result } = c.rmw(0, (value) => {
        if (bits < 64) {
          const all = c.let(value.extU().or(carryIn.extU().shl(bits)));
          const back = i32(bits + 1)
            .sub(n)
            .extU();
          const turned = c.let(left ? all.shl(wide).or(all.shrU(back)) : all.shrU(wide).or(all.shl(back)));
          c.f.set(carryOut, turned.shrU(bits).and(1));
          return turned.wrap();
        }
        // 64 bits: counts 1..63; shifts by 64 - n and 65 - n, the latter in two steps.
        const opposite = c.let(c.constant(64, 64).sub(wide));
        const zero = wide.eqz();
        const carry = carryIn.extU();
        if (left) {
          c.f.set(carryOut, zero.select(carry, value.shrU(opposite).and(1)));
          return zero.select(
            value,
            value
              .shl(wide)
              .or(carry.shl(wide.sub(1)))
              .or(value.shrU(1).shrU(opposite)),
          );
        }
        c.f.set(carryOut, zero.select(carry, value.shrU(wide.sub(1)).and(1)));
        return zero.select(value, value.shrU(wide).or(carry.shl(opposite)).or(value.shl(1).shl(opposite)));
      });
      c.f.if(count.ne(0), () => {
        const carry = c.let(carryOut.wrap());
        const overflow = left ? topBit(result, bits).xor(carry) : topBit(old, bits).xor(carryIn);
        // RCR: OF is the exclusive or of the result's two highest bits, which are the carry and the old top bit for a count of 1.
        c.setEflags(
          CF | OF,
          carry.or(
            (left
              ? overflow
              : topBit(result, bits).xor(
                  result
                    .shrU(bits - 2)
                    .wrap()
                    .and(1),
                )
            ).shl(11),
          ),
        );
      });
    });
  };
  rotateCarry('rcl', true);
  rotateCarry('rcr', false);

  const double = (name: string, left: boolean): void => {
    table.define(name, (c) => {
      const bits = c.width(0);
      const fill = c.read(1);
      const { count, wide } = shiftCount(c, 2);
      const carry = c.f.local(I64);
      const { old, result } = c.rmw(0, (value) => {
        if (bits === 64) {
          const back = c.let(c.constant(64, 64).sub(wide));
          const zero = wide.eqz();
          c.f.set(carry, left ? value.shrU(back).and(1) : value.shrU(wide.sub(1)).and(1));
          return zero.select(value, left ? value.shl(wide).or(fill.shrU(back)) : value.shrU(wide).or(fill.shl(back)));
        }
        // 16 and 32 bits: both operands side by side in 64 bits. A 16-bit count above 16 goes on into the destination again.
        const n = c.let(count.extU());
        if (left) {
          const pair =
            bits === 32 ? value.extU().shl(32).or(fill.extU()) : value.extU().shl(48).or(fill.extU().shl(32)).or(value.extU().shl(16));
          const both = c.let(pair);
          c.f.set(carry, both.shrU(c.constant(64, 64).sub(n)).and(1));
          return both
            .shl(n)
            .shrU(64 - bits)
            .wrap();
        }
        const pair = bits === 32 ? fill.extU().shl(32).or(value.extU()) : value.extU().shl(32).or(fill.extU().shl(16)).or(value.extU());
        const both = c.let(pair);
        c.f.set(carry, both.shrU(n.sub(1)).and(1));
        return both.shrU(n).wrap();
      });
      c.f.if(count.ne(0), () => c.setFlagsBits(bits, result, carry.wrap().or(topBit(old, bits).xor(topBit(result, bits)).shl(11))));
    });
  };
  double('shld', true);
  double('shrd', false);

  const bitTest = (name: string, change: ((value: Expr, mask: Expr) => Expr) | null): void => {
    table.define(name, (c) => {
      const bits = c.width(0);
      const log = bits === 64 ? 6 : bits === 32 ? 5 : 4;
      const index = c.read(1);
      const bit = c.let((index.type === I64 && bits !== 64 ? index.wrap() : index).and(bits - 1));
      const wideBit = bits === 64 && bit.type !== I64 ? c.let(bit.extU()) : bit;
      const mask = c.let(c.constant(bits, 1).shl(wideBit));
      const fromRegister = c.kind(1) === OPERAND_KIND.reg;
      let old: Expr;
      if (c.isMemory(0)) {
        // A register index reaches memory on both sides of the operand.
        let address = c.linearAddress();
        if (fromRegister) {
          const far = c.let(
            address.add(
              c
                .signExtend(index, bits)
                .shrS(log)
                .shl(log - 3),
            ),
          );
          address = c.form.addressing === ADDRESS.a64 ? far : c.let(far.and(0xffff_ffff));
        }
        old = change ? c.rmwMemory(bits, address, (value) => change(value, mask), c.form.lock).old : c.load(bits, address);
      } else old = change ? c.rmw(0, (value) => change(value, mask)).old : c.read(0);
      c.setEflags(CF, old.shrU(wideBit).wrap().and(1));
    });
  };
  bitTest('bt', null);
  bitTest('bts', (value, mask) => value.or(mask));
  bitTest('btr', (value, mask) => value.and(mask.not()));
  bitTest('btc', (value, mask) => value.xor(mask));

  const scan = (name: string, find: (c: SemContext, value: Expr) => Expr): void => {
    table.define(name, (c) => {
      const source = c.read(1);
      const bits = c.width(0);
      // A zero source leaves the destination as it was.
      c.f.if(source.eqz().eqz(), () => c.write(0, find(c, source)));
      c.setFlags(FLAGS.logic, bits, source);
    });
  };
  scan('bsf', (_c, value) => value.ctz());
  scan('bsr', (c, value) => c.constant(c.width(0) === 64 ? 64 : 32, c.width(0) === 64 ? 63 : 31).sub(value.clz()));
  table.define('popcnt', (c) => {
    const source = c.read(1);
    c.write(0, source.popcnt());
    c.setEflags(ARITHMETIC_FLAGS, source.eqz().mul(ZF));
  });
  table.define('crc32', (c) => {
    const bits = c.width(1);
    const data = c.read(1);
    const crc = c.read(0);
    const result = c.call('crc32c', [crc.wrap(), data.type === I64 ? data : data.extU(), i32(bits / 8)]);
    c.write(0, c.width(0) === 64 ? result.extU() : result);
  });
}
