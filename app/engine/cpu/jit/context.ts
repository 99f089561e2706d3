// SPDX-License-Identifier: Apache-2.0
/**
 * Semantics for the translator: operands are known, general registers are locals, flags are descriptions, addresses fold.
 *
 * Vector registers and everything else of the vCPU stay in memory, where core functions find them.
 */
import { CTX } from '../../memory/vcpu-context.ts';
import { type Expr, I32, i32, i64, type ValType, V128 } from '../../wasm/expr.ts';
import { atomicRmw, callExpr, load } from '../../wasm/function-builder.ts';
import { ADDRESS } from '../isa/decoder.ts';
import { OPERAND_KIND as K } from '../isa/row.ts';
import { TLB } from '../../memory/layout.ts';
import { TLB_ENTRY } from '../mmu/translate.ts';
import { CPU, FLAGS, type FlagsKind } from '../record.ts';
import { type FunctionDirectory, narrowLoad, narrowStore, type ReadModifyWrite, SemContext, VECTOR } from '../semantics/context.ts';
import type { Instruction } from './instruction.ts';
import type { RegionExits } from './emitter.ts';
import { setsFlagsConditionally } from './flag-liveness.ts';
import type { KnownFlags, RegionRegisters } from './registers.ts';

const PAGE_BITS = -4096;
const CF = 1;
const CF_OF = 0x801;

export class JitContext extends SemContext {
  readonly #insn: Instruction;
  readonly #regs: RegionRegisters;
  readonly #exits: RegionExits;
  readonly #conditional: boolean;
  #linear: Expr | null = null;

  constructor(insn: Instruction, cpu: Expr, regs: RegionRegisters, exits: RegionExits, functions: FunctionDirectory) {
    super(exits.f, insn.form, cpu, functions);
    this.#insn = insn;
    this.#regs = regs;
    this.#exits = exits;
    this.#conditional = setsFlagsConditionally(insn);
  }

  // ---- general registers

