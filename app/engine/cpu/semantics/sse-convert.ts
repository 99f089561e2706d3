// SPDX-License-Identifier: Apache-2.0
/**
 * SSE conversions among single, double and signed integers, and ROUNDSS to ROUNDPD (Intel SDM volume 2).
 *
 * Conversions that read or write an MMX register enter MMX state, also when they then report #XM; those from memory do not.
 */
import { type Expr, type F32, I32, I64, i32, i64, operator, V128, v128 } from '../../wasm/expr.ts';
import type { SemContext, SemanticsTable } from './context.ts';
import {
  DOUBLE,
  type Element,
  exactly,
  extract,
  fConst,
  isNative,
  isNormal,
  isZero,
  mxcsr,
  nativeOr,
  notDenormal,
  replace,
  SINGLE,
  vAllTrue,
  vAnd,
  vCompare,
  vConst,
  vOrdinary,
} from './sse-lanes.ts';
import { enterMmx, writeMmx } from './vector-operands.ts';

/** PE is masked and set, so an inexact conversion changes no flag. */
const inexactIsSilent = (c: SemContext): Expr => mxcsr(c).and(0x1020).eq(0x1020);
const truncates = (truncate: boolean): Expr => i32(truncate ? 1 : 0);

/** One element (bits) to a signed integer of `bits`, in its travel type, bound. */
function toInteger(c: SemContext, e: Element, bits: number, truncate: boolean, value: Expr): Expr {
  const f = c.f;
  const type = c.typeOf(bits);
  const x = value.reinterpret();
  const rounded = c.let(truncate ? x.trunc() : x.nearest());
  const result = c.let(rounded.truncSatS(type));
  const limit = 2 ** (bits - 1);
  // The largest float below the limit passes, the limit itself does not; NaN fails both comparisons.
  const inRange = rounded.lt(fConst(e, limit)).and(rounded.ge(fConst(e, -limit)));
  let fast = inRange.and(inexactIsSilent(c).or(rounded.eq(x)));
  if (!truncate) fast = fast.and(mxcsr(c).and(0x6000).eqz());
  f.if(fast.eqz(), () =>
    exactly(c, () => {
      const exact = c.call(`sseToInt${e.bits}`, [c.cpu, truncates(truncate), i32(bits), value]);
      f.set(result, bits === 64 ? exact : exact.wrap());
    }),
  );
  return result;
}

function fromInteger(c: SemContext, e: Element): void {
  const f = c.f;
  const bits = c.width(1);
  const value = c.read(1);
  const result = c.let(value.convertS(e.float as typeof F32).reinterpret());
  if (!(e.bits === 64 && bits === 32)) {
    // Exact when the magnitude fits into the significand.
    const limit = e.bits === 64 ? i64(1n << 53n) : c.constant(bits, 2 ** 24);
    const span = e.bits === 64 ? i64(1n << 54n) : c.constant(bits, 2 ** 25);
    f.if(isNative(c).or(value.add(limit).leU(span)).eqz(), () =>
      exactly(c, () => f.set(result, c.call(`sseFromInt${e.bits}`, [c.cpu, value.extS()]))),
    );
  }
  c.writeLow(0, e.bits, result);
}

/** One single (bits) to double (bits), bound. */
function widen(c: SemContext, value: Expr): Expr {
  const x = value.reinterpret();
  const result = c.let(x.promote().reinterpret());
  c.f.if(notDenormal(SINGLE, value).and(x.eq(x)).eqz(), () => exactly(c, () => c.f.set(result, c.call('sseCvt32to64', [c.cpu, value]))));
  return result;
}

