// SPDX-License-Identifier: Apache-2.0
/** Why and where `run` returns: budget, kicks, single steps, traps and system calls. */
import { describe, expect, it } from 'vitest';
import { VMEXIT } from '../accel/accelerator.ts';
import { CTX, RFLAGS } from '../memory/vcpu-context.ts';
import { createFlatMachine } from './flat-machine.ts';
import { CODE, codeMachine, DATA, hex } from './testing/code-machine.ts';

const DB = 1;
const DR6 = CTX.dr + 6 * 8;
const BS = 1 << 14;

describe('the budget', () => {
  it('ends an endless loop', () => {
    const m = codeMachine();
    // inc eax; jmp
    m.load('ff c0 eb fc');
    expect(m.vcpu.run(1000)).toBe(VMEXIT.budget);
    expect(m.get('rax')).toBeGreaterThanOrEqual(400);
    expect(m.get('rax')).toBeLessThanOrEqual(600);
    const before = m.get('rax');
    expect(m.vcpu.run(1000)).toBe(VMEXIT.budget);
    expect(m.get('rax')).toBeGreaterThan(before);
  });

  it('ends a jump to itself and a long repetition', () => {
    const m = codeMachine();
    m.load('eb fe');
    expect(m.vcpu.run(100)).toBe(VMEXIT.budget);
    expect(m.vcpu.ctx.rip).toBe(CODE);
    // repne scasb over zeros, looking for 1
    m.load('f2 ae');
    m.set({ rax: 1, rdi: 0x100000, rcx: 0x100000 });
    expect(m.vcpu.run(300)).toBe(VMEXIT.budget);
    const left = m.get('rcx');
    expect(left).toBeGreaterThan(0);
    expect(m.get('rdi')).toBe(0x200000 - left);
    expect(m.vcpu.ctx.rip).toBe(CODE);
  });
});

describe('a kick', () => {
  it('before the run is taken at once, and once', () => {
    const m = codeMachine();
    m.load('eb fe');
    m.vcpu.ctx.kick();
    expect(m.vcpu.run(1000)).toBe(VMEXIT.kick);
    expect(m.vcpu.ctx.rip).toBe(CODE);
    expect(m.vcpu.run(1000)).toBe(VMEXIT.budget);
  });

  it('during the run leaves a loop that would go on for very long', () => {
    let reads = 0;
    const machine = createFlatMachine(0x200000, {
      readTsc: () => {
        if (++reads === 3) machine.vcpu.ctx.kick();
        return 0;
      },
    });
    // rdtsc; jmp
    machine.memory.write(CODE, hex('0f 31 eb fc'));
    machine.vcpu.ctx.rip = CODE;
    expect(machine.vcpu.run(1_000_000_000)).toBe(VMEXIT.kick);
    expect(reads).toBe(3);
  });
});

describe('the trap flag', () => {
  it('reports a debug exception after each instruction', () => {
    const m = codeMachine();
    // inc eax; jmp +1; (skipped); inc eax
    m.load('ff c0 eb 01 90 ff c0');
    m.vcpu.ctx.rflags = 0x202 | RFLAGS.TF;
    const seen: number[] = [];
    for (let n = 0; n < 3; n++) {
      expect(m.vcpu.run(1000)).toBe(VMEXIT.exception);
      expect([m.fault().vector, m.vcpu.ctx.u32(DR6) & BS, m.vcpu.ctx.rflags & RFLAGS.TF]).toEqual([DB, BS, RFLAGS.TF]);
      seen.push(m.vcpu.ctx.rip - CODE);
    }
    expect(seen).toEqual([2, 5, 7]);
  });

  it('works from the instruction after the POPF that set it', () => {
    const m = codeMachine();
    // push 0x302; popf; nop; nop
    m.load('68 02 03 00 00 9d 90 90');
    expect(m.vcpu.run(1000)).toBe(VMEXIT.exception);
    expect(m.fault()).toMatchObject({ vector: DB, rip: CODE + 7 });
  });

  it('is seen after every element of a repetition', () => {
    const m = codeMachine();
    m.load('f3 aa');
    m.set({ rdi: DATA, rcx: 3, rax: 0x41 });
    m.vcpu.ctx.rflags = 0x202 | RFLAGS.TF;
    const seen: [number, number][] = [];
    for (let n = 0; n < 3; n++) {
      m.vcpu.run(1000);
      expect(m.fault().vector).toBe(DB);
      seen.push([m.get('rcx'), m.vcpu.ctx.rip - CODE]);
    }
    expect(seen).toEqual([
      [2, 0],
      [1, 0],
      [0, 2],
    ]);
  });

  it('yields to the fault of the instruction itself', () => {
    const m = codeMachine();
    m.load('48 8b 07');
    m.set({ rdi: DATA });
    m.setPage(DATA, 0);
    m.vcpu.ctx.rflags = 0x202 | RFLAGS.TF;
    m.vcpu.run(1000);
    expect(m.fault()).toMatchObject({ vector: 14, rip: CODE });
  });
});

describe('traps and calls of the system', () => {
  it('INT3 and INT1 report the next instruction, INT n its own', () => {
    const m = codeMachine();
    m.load('cc');
    expect([m.vcpu.run(10), m.fault().vector, m.vcpu.ctx.rip]).toEqual([VMEXIT.exception, 3, CODE + 1]);
    m.load('f1');
    expect([m.vcpu.run(10), m.fault().vector, m.vcpu.ctx.rip]).toEqual([VMEXIT.exception, DB, CODE + 1]);
    m.load('cd 82');
    expect([m.vcpu.run(10), m.fault().vector, m.vcpu.ctx.rip, m.vcpu.ctx.u32(CTX.exitLength)]).toEqual([
      VMEXIT.softwareInterrupt,
      0x82,
      CODE,
      2,
    ]);
  });

  it('SYSCALL changes nothing but RIP', () => {
    const m = codeMachine();
    m.load('0f 05');
    m.set({ rcx: 1, r11: 2 });
    expect(m.vcpu.run(10)).toBe(VMEXIT.syscall);
    expect([m.vcpu.ctx.rip, m.get('rcx'), m.get('r11')]).toEqual([CODE + 2, 1, 2]);
  });

  it('an undefined instruction and one of more than fifteen bytes', () => {
    const m = codeMachine();
    m.load('90 0f 0b');
    m.vcpu.run(10);
    expect(m.fault()).toMatchObject({ vector: 6, rip: CODE + 1 });
    m.load('66 66 66 66 66 66 66 66 66 66 66 66 66 66 66 90');
    m.vcpu.run(10);
    expect(m.fault()).toMatchObject({ vector: 13, error: 0, rip: CODE });
  });
});
