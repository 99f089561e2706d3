// SPDX-License-Identifier: Apache-2.0
/**
 * Semantics for the interpreter: operands come from a pre-decoded record at run time.
 *
 * The same class writes handlers that are cases of the interpreter's loop and handlers that are functions of their own; `HandlerExits`
 * is the difference.
 */
import { CTX } from '../../memory/vcpu-context.ts';
import { type Expr, I32, I64, i32, type ValType, V128 } from '../../wasm/expr.ts';
import { atomicRmw, callExpr, type FunctionBuilder, ifElse, type Label, load } from '../../wasm/function-builder.ts';
import { ADDRESS } from '../isa/decoder.ts';
import { OPERAND_KIND as K } from '../isa/row.ts';
import { TLB_ENTRY, tlbEntry } from '../mmu/translate.ts';
import { CPU, FLAGS, RECORD } from '../record.ts';
import {
  type Form,
  type FunctionDirectory,
  narrowLoad,
  narrowStore,
  type ReadModifyWrite,
  SemContext,
  VECTOR,
} from '../semantics/context.ts';

/** How a handler leaves. Each emits code after which control does not go on. */
export interface HandlerExits {
  next(f: FunctionBuilder): void;
  /** The exception is recorded. */
  fault(f: FunctionBuilder): void;
  /** To a linear address. */
  jump(f: FunctionBuilder, target: Expr): void;
  /** To the record's static target. */
  branch(f: FunctionBuilder): void;
  /** Exit reason and RIP are stored. */
  exit(f: FunctionBuilder): void;
  repeat(f: FunctionBuilder): void;
}

const PAGE_BITS = -4096;

export class InterpreterContext extends SemContext {
  readonly #rec: Expr;
  readonly #exits: HandlerExits;
  #linear: Expr | null = null;

  constructor(f: FunctionBuilder, form: Form, cpu: Expr, rec: Expr, functions: FunctionDirectory, exits: HandlerExits) {
    super(f, form, cpu, functions);
    this.#rec = rec;
    this.#exits = exits;
  }

