// SPDX-License-Identifier: Apache-2.0
/**
 * SSE to SSE4.1 floating-point arithmetic and comparison (Intel SDM volume 2; volume 1 §11.5 for exceptions).
 *
 * Native operations where they are exact in value and flags, else the soft-float core; see `sse-lanes.ts`. Conversions and rounding
 * are in `sse-convert.ts`.
 *
 * RCP and RSQRT are implementation-specific approximations: here they are the correctly rounded single-precision reciprocal and
 * reciprocal square root (of the double-precision quotient), well inside the promised relative error of 1.5 * 2^-12. Denormal
 * operands count as zeros, results below the normal range are zeros, and no exception is ever reported.
 */
import { CTX } from '../../memory/vcpu-context.ts';
import { type Expr, I32, i32, i64, operator, V128, v128 } from '../../wasm/expr.ts';
import { callExpr, ifElse, load } from '../../wasm/function-builder.ts';
import type { SemContext, SemanticsTable } from './context.ts';
import { defineSseConvert } from './sse-convert.ts';
import {
  DOUBLE,
  type Element,
  exactly,
  extract,
  fConst,
  isFiniteBits,
  isNative,
  isNormal,
  isZero,
  nativeOr,
  notDenormal,
  productIsExact,
  replace,
  shuffle,
  SINGLE,
  smallestNormal,
  vAllTrue,
  vAnd,
  vCompare,
  vConst,
  vOr,
  vOrdinary,
  VOP,
  vXor,
} from './sse-lanes.ts';

/** Operation codes of `fpOperate`. */
const OPERATE = { add: 0, mul: 1, sub: 4, div: 6, sqrt: 8 } as const;
type Operation = keyof typeof OPERATE;

/** Low element of the destination as bits, bound. */
function destinationLow(c: SemContext, e: Element): Expr {
  return c.let(load(e.bits === 32 ? 'i32' : 'i64', c.vectorSlot(0), CTX.xmm));
}

function nativeScalar(op: Operation, a: Expr, b: Expr): Expr {
  if (op === 'sqrt') return b.sqrt();
  return op === 'add' ? a.add(b) : op === 'sub' ? a.sub(b) : op === 'mul' ? a.mul(b) : a.div(b);
}

/** i32: bits `r` are exactly what hardware gives for `a op b`, with no flag but PE, and PE only when it is set already. */
function scalarIsNative(c: SemContext, e: Element, op: Operation, a: Expr, b: Expr, r: Expr): Expr {
  const [x, y, z] = [a.reinterpret(), b.reinterpret(), r.reinterpret()];
  switch (op) {
    case 'add':
    case 'sub': {
      const other = op === 'add' ? y : y.neg();
      const shadow = z.sub(x);
      const error = x.sub(z.sub(shadow)).add(other.sub(shadow));
      return notDenormal(e, a)
        .and(notDenormal(e, b))
        .and(isFiniteBits(e, r))
        .and(nativeOr(c, () => error.eq(fConst(e, 0))));
    }
    case 'mul': {
      const inRange = isNormal(e, r).or(isZero(r).and(isZero(a).or(isZero(b))));
      return notDenormal(e, a)
        .and(notDenormal(e, b))
        .and(inRange)
        .and(nativeOr(c, () => isZero(r).or(productIsExact(e, a, b))));
    }
    case 'div': {
      const inRange = isNormal(e, r)
        .and(isZero(b).eqz())
        .or(isZero(r).and(isZero(a)));
      const exact = (): Expr => isZero(r).or(productIsExact(e, r, b).and(z.mul(y).eq(x)));
      return notDenormal(e, a).and(notDenormal(e, b)).and(inRange).and(nativeOr(c, exact));
    }
    default:
      return notDenormal(e, b)
        .and(isNormal(e, r).or(isZero(r)))
        .and(nativeOr(c, () => isZero(r).or(productIsExact(e, r, r).and(z.mul(z).eq(y)))));
  }
}

function scalar(c: SemContext, e: Element, op: Operation): void {
  const b = c.readLow(1, e.bits);
  const a = op === 'sqrt' ? b : destinationLow(c, e);
  const r = c.let(nativeScalar(op, a.reinterpret(), b.reinterpret()).reinterpret());
  c.f.if(scalarIsNative(c, e, op, a, b, r).eqz(), () =>
    exactly(c, () => c.f.set(r, c.call(`sseOperate${e.bits}`, [c.cpu, i32(OPERATE[op]), a, b]))),
  );
  c.writeLow(0, e.bits, r);
}

