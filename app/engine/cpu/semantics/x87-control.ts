// SPDX-License-Identifier: Apache-2.0
/**
 * x87 control instructions: control, status and tag words, stack pointer, and the environment and state images of FNSTENV, FNSAVE,
 * FLDENV and FRSTOR (Intel SDM volume 1 §8.1.10, figures 8-9 to 8-12, protected-mode layouts).
 *
 * With an operand size of 16 bits the 16-bit image is used, otherwise the 32-bit one, also in 64-bit mode. The selectors stored are
 * those of the running code and data segments.
 *
 * INVARIANT: images are probed as a whole before a byte of memory or state changes; they touch two pages at most.
 */
import { CTX, SEG, SEGREG } from '../../memory/vcpu-context.ts';
import { type Expr, I32, i32, i64 } from '../../wasm/expr.ts';
import { load } from '../../wasm/function-builder.ts';
import { FSW_CONDITIONS } from '../fpu/x87-stack.ts';
import { type SemContext, type SemanticsTable, VECTOR } from './context.ts';

const FCW_INITIAL = 0x37f;
/** Bits of the control word that can be written (bit 12 is the infinity control nobody uses); bit 6 reads as 1. */
const FCW_WRITABLE = 0x1f3f;
const FCW_FIXED = 0x40;
const FSW_TOP = 0x3800;
const SUMMARY = 0x8080;

const CR0_MP_TS = 2 | 8;

/** Control and status words from memory: sets the summary bits by what is pending and unmasked. */
function setControlAndStatus(c: SemContext, control: Expr, status: Expr): void {
  const fcw = c.let(control.and(FCW_WRITABLE).or(FCW_FIXED));
  const pending = status.and(fcw.not()).and(0x3f).ne(0);
  c.set16(CTX.fcw, fcw);
  c.set16(CTX.fsw, status.and(0xffff & ~FSW_TOP & ~SUMMARY).or(pending.select(i32(SUMMARY), i32(0))));
}

const statusWithTop = (c: SemContext): Expr => c.get16(CTX.fsw).or(c.get16(CTX.ftop).shl(11));

/** The full tag word: per physical register 0 valid, 1 zero, 2 special, 3 empty; bound. */
function fullTagWord(c: SemContext): Expr {
  const f = c.f;
  const word = f.local(I32);
  f.set(word, i32(0));
  const inUse = c.let(c.get16(CTX.ftag));
  for (let n = 0; n < 8; n++) {
    f.scope(() => {
      const exponent = f.let(load('i32_16u', c.cpu, CTX.fpr + n * 16 + 8).and(0x7fff));
      const sig = f.let(load('i64', c.cpu, CTX.fpr + n * 16));
      const zero = sig.eqz().and(exponent.eqz());
      const normal = exponent
        .sub(1)
        .ltU(0x7ffe)
        .and(sig.ltS(i64(0)));
      const tag = inUse
        .and(1 << n)
        .eqz()
        .select(i32(3), zero.select(i32(1), normal.select(i32(0), i32(2))));
      f.set(word, word.or(tag.shl(n * 2)));
    });
  }
  return word;
}

/** Abridged tags from a full tag word. */
function setTags(c: SemContext, word: Expr): void {
  const empty = c.let(word.and(word.shrU(1)).and(0x5555));
  let tags: Expr = i32(0);
  for (let n = 0; n < 8; n++)
    tags = tags.or(
      empty
        .shrU(n * 2)
        .and(1)
        .xor(1)
        .shl(n),
    );
  c.set16(CTX.ftag, tags);
}

const selector = (c: SemContext, segment: number): Expr => c.get16(CTX.seg + segment * SEG.stride + SEG.selector);
const isNarrow = (c: SemContext): boolean => c.form.operandSize === 16;
const environmentBytes = (c: SemContext): number => (isNarrow(c) ? 14 : 28);

function offsetBy(c: SemContext, base: Expr, offset: number | Expr): Expr {
  const sum = base.add(typeof offset === 'number' ? offset : offset.extU());
  return c.mode === 64 ? sum : sum.and(0xffff_ffff);
}

function storeEnvironment(c: SemContext, base: Expr): void {
  const put = (bits: number, offset: number, value: Expr): void => c.store(bits, offsetBy(c, base, offset), value);
  const words = [c.get16(CTX.fcw), statusWithTop(c), fullTagWord(c)];
  const [code, data] = [selector(c, SEGREG.cs), selector(c, SEGREG.ds)];
  if (isNarrow(c)) {
    const rest = [c.get32(CTX.fip), code, c.get32(CTX.fdp), data];
    for (const [n, value] of [...words, ...rest].entries()) put(16, n * 2, value);
  } else {
    const high = 0xffff_0000 | 0;
    const rest = [c.get32(CTX.fip), code.or(c.get16(CTX.fop).and(0x7ff).shl(16)), c.get32(CTX.fdp), data.or(high)];
    for (const [n, value] of [...words.map((word) => word.or(high)), ...rest].entries()) put(32, n * 4, value);
  }
}