  #narrow(value: Expr, bits: number): Expr {
    if (bits === 64) return value;
    const low = value.wrap();
    return bits === 32 ? low : low.and(bits === 16 ? 0xffff : 0xff);
  }
  gpr(register: number, bits: number): Expr {
    return this.let(this.#narrow(this.#regs.gpr(register), bits));
  }
  setGpr(register: number, bits: number, value: Expr): void {
    const regs = this.#regs;
    if (bits === 64) regs.setGpr(register, value);
    else if (bits === 32) regs.setGpr(register, value.extU());
    else {
      const mask = bits === 16 ? 0xffff : 0xff;
      regs.setGpr(register, regs.gpr(register).and(~mask).or(value.and(mask).extU()));
    }
  }
  gprHigh(register: number): Expr {
    return this.let(this.#regs.gpr(register).wrap().shrU(8).and(0xff));
  }
  setGprHigh(register: number, value: Expr): void {
    const regs = this.#regs;
    regs.setGpr(register, regs.gpr(register).and(~0xff00).or(value.and(0xff).shl(8).extU()));
  }

  #readField(n: number, bits: number): Expr {
    const field = this.#insn.fields[n];
    return (field & 7) === 1 ? this.gprHigh(field >> 3) : this.gpr(field >> 3, bits);
  }
  #writeField(n: number, bits: number, value: Expr): void {
    const field = this.#insn.fields[n];
    if ((field & 7) === 1) this.setGprHigh(field >> 3, value);
    else this.setGpr(field >> 3, bits, value);
  }

  read(n: number): Expr {
    const bits = this.width(n);
    switch (this.kind(n)) {
      case K.imm:
        return this.immediate(n);
      case K.one:
        return i32(1);
      default:
        return this.isMemory(n) ? this.load(bits, this.linearAddress()) : this.#readField(n, bits);
    }
  }
  write(n: number, value: Expr): void {
    const bits = this.width(n);
    if (this.isMemory(n)) this.store(bits, this.linearAddress(), value);
    else this.#writeField(n, bits, value);
  }
  immediate(n: number): Expr {
    const { immLo, immHi } = this.#insn;
    return this.width(n) === 64 ? i64((BigInt(immHi) << 32n) | BigInt(immLo >>> 0)) : i32(immLo);
  }
  immediateLow(): Expr {
    return i32(this.#insn.immLo);
  }
  immediateHigh(): Expr {
    return i32(this.#insn.immHi);
  }
  field(n: number): Expr {
    return i32(this.#insn.fields[n]);
  }

  // ---- addresses

  #slot(offset: number): Expr | null {
    if (offset === CTX.zero) return null;
    if (offset < CTX.gpr + 128) return this.#regs.gpr((offset - CTX.gpr) >> 3);
    return this.get64(offset);
  }
  effectiveAddress(): Expr {
    const insn = this.#insn;
    const { addressing } = this.form;
    if (addressing === ADDRESS.moffs64) return i64((BigInt(insn.immHi) << 32n) | BigInt(insn.immLo >>> 0));
    let sum: Expr | null = insn.ripRelative ? this.#exits.pageBase : this.#slot(insn.base);
    const index = this.#slot(insn.index);
    if (index) {
      const scaled = index.shl(insn.scale);
      sum = sum ? sum.add(scaled) : scaled;
    }
    sum = sum ? sum.add(insn.disp) : i64(insn.disp);
    if (addressing === ADDRESS.a64) return this.let(sum);
    return this.let(sum.and(addressing === ADDRESS.a16 ? 0xffff : 0xffff_ffff));
  }
  linearAddress(): Expr {
    if (this.#linear) return this.#linear;
    const base = this.#slot(this.#insn.segment);
    const address = this.effectiveAddress();
    this.#linear = base ? this.let(address.add(base)) : address;
    return this.#linear;
  }
  sourceSegmentBase(): Expr {
    return this.#slot(this.#insn.segment) ?? i64(0);
  }
  vectorSlot(n: number): Expr {
    return this.cpu.add(this.#insn.fields[n]);
  }

  // ---- memory

  #tlbEntry(address: Expr): Expr {
    return this.#exits.tlb.add(
      address
        .shrU(7)
        .wrap()
        .and((TLB.entries - 1) << 5),
    );
  }
  /** Host offset for an access of `bytes`, by the TLB or the slow path; leaves with a fault when it can't be made. */
  #host(address: Expr, bytes: number, tag: number, slowName: string, onSlow: (() => void) | null): Expr {
    const f = this.f;
    const host = f.local(I32);
    const entry = f.let(this.#tlbEntry(address));
    const last = bytes === 1 ? address : address.add(bytes - 1);
    f.if(
      load('i64', entry, tag).eq(last.and(PAGE_BITS)),
      () => f.set(host, load('i32', entry, TLB_ENTRY.addend).add(address.wrap())),
      () => {
        f.set(host, callExpr(I32, this.functions.index(slowName), [this.cpu, address, i32(bytes)]));
        f.if(host.eqz(), () => this.#exits.fault());
        onSlow?.();
      },
    );
    return host;
  }
  #load(form: Parameters<typeof load>[0], type: ValType, address: Expr, bytes: number): Expr {
    const host = this.#host(this.let(address), bytes, TLB_ENTRY.read, 'read_slow', null);
    const value = this.f.local(type);
    this.f.set(value, load(form, host));
    return value;
  }
  #store(form: 'i32_8' | 'i32_16' | 'i32' | 'i64' | 'v128', target: Expr, value: Expr, bytes: number): void {
    const f = this.f;
    const address = f.let(target);
    const bound = f.let(value);
    const entry = f.let(this.#tlbEntry(address));
    const last = bytes === 1 ? address : address.add(bytes - 1);
    f.if(
      load('i64', entry, TLB_ENTRY.write).eq(last.and(PAGE_BITS)),
      () => f.store(form, load('i32', entry, TLB_ENTRY.addend).add(address.wrap()), bound),
      () => {
        const host = f.let(callExpr(I32, this.functions.index('write_slow'), [this.cpu, address, i32(bytes)]));
        f.if(host.eqz(), () => this.#exits.fault());
        this.#onlyPlain();
        f.store(form, host, bound);
      },
    );
  }
  /** After `write_slow`: anything but a plain store is the interpreter's. */
  #onlyPlain(): void {
    this.f.if(this.get32(CPU.pendingKind), () => {
      this.set32(CPU.pendingKind, i32(0));
      this.#exits.interpret();
    });
  }

  load(bits: number, address: Expr): Expr {
    return this.#load(narrowLoad(bits), this.typeOf(bits), address, bits / 8);
  }
  store(bits: number, address: Expr, value: Expr): void {
    this.#store(narrowStore(bits), address, value, bits / 8);
  }
  loadV(address: Expr, aligned: boolean): Expr {
    if (aligned) this.faultIf(address.and(15).ne(0), VECTOR.GP, i32(0));
    return this.#load('v128', V128, address, 16);
  }
  storeV(address: Expr, value: Expr, aligned: boolean): void {
    if (aligned) this.faultIf(address.and(15).ne(0), VECTOR.GP, i32(0));
    this.#store('v128', address, value, 16);
  }
  probeWrite(address: Expr, bytes: number): void {
    this.f.if(callExpr(I32, this.functions.index('write_slow'), [this.cpu, address, i32(bytes)]).eqz(), () => this.#exits.fault());
    this.set32(CPU.pendingKind, i32(0));
  }
  hostAddress(address: Expr, access: number): Expr {
    const host = this.let(callExpr(I32, this.functions.index('translate'), [this.cpu, address, i32(access)]));
    this.f.if(host.eqz(), () => this.#exits.fault());
    return host;
  }
  wroteHost(host: Expr, bytes: Expr): void {
    const flag = load('i32_8u', this.get32(CPU.codeFlags).add(host.sub(this.get32(CTX.ramBase)).shrU(12)));
    this.f.if(flag, () => this.callVoid('code_written', [this.cpu, host, bytes]));
  }
  rmwMemory(bits: number, target: Expr, change: (old: Expr) => Expr, atomic: boolean): ReadModifyWrite {
    const f = this.f;
    const type = this.typeOf(bits);
    const address = f.let(target);
    const old = f.local(type);
    const result = f.local(type);
    const host = this.#host(address, bits / 8, TLB_ENTRY.write, 'write_slow', () => this.#onlyPlain());
    const plain = (): void => {
      f.set(old, load(narrowLoad(bits), host));
      f.set(result, change(old));
      f.store(narrowStore(bits), host, result);
    };
    if (!atomic) plain();
    else {
      f.if(
        bits === 8 ? i32(0) : host.and(bits / 8 - 1),
        () => plain(),
        () =>
          f.loop((again) => {
            f.set(old, load(narrowLoad(bits), host));
            f.set(result, change(old));
            const wide = bits === 64 ? result : this.zeroExtend(result, bits);
            f.brIf(again, atomicRmw('cmpxchg', bits as 8 | 16 | 32 | 64, host, old, wide).ne(old));
          }),
      );
    }
    return { old, result };
  }

  // ---- flags

  override setFlags(kind: FlagsKind, bits: number, result: Expr, a?: Expr, b?: Expr): void {
    this.#know({ kind, bits, result: this.let(result), a: a ? this.let(a) : null, b: b ? this.let(b) : null, extra: null });
  }
  override setFlagsBits(bits: number, result: Expr, extra: Expr): void {
    this.#know({ kind: FLAGS.bits, bits, result: this.let(result), a: null, b: null, extra });
  }
  /** Inside of a condition the locals are changed at once: what comes after it can't know which way it went. */
  #know(flags: KnownFlags): void {
    const regs = this.#regs;
    regs.known = flags;
    regs.patched = null;
    if (!this.#conditional) return;
    regs.flagsToLocals();
    regs.forgetFlags();
  }
  override setEflags(mask: number, value: Expr): void {
    const regs = this.#regs;
    if (!this.#conditional && (mask & ~CF_OF) === 0) {
      // Only CF and OF, or one of them: what is under them stays known.
      const { patched } = regs;
      if (patched) {
        regs.patched = { under: patched.under, mask: patched.mask | mask, value: patched.value.and(~mask).or(value.and(mask)) };
      } else regs.patched = { under: regs.known, mask, value };
      regs.known = null;
      return;
    }
    const bound = this.let(value);
    const rflags = this.eflags();
    this.set32(CTX.rflags, rflags.and(~mask).or(bound.and(mask)));
  }
  override eflags(): Expr {
    const regs = this.#regs;
    this.#flagsToMemory();
    this.callVoid('materialize', [this.cpu]);
    this.f.set(regs.op, FLAGS.exact);
    regs.forgetFlags();
    return this.let(this.get32(CTX.rflags));
  }
  #flagsToMemory(): void {
    this.#regs.flagsToLocals();
    this.#regs.storeFlags();
  }
  /** A tree, not bound: a flag that nobody reads costs nothing. */
  carry(): Expr {
    const { known, patched } = this.#regs;
    if (patched && (patched.mask & CF) !== 0) return patched.value.and(CF);
    const base = patched ? patched.under : known;
    if (base) {
      const { kind, bits, result, a, b } = base;
      if (kind === FLAGS.logic) return i32(0);
      if (kind === FLAGS.sub) return this.#unsigned(a as Expr, bits).ltU(this.#unsigned(b as Expr, bits));
      if (kind === FLAGS.add) return this.#unsigned(result, bits).ltU(this.#unsigned(a as Expr, bits));
      if (kind === FLAGS.bits) return (base.extra as Expr).and(CF);
    }
    this.#flagsToMemory();
    return this.call('carry', [this.cpu]);
  }
  #unsigned(value: Expr, bits: number): Expr {
    return bits >= 32 ? value : value.and(bits === 16 ? 0xffff : 0xff);
  }
  #signed(value: Expr, bits: number): Expr {
    return bits >= 32 ? value : bits === 16 ? value.ext16S() : value.ext8S();
  }
  condition(cc: number): Expr {
    const positive = this.#positiveCondition(cc >> 1);
    return (cc & 1) === 0 ? positive : positive.eqz();
  }
  #positiveCondition(pair: number): Expr {
    const { known, patched } = this.#regs;
    const base = patched ? patched.under : known;
    if (base) {
      const { kind, bits, result, a, b } = base;
      if (pair === 2) return this.#unsigned(result, bits).eqz();
      if (pair === 4) return this.#signed(result, bits).ltS(0);
      if (pair === 1) return this.carry();
      if (!patched && kind === FLAGS.sub) {
        const x = a as Expr;
        const y = b as Expr;
        if (pair === 3) return this.#unsigned(x, bits).leU(this.#unsigned(y, bits));
        if (pair === 6) return this.#signed(x, bits).ltS(this.#signed(y, bits));
        if (pair === 7) return this.#signed(x, bits).leS(this.#signed(y, bits));
      }
      if (!patched && kind === FLAGS.logic) {
        if (pair === 0) return i32(0);
        if (pair === 3) return this.#unsigned(result, bits).eqz();
        if (pair === 6) return this.#signed(result, bits).ltS(0);
        if (pair === 7) return this.#signed(result, bits).leS(0);
      }
    } else if (pair === 1) return this.carry();
    this.#flagsToMemory();
    const names = ['overflow', 'carry', 'zero', 'below_or_equal', 'sign', 'parity', 'less', 'less_or_equal'];
    return this.call(names[pair], [this.cpu]);
  }

  // ---- control

  fault(vector: number, error?: Expr): void {
    this.set32(CTX.exitVector, i32(vector));
    this.set32(CTX.exitError, error ?? i32(0));
    this.set32(CTX.exitHasError, i32(error ? 1 : 0));
    this.#exits.fault();
  }
  faultedIf(condition: Expr): void {
    this.f.if(condition, () => this.#exits.fault());
  }
  jump(target: Expr): void {
    this.#exits.jump(target);
  }
  branch(condition: Expr | null): void {
    this.#exits.branch(condition);
  }
  thisRip(): Expr {
    return this.#exits.pageBase.add(this.#insn.at);
  }
  nextRip(): Expr {
    return this.let(this.#exits.pageBase.add(this.#insn.at + this.#insn.length));
  }
  exit(): void {
    throw new Error(`${this.form.row.name} cannot be translated`);
  }
  repeat(): void {
    throw new Error(`${this.form.row.name} cannot be translated`);
  }
  done(): void {
    throw new Error(`${this.form.row.name} cannot be translated`);
  }
}
