// SPDX-License-Identifier: Apache-2.0
/**
 * x87 semantics: operands and memory around the core functions of `fpu/x87-*.ts` (Intel SDM volume 1 chapter 8, volume 2).
 * State management instructions are in `x87-control.ts`.
 *
 * The last instruction and operand pointers (FIP, FDP) and the opcode (FOP) are kept by every non-control instruction. FOP is exact
 * for register forms; for memory forms its addressing bits are zero, because handlers do not see them.
 */
import { CTX } from '../../memory/vcpu-context.ts';
import { type Expr, i32, i64 } from '../../wasm/expr.ts';
import { FP } from '../fpu/state.ts';
import { STORE } from '../fpu/x87-arithmetic.ts';
import { FUNCTION } from '../fpu/x87-functions.ts';
import { OPERAND_KIND as K } from '../isa/row.ts';
import type { SemContext, Semantics, SemanticsTable } from './context.ts';
import { defineX87Control } from './x87-control.ts';

/** Keeps the instruction and operand pointers; comes after the operand was read. */
function track(c: SemContext): void {
  const { row } = c.form;
  const opcode = (row.opcode & 7) << 8;
  c.set64(CTX.fip, c.thisRip());
  if (row.operands.length > 0 && row.operands[0].kind === K.mem) {
    c.set64(CTX.fdp, c.linearAddress());
    c.set16(CTX.fop, i32(opcode | (row.reg << 3)));
  } else if (row.exact >= 0) c.set16(CTX.fop, i32(opcode | row.exact));
  else c.set16(CTX.fop, c.field(0).or(opcode | 0xc0 | (row.reg << 3)));
}

/** Unpacks the real or integer memory operand 0 into the slot at `at`. */
function unpackMemory(c: SemContext, at: number, integer: boolean): void {
  const bits = c.width(0);
  const value = c.load(bits, c.linearAddress());
  const slot = c.cpu.add(at);
  if (integer) c.callVoid('fpUnpackInt', [slot, c.signExtend(value, bits)]);
  else c.callVoid(`fpUnpack${bits}`, [slot, value, i32(0)]);
}

/** `fadd`, `fsub` …: ST(0) with ST(i) or memory. */
function arithmetic(c: SemContext, integer: boolean): void {
  const operation = i32(c.form.row.reg);
  if (c.kind(0) === K.st) {
    track(c);
    c.callVoid('x87Arithmetic', [c.cpu, operation, c.field(0), i32(0), i32(0)]);
  } else {
    unpackMemory(c, FP.b, integer);
    track(c);
    c.callVoid('x87ArithmeticB', [c.cpu, operation]);
  }
}

/** `fadd_to`, `faddp` …: the result to ST(i). */
function arithmeticTo(c: SemContext, pops: number): void {
  const i = c.let(c.field(0));
  track(c);
  c.callVoid('x87Arithmetic', [c.cpu, i32(c.form.row.reg), i, i, i32(pops)]);
}

function compare(c: SemContext, integer: boolean, quiet: number, pops: number): void {
  let other: Expr = i32(8);
  if (c.kind(0) === K.st) other = c.field(0);
  else unpackMemory(c, FP.b, integer);
  track(c);
  c.callVoid('x87Compare', [c.cpu, other, i32(quiet), i32(pops)]);
}

function compareTwice(c: SemContext, quiet: number): void {
  track(c);
  c.callVoid('x87Compare', [c.cpu, i32(1), i32(quiet), i32(2)]);
}

function compareFlags(c: SemContext, quiet: number, pops: number): void {
  track(c);
  const flags = c.call('x87CompareFlags', [c.cpu, c.field(0), i32(quiet), i32(pops)]);
  c.setEflags(0x8d5, flags);
}

function loadReal(c: SemContext): void {
  if (c.kind(0) === K.st) {
    track(c);
    c.callVoid('x87PushReg', [c.cpu, c.field(0)]);
    return;
  }
  if (c.width(0) === 80) {
    const [low, high] = load80(c);
    track(c);
    c.set32(FP.flags, i32(0));
    c.callVoid('x87Push', [c.cpu, low, high]);
    return;
  }
  unpackMemory(c, FP.a, false);
  track(c);
  c.callVoid('x87PushA', [c.cpu]);
}

/** The ten bytes of memory operand 0. */
function load80(c: SemContext): [Expr, Expr] {
  const address = c.linearAddress();
  const low = c.load(64, address);
  return [low, c.load(16, address.add(8))];
}
function store80(c: SemContext): void {
  const address = c.linearAddress();
  c.probeWrite(address, 10);
  c.store(64, address, c.get64(FP.value));
  c.store(16, address.add(8), c.get32(FP.valueHigh));
}

/** A store to memory: nothing changes when memory faults; an unmasked exception keeps the store from being made. */
function storeMemory(c: SemContext, kind: number, pops: boolean, truncate = false): void {
  const address = c.linearAddress();
  const bits = c.width(0);
  const status = c.let(c.get16(CTX.fsw));
  const stores = c.call('x87StorePrepare', [c.cpu, i32(kind), i32(truncate ? 1 : 0)]);
  c.f.if(
    stores,
    () => {
      if (bits === 80) store80(c);
      else c.store(bits, address, bits === 64 ? c.get64(FP.value) : c.get32(FP.value));
      track(c);
      c.callVoid('x87StoreCommit', [c.cpu, i32(pops ? 1 : 0)]);
    },
    () => {
      // Memory is looked at all the same, before the exception is noted.
      const noted = c.let(c.get16(CTX.fsw));
      c.set16(CTX.fsw, status);
      c.probeWrite(address, bits / 8);
      c.set16(CTX.fsw, noted);
      track(c);
    },
  );
}