/** i32: the native vector `r` is what hardware gives, PE set already. */
function packedIsNative(e: Element, op: Operation, a: Expr, b: Expr, r: Expr): Expr {
  const zero = vConst(e, 0);
  const magnitude = operator(V128, e.arithmetic, [r]);
  const finite = vCompare(e, 'lt', magnitude, vConst(e, Number.POSITIVE_INFINITY));
  // Above the smallest normal number; see `isNormal`.
  const normal = vAnd(finite, vCompare(e, 'gt', magnitude, vConst(e, smallestNormal(e))));
  const isZeroLane = (v: Expr): Expr => vCompare(e, 'eq', v, zero);
  const operands = op === 'sqrt' ? vOrdinary(e, b) : vAnd(vOrdinary(e, a), vOrdinary(e, b));
  switch (op) {
    case 'add':
    case 'sub':
      return vAllTrue(e, vAnd(operands, finite));
    case 'mul':
      return vAllTrue(e, vAnd(operands, vOr(normal, vAnd(isZeroLane(r), vOr(isZeroLane(a), isZeroLane(b))))));
    case 'div':
      return vAllTrue(e, vAnd(operands, vOr(normal, vAnd(isZeroLane(r), isZeroLane(a)))));
    default:
      return vAllTrue(e, vAnd(operands, vOr(normal, isZeroLane(r))));
  }
}

/** Applies lane operations to the vectors `a` and `b` (bound) and gives the result, bound. `ops` repeats over the lanes. */
function packed(c: SemContext, e: Element, ops: readonly Operation[], a: Expr, b: Expr): Expr {
  const f = c.f;
  const r = f.local(V128);
  f.block((done) => {
    f.if(isNative(c), () => {
      // An alternating subtract and add is an add with every other sign turned.
      const mixed = ops.length > 1;
      const operation = mixed ? 'add' : ops[0];
      const other = mixed ? f.let(vXor(b, signMask(e, ops))) : b;
      const args = operation === 'sqrt' ? [other] : [a, other];
      f.set(r, operator(V128, e.arithmetic + VOP[operation], args));
      f.brIf(done, packedIsNative(e, operation, a, other, r));
    });
    exactly(c, () => {
      const lanes: Expr[] = [];
      for (let n = 0; n < e.lanes; n++) {
        const op = ops[n % ops.length];
        lanes.push(c.call(`sseOperate${e.bits}`, [c.cpu, i32(OPERATE[op]), extract(e, op === 'sqrt' ? b : a, n), extract(e, b, n)]));
      }
      for (let n = 0; n < e.lanes; n++) f.set(r, replace(e, r, n, lanes[n]));
    });
  });
  return r;
}

function signMask(e: Element, ops: readonly Operation[]): Expr {
  const bytes = new Uint8Array(16);
  for (let n = 0; n < e.lanes; n++) if (ops[n % ops.length] === 'sub') bytes[(n + 1) * (e.bits / 8) - 1] = 0x80;
  return v128(bytes);
}

/** Byte numbers for `shuffle` from element numbers. */
function elements(e: Element, order: readonly number[]): number[] {
  const size = e.bits / 8;
  return order.flatMap((n) => Array.from({ length: size }, (_, k) => n * size + k));
}

function horizontal(c: SemContext, e: Element, op: Operation): void {
  const b = c.readV(1);
  const a = c.readV(0);
  const even = Array.from({ length: e.lanes }, (_, n) => n * 2);
  const left = c.let(shuffle(a, b, elements(e, even)));
  const right = c.let(
    shuffle(
      a,
      b,
      elements(
        e,
        even.map((n) => n + 1),
      ),
    ),
  );
  c.writeV(0, packed(c, e, [op], left, right));
}

function minMaxScalar(c: SemContext, e: Element, maximum: boolean): void {
  const b = c.readLow(1, e.bits);
  const a = destinationLow(c, e);
  const [x, y] = [a.reinterpret(), b.reinterpret()];
  const r = c.let((maximum ? x.gt(y) : x.lt(y)).select(a, b));
  const ordinary = notDenormal(e, a).and(notDenormal(e, b)).and(x.eq(x)).and(y.eq(y));
  c.f.if(ordinary.eqz(), () => exactly(c, () => c.f.set(r, c.call(`sseMinMax${e.bits}`, [c.cpu, i32(maximum ? 1 : 0), a, b]))));
  c.writeLow(0, e.bits, r);
}

