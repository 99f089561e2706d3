// SPDX-License-Identifier: Apache-2.0
/**
 * Writes the body of one WebAssembly function, statement by statement.
 *
 * Statements are emitted at once, in order; expression trees are emitted where a statement uses them. Control structures take
 * closures, and their labels are values, so that a branch can't name the wrong depth. Locals taken inside `scope` are reused
 * after it.
 */
import { ByteWriter } from './byte-writer.ts';
import { constant, Expr, F32, F64, I32, I64, KIND, type Operand, V128, type ValType } from './expr.ts';

/** A branch target: valid only inside the closure that received it. */
export interface Label {
  readonly depth: number;
}

const LOADS: Record<string, readonly [ValType, number, number]> = {
  i32: [I32, 0x28, 2],
  i64: [I64, 0x29, 3],
  f32: [F32, 0x2a, 2],
  f64: [F64, 0x2b, 3],
  i32_8s: [I32, 0x2c, 0],
  i32_8u: [I32, 0x2d, 0],
  i32_16s: [I32, 0x2e, 1],
  i32_16u: [I32, 0x2f, 1],
  i64_8s: [I64, 0x30, 0],
  i64_8u: [I64, 0x31, 0],
  i64_16s: [I64, 0x32, 1],
  i64_16u: [I64, 0x33, 1],
  i64_32s: [I64, 0x34, 2],
  i64_32u: [I64, 0x35, 2],
  v128: [V128, 0xfd000, 4],
  v128_32z: [V128, 0xfd05c, 2],
  v128_64z: [V128, 0xfd05d, 3],
};
const STORES: Record<string, readonly [number, number]> = {
  i32: [0x36, 2],
  i64: [0x37, 3],
  f32: [0x38, 2],
  f64: [0x39, 3],
  i32_8: [0x3a, 0],
  i32_16: [0x3b, 1],
  i64_8: [0x3c, 0],
  i64_16: [0x3d, 1],
  i64_32: [0x3e, 2],
  v128: [0xfd00b, 4],
};

/** A load as an expression: `form` is a type, or `i32_8u`-like for narrow loads. The memory is number 0; alignment is not promised. */
export function load(form: keyof typeof LOADS, address: Expr, offset = 0): Expr {
  const [type, op] = LOADS[form];
  return new Expr(KIND.load, type, op, [address], offset, 0);
}

const ATOMIC_RMW = { add: 0, sub: 1, and: 2, or: 3, xor: 4, xchg: 5, cmpxchg: 6 } as const;

/** An atomic read-modify-write as an expression giving the old value; traps when misaligned. `bits` is the access width, the type that of `value`. */
export function atomicRmw(kind: keyof typeof ATOMIC_RMW, bits: 8 | 16 | 32 | 64, address: Expr, value: Expr, replacement?: Expr): Expr {
  // Order in the specification: i32, i64, i32_8u, i32_16u, i64_8u, i64_16u, i64_32u.
  const slot = value.type === I32 ? (bits === 32 ? 0 : bits === 8 ? 2 : 3) : bits === 64 ? 1 : bits === 8 ? 4 : bits === 16 ? 5 : 6;
  const op = 0xfe000 + 0x1e + ATOMIC_RMW[kind] * 7 + slot;
  const alignment = bits === 8 ? 0 : bits === 16 ? 1 : bits === 32 ? 2 : 3;
  const args = replacement ? [address, value, replacement] : [address, value];
  return new Expr(KIND.load, value.type, op, args, 0, alignment);
}

export class FunctionBuilder {
  readonly params: readonly ValType[];
  readonly results: readonly ValType[];
  code = new ByteWriter(1024);
  #prologue: ByteWriter | null = null;
  readonly #locals: ValType[] = [];
  readonly #free = new Map<ValType, number[]>();
  #taken: Expr[][] = [];
  #depth = 0;

  constructor(params: readonly ValType[], results: readonly ValType[]) {
    this.params = params;
    this.results = results;
  }

  param(index: number): Expr {
    return new Expr(KIND.local, this.params[index], 0x20, [], index, -1);
  }

  /** A fresh local, zero at function entry but not at reuse; inside a `scope` it is given back at the scope's end. */
  local(type: ValType): Expr {
    const reused = this.#free.get(type)?.pop();
    let index = reused;
    if (index === undefined) {
      index = this.params.length + this.#locals.length;
      this.#locals.push(type);
    }
    const expr = new Expr(KIND.local, type, 0x20, [], index, -1);
    this.#taken.at(-1)?.push(expr);
    return expr;
  }