/** Reads an environment image and commits it. */
function loadEnvironment(c: SemContext, base: Expr): void {
  const get = (bits: number, offset: number): Expr => c.load(bits, offsetBy(c, base, offset));
  const size = isNarrow(c) ? 2 : 4;
  const [control, status, tags] = [0, 1, 2].map((n) => get(16, n * size));
  const ip = get(size * 8, size * 3);
  const dp = get(size * 8, size * 5);
  const opcode = isNarrow(c) ? null : get(16, 18);
  setControlAndStatus(c, control, status);
  c.set16(CTX.ftop, status.shrU(11).and(7));
  setTags(c, tags);
  c.set64(CTX.fip, ip.extU());
  c.set64(CTX.fdp, dp.extU());
  if (opcode) c.set16(CTX.fop, opcode.and(0x7ff));
}

function initialize(c: SemContext): void {
  c.set16(CTX.fcw, i32(FCW_INITIAL));
  for (const field of [CTX.fsw, CTX.ftop, CTX.ftag, CTX.fop]) c.set16(field, i32(0));
  for (const field of [CTX.fip, CTX.fdp]) c.set64(field, i64(0));
}

/** Host address of ST(n). */
const register = (c: SemContext, n: number): Expr => c.let(c.cpu.add(c.get16(CTX.ftop).add(n).and(7).shl(4)));

function probeRange(c: SemContext, base: Expr, bytes: number): void {
  c.probeWrite(base, 64);
  c.probeWrite(offsetBy(c, base, bytes - 64), 64);
}

function save(c: SemContext): void {
  const base = c.linearAddress();
  const start = environmentBytes(c);
  probeRange(c, base, start + 80);
  storeEnvironment(c, base);
  for (let n = 0; n < 8; n++) {
    const from = register(c, n);
    c.store(64, offsetBy(c, base, start + n * 10), load('i64', from, CTX.fpr));
    c.store(16, offsetBy(c, base, start + n * 10 + 8), load('i32_16u', from, CTX.fpr + 8));
  }
  initialize(c);
}

function restore(c: SemContext): void {
  const base = c.linearAddress();
  const start = environmentBytes(c);
  const values: [Expr, Expr][] = [];
  for (let n = 0; n < 8; n++) {
    values.push([c.load(64, offsetBy(c, base, start + n * 10)), c.load(16, offsetBy(c, base, start + n * 10 + 8))]);
  }
  loadEnvironment(c, base);
  values.forEach(([sig, se], n) => {
    const to = register(c, n);
    c.f.store('i64', to, sig, CTX.fpr);
    c.f.store('i32_16', to, se, CTX.fpr + 8);
  });
}

/** FINCSTP and FDECSTP: TOP moves, tags stay, C1 is cleared. */
function rotate(c: SemContext, by: number): void {
  c.set16(CTX.ftop, c.get16(CTX.ftop).add(by).and(7));
  c.set16(CTX.fsw, c.get16(CTX.fsw).and(0xfdff));
}

function free(c: SemContext, pops: boolean): void {
  const physical = c.let(c.get16(CTX.ftop).add(c.field(0)).and(7));
  c.set16(CTX.fsw, c.get16(CTX.fsw).and(0xfdff));
  c.set16(CTX.ftag, c.get16(CTX.ftag).and(i32(1).shl(physical).not()));
  if (!pops) return;
  const top = c.let(c.get16(CTX.ftop));
  c.set16(CTX.ftag, c.get16(CTX.ftag).and(i32(1).shl(top).not()));
  c.set16(CTX.ftop, top.add(1).and(7));
}

export function defineX87Control(table: SemanticsTable): void {
  table.define('fwait', (c) => {
    c.faultIf(c.get32(CTX.cr0).and(CR0_MP_TS).eq(CR0_MP_TS), VECTOR.NM);
    c.faultIf(c.get16(CTX.fsw).and(0x80).ne(0), VECTOR.MF);
  });
  table.define('fnop', () => {});
  table.define('fninit', initialize);
  table.define('fnclex', (c) => c.set16(CTX.fsw, c.get16(CTX.fsw).and(FSW_CONDITIONS)));
  table.define('fnstcw', (c) => c.write(0, c.get16(CTX.fcw)));
  table.define('fldcw', (c) => {
    const control = c.read(0);
    setControlAndStatus(c, control, c.get16(CTX.fsw));
  });
  table.define('fnstsw', (c) => c.write(0, statusWithTop(c)));
  table.define('fincstp', (c) => rotate(c, 1));
  table.define('fdecstp', (c) => rotate(c, 7));
  table.define('ffree', (c) => free(c, false));
  table.define('ffreep', (c) => free(c, true));
  table.define('fnstenv', (c) => {
    const base = c.linearAddress();
    c.probeWrite(base, environmentBytes(c));
    storeEnvironment(c, base);
    // All exceptions are masked afterwards.
    c.set16(CTX.fcw, c.get16(CTX.fcw).or(0x3f));
    c.set16(CTX.fsw, c.get16(CTX.fsw).and(0xffff & ~SUMMARY));
  });
  table.define('fldenv', (c) => loadEnvironment(c, c.linearAddress()));
  table.define('fnsave', save);
  table.define('frstor', restore);
}
