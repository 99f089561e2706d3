// SPDX-License-Identifier: Apache-2.0
/**
 * The language in which instructions' meanings are written.
 *
 * A semantics function receives a `SemContext` for one *form* of an instruction (row, operand size, addressing, prefixes) and emits
 * WebAssembly through it. It never knows whether operands are register numbers read from a record (interpreter) or known at
 * translation time (translator): that is the difference between the implementations of this class.
 *
 * Values: 8-, 16- and 32-bit integers travel as i32, zero-extended when read; 64-bit as i64. `read` and friends bind their result, so
 * a value keeps what it was when later statements change its source. Writers may pass i32 values with garbage above the width.
 *
 * Order matters for precise faults: everything that can fault (reads, `rmw`, `fault`) comes before the first change of state.
 * `rmw` and `write` to memory fault before they change anything; so change registers and flags after them.
 */
import { CTX } from '../../memory/vcpu-context.ts';
import { type Expr, F32, F64, I32, I64, i32, i64, V128, type ValType } from '../../wasm/expr.ts';
import { callExpr, type FunctionBuilder, load } from '../../wasm/function-builder.ts';
import { ADDRESS } from '../isa/decoder.ts';
import { type IsaRow, OPERAND_KIND as K, type Width } from '../isa/row.ts';
import { FLAGS, type FlagsKind } from '../record.ts';

/** What is fixed about an instruction when its handler is emitted. */
export interface Form {
  readonly row: IsaRow;
  /** 16, 32 or 64. */
  readonly operandSize: number;
  /** One of `ADDRESS`; `none` also says that a register-or-memory operand is a register. */
  readonly addressing: number;
  readonly lock: boolean;
  /** 0, 2 (F3) or 3 (F2). */
  readonly rep: number;
  readonly rexW: boolean;
  /** 16, 32 or 64. */
  readonly mode: number;
  /** Address size of string instructions, 16, 32 or 64. */
  readonly addressSize: number;
}

export const VECTOR = {
  DE: 0,
  DB: 1,
  NMI: 2,
  BP: 3,
  OF: 4,
  BR: 5,
  UD: 6,
  NM: 7,
  DF: 8,
  TS: 10,
  NP: 11,
  SS: 12,
  GP: 13,
  PF: 14,
  MF: 16,
  AC: 17,
  XM: 19,
} as const;

/** Functions outside of the handler that semantics may call, by name; see `core-functions.ts` and `host-functions.ts`. */
export interface FunctionDirectory {
  /** Index in the module being written. Throws when there is no such function. */
  index(name: string): number;
  resultOf(name: string): ValType | null;
}

export interface ReadModifyWrite {
  readonly old: Expr;
  readonly result: Expr;
}

/** CF PF AF ZF SF OF. */
export const ARITHMETIC_FLAGS = 0x8d5;

const CR0_TS = 8;
const CR0_EM = 4;

export abstract class SemContext {
  readonly f: FunctionBuilder;
  readonly form: Form;
  /** i32: address of the vCPU block. */
  readonly cpu: Expr;
  readonly functions: FunctionDirectory;

  constructor(f: FunctionBuilder, form: Form, cpu: Expr, functions: FunctionDirectory) {
    this.f = f;
    this.form = form;
    this.cpu = cpu;
    this.functions = functions;
  }

  // ---- facts about the form

