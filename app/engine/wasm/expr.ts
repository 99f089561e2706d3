// SPDX-License-Identifier: Apache-2.0
/**
 * Typed expression trees over WebAssembly's operators, with constant folding at construction.
 *
 * A tree is emitted where a statement of `FunctionBuilder` uses it, each node once per use: bind a value that is used twice, or
 * that must be taken before a later side effect, with `FunctionBuilder.let`.
 */

/** Value types by their encoding (core specification §5.3). */
export const I32 = 0x7f;
export const I64 = 0x7e;
export const F32 = 0x7d;
export const F64 = 0x7c;
export const V128 = 0x7b;
export type ValType = 0x7f | 0x7e | 0x7d | 0x7c | 0x7b;

export const KIND = {
  const: 0,
  local: 1,
  op: 2,
  load: 3,
  call: 4,
  callIndirect: 5,
  ifElse: 6,
  tee: 7,
  global: 8,
  select: 9,
  bytes: 10,
} as const;
export type ExprKind = (typeof KIND)[keyof typeof KIND];

/** A number stands for a constant of the other operand's type. */
export type Operand = Expr | number | bigint;

/** First opcodes of the integer and float families; the operators of a family follow in the specification's order. */
const CMP = { [I32]: 0x45, [I64]: 0x50 } as Record<number, number>;
const ARITH = { [I32]: 0x67, [I64]: 0x79 } as Record<number, number>;

export class Expr {
  readonly kind: ExprKind;
  readonly type: ValType;
  /** Opcode; prefixed opcodes are prefix * 0x1000 + sub-opcode. */
  readonly op: number;
  readonly args: readonly Expr[];
  /** Constant value, local or function index, memory offset. */
  readonly value: number | bigint;
  /** Alignment of a load (log2), lane of a SIMD operator, type index of an indirect call; -1: none. */
  readonly extra: number;
  readonly bytes: Uint8Array | null;

  constructor(
    kind: ExprKind,
    type: ValType,
    op: number,
    args: readonly Expr[],
    value: number | bigint,
    extra: number,
    bytes: Uint8Array | null = null,
  ) {
    this.kind = kind;
    this.type = type;
    this.op = op;
    this.args = args;
    this.value = value;
    this.extra = extra;
    this.bytes = bytes;
  }

  get isConst(): boolean {
    return this.kind === KIND.const;
  }

