// SPDX-License-Identifier: Apache-2.0
/** Debug registers: what traps, when, with which bits of DR6, and that nothing else does. */
import { describe, expect, it } from 'vitest';
import { VMEXIT } from '../accel/accelerator.ts';
import { CTX, RFLAGS } from '../memory/vcpu-context.ts';
import { CODE, type CodeMachine, codeMachine, DATA, STACK_TOP } from './testing/code-machine.ts';

const DB = 1;
const BP = 3;
const PF = 14;
const DR6 = CTX.dr + 6 * 8;
const DR7 = CTX.dr + 7 * 8;
const EXECUTE = 0;
const WRITE = 1;
const ACCESS = 3;
const LEN: Readonly<Record<number, number>> = { 1: 0, 2: 1, 4: 3, 8: 2 };

function arm(m: CodeMachine, slot: number, address: number, on: number, bytes = 1): void {
  const { ctx } = m.vcpu;
  ctx.setNum(CTX.dr + slot * 8, address);
  ctx.setU32(DR7, ctx.u32(DR7) | (1 << (slot * 2)) | ((on | (LEN[bytes] << 2)) << (16 + slot * 4)));
}
function disarm(m: CodeMachine): void {
  m.vcpu.ctx.setU32(DR7, 0x400);
}

interface Stop {
  readonly vector: number;
  /** Bytes of code before RIP. */
  readonly at: number;
  /** Bits 0..3 and 14 of DR6. */
  readonly dr6: number;
}

/** Runs to the next exception and clears DR6. */
function run(m: CodeMachine): Stop {
  const { ctx } = m.vcpu;
  expect(m.vcpu.run(10_000)).toBe(VMEXIT.exception);
  const dr6 = ctx.u32(DR6) & 0x400f;
  ctx.setU32(DR6, 0xffff_0ff0);
  return { vector: ctx.u32(CTX.exitVector), at: ctx.rip - CODE, dr6 };
}