function storeReal(c: SemContext, pops: boolean): void {
  if (c.kind(0) === K.st) {
    track(c);
    c.callVoid(c.form.row.opcode === 0xd9 ? 'x87StoreRegSilently' : 'x87StoreReg', [c.cpu, c.field(0), i32(pops ? 1 : 0)]);
  } else storeMemory(c, c.width(0) === 32 ? STORE.single : c.width(0) === 64 ? STORE.double : STORE.extended, pops);
}

function storeInteger(c: SemContext, pops: boolean, truncate = false): void {
  storeMemory(c, c.width(0) === 16 ? STORE.int16 : c.width(0) === 32 ? STORE.int32 : STORE.int64, pops, truncate);
}

/** Conditions of FCMOV in opcode order: CF, ZF, CF or ZF, PF. */
const MOVE_CONDITIONS = { b: 2, e: 4, be: 6, u: 10 } as const;

export function defineX87(table: SemanticsTable): void {
  const define = (names: string, semantics: Semantics): void => table.define(names, semantics);
  define('fadd fmul fsub fsubr fdiv fdivr', (c) => arithmetic(c, false));
  define('fiadd fimul fisub fisubr fidiv fidivr', (c) => arithmetic(c, true));
  define('fadd_to fmul_to fsub_to fsubr_to fdiv_to fdivr_to', (c) => arithmeticTo(c, 0));
  define('faddp fmulp fsubp fsubrp fdivp fdivrp', (c) => arithmeticTo(c, 1));
  define('fcom fcom_to', (c) => compare(c, false, 0, 0));
  define('fcomp fcomp_to', (c) => compare(c, false, 0, 1));
  define('ficom', (c) => compare(c, true, 0, 0));
  define('ficomp', (c) => compare(c, true, 0, 1));
  define('fucom', (c) => compare(c, false, 1, 0));
  define('fucomp', (c) => compare(c, false, 1, 1));
  define('fcompp', (c) => compareTwice(c, 0));
  define('fucompp', (c) => compareTwice(c, 1));
  define('fcomi', (c) => compareFlags(c, 0, 0));
  define('fcomip', (c) => compareFlags(c, 0, 1));
  define('fucomi', (c) => compareFlags(c, 1, 0));
  define('fucomip', (c) => compareFlags(c, 1, 1));
  define('ftst', (c) => {
    track(c);
    c.callVoid('fpUnpackInt', [c.cpu.add(FP.b), i64(0)]);
    c.callVoid('x87Compare', [c.cpu, i32(8), i32(0), i32(0)]);
  });
  define('fxam', (c) => {
    track(c);
    c.callVoid('x87Examine', [c.cpu]);
  });

  define('fld', loadReal);
  define('fild', (c) => {
    unpackMemory(c, FP.a, true);
    track(c);
    c.callVoid('x87PushA', [c.cpu]);
  });
  define('fbld', (c) => {
    const [low, high] = load80(c);
    track(c);
    c.callVoid('x87FromDecimal', [c.cpu, low, high]);
    c.callVoid('x87PushA', [c.cpu]);
  });
  define('fst', (c) => storeReal(c, false));
  define('fstp', (c) => storeReal(c, true));
  define('fist', (c) => storeInteger(c, false));
  define('fistp', (c) => storeInteger(c, true));
  define('fisttp', (c) => storeInteger(c, true, true));
  define('fbstp', (c) => storeMemory(c, STORE.bcd, true));
  define('fxch', (c) => {
    track(c);
    c.callVoid('x87Exchange', [c.cpu, c.field(0)]);
  });
  for (const [suffix, cc] of Object.entries(MOVE_CONDITIONS)) {
    for (const negated of [0, 1]) {
      define(`fcmov${negated ? 'n' : ''}${suffix}`, (c) => {
        const holds = c.let(c.condition(cc + negated).ne(0));
        track(c);
        c.callVoid('x87Move', [c.cpu, c.field(0), holds]);
      });
    }
  }
  define('fabs', (c) => {
    track(c);
    c.callVoid('x87Sign', [c.cpu, i32(0x7fff), i32(0)]);
  });
  define('fchs', (c) => {
    track(c);
    c.callVoid('x87Sign', [c.cpu, i32(0xffff), i32(0x8000)]);
  });
  ['fld1', 'fldl2t', 'fldl2e', 'fldpi', 'fldlg2', 'fldln2', 'fldz'].forEach((name, n) => {
    define(name, (c) => {
      track(c);
      c.callVoid('x87PushConstant', [c.cpu, i32(n)]);
    });
  });
  define('fsqrt', (c) => {
    track(c);
    c.callVoid('x87ArithmeticB', [c.cpu, i32(8)]);
  });
  for (const name of ['f2xm1', 'fsin', 'fcos', 'fptan', 'frndint', 'fsincos', 'fxtract'] as const) {
    define(name, (c) => {
      track(c);
      c.callVoid('x87Unary', [c.cpu, i32(FUNCTION[name])]);
    });
  }
  for (const name of ['fyl2x', 'fyl2xp1', 'fpatan', 'fscale', 'fprem', 'fprem1'] as const) {
    define(name, (c) => {
      track(c);
      c.callVoid('x87Binary', [c.cpu, i32(FUNCTION[name])]);
    });
  }
  defineX87Control(table);
}