  #operand(other: Operand): Expr {
    return other instanceof Expr ? other : constant(this.type, other);
  }
  #arith(index: number, other: Operand): Expr {
    return binary(this.type, ARITH[this.type] + index, this, this.#operand(other));
  }
  #compare(index: number, other: Operand): Expr {
    return binary(I32, CMP[this.type] + index, this, this.#operand(other));
  }
  #float(f32: number, f64: number, other: Operand, type: ValType = this.type): Expr {
    return binary(type, this.type === F32 ? f32 : f64, this, this.#operand(other));
  }

  // Integer arithmetic; on floats add, sub and mul are the float operators.
  add(other: Operand): Expr {
    return this.type === F32 || this.type === F64 ? this.#float(0x92, 0xa0, other) : this.#arith(3, other);
  }
  sub(other: Operand): Expr {
    return this.type === F32 || this.type === F64 ? this.#float(0x93, 0xa1, other) : this.#arith(4, other);
  }
  mul(other: Operand): Expr {
    return this.type === F32 || this.type === F64 ? this.#float(0x94, 0xa2, other) : this.#arith(5, other);
  }
  divS(other: Operand): Expr {
    return this.#arith(6, other);
  }
  divU(other: Operand): Expr {
    return this.#arith(7, other);
  }
  remS(other: Operand): Expr {
    return this.#arith(8, other);
  }
  remU(other: Operand): Expr {
    return this.#arith(9, other);
  }
  and(other: Operand): Expr {
    return this.#arith(10, other);
  }
  or(other: Operand): Expr {
    return this.#arith(11, other);
  }
  xor(other: Operand): Expr {
    return this.#arith(12, other);
  }
  shl(other: Operand): Expr {
    return this.#arith(13, other);
  }
  shrS(other: Operand): Expr {
    return this.#arith(14, other);
  }
  shrU(other: Operand): Expr {
    return this.#arith(15, other);
  }
  rotl(other: Operand): Expr {
    return this.#arith(16, other);
  }
  rotr(other: Operand): Expr {
    return this.#arith(17, other);
  }
  clz(): Expr {
    return unary(this.type, ARITH[this.type], this);
  }
  ctz(): Expr {
    return unary(this.type, ARITH[this.type] + 1, this);
  }
  popcnt(): Expr {
    return unary(this.type, ARITH[this.type] + 2, this);
  }
  not(): Expr {
    return this.xor(-1);
  }
  neg(): Expr {
    if (this.type === F32) return unary(F32, 0x8c, this);
    if (this.type === F64) return unary(F64, 0x9a, this);
    return constant(this.type, 0).sub(this);
  }

  // Comparisons give an i32 of 0 or 1.
  eqz(): Expr {
    return unary(I32, CMP[this.type], this);
  }
  eq(other: Operand): Expr {
    return this.type === F32 || this.type === F64 ? this.#float(0x5b, 0x61, other, I32) : this.#compare(1, other);
  }
  ne(other: Operand): Expr {
    return this.type === F32 || this.type === F64 ? this.#float(0x5c, 0x62, other, I32) : this.#compare(2, other);
  }
  ltS(other: Operand): Expr {
    return this.#compare(3, other);
  }
  ltU(other: Operand): Expr {
    return this.#compare(4, other);
  }
  gtS(other: Operand): Expr {
    return this.#compare(5, other);
  }
  gtU(other: Operand): Expr {
    return this.#compare(6, other);
  }
  leS(other: Operand): Expr {
    return this.#compare(7, other);
  }
  leU(other: Operand): Expr {
    return this.#compare(8, other);
  }
  geS(other: Operand): Expr {
    return this.#compare(9, other);
  }
  geU(other: Operand): Expr {
    return this.#compare(10, other);
  }

  // Floats.
  div(other: Operand): Expr {
    return this.#float(0x95, 0xa3, other);
  }
  lt(other: Operand): Expr {
    return this.#float(0x5d, 0x63, other, I32);
  }
  gt(other: Operand): Expr {
    return this.#float(0x5e, 0x64, other, I32);
  }
  le(other: Operand): Expr {
    return this.#float(0x5f, 0x65, other, I32);
  }
  ge(other: Operand): Expr {
    return this.#float(0x60, 0x66, other, I32);
  }
  abs(): Expr {
    return unary(this.type, this.type === F32 ? 0x8b : 0x99, this);
  }
  sqrt(): Expr {
    return unary(this.type, this.type === F32 ? 0x91 : 0x9f, this);
  }
  ceil(): Expr {
    return unary(this.type, this.type === F32 ? 0x8d : 0x9b, this);
  }
  floor(): Expr {
    return unary(this.type, this.type === F32 ? 0x8e : 0x9c, this);
  }
  trunc(): Expr {
    return unary(this.type, this.type === F32 ? 0x8f : 0x9d, this);
  }
  nearest(): Expr {
    return unary(this.type, this.type === F32 ? 0x90 : 0x9e, this);
  }

  // Conversions.
  /** i64 → i32, dropping the upper half. On an i32 the value itself. */
  wrap(): Expr {
    return this.type === I32 ? this : unary(I32, 0xa7, this);
  }
  /** i32 → i64 with zeros. On an i64 the value itself. */
  extU(): Expr {
    return this.type === I64 ? this : unary(I64, 0xad, this);
  }
  /** i32 → i64 with the sign. On an i64 the value itself. */
  extS(): Expr {
    return this.type === I64 ? this : unary(I64, 0xac, this);
  }
  /** Sign extension of the low 8, 16 or 32 bits within the same type. */
  ext8S(): Expr {
    return unary(this.type, this.type === I32 ? 0xc0 : 0xc2, this);
  }
  ext16S(): Expr {
    return unary(this.type, this.type === I32 ? 0xc1 : 0xc3, this);
  }
  ext32S(): Expr {
    return this.type === I32 ? this : unary(I64, 0xc4, this);
  }
  /** Same bits as the float or integer type of equal width. */
  reinterpret(): Expr {
    switch (this.type) {
      case I32:
        return unary(F32, 0xbe, this);
      case I64:
        return unary(F64, 0xbf, this);
      case F32:
        return unary(I32, 0xbc, this);
      default:
        return unary(I64, 0xbd, this);
    }
  }
  promote(): Expr {
    return unary(F64, 0xbb, this);
  }
  demote(): Expr {
    return unary(F32, 0xb6, this);
  }
  /** Saturating float → integer conversion (never traps). */
  truncSatS(to: typeof I32 | typeof I64): Expr {
    return unary(to, 0xfc000 + (to === I32 ? (this.type === F32 ? 0 : 2) : this.type === F32 ? 4 : 6), this);
  }
  truncSatU(to: typeof I32 | typeof I64): Expr {
    return unary(to, 0xfc000 + (to === I32 ? (this.type === F32 ? 1 : 3) : this.type === F32 ? 5 : 7), this);
  }
  /** Integer → float conversion, round to nearest even. */
  convertS(to: typeof F32 | typeof F64): Expr {
    return unary(to, to === F32 ? (this.type === I32 ? 0xb2 : 0xb4) : this.type === I32 ? 0xb7 : 0xb9, this);
  }
  convertU(to: typeof F32 | typeof F64): Expr {
    return unary(to, to === F32 ? (this.type === I32 ? 0xb3 : 0xb5) : this.type === I32 ? 0xb8 : 0xba, this);
  }

  /** This condition's choice between two values; both are evaluated. */
  select(whenTrue: Expr, whenFalse: Operand): Expr {
    const other = whenFalse instanceof Expr ? whenFalse : constant(whenTrue.type, whenFalse);
    if (this.isConst) return this.value ? whenTrue : other;
    return new Expr(KIND.select, whenTrue.type, 0x1b, [whenTrue, other, this], 0, -1);
  }
}