function minMaxPacked(c: SemContext, e: Element, maximum: boolean): void {
  const b = c.readV(1);
  const a = c.readV(0);
  const r = c.let(operator(V128, e.arithmetic + (maximum ? VOP.pmax : VOP.pmin), [b, a]));
  c.f.if(vAllTrue(e, vAnd(vOrdinary(e, a), vOrdinary(e, b))).eqz(), () =>
    exactly(c, () => {
      for (let n = 0; n < e.lanes; n++) {
        c.f.set(
          r,
          replace(
            e,
            r,
            n,
            callExpr(e.integer, c.functions.index(`sseMinMax${e.bits}`), [c.cpu, i32(maximum ? 1 : 0), extract(e, a, n), extract(e, b, n)]),
          ),
        );
      }
    }),
  );
  c.writeV(0, r);
}

/** Predicates 0..7 as sets of `sseCompare` outcomes (bit 0 equal, 1 less, 2 greater, 3 unordered), four bits each. */
const PREDICATES = 0x7cde8321;
/** Predicates that signal for quiet NaNs too: LT, LE, NLT, NLE. */
const SIGNALLING = 0x66;

/** i32 0 or 1: whether `outcome` satisfies `predicate` (0..7). */
const satisfies = (predicate: Expr, outcome: Expr): Expr => i32(PREDICATES).shrU(predicate.shl(2).add(outcome)).and(1);

/** Outcome of comparing two elements given as bits, bound. */
function compareElements(c: SemContext, e: Element, signal: Expr, a: Expr, b: Expr): Expr {
  const [x, y] = [a.reinterpret(), b.reinterpret()];
  const ordinary = notDenormal(e, a).and(notDenormal(e, b)).and(x.eq(x)).and(y.eq(y));
  const outcome = c.let(x.eq(y).select(i32(0), x.lt(y).select(i32(1), i32(2))));
  c.f.if(ordinary.eqz(), () => exactly(c, () => c.f.set(outcome, c.call(`sseCompare${e.bits}`, [c.cpu, signal, a, b]))));
  return outcome;
}

const mask = (e: Element, bit: Expr): Expr => (e.bits === 32 ? i32(0).sub(bit) : i64(0).sub(bit.extU()));

function compareScalar(c: SemContext, e: Element): void {
  const predicate = c.let(c.immediate(2).and(7));
  const b = c.readLow(1, e.bits);
  const a = destinationLow(c, e);
  const outcome = compareElements(c, e, i32(SIGNALLING).shrU(predicate).and(1), a, b);
  c.writeLow(0, e.bits, mask(e, satisfies(predicate, outcome)));
}

function comparePacked(c: SemContext, e: Element): void {
  const f = c.f;
  const predicate = c.let(c.immediate(2).and(7));
  const b = c.readV(1);
  const a = c.readV(0);
  const r = f.local(V128);
  f.if(
    vAllTrue(e, vAnd(vOrdinary(e, a), vOrdinary(e, b))),
    () => {
      const all = (condition: Expr): Expr => operator(V128, 0xfd011, [i32(0).sub(condition)]);
      const equal = vAnd(vCompare(e, 'eq', a, b), all(predicate.and(1).eqz()));
      const less = vAnd(vCompare(e, 'lt', a, b), all(predicate.add(1).and(2).shrU(1)));
      f.set(r, vXor(vOr(equal, less), all(predicate.shrU(2))));
    },
    () => {
      const signal = f.let(i32(SIGNALLING).shrU(predicate).and(1));
      exactly(c, () => {
        for (let n = 0; n < e.lanes; n++) {
          const outcome = c.call(`sseCompare${e.bits}`, [c.cpu, signal, extract(e, a, n), extract(e, b, n)]);
          f.set(r, replace(e, r, n, mask(e, satisfies(predicate, outcome))));
        }
      });
    },
  );
  c.writeV(0, r);
}

/** COMI and UCOMI: ZF PF CF by outcome; OF SF AF are cleared. */
function compareFlags(c: SemContext, e: Element, signal: boolean): void {
  const b = c.readLow(1, e.bits);
  const a = c.readLow(0, e.bits);
  const outcome = compareElements(c, e, i32(signal ? 1 : 0), a, b);
  // equal 0x40, less 0x01, greater 0, unordered 0x45
  c.setEflags(0x8d5, i32(0x45000140).shrU(outcome.shl(3)).and(0xff));
}