  /** Operand size in bits: 16, 32 or 64; 8 for byte rows (by the first operand). */
  get size(): number {
    const operands = this.form.row.operands;
    return operands.length > 0 ? this.width(0) : this.form.row.attributes.has('b') ? 8 : this.form.operandSize;
  }
  get mode(): number {
    return this.form.mode;
  }
  get cc(): number {
    return this.form.row.cc;
  }
  has(attribute: string): boolean {
    return this.form.row.attributes.has(attribute);
  }
  /** Width in bits of operand `n`. */
  width(n: number): number {
    return this.#widthOf(this.form.row.operands[n].width);
  }
  #widthOf(width: Width): number {
    if (typeof width === 'number') return width;
    if (width === 'v') return this.form.operandSize;
    if (width === 'z') return this.form.operandSize === 16 ? 16 : 32;
    return this.form.rexW ? 64 : 32;
  }
  kind(n: number): number {
    return this.form.row.operands[n].kind;
  }
  isMemory(n: number): boolean {
    const kind = this.kind(n);
    if (kind === K.mem || kind === K.moffs) return true;
    return (kind === K.rm || kind === K.xmmRm || kind === K.mmxRm) && this.form.addressing !== ADDRESS.none;
  }
  /** The type in which a value of `bits` travels. */
  typeOf(bits: number): typeof I32 | typeof I64 {
    return bits === 64 ? I64 : I32;
  }
  constant(bits: number, value: number | bigint): Expr {
    return bits === 64 ? i64(value) : i32(Number(value));
  }
  let(value: Expr): Expr {
    return this.f.let(value);
  }

  // ---- state fields, by offset in `CTX`

  get32(offset: number): Expr {
    return load('i32', this.cpu, offset);
  }
  get64(offset: number): Expr {
    return load('i64', this.cpu, offset);
  }
  get16(offset: number): Expr {
    return load('i32_16u', this.cpu, offset);
  }
  set16(offset: number, value: Expr): void {
    this.f.store('i32_16', this.cpu, value, offset);
  }
  set32(offset: number, value: Expr): void {
    this.f.store('i32', this.cpu, value, offset);
  }
  set64(offset: number, value: Expr): void {
    this.f.store('i64', this.cpu, value, offset);
  }

  // ---- general registers by number (implicit operands), bound

  abstract gpr(register: number, bits: number): Expr;
  /** Writes a register; 32-bit writes clear the upper half, narrower ones keep the rest. Byte writes reach the low byte only. */
  abstract setGpr(register: number, bits: number, value: Expr): void;

  /** AH, CH, DH or BH. */
  abstract gprHigh(register: number): Expr;
  abstract setGprHigh(register: number, value: Expr): void;

  // ---- operands

  /** Operand `n` zero-extended to its travel type (integer operands of every kind). */
  abstract read(n: number): Expr;
  abstract write(n: number, value: Expr): void;
  /**
   * Read, modify, write of operand `n`, atomic under LOCK or when `atomic`: `change` may be emitted more than once and must have no
   * side effects beyond its locals.
   */
  rmw(n: number, change: (old: Expr) => Expr, atomic = false): ReadModifyWrite {
    if (this.isMemory(n)) return this.rmwMemory(this.width(n), this.linearAddress(), change, atomic || this.form.lock);
    const old = this.read(n);
    const result = this.let(change(old));
    this.write(n, result);
    return { old, result };
  }
  /** The same on memory at a linear address. */
  abstract rmwMemory(bits: number, address: Expr, change: (old: Expr) => Expr, atomic: boolean): ReadModifyWrite;
  /** Immediate of operand `n` as a 64-bit value wrapped to the travel type of the operand's width. */
  abstract immediate(n: number): Expr;
  /** Lower and upper 32 bits of the instruction's immediate, as i32: far pointers. */
  abstract immediateLow(): Expr;
  abstract immediateHigh(): Expr;
  /** The raw register field of operand `n` (segment, control and debug register numbers, ST(i)), as i32. */
  abstract field(n: number): Expr;
  /** Effective address (i64) of the memory operand without its segment base, as LEA sees it. */
  abstract effectiveAddress(): Expr;
  /** Linear address (i64) of the memory operand, bound. */
  abstract linearAddress(): Expr;
  /** Segment base (i64) for string instructions' source, with the override. */
  abstract sourceSegmentBase(): Expr;

  // ---- vector operands

  /** i32 address of XMM (or MMX) register operand `n`; its data stand at offset `CTX.xmm` (`CTX.fpr`). */
  abstract vectorSlot(n: number): Expr;

  /** 128 bits of operand `n`, bound; a memory operand faults (#GP) when unaligned unless the row says `unal`. */
  readV(n: number): Expr {
    if (this.isMemory(n)) return this.loadV(this.linearAddress(), !this.has('unal'));
    return this.let(load('v128', this.vectorSlot(n), CTX.xmm));
  }
  writeV(n: number, value: Expr): void {
    if (this.isMemory(n)) this.storeV(this.linearAddress(), value, !this.has('unal'));
    else this.f.store('v128', this.vectorSlot(n), value, CTX.xmm);
  }
  /** Low `bits` (8, 16, 32 or 64) of a vector or MMX operand as an integer, bound; a memory operand is read at that width. */
  readLow(n: number, bits: number): Expr {
    if (this.isMemory(n)) return this.load(bits, this.linearAddress());
    return this.let(load(narrowLoad(bits), this.vectorSlot(n), this.#vectorBase(n)));
  }
  /** Writes the low bits of a vector register and keeps the rest; or memory at that width. */
  writeLow(n: number, bits: number, value: Expr): void {
    if (this.isMemory(n)) this.store(bits, this.linearAddress(), value);
    else this.f.store(narrowStore(bits), this.vectorSlot(n), value, this.#vectorBase(n));
  }
  readF64(n: number): Expr {
    return this.let(this.readLow(n, 64).reinterpret());
  }
  readF32(n: number): Expr {
    return this.let(this.readLow(n, 32).reinterpret());
  }
  /** The upper 64 bits of an XMM register operand, as i64. */
  readHigh(n: number): Expr {
    return this.let(load('i64', this.vectorSlot(n), CTX.xmm + 8));
  }
  writeHigh(n: number, value: Expr): void {
    this.f.store('i64', this.vectorSlot(n), value, CTX.xmm + 8);
  }
  #vectorBase(n: number): number {
    const kind = this.kind(n);
    return kind === K.mmxReg || kind === K.mmxRm || kind === K.mmxOnly ? CTX.fpr : CTX.xmm;
  }

  // ---- memory by linear address (i64)

  abstract load(bits: number, address: Expr): Expr;
  abstract store(bits: number, address: Expr, value: Expr): void;
  abstract loadV(address: Expr, aligned: boolean): Expr;
  abstract storeV(address: Expr, value: Expr, aligned: boolean): void;
  /** Makes sure that a later store of `bytes` (at most 64, a constant) at `address` can't fault. */
  abstract probeWrite(address: Expr, bytes: number): void;
  /** i32 host offset of `address` for an access of one byte; follows to the end of the page. For chunked string moves. */
  abstract hostAddress(address: Expr, access: number): Expr;
  /** Must follow direct writes of `bytes` through a `hostAddress` of access 2. */
  abstract wroteHost(host: Expr, bytes: Expr): void;

  // ---- flags

  /** Records lazily what sets the arithmetic flags; values have width `bits` and may carry garbage above it. */
  setFlags(kind: FlagsKind, bits: number, result: Expr, a?: Expr, b?: Expr): void {
    this.set32(CTX.ccOp, i32(kind));
    this.set64(CTX.ccDst, this.signExtend(result, bits));
    if (a) this.set64(CTX.ccA, this.signExtend(a, bits));
    if (b) this.set64(CTX.ccB, this.signExtend(b, bits));
  }
  /** Flags with explicit CF, AF and OF (`extra`: i32 with those bits at their RFLAGS places) and SF, ZF, PF from the result. */
  setFlagsBits(bits: number, result: Expr, extra: Expr): void {
    this.set32(CTX.ccOp, i32(FLAGS.bits));
    this.set64(CTX.ccDst, this.signExtend(result, bits));
    this.set64(CTX.ccA, extra.extU());
  }
  /** Replaces the flags in `mask` (arithmetic ones) by `value`'s bits (i32). */
  setEflags(mask: number, value: Expr): void {
    // Nothing of the lazy state survives a full replacement.
    const rflags = (mask & ARITHMETIC_FLAGS) === ARITHMETIC_FLAGS ? this.get32(CTX.rflags) : this.eflags();
    this.set32(CTX.ccOp, i32(FLAGS.exact));
    this.set32(CTX.rflags, rflags.and(~mask).or(value.and(mask)));
  }
  /** Makes all of RFLAGS exact and gives its low half (i32), bound. */
  eflags(): Expr {
    this.callVoid('materialize', [this.cpu]);
    return this.let(this.get32(CTX.rflags));
  }
  /** CF as 0 or 1 (i32), bound. */
  abstract carry(): Expr;
  /** Condition `cc` (0..15, SDM volume 1 appendix B) as i32 that is zero or not. */
  abstract condition(cc: number): Expr;

  // ---- control

  /** An exception at this instruction. */
  abstract fault(vector: number, error?: Expr): void;
  faultIf(condition: Expr, vector: number, error?: Expr): void {
    this.f.if(condition, () => this.fault(vector, error));
  }
  /** Leaves the instruction when a called function reported (non-zero) that it recorded a fault. */
  abstract faultedIf(condition: Expr): void;
  /** Goes to `target` (i64, linear IP); ends the instruction. */
  abstract jump(target: Expr): void;
  /** Takes the static branch of a `rel` operand when `condition` holds (always when null). */
  abstract branch(condition: Expr | null): void;
  /** i64 address of the next instruction. */
  abstract nextRip(): Expr;
  /** i64 address of this instruction. */
  abstract thisRip(): Expr;
  /** Leaves the engine's run with `reason`; `rip` is that of the next instruction, or of this one when `atThis`. */
  abstract exit(reason: number, atThis?: boolean): void;
  /** Runs the instruction again after looking for events; state must be consistent. */
  abstract repeat(): void;
  /** Goes on with the next instruction at once (inside conditional code). */
  abstract done(): void;

  // ---- functions

  /** Calls a function of the directory and binds its result. */
  call(name: string, args: readonly Expr[]): Expr {
    const type = this.functions.resultOf(name);
    if (type === null) throw new Error(`function ${name} has no result`);
    return this.let(callExpr(type, this.functions.index(name), args));
  }
  callVoid(name: string, args: readonly Expr[]): void {
    this.f.call(this.functions.index(name), args);
  }

  // ---- arithmetic shared by many instructions

  /** Sign-extends a value of `bits` to i64. */
  signExtend(value: Expr, bits: number): Expr {
    if (bits === 64) return value;
    if (bits === 32) return value.extS();
    return (bits === 16 ? value.ext16S() : value.ext8S()).extS();
  }
  /** Clears what lies above `bits` in a travelling value. */
  zeroExtend(value: Expr, bits: number): Expr {
    if (bits >= 32) return value;
    return value.and(bits === 16 ? 0xffff : 0xff);
  }

  /** Availability of the unit that the row uses: #UD when emulated (CR0.EM), #NM when CR0.TS; called before the semantics. */
  checkUnit(): void {
    const cr0 = this.get32(CTX.cr0);
    if (this.has('sse') || this.has('mmx')) {
      this.f.if(cr0.and(CR0_TS | CR0_EM).ne(0), () => {
        this.faultIf(this.get32(CTX.cr0).and(CR0_EM).ne(0), VECTOR.UD);
        this.fault(VECTOR.NM);
      });
    } else if (this.has('x87')) this.faultIf(cr0.and(CR0_TS | CR0_EM).ne(0), VECTOR.NM);
    // Waiting x87 and all MMX instructions report an unmasked pending exception first (summary bit of the status word).
    if ((this.has('x87') && !this.has('nowait')) || this.has('mmx')) this.faultIf(this.get16(CTX.fsw).and(0x80).ne(0), VECTOR.MF);
  }
}

export function narrowLoad(bits: number): 'i32_8u' | 'i32_16u' | 'i32' | 'i64' {
  return bits === 8 ? 'i32_8u' : bits === 16 ? 'i32_16u' : bits === 32 ? 'i32' : 'i64';
}
export function narrowStore(bits: number): 'i32_8' | 'i32_16' | 'i32' | 'i64' {
  return bits === 8 ? 'i32_8' : bits === 16 ? 'i32_16' : bits === 32 ? 'i32' : 'i64';
}

export type Semantics = (c: SemContext) => void;

/** Meanings by row name. */
export class SemanticsTable {
  readonly #byName = new Map<string, Semantics>();

  /** Gives each of the space-separated `names` a meaning. */
  define(names: string, semantics: Semantics): void {
    for (const name of names.split(' ')) {
      if (this.#byName.has(name)) throw new Error(`instruction ${name} is defined twice`);
      this.#byName.set(name, semantics);
    }
  }
  get(name: string): Semantics | undefined {
    return this.#byName.get(name);
  }
}

export { F32, F64, I32, I64, V128 };