export function constant(type: ValType, value: number | bigint): Expr {
  if (type === I32) return new Expr(KIND.const, type, 0x41, [], Number(value) | 0, -1);
  if (type === I64) {
    if (typeof value === 'number') {
      if (!Number.isSafeInteger(value)) throw new RangeError(`i64 constant ${value} is not exact: use a bigint`);
      return new Expr(KIND.const, type, 0x42, [], value, -1);
    }
    const wrapped = BigInt.asIntN(64, value);
    const small = Number(wrapped);
    return new Expr(KIND.const, type, 0x42, [], Number.isSafeInteger(small) ? small : wrapped, -1);
  }
  return new Expr(KIND.const, type, type === F32 ? 0x43 : 0x44, [], value, -1);
}
export const i32 = (value: number): Expr => constant(I32, value);
export const i64 = (value: number | bigint): Expr => constant(I64, value);
export const f32 = (value: number): Expr => constant(F32, value);
export const f64 = (value: number): Expr => constant(F64, value);
/** A vector constant from its 16 bytes. */
export function v128(bytes: ArrayLike<number>): Expr {
  return new Expr(KIND.bytes, V128, 0xfd00c, [], 0, -1, Uint8Array.from(bytes));
}

export function unary(type: ValType, op: number, a: Expr): Expr {
  if (a.isConst) {
    const folded = foldUnary(type, op, a);
    if (folded) return folded;
  }
  return new Expr(KIND.op, type, op, [a], 0, -1);
}