/** Lane of RCP or RSQRT from its bits; see the file comment. */
function approximate(c: SemContext, bits: Expr, root: boolean): Expr {
  const f = c.f;
  const r = f.local(I32);
  const sign = f.let(bits.and(0x8000_0000 | 0));
  const magnitude = f.let(bits.and(0x7fff_ffff));
  const one = fConst(DOUBLE, 1);
  f.if(
    magnitude.gtU(0x7f80_0000),
    () => f.set(r, bits.or(0x0040_0000)),
    () => {
      f.if(
        magnitude.ltU(0x0080_0000),
        () => f.set(r, sign.or(0x7f80_0000)),
        () => {
          const wide = bits.reinterpret().promote();
          if (root) {
            f.if(
              sign,
              () => f.set(r, i32(0xffc0_0000 | 0)),
              () => f.set(r, one.div(wide.sqrt()).demote().reinterpret()),
            );
          } else {
            f.set(r, one.div(wide).demote().reinterpret());
            f.if(r.and(0x7f80_0000).eqz(), () => f.set(r, sign));
          }
        },
      );
    },
  );
  return r;
}

function approximatePacked(c: SemContext, root: boolean): void {
  const b = c.readV(1);
  const r = c.f.local(V128);
  for (let n = 0; n < 4; n++) c.f.set(r, replace(SINGLE, r, n, approximate(c, extract(SINGLE, b, n), root)));
  c.writeV(0, r);
}

/** DPPS and DPPD: products of the lanes that bits 4..7 choose, summed in pairs, stored where bits 0..3 say. */
function dotProduct(c: SemContext, e: Element): void {
  const f = c.f;
  const control = c.let(c.immediate(2));
  const b = c.readV(1);
  const a = c.readV(0);
  const name = `sseOperate${e.bits}`;
  const zero = e.bits === 32 ? i32(0) : i64(0);
  // An unmasked exception of one step keeps the later steps from being made.
  let terms: Expr[] = [];
  exactly(c, () => {
    for (let n = 0; n < e.lanes; n++) {
      const product = callExpr(e.integer, c.functions.index(name), [c.cpu, i32(OPERATE.mul), extract(e, a, n), extract(e, b, n)]);
      terms.push(c.let(ifElse(control.and(0x10 << n), product, zero)));
    }
  });
  while (terms.length > 1) {
    exactly(c, () => {
      const sums: Expr[] = [];
      for (let n = 0; n < terms.length; n += 2) sums.push(c.call(name, [c.cpu, i32(OPERATE.add), terms[n], terms[n + 1]]));
      terms = sums;
    });
  }
  const sum = terms[0];
  const r = f.local(V128);
  for (let n = 0; n < e.lanes; n++) f.set(r, replace(e, r, n, control.and(1 << n).select(sum, zero)));
  c.writeV(0, r);
}

export function defineSseFloat(table: SemanticsTable): void {
  for (const [e, s, p] of [
    [SINGLE, 'ss', 'ps'],
    [DOUBLE, 'sd', 'pd'],
  ] as const) {
    for (const op of ['add', 'sub', 'mul', 'div', 'sqrt'] as const) {
      table.define(op + s, (c) => scalar(c, e, op));
      table.define(op + p, (c) => {
        const b = c.readV(1);
        c.writeV(0, packed(c, e, [op], op === 'sqrt' ? b : c.readV(0), b));
      });
    }
    for (const maximum of [false, true]) {
      const name = maximum ? 'max' : 'min';
      table.define(name + s, (c) => minMaxScalar(c, e, maximum));
      table.define(name + p, (c) => minMaxPacked(c, e, maximum));
    }
    table.define(`cmp${s}`, (c) => compareScalar(c, e));
    table.define(`cmp${p}`, (c) => comparePacked(c, e));
    table.define(`comi${s}`, (c) => compareFlags(c, e, true));
    table.define(`ucomi${s}`, (c) => compareFlags(c, e, false));
    table.define(`hadd${p}`, (c) => horizontal(c, e, 'add'));
    table.define(`hsub${p}`, (c) => horizontal(c, e, 'sub'));
    table.define(`addsub${p}`, (c) => {
      const b = c.readV(1);
      c.writeV(0, packed(c, e, ['sub', 'add'], c.readV(0), b));
    });
    table.define(`dp${p}`, (c) => dotProduct(c, e));
  }
  for (const root of [false, true]) {
    const name = root ? 'rsqrt' : 'rcp';
    table.define(`${name}ss`, (c) => c.writeLow(0, 32, approximate(c, c.readLow(1, 32), root)));
    table.define(`${name}ps`, (c) => approximatePacked(c, root));
  }
  defineSseConvert(table);
}
