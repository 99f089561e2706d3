// SPDX-License-Identifier: Apache-2.0
/**
 * Unpacking: the 32-, 64- and 80-bit formats and integers into operand slots (see `state.ts`), exactly.
 *
 * NaNs keep their payload at the top of the significand and their signalling bit. Of the 80-bit encodings that today's x87 does not
 * support (SDM volume 1 §8.2.2), unnormals, pseudo-NaNs and pseudo-infinities are class `unsupported`; pseudo-denormals are denormal.
 */
import { type Expr, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import type { FunctionBuilder } from '../../wasm/function-builder.ts';
import type { CoreFunctions } from '../functions.ts';
import { BIAS, CLS, EXP_MAX, INTEGER_BIT, QUIET_BIT, SLOT } from './state.ts';

function storeSlot(f: FunctionBuilder, slot: Expr, cls: Expr | number, exp: Expr | number, sig: Expr): void {
  f.store('i32', slot, typeof cls === 'number' ? i32(cls) : cls, SLOT.cls);
  f.store('i32', slot, typeof exp === 'number' ? i32(exp) : exp, SLOT.exp);
  f.store('i64', slot, sig, SLOT.sig);
}

/**
 * Body shared by the two interchange formats: `fraction` already stands at the top of the significand without its integer bit,
 * `exponent` is biased as encoded, `top` the format's largest exponent.
 */
function unpackInterchange(f: FunctionBuilder, slot: Expr, exponent: Expr, fraction: Expr, daz: Expr, top: number): void {
  const rebias = BIAS - (top >> 1);
  f.if(exponent.eq(top), () => {
    const nan = fraction.and(i64(QUIET_BIT)).eqz().select(i32(CLS.snan), i32(CLS.qnan));
    storeSlot(f, slot, fraction.eqz().select(i32(CLS.inf), nan), EXP_MAX, fraction.or(i64(INTEGER_BIT)));
    f.return();
  });
  f.if(exponent.eqz(), () => {
    f.if(fraction.eqz().or(daz), () => {
      storeSlot(f, slot, CLS.zero, 0, i64(0));
      f.return();
    });
    // The fraction has no integer bit: its first bit weighs as much as the integer bit of the smallest normal number, halved.
    const shift = f.let(fraction.clz());
    storeSlot(f, slot, CLS.finite | CLS.denormal, i32(rebias + 1).sub(shift.wrap()), fraction.shl(shift));
    f.return();
  });
  storeSlot(f, slot, CLS.finite, exponent.add(rebias), fraction.or(i64(INTEGER_BIT)));
}

export function defineUnpack(core: CoreFunctions): void {
  // (slot, bits, daz): `daz` non-zero treats denormals as zeros.
  core.define('fpUnpack32', [I32, I32, I32], [], (f) => {
    const [slot, bits, daz] = [f.param(0), f.param(1), f.param(2)];
    f.store('i32', slot, bits.shrU(31), SLOT.sign);
    const exponent = f.let(bits.shrU(23).and(0xff));
    const fraction = f.let(bits.and(0x7fffff).extU().shl(40));
    unpackInterchange(f, slot, exponent, fraction, daz, 0xff);
  });
  core.define('fpUnpack64', [I32, I64, I32], [], (f) => {
    const [slot, bits, daz] = [f.param(0), f.param(1), f.param(2)];
    f.store('i32', slot, bits.shrU(63).wrap(), SLOT.sign);
    const exponent = f.let(bits.shrU(52).wrap().and(0x7ff));
    const fraction = f.let(bits.shl(12).shrU(1));
    unpackInterchange(f, slot, exponent, fraction, daz, 0x7ff);
  });
  // (slot, significand, sign and exponent)
  core.define('fpUnpack80', [I32, I64, I32], [], (f) => {
    const [slot, sig, se] = [f.param(0), f.param(1), f.param(2)];
    f.store('i32', slot, se.shrU(15).and(1), SLOT.sign);
    const exponent = f.let(se.and(EXP_MAX));
    f.if(sig.ltS(0), () => {
      f.if(exponent.ne(EXP_MAX), () => {
        const pseudo = exponent.eqz();
        storeSlot(f, slot, pseudo.select(i32(CLS.denormal), i32(CLS.finite)), exponent.or(exponent.eqz()), sig);
        f.return();
      });
      const nan = sig.and(i64(QUIET_BIT)).eqz().select(i32(CLS.snan), i32(CLS.qnan));
      storeSlot(f, slot, sig.shl(1).eqz().select(i32(CLS.inf), nan), EXP_MAX, sig);
      f.return();
    });
    f.if(exponent.ne(0), () => {
      storeSlot(f, slot, CLS.unsupported, exponent, sig);
      f.return();
    });
    f.if(sig.eqz(), () => {
      storeSlot(f, slot, CLS.zero, 0, sig);
      f.return();
    });
    const shift = f.let(sig.clz());
    storeSlot(f, slot, CLS.finite | CLS.denormal, i32(1).sub(shift.wrap()), sig.shl(shift));
  });
  // (slot, signed integer)
  core.define('fpUnpackInt', [I32, I64], [], (f) => {
    const [slot, value] = [f.param(0), f.param(1)];
    f.store('i32', slot, value.shrU(63).wrap(), SLOT.sign);
    f.if(value.eqz(), () => {
      storeSlot(f, slot, CLS.zero, 0, i64(0));
      f.return();
    });
    const magnitude = f.let(value.ltS(0).select(value.neg(), value));
    const shift = f.let(magnitude.clz());
    storeSlot(f, slot, CLS.finite, i32(BIAS + 63).sub(shift.wrap()), magnitude.shl(shift));
  });
}
