// SPDX-License-Identifier: Apache-2.0
/**
 * EMMS, MXCSR, and the save areas of x87 and SSE state: FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XRSTOR
 * (Intel SDM volume 1 §10.5 and chapter 13, volume 2).
 *
 * The XSAVE area has the standard format with the legacy region and the header only (XCR0 is 3 at most). Both components always count
 * as in use, and XSAVEOPT writes everything: the optimisations are optional.
 *
 * INVARIANT: an area is probed as a whole before the first byte of it or of the state changes; 512 or 576 bytes touch two pages at most.
 * Left out: code and data segment selectors of the last x87 instruction (saved as 0, as processors do that deprecate them).
 */
import { CTX, REG } from '../../memory/vcpu-context.ts';
import { type Expr, I32, i32, i64 } from '../../wasm/expr.ts';
import { type FunctionBuilder, load } from '../../wasm/function-builder.ts';
import { type SemanticsTable, type SemContext, VECTOR } from './context.ts';
import { enterMmx } from './vector-operands.ts';

/** Bits of MXCSR that exist, denormals-are-zero included; what MXCSR_MASK in a save area says. */
export const MXCSR_MASK = 0xffff;
const FCW_INITIAL = 0x37f;

/** Offsets in the legacy region (SDM volume 1, table 10-2). */
const AREA = { fcw: 0, fsw: 2, ftag: 4, fop: 6, fip: 8, fdp: 16, mxcsr: 24, mxcsrMask: 28, st: 32, xmm: 160, bytes: 512 } as const;
/** Offsets in the XSAVE header, from the area's start. */
const HEADER = { stateBits: 512, compaction: 520, reserved: 528, bytes: 576 } as const;

const STATE_X87 = 1;
const STATE_SSE = 2;

const CR0_TS = 8;
const CR4_OSXSAVE = 1 << 18;
const FSW_TOP = 0x3800;
const FSW_SUMMARY = 0x8080;
/** Control word bits that can be written; bit 6 always reads as 1. */
const FCW_WRITABLE = 0x1f3f;
const FCW_FIXED = 0x40;

/** A save area at a linear address. */
class Area {
  readonly #c: SemContext;
  readonly #base: Expr;

