// SPDX-License-Identifier: Apache-2.0
/** Wide integer arithmetic that WebAssembly has no operators for, as core functions. */
import { type Expr, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import { callExpr, type FunctionBuilder, load } from '../../wasm/function-builder.ts';
import type { CoreFunctions } from '../functions.ts';
import { DIVIDE_RESULT } from './alu.ts';

/** Reflected CRC-32C polynomial (SDM volume 2, CRC32). */
const CRC32C = 0x82f63b78 | 0;

export function defineIntegerCore(core: CoreFunctions): void {
  const mulhiU = core.define('mulhi_u', [I64, I64], [I64], (f) => {
    const mask = 0xffff_ffff;
    const a0 = f.let(f.param(0).and(mask));
    const a1 = f.let(f.param(0).shrU(32));
    const b0 = f.let(f.param(1).and(mask));
    const b1 = f.let(f.param(1).shrU(32));
    const middle = f.let(a1.mul(b0).add(a0.mul(b0).shrU(32)));
    const other = f.let(a0.mul(b1).add(middle.and(mask)));
    f.return(a1.mul(b1).add(middle.shrU(32)).add(other.shrU(32)));
  });
  core.define('mulhi_s', [I64, I64], [I64], (f) => {
    const a = f.param(0);
    const b = f.param(1);
    f.return(callExpr(I64, mulhiU, [a, b]).sub(a.shrS(63).and(b)).sub(b.shrS(63).and(a)));
  });

  // (cpu, high, low, divisor) → 1 on a divide error; quotient and remainder in the vCPU block.
  const div128 = core.define('div128', [I32, I64, I64, I64], [I32], (f) => {
    const cpu = f.param(0);
    const divisor = f.param(3);
    const high = f.let(f.param(1));
    const low = f.let(f.param(2));
    f.if(high.geU(divisor), () => f.return(i32(1)));
    f.if(high.eqz(), () => {
      const quotient = f.let(low.divU(divisor));
      storeResult(f, cpu, quotient, low.sub(quotient.mul(divisor)));
      f.return(i32(0));
    });
    const carry = f.local(I64);
    const count = f.local(I32);
    f.set(count, 64);
    f.loop((again) => {
      f.set(carry, high.shrS(63));
      f.set(high, high.shl(1).or(low.shrU(63)));
      f.set(low, low.shl(1));
      f.if(carry.ne(0).or(high.geU(divisor)), () => {
        f.set(high, high.sub(divisor));
        f.set(low, low.or(1));
      });
      f.set(count, count.sub(1));
      f.brIf(again, count);
    });
    storeResult(f, cpu, low, high);
    f.return(i32(0));
  });
  core.define('idiv128', [I32, I64, I64, I64], [I32], (f) => {
    const cpu = f.param(0);
    const divisor = f.param(3);
    const negative = f.let(f.param(1).shrS(63));
    const low = f.let(f.param(2).xor(negative).sub(negative));
    // Negation of 128 bits: the carry into the upper half is there only when the lower half is zero.
    const high = f.let(
      f
        .param(1)
        .xor(negative)
        .add(negative.and(f.param(2).eqz().extU())),
    );
    const divisorSign = f.let(divisor.shrS(63));
    const magnitude = f.let(divisor.xor(divisorSign).sub(divisorSign));
    f.if(callExpr(I32, div128, [cpu, high, low, magnitude]), () => f.return(i32(1)));
    const sign = f.let(negative.xor(divisorSign));
    const raw = f.let(load('i64', cpu, DIVIDE_RESULT.quotient));
    const quotient = f.let(raw.xor(sign).sub(sign));
    // The quotient must have the sign that it should have.
    f.if(raw.ne(0).and(quotient.xor(sign).ltS(0)), () => f.return(i32(1)));
    const rest = f.let(load('i64', cpu, DIVIDE_RESULT.remainder));
    storeResult(f, cpu, quotient, rest.xor(negative).sub(negative));
    f.return(i32(0));
  });

  core.define('bswap64', [I64], [I64], (f) => {
    const v = f.let(f.param(0));
    f.set(
      v,
      v
        .shrU(8)
        .and(i64(0x00ff00ff00ff00ffn))
        .or(v.and(i64(0x00ff00ff00ff00ffn)).shl(8)),
    );
    f.set(
      v,
      v
        .shrU(16)
        .and(i64(0x0000ffff0000ffffn))
        .or(v.and(i64(0x0000ffff0000ffffn)).shl(16)),
    );
    f.return(v.rotl(32));
  });

  // (crc, data, bytes): CRC-32C over the low `bytes` bytes of data.
  core.define('crc32c', [I32, I64, I32], [I32], (f) => {
    const crc = f.let(f.param(0));
    const data = f.let(f.param(1));
    const count = f.let(f.param(2).shl(3));
    f.loop((again) => {
      const bit = crc.xor(data.wrap()).and(1);
      f.set(crc, bit.select(crc.shrU(1).xor(CRC32C), crc.shrU(1)));
      f.set(data, data.shrU(1));
      f.set(count, count.sub(1));
      f.brIf(again, count);
    });
    f.return(crc);
  });
}

function storeResult(f: FunctionBuilder, cpu: Expr, quotient: Expr, remainder: Expr): void {
  f.store('i64', cpu, quotient, DIVIDE_RESULT.quotient);
  f.store('i64', cpu, remainder, DIVIDE_RESULT.remainder);
}
