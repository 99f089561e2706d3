// SPDX-License-Identifier: Apache-2.0
/** Faults are precise: nothing has changed but what a restart needs, and RIP, error code and CR2 say where and why. */
import { describe, expect, it } from 'vitest';
import { VMEXIT } from '../accel/accelerator.ts';
import { CTX } from '../memory/vcpu-context.ts';
import { CODE, codeMachine, DATA, hex, STACK_TOP } from './testing/code-machine.ts';

const PF = 14;
const NOT_PRESENT = 0;
const PRESENT_READ_ONLY = 5;

describe('page faults', () => {
  it('leave a store over a page end undone in the page that is there', () => {
    const m = codeMachine();
    // mov [rdi], rax
    m.load('48 89 07');
    m.set({ rax: 0x1122_3344_5566, rdi: DATA + 0x1000 - 3 });
    m.setPage(DATA + 0x1000, NOT_PRESENT);
    expect(m.vcpu.run(100)).toBe(VMEXIT.exception);
    expect(m.fault()).toEqual({ vector: PF, error: 6, cr2: DATA + 0x1000, rip: CODE });
    expect(m.u64(DATA + 0x1000 - 8)).toBe(0n);
    m.setPage(DATA + 0x1000, 7);
    expect(m.vcpu.run(100)).toBe(VMEXIT.exception);
    expect(m.fault().vector).toBe(3);
    expect(m.u64(DATA + 0x1000 - 3)).toBe(0x1122_3344_5566n);
  });

  it('keep registers of a push, a call and an exchange with memory', () => {
    for (const [code, registers] of [
      ['50', { rax: 5 }],
      ['e8 00 01 00 00', {}],
      ['48 87 44 24 f8', { rax: 7 }],
      ['ff 74 24 10', {}],
      ['c8 10 00 02', { rbp: STACK_TOP + 0x100 }],
    ] as const) {
      const m = codeMachine();
      m.load(code);
      m.set(registers);
      m.setPage(STACK_TOP - 0x1000, PRESENT_READ_ONLY);
      const before = m.memory.u8.slice(m.vcpu.ctx.base, m.vcpu.ctx.base + CTX.zero);
      expect(m.vcpu.run(100), code).toBe(VMEXIT.exception);
      expect({ ...m.fault(), cr2: 0 }, code).toEqual({ vector: PF, error: 7, cr2: 0, rip: CODE });
      expect(m.memory.u8.slice(m.vcpu.ctx.base, m.vcpu.ctx.base + CTX.zero), code).toEqual(before);
    }
  });

  it('keep the flags of an arithmetic instruction whose store faults', () => {
    const m = codeMachine();
    // stc; add [rdi], rax
    m.load('f9 48 01 07');
    m.set({ rax: -1, rdi: DATA });
    m.setPage(DATA, PRESENT_READ_ONLY);
    m.vcpu.run(100);
    expect(m.fault()).toEqual({ vector: PF, error: 7, cr2: DATA, rip: CODE + 1 });
    expect(m.vcpu.ctx.rflags & 0x8d5).toBe(1);
  });

  it('tell which byte of an instruction could not be fetched', () => {
    const m = codeMachine();
    // mov eax, imm32 with two bytes in the next page
    const at = CODE + 0x1000 - 3;
    m.load('b8 01 00 00 00', at);
    m.setPage(CODE + 0x1000, NOT_PRESENT);
    m.vcpu.run(100);
    expect(m.fault()).toEqual({ vector: PF, error: 0x14, cr2: CODE + 0x1000, rip: at });
    m.setPage(CODE + 0x1000, 7);
    m.vcpu.run(100);
    expect(m.fault().vector).toBe(3);
    expect(m.get('rax')).toBe(1);
  });
});