  #slot(n: number): Expr {
    return this.cpu.add(this.field(n));
  }

  gpr(register: number, bits: number): Expr {
    return this.let(load(narrowLoad(bits), this.cpu, CTX.gpr + register * 8));
  }
  setGpr(register: number, bits: number, value: Expr): void {
    this.#storeRegister(this.cpu, CTX.gpr + register * 8, bits, value);
  }
  gprHigh(register: number): Expr {
    return this.let(load('i32_8u', this.cpu, CTX.gpr + register * 8 + 1));
  }
  setGprHigh(register: number, value: Expr): void {
    this.f.store('i32_8', this.cpu, value, CTX.gpr + register * 8 + 1);
  }
  #storeRegister(address: Expr, offset: number, bits: number, value: Expr): void {
    if (bits === 32) this.f.store('i64', address, value.extU(), offset);
    else this.f.store(narrowStore(bits), address, value, offset);
  }

  read(n: number): Expr {
    const bits = this.width(n);
    switch (this.kind(n)) {
      case K.imm:
        return this.immediate(n);
      case K.one:
        return i32(1);
      default:
        if (this.isMemory(n)) return this.load(bits, this.linearAddress());
        return this.let(load(narrowLoad(bits), this.#slot(n)));
    }
  }

  write(n: number, value: Expr): void {
    const bits = this.width(n);
    if (this.isMemory(n)) this.store(bits, this.linearAddress(), value);
    else this.#storeRegister(this.#slot(n), 0, bits, value);
  }

  rmwMemory(bits: number, address: Expr, change: (old: Expr) => Expr, atomic: boolean): ReadModifyWrite {
    const f = this.f;
    const type = this.typeOf(bits);
    const old = f.local(type);
    const result = f.local(type);
    const host = f.local(I32);
    const slow = f.local(I32);
    f.set(slow, 0);
    this.#hostFor(address, bits / 8, TLB_ENTRY.write, host, 'write_slow', () => f.set(slow, 1));
    const plain = (): void => {
      f.set(old, load(narrowLoad(bits), host));
      f.set(result, change(old));
      f.store(narrowStore(bits), host, result);
    };
    if (!atomic) plain();
    else {
      // Misaligned and slow-path operands are not shared with other threads in a way that atomicity could matter for.
      f.if(
        bits === 8 ? slow : slow.or(host.and(bits / 8 - 1)),
        () => plain(),
        () => {
          f.loop((again) => {
            f.set(old, load(narrowLoad(bits), host));
            f.set(result, change(old));
            const wide = bits === 64 ? result : this.zeroExtend(result, bits);
            f.brIf(again, atomicRmw('cmpxchg', bits as 8 | 16 | 32 | 64, host, old, wide).ne(old));
          });
        },
      );
    }
    f.if(slow, () => this.callVoid('commit', [this.cpu]));
    return { old, result };
  }

  immediate(n: number): Expr {
    const bits = this.width(n);
    return this.let(bits === 64 ? load('i64', this.#rec, RECORD.imm) : load('i32', this.#rec, RECORD.imm));
  }
  immediateLow(): Expr {
    return this.let(load('i32', this.#rec, RECORD.imm));
  }
  immediateHigh(): Expr {
    return this.let(load('i32', this.#rec, RECORD.imm + 4));
  }
  field(n: number): Expr {
    return load('i32_8u', this.#rec, RECORD.a + n);
  }

  #register(recordOffset: number): Expr {
    return load('i64', this.cpu.add(load('i32_8u', this.#rec, recordOffset)));
  }

  effectiveAddress(): Expr {
    const form = this.form;
    if (form.addressing === ADDRESS.moffs64) return this.let(load('i64', this.#rec, RECORD.imm));
    const sum = this.#register(RECORD.base)
      .add(this.#register(RECORD.index).shl(load('i64_8u', this.#rec, RECORD.scale)))
      .add(load('i64_32s', this.#rec, RECORD.disp));
    if (form.addressing === ADDRESS.a64) return this.let(sum);
    return this.let(sum.and(form.addressing === ADDRESS.a16 ? 0xffff : 0xffff_ffff));
  }

  linearAddress(): Expr {
    if (this.#linear) return this.#linear;
    const base = this.#register(RECORD.segment);
    const sum = this.effectiveAddress().add(base);
    this.#linear = this.let(this.mode === 64 ? sum : sum.and(0xffff_ffff));
    return this.#linear;
  }

  sourceSegmentBase(): Expr {
    return this.#register(RECORD.segment);
  }

  vectorSlot(n: number): Expr {
    return this.#slot(n);
  }

  /** Sets `host` to the host offset of an access of `bytes` at `address`; leaves with a fault when it can't be made. */
  #hostFor(address: Expr, bytes: number, tag: number, host: Expr, slowName: string, onSlow: () => void): void {
    const f = this.f;
    const entry = f.let(tlbEntry(this.cpu, address));
    const last = bytes === 1 ? address : address.add(bytes - 1);
    f.if(
      load('i64', entry, tag).eq(last.and(PAGE_BITS)),
      () => f.set(host, load('i32', entry, TLB_ENTRY.addend).add(address.wrap())),
      () => {
        f.set(host, callExpr(I32, this.functions.index(slowName), [this.cpu, address, i32(bytes)]));
        f.if(host.eqz(), () => this.#exits.fault(f));
        onSlow();
      },
    );
  }

  #loadForm(form: Parameters<typeof load>[0], type: ValType, address: Expr, bytes: number): Expr {
    const f = this.f;
    const host = f.local(I32);
    this.#hostFor(address, bytes, TLB_ENTRY.read, host, 'read_slow', () => {});
    const value = f.local(type);
    f.set(value, load(form, host));
    return value;
  }

  #storeForm(form: 'i32_8' | 'i32_16' | 'i32' | 'i64' | 'v128', address: Expr, value: Expr, bytes: number): void {
    const f = this.f;
    const bound = f.let(value);
    const entry = f.let(tlbEntry(this.cpu, address));
    const last = bytes === 1 ? address : address.add(bytes - 1);
    f.if(
      load('i64', entry, TLB_ENTRY.write).eq(last.and(PAGE_BITS)),
      () => f.store(form, load('i32', entry, TLB_ENTRY.addend).add(address.wrap()), bound),
      () => {
        const host = f.let(callExpr(I32, this.functions.index('write_slow'), [this.cpu, address, i32(bytes)]));
        f.if(host.eqz(), () => this.#exits.fault(f));
        f.store(form, host, bound);
        this.callVoid('commit', [this.cpu]);
      },
    );
  }

  load(bits: number, address: Expr): Expr {
    return this.#loadForm(narrowLoad(bits), this.typeOf(bits), this.let(address), bits / 8);
  }
  store(bits: number, address: Expr, value: Expr): void {
    this.#storeForm(narrowStore(bits), this.let(address), value, bits / 8);
  }
  loadV(address: Expr, aligned: boolean): Expr {
    if (aligned) this.faultIf(address.and(15).ne(0), VECTOR.GP, i32(0));
    return this.#loadForm('v128', V128, this.let(address), 16);
  }
  storeV(address: Expr, value: Expr, aligned: boolean): void {
    if (aligned) this.faultIf(address.and(15).ne(0), VECTOR.GP, i32(0));
    this.#storeForm('v128', this.let(address), value, 16);
  }
  probeWrite(address: Expr, bytes: number): void {
    // What is only probed is not written yet: a data breakpoint takes no note of it.
    const noted = this.let(this.get32(CPU.watchHits));
    this.f.if(callExpr(I32, this.functions.index('write_slow'), [this.cpu, address, i32(bytes)]).eqz(), () => this.#exits.fault(this.f));
    this.set32(CPU.pendingKind, i32(0));
    this.set32(CPU.watchHits, noted);
  }
  hostAddress(address: Expr, access: number): Expr {
    const host = this.let(callExpr(I32, this.functions.index('translate'), [this.cpu, address, i32(access)]));
    this.f.if(host.eqz(), () => this.#exits.fault(this.f));
    return host;
  }
  wroteHost(host: Expr, bytes: Expr): void {
    const flag = load('i32_8u', this.get32(CPU.codeFlags).add(host.sub(this.get32(CTX.ramBase)).shrU(12)));
    this.f.if(flag, () => this.callVoid('code_written', [this.cpu, host, bytes]));
  }

  /** Most often asked after a comparison, or by INC and DEC after another instruction of FLAGS.bits. */
  carry(): Expr {
    const op = this.let(this.get32(CTX.ccOp));
    const a = this.get64(CTX.ccA);
    const rare = callExpr(I32, this.functions.index('carry'), [this.cpu]);
    return this.let(ifElse(op.eq(FLAGS.sub), a.ltU(this.get64(CTX.ccB)), ifElse(op.eq(FLAGS.bits), a.wrap().and(1), rare)));
  }

  condition(cc: number): Expr {
    const positive = this.#positiveCondition(cc >> 1);
    return (cc & 1) === 0 ? positive : positive.eqz();
  }

  #positiveCondition(pair: number): Expr {
    const op = this.get32(CTX.ccOp);
    const result = this.get64(CTX.ccDst);
    const a = this.get64(CTX.ccA);
    const b = this.get64(CTX.ccB);
    const bit = (n: number): Expr => this.get32(CTX.rflags).shrU(n).and(1);
    const generic = (name: string): Expr => callExpr(I32, this.functions.index(name), [this.cpu]);
    const afterSub = (fast: Expr, name: string): Expr => ifElse(op.eq(FLAGS.sub), fast, generic(name));
    switch (pair) {
      case 0:
        return generic('overflow');
      case 1:
        return afterSub(a.ltU(b), 'carry');
      case 2:
        return ifElse(op, result.eqz(), bit(6));
      case 3:
        return afterSub(a.leU(b), 'below_or_equal');
      case 4:
        return ifElse(op, result.ltS(0), bit(7));
      case 5:
        return generic('parity');
      case 6:
        return afterSub(a.ltS(b), 'less');
      default:
        return afterSub(a.leS(b), 'less_or_equal');
    }
  }

  fault(vector: number, error?: Expr): void {
    this.set32(CTX.exitVector, i32(vector));
    this.set32(CTX.exitError, error ?? i32(0));
    this.set32(CTX.exitHasError, i32(error ? 1 : 0));
    this.#exits.fault(this.f);
  }
  faultedIf(condition: Expr): void {
    this.f.if(condition, () => this.#exits.fault(this.f));
  }
  jump(target: Expr): void {
    this.#exits.jump(this.f, target);
  }
  branch(condition: Expr | null): void {
    if (condition === null) this.#exits.branch(this.f);
    else this.f.if(condition, () => this.#exits.branch(this.f));
  }
  #rip(): Expr {
    return this.get64(CTX.ripPage).add(load('i64_16u', this.#rec, RECORD.pageOffset));
  }
  thisRip(): Expr {
    return this.let(this.#rip());
  }
  nextRip(): Expr {
    return this.let(this.#rip().add(load('i64_8u', this.#rec, RECORD.length)));
  }
  exit(reason: number, atThis = false): void {
    this.set64(CTX.rip, atThis ? this.#rip() : this.nextRip());
    this.set32(CTX.exitReason, i32(reason));
    this.set32(CTX.exitLength, load('i32_8u', this.#rec, RECORD.length));
    this.#exits.exit(this.f);
  }
  repeat(): void {
    this.#exits.repeat(this.f);
  }
  done(): void {
    this.#exits.next(this.f);
  }
}

/** Exits of a handler that is a function of its own: it returns a `STATUS`. `ipBits`: what branches truncate the instruction pointer to. */
export const functionExits = (cpu: Expr, rec: Expr, ipBits: number): HandlerExits => ({
  next: (f) => f.return(i32(0)),
  fault: (f) => f.return(i32(1)),
  jump: (f, target) => {
    f.store('i64', cpu, target, CTX.rip);
    f.return(i32(2));
  },
  branch: (f) => {
    const target = load('i64', cpu, CTX.ripPage).add(load('i64', rec, RECORD.imm));
    f.store('i64', cpu, ipBits === 64 ? target : target.and(ipBits === 32 ? 0xffff_ffff : 0xffff), CTX.rip);
    f.return(i32(2));
  },
  exit: (f) => f.return(i32(3)),
  repeat: (f) => f.return(i32(4)),
});

export type { Label };
export { I64 };