export function binary(type: ValType, op: number, a: Expr, b: Expr): Expr {
  if (b.isConst) {
    if (a.isConst) {
      const folded = foldBinary(type, op, a, b);
      if (folded) return folded;
    }
    const same = foldIdentity(op, a, b);
    if (same) return same;
  }
  return new Expr(KIND.op, type, op, [a, b], 0, -1);
}

/** Any operator by opcode, for SIMD and atomics tables; `extra` is a lane or -1, `bytes` an immediate (shuffle). */
export function operator(type: ValType, op: number, args: readonly Expr[], extra = -1, bytes: Uint8Array | null = null): Expr {
  return new Expr(KIND.op, type, op, args, 0, extra, bytes);
}

const wrap64 = (value: bigint): Expr => constant(I64, value);

function foldUnary(type: ValType, op: number, a: Expr): Expr | null {
  switch (op) {
    case 0x45:
    case 0x50:
      return constant(type, Number(a.value) === 0 ? 1 : 0);
    case 0xa7:
      return constant(I32, Number(BigInt.asIntN(32, BigInt(a.value))));
    case 0xac:
      return constant(I64, Number(a.value));
    case 0xad:
      return constant(I64, Number(a.value) >>> 0);
    default:
      return null;
  }
}

function foldBinary(type: ValType, op: number, a: Expr, b: Expr): Expr | null {
  if (a.type === I32) {
    const x = a.value as number;
    const y = b.value as number;
    switch (op) {
      case 0x6a:
        return constant(type, (x + y) | 0);
      case 0x6b:
        return constant(type, (x - y) | 0);
      case 0x6c:
        return constant(type, Math.imul(x, y));
      case 0x71:
        return constant(type, x & y);
      case 0x72:
        return constant(type, x | y);
      case 0x73:
        return constant(type, x ^ y);
      case 0x74:
        return constant(type, x << (y & 31));
      case 0x75:
        return constant(type, x >> (y & 31));
      case 0x76:
        return constant(type, (x >>> (y & 31)) | 0);
      case 0x46:
        return constant(type, x === y ? 1 : 0);
      case 0x47:
        return constant(type, x !== y ? 1 : 0);
      default:
        return null;
    }
  }
  if (a.type === I64) {
    const x = BigInt(a.value);
    const y = BigInt(b.value);
    switch (op) {
      case 0x7c:
        return wrap64(x + y);
      case 0x7d:
        return wrap64(x - y);
      case 0x7e:
        return wrap64(x * y);
      case 0x83:
        return wrap64(x & y);
      case 0x84:
        return wrap64(x | y);
      case 0x85:
        return wrap64(x ^ y);
      case 0x86:
        return wrap64(x << (y & 63n));
      case 0x87:
        return wrap64(x >> (y & 63n));
      case 0x88:
        return wrap64(BigInt.asUintN(64, x) >> (y & 63n));
      case 0x51:
        return constant(type, x === y ? 1 : 0);
      case 0x52:
        return constant(type, x !== y ? 1 : 0);
      default:
        return null;
    }
  }
  return null;
}

function foldIdentity(op: number, a: Expr, b: Expr): Expr | null {
  if (b.value === 0) {
    switch (op) {
      // add sub or xor shl shr_s shr_u rotl rotr
      case 0x6a:
      case 0x6b:
      case 0x72:
      case 0x73:
      case 0x74:
      case 0x75:
      case 0x76:
      case 0x77:
      case 0x78:
      case 0x7c:
      case 0x7d:
      case 0x84:
      case 0x85:
      case 0x86:
      case 0x87:
      case 0x88:
      case 0x89:
      case 0x8a:
        return a;
      default:
        return null;
    }
  }
  if (b.value === -1 && (op === 0x71 || op === 0x83)) return a;
  if (b.value === 1 && (op === 0x6c || op === 0x7e)) return a;
  return null;
}