describe('data breakpoints', () => {
  it('trap after the store, in the middle of a block', () => {
    const m = codeMachine();
    // mov [rdi], eax; inc ecx; int3
    m.load('89 07 ff c1 cc');
    m.set({ rdi: DATA + 8, rax: 0x1234, rcx: 0 });
    arm(m, 2, DATA + 8, WRITE, 4);
    expect(run(m)).toEqual({ vector: DB, at: 2, dr6: 4 });
    expect(m.u64(DATA + 8)).toBe(0x1234n);
    expect(m.get('rcx')).toBe(0);
    expect(run(m)).toEqual({ vector: BP, at: 5, dr6: 0 });
    expect(m.get('rcx')).toBe(1);
  });

  it.each([
    ['write, read by the code', WRITE, '8b 07', false],
    ['access, read by the code', ACCESS, '8b 07', true],
    ['access, written by the code', ACCESS, '89 07', true],
    ['write, changed by the code', WRITE, '01 07', true],
    ['write, changed with LOCK', WRITE, 'f0 01 07', true],
    ['access, compared by the code', ACCESS, '39 07', true],
    ['write, compared by the code', WRITE, '39 07', false],
    ['write, read by a vector move', WRITE, '0f 10 07', false],
    ['access, read by a vector move', ACCESS, '0f 10 07', true],
    ['write, written by a vector move', WRITE, '0f 11 07', true],
    ['write, prefetched', WRITE, '0f 18 07', false],
  ])('on %s', (_what, on, code, hit) => {
    const m = codeMachine();
    m.load(`${code} cc`);
    m.set({ rdi: DATA + 8 });
    arm(m, 0, DATA + 8, on, 4);
    const length = code.split(' ').length;
    expect(run(m)).toEqual(hit ? { vector: DB, at: length, dr6: 1 } : { vector: BP, at: length + 1, dr6: 0 });
  });

  it.each([
    ['1 byte', 1, DATA + 5, [5]],
    ['2 bytes', 2, DATA + 6, [6, 7]],
    ['2 bytes, the low bit ignored', 2, DATA + 7, [6, 7]],
    ['4 bytes', 4, DATA + 4, [4, 5, 6, 7]],
    ['8 bytes', 8, DATA + 8, [8, 9, 10, 11, 12, 13, 14, 15]],
    ['the last byte of a page', 1, DATA + 4095, [4095]],
  ])('of %s watch exactly those', (_what, bytes, address, hits) => {
    const m = codeMachine();
    arm(m, 1, address, WRITE, bytes);
    const found: number[] = [];
    for (const offset of [...Array(20).keys(), 4094, 4095, 4096]) {
      m.load('88 07 cc');
      m.set({ rdi: DATA + offset });
      if (run(m).vector === DB) found.push(offset);
    }
    expect(found).toEqual(hits);
  });

  it('see a wide store that overlaps, and one that comes from the page before', () => {
    const m = codeMachine();
    arm(m, 0, DATA + 0x1000, WRITE, 1);
    arm(m, 3, DATA + 0x10, WRITE, 1);
    for (const [offset, dr6] of [
      [9, 8],
      [8, 0],
      [0x10, 8],
      [0x11, 0],
      [0xff9, 1],
      [0xff8, 0],
    ] as const) {
      m.load('48 89 07 cc');
      m.set({ rdi: DATA + offset });
      expect(run(m).dr6, `offset ${offset}`).toBe(dr6);
    }
  });

  it('report every breakpoint that one instruction meets', () => {
    const m = codeMachine();
    // movsd
    m.load('a5 cc');
    m.set({ rsi: DATA, rdi: DATA + 0x800 });
    arm(m, 0, DATA + 2, ACCESS, 1);
    arm(m, 1, DATA, WRITE, 4);
    arm(m, 2, DATA + 0x800, WRITE, 4);
    arm(m, 3, DATA + 0x804, ACCESS, 4);
    expect(run(m)).toEqual({ vector: DB, at: 1, dr6: 5 });
  });

  it('trap in the middle of a repetition, with what is left in RCX', () => {
    const m = codeMachine();
    // rep movsb
    m.load('f3 a4 cc');
    m.set({ rsi: DATA, rdi: DATA + 0x1000 - 16, rcx: 64 });
    arm(m, 0, DATA + 0x1000 + 7, WRITE, 1);
    expect(run(m)).toEqual({ vector: DB, at: 0, dr6: 1 });
    expect(m.get('rcx')).toBe(64 - 24);
    expect(run(m)).toEqual({ vector: BP, at: 3, dr6: 0 });
    expect(m.get('rcx')).toBe(0);
  });

  it('on the stack: push, call and return', () => {
    const m = codeMachine();
    arm(m, 0, STACK_TOP - 8, ACCESS, 8);
    m.load('50 cc');
    expect(run(m)).toEqual({ vector: DB, at: 1, dr6: 1 });
    m.load('c3');
    expect(run(m)).toMatchObject({ vector: DB, dr6: 1 });
    m.load('e8 10 00 00 00');
    expect(run(m)).toEqual({ vector: DB, at: 21, dr6: 1 });
  });

  it('an instruction that faults reports the fault only', () => {
    const m = codeMachine();
    m.load('a5 cc');
    m.set({ rsi: DATA, rdi: DATA + 0x1000 });
    arm(m, 0, DATA, ACCESS, 4);
    m.setPage(DATA + 0x1000, 0);
    expect(run(m)).toEqual({ vector: PF, at: 0, dr6: 0 });
    m.setPage(DATA + 0x1000, 7);
    expect(run(m)).toEqual({ vector: DB, at: 1, dr6: 1 });
  });

  it('that were taken away stop nothing, and the page is fast again', () => {
    const m = codeMachine();
    arm(m, 0, DATA, WRITE, 4);
    m.load('89 07 cc');
    m.set({ rdi: DATA });
    expect(run(m).vector).toBe(DB);
    disarm(m);
    // 1000 stores: mov [rdi], ecx; dec ecx; jnz
    m.load('89 0f ff c9 75 fa cc');
    m.set({ rcx: 1000 });
    const before = m.vcpu.counters().tlbMisses;
    expect(run(m)).toEqual({ vector: BP, at: 7, dr6: 0 });
    expect(m.vcpu.counters().tlbMisses - before).toBeLessThan(10);
  });

  it('do not see what the hypervisor writes', () => {
    const m = codeMachine();
    arm(m, 0, DATA, ACCESS, 4);
    m.load('90 cc');
    run(m);
    expect(m.vcpu.translate(DATA, 2)).toBeGreaterThan(0);
    expect(m.vcpu.ctx.u32(DR6)).toBe(0xffff_0ff0);
  });
});