/** Both low singles of a 64-bit pattern to doubles, as one operation. */
function widenPair(c: SemContext): void {
  const f = c.f;
  const value = c.readLow(1, 64);
  const narrow = c.let(operator(V128, 0xfd012, [value]));
  const r = c.let(operator(V128, 0xfd05f, [narrow]));
  f.if(vAllTrue(SINGLE, vOrdinary(SINGLE, narrow)).eqz(), () =>
    exactly(c, () => {
      for (let n = 0; n < 2; n++) f.set(r, replace(DOUBLE, r, n, c.call('sseCvt32to64', [c.cpu, extract(SINGLE, narrow, n)])));
    }),
  );
  c.writeV(0, r);
}

function narrowScalar(c: SemContext): void {
  const value = c.readLow(1, 64);
  const x = value.reinterpret();
  const result = c.let(x.demote().reinterpret());
  const plain = isNormal(SINGLE, result).or(isZero(value));
  c.f.if(plain.and(nativeOr(c, () => result.reinterpret().promote().eq(x))).eqz(), () =>
    exactly(c, () => c.f.set(result, c.call('sseCvt64to32', [c.cpu, value]))),
  );
  c.writeLow(0, 32, result);
}

function narrowPair(c: SemContext): void {
  const f = c.f;
  const wide = c.readV(1);
  const r = f.local(V128);
  f.set(r, v128(new Uint8Array(16)));
  exactly(c, () => {
    for (let n = 0; n < 2; n++) f.set(r, replace(SINGLE, r, n, c.call('sseCvt64to32', [c.cpu, extract(DOUBLE, wide, n)])));
  });
  c.writeV(0, r);
}

/** Lanes of `source` to 32-bit integers in the low lanes of a zero vector. */
function toIntegerLanes(c: SemContext, e: Element, truncate: boolean, source: Expr): Expr {
  const f = c.f;
  const r = f.local(V128);
  f.set(r, v128(new Uint8Array(16)));
  const slow = (): void =>
    exactly(c, () => {
      for (let n = 0; n < e.lanes; n++) {
        f.set(r, replace(SINGLE, r, n, c.call(`sseToInt${e.bits}`, [c.cpu, truncates(truncate), i32(32), extract(e, source, n)]).wrap()));
      }
    });
  const rounding = e.bits === 32 ? (truncate ? 0xfd069 : 0xfd06a) : truncate ? 0xfd07a : 0xfd094;
  const rounded = c.let(operator(V128, rounding, [source]));
  const limit = 2 ** 31;
  const inRange = vAllTrue(e, vAnd(vCompare(e, 'lt', rounded, vConst(e, limit)), vCompare(e, 'ge', rounded, vConst(e, -limit))));
  const silent = truncate ? inexactIsSilent(c) : mxcsr(c).and(0x7020).eq(0x1020);
  f.if(silent.and(inRange), () => f.set(r, operator(V128, e.bits === 32 ? 0xfd0f8 : 0xfd0fc, [rounded])), slow);
  return r;
}

/** Four integers to singles; exact in value and flags. */
function integersToSingles(c: SemContext): void {
  const f = c.f;
  const source = c.readV(1);
  const r = c.let(operator(V128, 0xfd0fa, [source]));
  f.if(isNative(c).eqz(), () =>
    exactly(c, () => {
      for (let n = 0; n < 4; n++) f.set(r, replace(SINGLE, r, n, c.call('sseFromInt32', [c.cpu, extract(SINGLE, source, n).extS()])));
    }),
  );
  c.writeV(0, r);
}

function pairFromIntegers(c: SemContext, e: Element): void {
  const f = c.f;
  const source = c.readLow(1, 64);
  if (!c.isMemory(1)) enterMmx(c);
  const halves = [c.let(source.wrap().extS()), c.let(source.shrS(32))];
  const lanes = halves.map((half) => {
    if (e.bits === 64) return c.let(half.convertS(e.float as typeof F32).reinterpret());
    const result = f.local(I32);
    f.set(result, half.convertS(e.float as typeof F32).reinterpret());
    return result;
  });
  if (e.bits === 32) {
    f.if(isNative(c).eqz(), () =>
      exactly(c, () => {
        halves.forEach((half, n) => {
          f.set(lanes[n], c.call('sseFromInt32', [c.cpu, half]));
        });
      }),
    );
    c.writeLow(0, 64, lanes[0].extU().or(lanes[1].extU().shl(32)));
  } else {
    c.writeLow(0, 64, lanes[0]);
    c.writeHigh(0, lanes[1]);
  }
}