  /** A local that no scope gives back. */
  permanentLocal(type: ValType): Expr {
    const index = this.params.length + this.#locals.length;
    this.#locals.push(type);
    return new Expr(KIND.local, type, 0x20, [], index, -1);
  }

  /** Code that runs before everything emitted so far; once, and outside of all control structures. */
  prologue(body: () => void): void {
    const rest = this.code;
    this.code = new ByteWriter(256);
    body();
    this.#prologue = this.code;
    this.code = rest;
  }

  /** Gives the locals taken inside `body` back afterwards. */
  scope(body: () => void): void {
    this.#taken.push([]);
    body();
    for (const local of this.#taken.pop() as Expr[]) {
      const list = this.#free.get(local.type);
      if (list) list.push(local.value as number);
      else this.#free.set(local.type, [local.value as number]);
    }
  }

  /** Binds a value to a fresh local; constants and locals-to-be-read-only may be passed through `let` freely. */
  let(value: Expr): Expr {
    if (value.isConst) return value;
    const local = this.local(value.type);
    this.set(local, value);
    return local;
  }

  set(local: Expr, value: Operand): void {
    this.emit(value instanceof Expr ? value : constant(local.type, value));
    this.code.u8(0x21);
    this.code.u32(local.value as number);
  }

  setGlobal(index: number, value: Expr): void {
    this.emit(value);
    this.code.u8(0x24);
    this.code.u32(index);
  }

  store(form: keyof typeof STORES, address: Expr, value: Expr, offset = 0): void {
    const [op] = STORES[form];
    this.emit(address);
    this.emit(value);
    this.#opcode(op);
    this.code.u32(0);
    this.code.u32(offset);
  }

  /** Stores one lane of a vector: `bits` 8, 16, 32 or 64. */
  storeLane(bits: 8 | 16 | 32 | 64, address: Expr, value: Expr, lane: number, offset = 0): void {
    this.emit(address);
    this.emit(value);
    this.#opcode(0xfd058 + Math.log2(bits / 8));
    this.code.u32(0);
    this.code.u32(offset);
    this.code.u8(lane);
  }

  /** Evaluates for its effects and drops the result. */
  drop(value: Expr): void {
    this.emit(value);
    this.code.u8(0x1a);
  }

  /** Calls a function without result. */
  call(index: number, args: readonly Expr[]): void {
    for (const arg of args) this.emit(arg);
    this.code.u8(0x10);
    this.code.u32(index);
  }

  memoryFill(address: Expr, value: Expr, length: Expr): void {
    this.emit(address);
    this.emit(value);
    this.emit(length);
    this.#opcode(0xfc00b);
    this.code.u8(0);
  }
  memoryCopy(to: Expr, from: Expr, length: Expr): void {
    this.emit(to);
    this.emit(from);
    this.emit(length);
    this.#opcode(0xfc00a);
    this.code.u8(0);
    this.code.u8(0);
  }