describe('instruction breakpoints', () => {
  it('stop before the instruction; RF lets it run once', () => {
    const m = codeMachine();
    // inc ecx; inc edx; jmp back
    m.load('ff c1 ff c2 eb fa');
    m.set({ rcx: 0, rdx: 0 });
    arm(m, 1, CODE + 2, EXECUTE);
    expect(run(m)).toEqual({ vector: DB, at: 2, dr6: 2 });
    expect([m.get('rcx'), m.get('rdx')]).toEqual([1, 0]);
    // Without RF it is the same stop again.
    expect(run(m)).toEqual({ vector: DB, at: 2, dr6: 2 });
    m.vcpu.ctx.rflags |= RFLAGS.RF;
    expect(run(m)).toEqual({ vector: DB, at: 2, dr6: 2 });
    expect([m.get('rcx'), m.get('rdx')]).toEqual([2, 1]);
    expect(m.vcpu.ctx.rflags & RFLAGS.RF).toBe(0);
  });

  it('stop code that ran before they came, and go without a trace', () => {
    const m = codeMachine();
    // dec ecx; jnz back; int3
    m.load('ff c9 75 fc cc');
    m.set({ rcx: 100 });
    expect(run(m).vector).toBe(BP);
    arm(m, 0, CODE + 2, EXECUTE);
    m.load('ff c9 75 fc cc');
    m.set({ rcx: 100 });
    expect(run(m)).toEqual({ vector: DB, at: 2, dr6: 1 });
    expect(m.get('rcx')).toBe(99);
    disarm(m);
    expect(run(m)).toEqual({ vector: BP, at: 5, dr6: 0 });
    expect(m.get('rcx')).toBe(0);
  });

  it('mean one address: neither the same offset of another page nor the middle of an instruction', () => {
    const m = codeMachine();
    // mov eax, 0x90909090; int3
    m.load('b8 90 90 90 90 cc', CODE);
    arm(m, 0, CODE + 0x1000, EXECUTE);
    arm(m, 1, CODE + 2, EXECUTE);
    expect(run(m)).toEqual({ vector: BP, at: 6, dr6: 0 });
  });

  it('tell two addresses of one page frame apart', () => {
    const m = codeMachine();
    // The page at CODE + 0x2000 shows the frame of CODE.
    m.memory.setEntry(m.tables[3] as never, CODE / 4096 + 2, CODE + 7, 0);
    m.vcpu.flushTlb();
    m.load('90 90 cc');
    arm(m, 0, CODE + 0x2001, EXECUTE);
    expect(run(m)).toEqual({ vector: BP, at: 3, dr6: 0 });
    m.vcpu.ctx.rip = CODE + 0x2000;
    expect(run(m)).toEqual({ vector: DB, at: 0x2001, dr6: 1 });
  });

  it('work on an instruction that reaches into the next page, and on one that is none', () => {
    const m = codeMachine();
    // mov eax, imm32 over the page end; int3
    m.load('b8 01 00 00 00 cc', CODE + 0xffe);
    arm(m, 3, CODE + 0xffe, EXECUTE);
    expect(run(m)).toEqual({ vector: DB, at: 0xffe, dr6: 8 });
    m.vcpu.ctx.rflags |= RFLAGS.RF;
    expect(run(m)).toEqual({ vector: BP, at: 0x1004, dr6: 0 });
    m.load('0f 0b', CODE + 0xffe);
    expect(run(m)).toEqual({ vector: DB, at: 0xffe, dr6: 8 });
    m.vcpu.ctx.rflags |= RFLAGS.RF;
    expect(run(m)).toEqual({ vector: 6, at: 0xffe, dr6: 0 });
    // The fault keeps RF for the return to the instruction.
    expect(m.vcpu.ctx.rflags & RFLAGS.RF).toBe(RFLAGS.RF);
  });

  it('come after the trap of a single step, and before the next step', () => {
    const m = codeMachine();
    m.load('90 90 cc');
    arm(m, 0, CODE + 1, EXECUTE);
    m.vcpu.ctx.rflags |= RFLAGS.TF;
    expect(run(m)).toEqual({ vector: DB, at: 1, dr6: 0x4000 });
    expect(run(m)).toEqual({ vector: DB, at: 1, dr6: 1 });
    m.vcpu.ctx.rflags |= RFLAGS.RF;
    expect(run(m)).toEqual({ vector: DB, at: 2, dr6: 0x4000 });
  });

  it('RF that an IRET sets holds for one instruction', () => {
    const m = codeMachine();
    // iretq, 1 byte of prefix; at 0x10: inc ecx; int3
    m.load('48 cf');
    m.write(CODE + 0x10, Uint8Array.of(0xff, 0xc1, 0xcc));
    const frame = new BigUint64Array([BigInt(CODE + 0x10), 0x33n, 0x1_0202n, BigInt(STACK_TOP), 0x2bn]);
    m.write(STACK_TOP - 40, new Uint8Array(frame.buffer));
    m.set({ rsp: STACK_TOP - 40, rcx: 0 });
    arm(m, 0, CODE + 0x10, EXECUTE);
    arm(m, 1, CODE + 0x12, EXECUTE);
    expect(m.vcpu.run(1)).toBe(VMEXIT.budget);
    expect(run(m)).toEqual({ vector: DB, at: 0x12, dr6: 2 });
    expect(m.get('rcx')).toBe(1);
  });
});