function pairToMmx(c: SemContext, e: Element, truncate: boolean): void {
  const source = e.bits === 64 ? c.readV(1) : c.let(operator(V128, 0xfd012, [c.readLow(1, 64)]));
  const r = c.f.local(I64);
  enterMmx(c);
  exactly(c, () => {
    const lane = (n: number): Expr => c.call(`sseToInt${e.bits}`, [c.cpu, truncates(truncate), i32(32), extract(e, source, n)]);
    const low = lane(0);
    const high = lane(1);
    c.f.set(r, low.and(0xffff_ffff).or(high.shl(32)));
  });
  writeMmx(c, 0, r);
}

/** ROUNDSS and its family: `sseRound32`/`64` do one element. */
function roundScalar(c: SemContext, e: Element): void {
  const control = c.immediate(2);
  const value = c.readLow(1, e.bits);
  const result = c.f.local(e.integer);
  exactly(c, () => c.f.set(result, c.call(`sseRound${e.bits}`, [c.cpu, control, value])));
  c.writeLow(0, e.bits, result);
}
function roundPacked(c: SemContext, e: Element): void {
  const control = c.immediate(2);
  const source = c.readV(1);
  const r = c.f.local(V128);
  exactly(c, () => {
    for (let n = 0; n < e.lanes; n++) c.f.set(r, replace(e, r, n, c.call(`sseRound${e.bits}`, [c.cpu, control, extract(e, source, n)])));
  });
  c.writeV(0, r);
}

export function defineSseConvert(table: SemanticsTable): void {
  table.define('cvtsi2ss', (c) => fromInteger(c, SINGLE));
  table.define('cvtsi2sd', (c) => fromInteger(c, DOUBLE));
  for (const truncate of [false, true]) {
    const t = truncate ? 't' : '';
    table.define(`cvt${t}ss2si`, (c) => c.write(0, toInteger(c, SINGLE, c.width(0), truncate, c.readLow(1, 32))));
    table.define(`cvt${t}sd2si`, (c) => c.write(0, toInteger(c, DOUBLE, c.width(0), truncate, c.readLow(1, 64))));
    table.define(`cvt${t}ps2dq`, (c) => c.writeV(0, toIntegerLanes(c, SINGLE, truncate, c.readV(1))));
    table.define(`cvt${t}pd2dq`, (c) => c.writeV(0, toIntegerLanes(c, DOUBLE, truncate, c.readV(1))));
    table.define(`cvt${t}ps2pi`, (c) => pairToMmx(c, SINGLE, truncate));
    table.define(`cvt${t}pd2pi`, (c) => pairToMmx(c, DOUBLE, truncate));
  }
  table.define('cvtss2sd', (c) => c.writeLow(0, 64, widen(c, c.readLow(1, 32))));
  table.define('cvtps2pd', widenPair);
  table.define('cvtsd2ss', narrowScalar);
  table.define('cvtpd2ps', narrowPair);
  table.define('cvtdq2ps', integersToSingles);
  table.define('cvtdq2pd', (c) => c.writeV(0, operator(V128, 0xfd0fe, [operator(V128, 0xfd012, [c.readLow(1, 64)])])));
  table.define('cvtpi2ps', (c) => pairFromIntegers(c, SINGLE));
  table.define('cvtpi2pd', (c) => pairFromIntegers(c, DOUBLE));
  for (const [e, s, p] of [
    [SINGLE, 'ss', 'ps'],
    [DOUBLE, 'sd', 'pd'],
  ] as const) {
    table.define(`round${s}`, (c) => roundScalar(c, e));
    table.define(`round${p}`, (c) => roundPacked(c, e));
  }
}