describe('a repeated string instruction', () => {
  it('stops at the element that faults and goes on from there', () => {
    const m = codeMachine();
    // rep movsd
    m.load('f3 a5');
    m.write(
      DATA,
      Uint8Array.from({ length: 64 }, (_, n) => n),
    );
    const target = DATA + 0x3000 - 16;
    m.set({ rsi: DATA, rdi: target, rcx: 16 });
    m.setPage(DATA + 0x3000, NOT_PRESENT);
    expect(m.vcpu.run(10_000)).toBe(VMEXIT.exception);
    expect(m.fault()).toEqual({ vector: PF, error: 6, cr2: DATA + 0x3000, rip: CODE });
    expect([m.get('rcx'), m.get('rsi'), m.get('rdi')]).toEqual([12, DATA + 16, DATA + 0x3000]);
    m.setPage(DATA + 0x3000, 7);
    m.vcpu.run(10_000);
    expect(m.fault().vector).toBe(3);
    expect([m.get('rcx'), m.u64(DATA + 0x3000 + 40)]).toEqual([0, 0x3f3e_3d3c_3b3a_3938n]);
  });

  it('runs downwards into a page that is not there', () => {
    const m = codeMachine();
    // std; rep stosw
    m.load('fd 66 f3 ab');
    m.set({ rax: 0x1234, rdi: DATA + 6, rcx: 10 });
    m.setPage(DATA - 0x1000, NOT_PRESENT);
    m.vcpu.run(10_000);
    expect(m.fault()).toEqual({ vector: PF, error: 6, cr2: DATA - 2, rip: CODE + 1 });
    expect([m.get('rcx'), m.get('rdi'), m.u64(DATA)]).toEqual([6, DATA - 2, 0x1234_1234_1234_1234n]);
  });

  it('repeats a pattern when source and destination overlap', () => {
    const m = codeMachine();
    // rep movsb
    m.load('f3 a4');
    m.write(DATA, hex('61 62 63'));
    m.set({ rsi: DATA, rdi: DATA + 3, rcx: 13 });
    m.vcpu.run(10_000);
    expect(m.u64(DATA + 8)).toBe(0x61_63_62_61_63_62_61_63n);
  });
});

describe('non-canonical addresses', () => {
  it('are #GP for data and #SS for the stack', () => {
    for (const [code, registers, vector] of [
      ['48 8b 07', { rdi: 2 ** 47 }, 13],
      ['48 8b 45 00', { rbp: 2 ** 47 }, 12],
      ['58', { rsp: 2 ** 47 }, 12],
      ['c3', { rsp: -(2 ** 47) - 8 }, 12],
    ] as const) {
      const m = codeMachine();
      m.load(code);
      m.set(registers);
      m.vcpu.run(10);
      expect({ ...m.fault(), cr2: 0 }, code).toEqual({ vector, error: 0, cr2: 0, rip: CODE });
    }
  });
});

describe('IRET', () => {
  it('changes neither CS nor the stack when SS cannot be loaded', () => {
    const m = codeMachine();
    // iretq to 32-bit code with a null SS
    m.load('48 cf');
    const frame = [CODE, 0x23, 0x202, DATA, 0];
    m.write(STACK_TOP - 40, new Uint8Array(BigUint64Array.from(frame, BigInt).buffer));
    m.set({ rsp: STACK_TOP - 40 });
    m.vcpu.run(10);
    expect({ ...m.fault(), cr2: 0 }).toEqual({ vector: 13, error: 0, cr2: 0, rip: CODE });
    expect([m.get('rsp'), m.vcpu.ctx.selector(1), m.vcpu.ctx.u32(CTX.codeBits)]).toEqual([STACK_TOP - 40, 0x33, 64]);
  });

  it('loads every bit of a 64-bit stack pointer', () => {
    const m = codeMachine();
    m.load('48 cf');
    m.write(STACK_TOP - 40, new Uint8Array(BigUint64Array.of(BigInt(CODE + 16), 0x33n, 0x202n, 0x1234_5678_9abc_def1n, 0x2bn).buffer));
    m.set({ rsp: STACK_TOP - 40 });
    m.vcpu.run(10);
    expect(m.fault().vector).toBe(3);
    expect(m.vcpu.ctx.big(CTX.gpr + 32)).toBe(0x1234_5678_9abc_def1n);
  });
});
