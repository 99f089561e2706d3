// SPDX-License-Identifier: Apache-2.0
/**
 * The architectural state that a translated region keeps in WebAssembly locals: general registers, and the lazy flags as a description of
 * what set them last.
 *
 * INVARIANT: on every way out of the region `store` has put registers and flags back into the vCPU block.
 */
import { CTX } from '../../memory/vcpu-context.ts';
import { type Expr, I32, I64, i32 } from '../../wasm/expr.ts';
import { type FunctionBuilder, load } from '../../wasm/function-builder.ts';
import { FLAGS, type FlagsKind } from '../record.ts';

/**
 * Flags whose setter is known here: values are bound locals or constants of the given width, and trees over such, which cost nothing
 * until somebody asks.
 */
export interface KnownFlags {
  readonly kind: FlagsKind;
  readonly bits: number;
  readonly result: Expr;
  readonly a: Expr | null;
  readonly b: Expr | null;
  /** For `FLAGS.bits`: CF, AF and OF at their places, i32. */
  readonly extra: Expr | null;
}

/** CF and OF replaced (`mask`) on top of other flags; `under` null: on top of those in the locals. */
export interface PatchedFlags {
  readonly under: KnownFlags | null;
  readonly mask: number;
  readonly value: Expr;
}

/** Sign-extends a value of `bits` to i64. */
export function signExtended(value: Expr, bits: number): Expr {
  if (bits === 64) return value;
  if (bits === 32) return value.extS();
  return (bits === 16 ? value.ext16S() : value.ext8S()).extS();
}

export class RegionRegisters {
  readonly #f: FunctionBuilder;
  readonly #cpu: Expr;
  readonly #gprs: (Expr | null)[] = new Array(16).fill(null);
  readonly #written: boolean[] = new Array(16).fill(false);
  /** The flags where no setter is known: as `CTX.ccOp` and its values. */
  readonly op: Expr;
  readonly result: Expr;
  readonly a: Expr;
  readonly b: Expr;
  known: KnownFlags | null = null;
  patched: PatchedFlags | null = null;
  readonly #materialize: () => void;

  /** `materialize` emits the call that makes RFLAGS in the vCPU block exact. */
  constructor(f: FunctionBuilder, cpu: Expr, materialize: () => void) {
    this.#materialize = materialize;
    this.#f = f;
    this.#cpu = cpu;
    this.op = f.local(I32);
    this.result = f.local(I64);
    this.a = f.local(I64);
    this.b = f.local(I64);
  }

  gpr(n: number): Expr {
    // A register's local lives as long as the region: it is taken outside of every scope.
    this.#gprs[n] ??= this.#f.permanentLocal(I64);
    return this.#gprs[n] as Expr;
  }
  setGpr(n: number, value: Expr): void {
    this.#written[n] = true;
    this.#f.set(this.gpr(n), value);
  }

  /** At entry, for the registers that the region turned out to use. */
  loadAll(withFlags: boolean): void {
    const f = this.#f;
    this.#gprs.forEach((local, n) => {
      if (local) f.set(local, load('i64', this.#cpu, CTX.gpr + n * 8));
    });
    if (withFlags) this.loadFlags();
  }
  loadFlags(): void {
    const f = this.#f;
    f.set(this.op, load('i32', this.#cpu, CTX.ccOp));
    f.set(this.result, load('i64', this.#cpu, CTX.ccDst));
    f.set(this.a, load('i64', this.#cpu, CTX.ccA));
    f.set(this.b, load('i64', this.#cpu, CTX.ccB));
  }

  /** Nothing is known: the flags are in the locals. */
  forgetFlags(): void {
    this.known = null;
    this.patched = null;
  }

  /** Puts what is known about the flags into the locals; emitted where somebody needs them. Does not change what is known. */
  flagsToLocals(): void {
    const f = this.#f;
    const { known, patched } = this;
    if (patched) {
      const value = f.let(patched.value);
      if (patched.under) this.#setLocals(patched.under);
      this.storeFlags();
      this.#materialize();
      f.store('i32', this.#cpu, load('i32', this.#cpu, CTX.rflags).and(~patched.mask).or(value.and(patched.mask)), CTX.rflags);
      f.set(this.op, FLAGS.exact);
    } else if (known) this.#setLocals(known);
  }
  #setLocals(known: KnownFlags): void {
    const f = this.#f;
    // Trees may refer to the locals that are about to change.
    const extra = known.extra ? f.let(known.extra) : null;
    f.set(this.op, i32(known.kind));
    f.set(this.result, signExtended(known.result, known.bits));
    if (extra) f.set(this.a, extra.extU());
    else {
      if (known.a) f.set(this.a, signExtended(known.a, known.bits));
      if (known.b) f.set(this.b, signExtended(known.b, known.bits));
    }
  }

  /** Puts everything back into the vCPU block; the flags from the locals. */
  storeAll(): void {
    const f = this.#f;
    this.#gprs.forEach((local, n) => {
      if (local && this.#written[n]) f.store('i64', this.#cpu, local, CTX.gpr + n * 8);
    });
    this.storeFlags();
  }
  storeFlags(): void {
    const f = this.#f;
    f.store('i32', this.#cpu, this.op, CTX.ccOp);
    f.store('i64', this.#cpu, this.result, CTX.ccDst);
    f.store('i64', this.#cpu, this.a, CTX.ccA);
    f.store('i64', this.#cpu, this.b, CTX.ccB);
  }
}
