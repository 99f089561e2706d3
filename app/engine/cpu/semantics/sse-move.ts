// SPDX-License-Identifier: Apache-2.0
/**
 * Moves of vectors and of their parts, masks of sign bits, and conditional stores (Intel SDM volume 2).
 *
 * Non-temporal moves are ordinary ones. Alignment of 128-bit memory operands is checked by `readV` and `writeV`.
 */
import { CTX, REG } from '../../memory/vcpu-context.ts';
import { type Expr, I32, v128 } from '../../wasm/expr.ts';
import { load } from '../../wasm/function-builder.ts';
import { replaceLane, shuffleLanes, simd } from '../../wasm/simd.ts';
import { OPERAND_KIND as K } from '../isa/row.ts';
import type { SemanticsTable, SemContext } from './context.ts';
import { enterMmx, isMmx, readVector, writeMmx } from './vector-operands.ts';

const zero = (): Expr => v128(new Uint8Array(16));

/** Writes a scalar to the lowest lane of an XMM register and clears the rest. */
function writeZeroExtended(c: SemContext, n: number, value: Expr): void {
  c.writeV(n, replaceLane(value.type === I32 ? 'i32x4' : 'i64x2', zero(), 0, value));
}

/** MOVSS and MOVSD: between registers they merge, from memory they clear the rest. */
function moveScalar(c: SemContext, bits: 32 | 64): void {
  const value = c.readLow(1, bits);
  if (c.isMemory(1)) writeZeroExtended(c, 0, value);
  else c.writeLow(0, bits, value);
}

/** MASKMOVQ and MASKMOVDQU: stores those bytes of operand 0 to DS:rDI whose byte in operand 1 has its sign bit set. */
function storeMasked(c: SemContext): void {
  const mmx = isMmx(c, 0);
  const f = c.f;
  const sign = simd('i8x16.bitmask', readVector(c, 1));
  const mask = f.local(I32);
  f.set(mask, mmx ? sign.and(0xff) : sign);
  const pointer = c.gpr(REG.rdi, c.form.addressSize);
  const address = c.let(c.sourceSegmentBase().add(pointer.extU()));
  const linear = (offset: Expr): Expr => {
    const sum = address.add(offset.extU());
    return c.mode === 64 ? sum : sum.and(0xffff_ffff);
  };
  // Entered before the access, as AMD's processors do: seen only when it faults.
  if (mmx) enterMmx(c);
  // Processors may or may not look at pages of which no byte is stored: this one does, whatever the mask.
  c.probeWrite(address, mmx ? 8 : 16);
  f.if(mask, () => {
    const from = c.let(c.vectorSlot(0));
    const at = f.local(I32);
    f.loop((again) => {
      f.set(at, mask.ctz());
      c.store(8, linear(at), load('i32_8u', from.add(at), mmx ? CTX.fpr : CTX.xmm));
      f.set(mask, mask.and(mask.sub(1)));
      f.brIf(again, mask);
    });
  });
}

export function defineSseMove(table: SemanticsTable): void {
  table.define('movups movupd movaps movapd movdqa movdqu lddqu movntps movntpd movntdq movntdqa', (c) => c.writeV(0, c.readV(1)));
  table.define('movss', (c) => moveScalar(c, 32));
  table.define('movsd', (c) => moveScalar(c, 64));

  // Low and high halves; the rows with registers only have names of their own.
  table.define('movlps movlpd', (c) => c.writeLow(0, 64, c.readLow(1, 64)));
  table.define('movhps movhpd', (c) => {
    if (c.isMemory(0)) c.store(64, c.linearAddress(), c.readHigh(1));
    else c.writeHigh(0, c.load(64, c.linearAddress()));
  });
  table.define('movhlps', (c) => c.writeLow(0, 64, c.readHigh(1)));
  table.define('movlhps', (c) => c.writeHigh(0, c.readLow(1, 64)));
  table.define('movddup', (c) => c.writeV(0, simd('i64x2.splat', c.readLow(1, 64))));
  const duplicate = (name: string, lanes: readonly number[]): void =>
    table.define(name, (c) => {
      const source = c.readV(1);
      c.writeV(0, shuffleLanes(4, source, source, lanes));
    });
  duplicate('movsldup', [0, 0, 2, 2]);
  duplicate('movshdup', [1, 1, 3, 3]);

  // MOVD and, with REX.W, MOVQ between general registers or memory and vectors.
  table.define('movd', (c) => {
    if (isMmx(c, 0)) writeMmx(c, 0, c.read(1).extU());
    else if (isMmx(c, 1)) {
      c.write(0, c.readLow(1, c.width(0)));
      enterMmx(c);
    } else if (c.kind(0) === K.xmmReg) writeZeroExtended(c, 0, c.read(1));
    else c.write(0, c.readLow(1, c.width(0)));
  });
  table.define('movq', (c) => {
    const value = c.readLow(1, 64);
    if (c.isMemory(0)) {
      c.writeLow(0, 64, value);
      if (isMmx(c, 1)) enterMmx(c);
    } else if (isMmx(c, 0)) writeMmx(c, 0, value);
    else writeZeroExtended(c, 0, value);
  });
  table.define('movntq', (c) => {
    c.store(64, c.linearAddress(), c.readLow(1, 64));
    enterMmx(c);
  });
  table.define('movq2dq', (c) => {
    writeZeroExtended(c, 0, c.readLow(1, 64));
    enterMmx(c);
  });
  table.define('movdq2q', (c) => writeMmx(c, 0, c.readLow(1, 64)));
  table.define('movnti', (c) => c.write(0, c.read(1)));
  table.define('maskmovq maskmovdqu', storeMasked);

  table.define('movmskps', (c) => c.write(0, simd('i32x4.bitmask', c.readV(1))));
  table.define('movmskpd', (c) => c.write(0, simd('i64x2.bitmask', c.readV(1))));
  table.define('pmovmskb', (c) => {
    const mask = simd('i8x16.bitmask', readVector(c, 1));
    c.write(0, isMmx(c, 1) ? mask.and(0xff) : mask);
    if (isMmx(c, 1)) enterMmx(c);
  });
}