  constructor(c: SemContext, alignment: number) {
    this.#c = c;
    this.#base = c.linearAddress();
    c.faultIf(this.#base.and(alignment - 1).ne(0), VECTOR.GP, i32(0));
  }
  at(offset: number | Expr): Expr {
    const sum = typeof offset === 'number' ? this.#base.add(offset) : this.#base.add(offset.extU());
    return this.#c.mode === 64 ? sum : sum.and(0xffff_ffff);
  }
  /** Touches the bytes at `offsets`, in this order: it decides which address a page fault reports. */
  probeRead(offsets: readonly number[]): void {
    for (const offset of offsets) this.#c.load(8, this.at(offset));
  }
  probeWrite(offsets: readonly number[]): void {
    for (const offset of offsets) this.#c.probeWrite(this.#c.let(this.at(offset)), 1);
  }
  load(bits: number, offset: number | Expr): Expr {
    return this.#c.load(bits, this.at(offset));
  }
  store(bits: number, offset: number | Expr, value: Expr): void {
    this.#c.store(bits, this.at(offset), value);
  }
  loadV(offset: Expr): Expr {
    return this.#c.loadV(this.at(offset), false);
  }
  storeV(offset: Expr, value: Expr): void {
    this.#c.storeV(this.at(offset), value, false);
  }
}

/** Runs `body` with `n` (i32) from 0 to `count` - 1. */
function repeatFor(f: FunctionBuilder, count: number, body: (n: Expr) => void): void {
  const n = f.local(I32);
  f.set(n, 0);
  f.loop((again) => {
    body(n);
    f.set(n, n.add(1));
    f.brIf(again, n.ltU(count));
  });
}

/** Address in the vCPU block of ST(`n`), for use with the offset `CTX.fpr`; registers are saved in stack order. */
const stackSlot = (c: SemContext, n: Expr): Expr => c.cpu.add(c.get16(CTX.ftop).add(n).and(7).shl(4));
const xmmSlot = (c: SemContext, n: Expr): Expr => c.cpu.add(n.shl(4));
const xmmCount = (c: SemContext): number => (c.mode === 64 ? 16 : 8);

function saveX87(c: SemContext, area: Area): void {
  const f = c.f;
  area.store(16, AREA.fcw, c.get16(CTX.fcw));
  area.store(16, AREA.fsw, c.get16(CTX.fsw).or(c.get16(CTX.ftop).shl(11)));
  area.store(16, AREA.ftag, c.get16(CTX.ftag).and(0xff));
  area.store(16, AREA.fop, c.get16(CTX.fop));
  // Without REX.W: 32-bit offsets, then the selectors.
  const pointer = (field: number): Expr => (c.form.rexW ? c.get64(field) : c.get64(field).and(0xffff_ffff));
  area.store(64, AREA.fip, pointer(CTX.fip));
  area.store(64, AREA.fdp, pointer(CTX.fdp));
  repeatFor(f, 8, (n) => {
    const slot = f.let(stackSlot(c, n));
    const to = f.let(n.shl(4).add(AREA.st));
    area.store(64, to, load('i64', slot, CTX.fpr));
    area.store(64, f.let(to.add(8)), load('i64_16u', slot, CTX.fpr + 8));
  });
}

function restoreX87(c: SemContext, area: Area): void {
  const f = c.f;
  const fcw = c.let(area.load(16, AREA.fcw).and(FCW_WRITABLE).or(FCW_FIXED));
  const fsw = area.load(16, AREA.fsw);
  c.set16(CTX.fcw, fcw);
  // The summary bit follows from the exceptions that are pending and not masked.
  const pending = fsw.and(fcw.not()).and(0x3f).ne(0);
  c.set16(CTX.fsw, fsw.and(0xffff & ~FSW_TOP & ~FSW_SUMMARY).or(pending.select(i32(FSW_SUMMARY), i32(0))));
  c.set16(CTX.ftop, fsw.shrU(11).and(7));
  c.set16(CTX.ftag, area.load(8, AREA.ftag));
  c.set16(CTX.fop, area.load(16, AREA.fop).and(0x7ff));
  const pointer = (field: number, offset: number): void =>
    c.set64(field, c.form.rexW ? area.load(64, offset) : area.load(32, offset).extU());
  pointer(CTX.fip, AREA.fip);
  pointer(CTX.fdp, AREA.fdp);
  repeatFor(f, 8, (n) => {
    const slot = f.let(stackSlot(c, n));
    const from = f.let(n.shl(4).add(AREA.st));
    f.store('i64', slot, area.load(64, from), CTX.fpr);
    f.store('i64', slot, area.load(16, f.let(from.add(8))).extU(), CTX.fpr + 8);
  });
}

function initializeX87(c: SemContext): void {
  c.set16(CTX.fcw, i32(FCW_INITIAL));
  for (const field of [CTX.fsw, CTX.ftop, CTX.ftag, CTX.fop]) c.set16(field, i32(0));
  for (const field of [CTX.fip, CTX.fdp]) c.set64(field, i64(0));
  c.f.memoryFill(c.cpu.add(CTX.fpr), i32(0), i32(128));
}

function saveMxcsr(c: SemContext, area: Area): void {
  area.store(32, AREA.mxcsr, c.get32(CTX.mxcsr));
  area.store(32, AREA.mxcsrMask, i32(MXCSR_MASK));
}
function saveXmm(c: SemContext, area: Area): void {
  repeatFor(c.f, xmmCount(c), (n) => area.storeV(c.let(n.shl(4).add(AREA.xmm)), load('v128', xmmSlot(c, n), CTX.xmm)));
}
function restoreXmm(c: SemContext, area: Area): void {
  repeatFor(c.f, xmmCount(c), (n) => c.f.store('v128', xmmSlot(c, n), area.loadV(c.let(n.shl(4).add(AREA.xmm))), CTX.xmm));
}
/** MXCSR from memory; faults when it has bits that do not exist. */
function checkedMxcsr(c: SemContext, area: Area): Expr {
  const mxcsr = area.load(32, AREA.mxcsr);
  c.faultIf(mxcsr.and(~MXCSR_MASK).ne(0), VECTOR.GP, i32(0));
  return mxcsr;
}

/** EDX:EAX, limited to what XCR0 enables; i32, bound. */
const requestedState = (c: SemContext): Expr =>
  c.let(
    c
      .gpr(REG.rax, 32)
      .and(c.get32(CTX.xcr0))
      .and(STATE_X87 | STATE_SSE),
  );

/** XSAVE and XRSTOR need CR4.OSXSAVE and no task switch pending; CR0.EM has no meaning for them. */
function checkXsave(c: SemContext): void {
  c.faultIf(c.get32(CTX.cr4).and(CR4_OSXSAVE).eqz(), VECTOR.UD);
  c.faultIf(c.get32(CTX.cr0).and(CR0_TS).ne(0), VECTOR.NM);
}

function defineFxsave(table: SemanticsTable): void {
  table.define('fxsave', (c) => {
    const area = new Area(c, 16);
    area.probeWrite([AREA.bytes - 1, 0]);
    saveX87(c, area);
    saveMxcsr(c, area);
    saveXmm(c, area);
  });
  table.define('fxrstor', (c) => {
    const area = new Area(c, 16);
    area.probeRead([AREA.bytes - 1, 0]);
    const mxcsr = checkedMxcsr(c, area);
    restoreX87(c, area);
    c.set32(CTX.mxcsr, mxcsr);
    restoreXmm(c, area);
  });
}

function defineXsave(table: SemanticsTable): void {
  table.define('xsave xsaveopt', (c) => {
    checkXsave(c);
    const area = new Area(c, 64);
    area.probeWrite([0, HEADER.bytes - 1]);
    const requested = requestedState(c);
    const saved = area.load(64, HEADER.stateBits);
    c.f.if(requested.and(STATE_X87), () => saveX87(c, area));
    c.f.if(requested.and(STATE_SSE), () => {
      saveMxcsr(c, area);
      saveXmm(c, area);
    });
    // Both components count as in use: their bits follow the request, other bits stay.
    area.store(64, HEADER.stateBits, saved.or(requested.extU()));
  });

  table.define('xrstor', (c) => {
    checkXsave(c);
    const area = new Area(c, 64);
    area.probeRead([0, HEADER.stateBits, HEADER.bytes - 1]);
    const requested = requestedState(c);
    const present = area.load(64, HEADER.stateBits);
    const xcr0 = c.get64(CTX.xcr0);
    const notStandard = area.load(64, HEADER.compaction).or(area.load(64, HEADER.reserved)).ne(0);
    c.faultIf(present.and(xcr0.not()).ne(0).or(notStandard), VECTOR.GP, i32(0));
    const mxcsr = c.f.local(I32);
    c.f.if(requested.and(STATE_SSE), () => c.f.set(mxcsr, checkedMxcsr(c, area)));
    c.f.if(requested.and(STATE_X87), () => {
      c.f.if(
        present.wrap().and(STATE_X87),
        () => restoreX87(c, area),
        () => initializeX87(c),
      );
    });
    c.f.if(requested.and(STATE_SSE), () => {
      // The standard format loads MXCSR even when the component is in its initial state.
      c.set32(CTX.mxcsr, mxcsr);
      c.f.if(
        present.wrap().and(STATE_SSE),
        () => restoreXmm(c, area),
        () => c.f.memoryFill(c.cpu.add(CTX.xmm), i32(0), i32(xmmCount(c) * 16)),
      );
    });
  });
}

export function defineFxState(table: SemanticsTable): void {
  table.define('emms', (c) => {
    enterMmx(c);
    c.set16(CTX.ftag, i32(0));
  });
  table.define('ldmxcsr', (c) => {
    const value = c.read(0);
    c.faultIf(value.and(~MXCSR_MASK).ne(0), VECTOR.GP, i32(0));
    c.set32(CTX.mxcsr, value);
  });
  table.define('stmxcsr', (c) => c.write(0, c.get32(CTX.mxcsr)));
  defineFxsave(table);
  defineXsave(table);
}