  block(body: (label: Label) => void): void {
    this.#structure(0x02, body);
  }
  loop(body: (label: Label) => void): void {
    this.#structure(0x03, body);
  }
  if(condition: Expr, then: (label: Label) => void, otherwise?: (label: Label) => void): void {
    if (condition.isConst && !otherwise) {
      if (condition.value) this.#structure(0x02, then);
      return;
    }
    this.emit(condition);
    this.code.u8(0x04);
    this.code.u8(0x40);
    this.#depth++;
    const label = { depth: this.#depth };
    then(label);
    if (otherwise) {
      this.code.u8(0x05);
      otherwise(label);
    }
    this.#depth--;
    this.code.u8(0x0b);
  }

  br(label: Label): void {
    this.code.u8(0x0c);
    this.code.u32(this.#depth - label.depth);
  }
  brIf(label: Label, condition: Expr): void {
    if (condition.isConst) {
      if (condition.value) this.br(label);
      return;
    }
    this.emit(condition);
    this.code.u8(0x0d);
    this.code.u32(this.#depth - label.depth);
  }
  brTable(index: Expr, labels: readonly Label[], otherwise: Label): void {
    this.emit(index);
    this.code.u8(0x0e);
    this.code.u32(labels.length);
    for (const label of labels) this.code.u32(this.#depth - label.depth);
    this.code.u32(this.#depth - otherwise.depth);
  }
  return(value?: Expr): void {
    if (value) this.emit(value);
    this.code.u8(0x0f);
  }
  unreachable(): void {
    this.code.u8(0x00);
  }

  #structure(op: number, body: (label: Label) => void): void {
    this.code.u8(op);
    this.code.u8(0x40);
    this.#depth++;
    body({ depth: this.#depth });
    this.#depth--;
    this.code.u8(0x0b);
  }

  #opcode(op: number): void {
    if (op < 0x100) {
      this.code.u8(op);
      return;
    }
    this.code.u8(op >> 12);
    this.code.u32(op & 0xfff);
  }

  /** Emits an expression tree onto the operand stack. */
  emit(expr: Expr): void {
    const code = this.code;
    switch (expr.kind) {
      case KIND.const:
        code.u8(expr.op);
        if (expr.type === I32) code.s32(expr.value as number);
        else if (expr.type === I64) code.s64(expr.value);
        else if (expr.type === F32) code.f32(expr.value as number);
        else code.f64(expr.value as number);
        return;
      case KIND.local:
        code.u8(0x20);
        code.u32(expr.value as number);
        return;
      case KIND.global:
        code.u8(0x23);
        code.u32(expr.value as number);
        return;
      case KIND.bytes:
        this.#opcode(expr.op);
        code.append(expr.bytes as Uint8Array);
        return;
      case KIND.tee:
        this.emit(expr.args[0]);
        code.u8(0x22);
        code.u32(expr.value as number);
        return;
      case KIND.ifElse:
        this.emit(expr.args[0]);
        code.u8(0x04);
        code.u8(expr.type);
        this.#depth++;
        this.emit(expr.args[1]);
        code.u8(0x05);
        this.emit(expr.args[2]);
        this.#depth--;
        code.u8(0x0b);
        return;
      default:
        break;
    }
    for (const arg of expr.args) this.emit(arg);
    switch (expr.kind) {
      case KIND.load:
        this.#opcode(expr.op);
        code.u32(expr.extra);
        code.u32(expr.value as number);
        return;
      case KIND.call:
        code.u8(0x10);
        code.u32(expr.value as number);
        return;
      case KIND.callIndirect:
        code.u8(0x11);
        code.u32(expr.extra);
        code.u32(expr.value as number);
        return;
      default:
        this.#opcode(expr.op);
        if (expr.bytes) code.append(expr.bytes);
        if (expr.extra >= 0) code.u8(expr.extra);
    }
  }

  /** The finished code entry: local declarations and body. */
  finish(): ByteWriter {
    const out = new ByteWriter(this.code.length + 32);
    const runs: [number, ValType][] = [];
    for (const type of this.#locals) {
      const last = runs.at(-1);
      if (last && last[1] === type) last[0]++;
      else runs.push([1, type]);
    }
    out.u32(runs.length);
    for (const [count, type] of runs) {
      out.u32(count);
      out.u8(type);
    }
    if (this.#prologue) out.append(this.#prologue.bytes());
    out.append(this.code.bytes());
    out.u8(0x0b);
    return out;
  }
}

/** A call as an expression. */
export function callExpr(type: ValType, index: number, args: readonly Expr[]): Expr {
  return new Expr(KIND.call, type, 0x10, args, index, -1);
}

/** An indirect call through table `table` as an expression; `typeIndex` from `ModuleBuilder.type`. */
export function callIndirectExpr(type: ValType, typeIndex: number, table: number, args: readonly Expr[], index: Expr): Expr {
  return new Expr(KIND.callIndirect, type, 0x11, [...args, index], table, typeIndex);
}

/** A choice that evaluates only the chosen side. */
export function ifElse(condition: Expr, whenTrue: Expr, whenFalse: Expr): Expr {
  if (condition.isConst) return condition.value ? whenTrue : whenFalse;
  return new Expr(KIND.ifElse, whenTrue.type, 0x04, [condition, whenTrue, whenFalse], 0, -1);
}

/** Assigns and yields. */
export function tee(local: Expr, value: Expr): Expr {
  return new Expr(KIND.tee, local.type, 0x22, [value], local.value, -1);
}
