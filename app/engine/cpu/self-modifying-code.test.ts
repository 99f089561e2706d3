// SPDX-License-Identifier: Apache-2.0
/** Stores into code take effect at the next instruction, wherever it is and whoever makes them (SDM volume 3A, §12.6). */
import { describe, expect, it } from 'vitest';
import type { Mfn } from '../memory/frames.ts';
import { CODE, codeMachine, DATA, hex } from './testing/code-machine.ts';

const PAGE = 4096;
const BREAKPOINT = 3;

describe('a store', () => {
  it('into the next instruction', () => {
    const m = codeMachine();
    // mov byte [rip+1], 2; mov al, 1
    m.load('c6 05 01 00 00 00 02 b0 01');
    m.vcpu.run(100);
    expect(m.fault()).toMatchObject({ vector: BREAKPOINT, rip: CODE + 10 });
    expect(m.get('rax')).toBe(2);
  });

  it('into the block that runs, each time around', () => {
    const m = codeMachine();
    // add eax, 1; inc byte [the 1]; dec ecx; jnz
    m.load('83 c0 01 fe 05 f9 ff ff ff ff c9 75 f3');
    m.set({ rcx: 5 });
    m.vcpu.run(1000);
    expect(m.fault().vector).toBe(BREAKPOINT);
    expect(m.get('rax')).toBe(1 + 2 + 3 + 4 + 5);
  });

  it('into itself, which is seen when it runs again', () => {
    const m = codeMachine();
    // mov byte [this], nop prefix-free: becomes 90 05 ...; then INT3
    m.load('c6 05 f9 ff ff ff 90');
    m.vcpu.run(100);
    expect(m.fault()).toMatchObject({ vector: BREAKPOINT, rip: CODE + 8 });
    m.vcpu.ctx.rip = CODE;
    m.set({ rax: 0 });
    m.vcpu.run(100);
    // nop; add eax, 0x90fffffff9 >> ...: 05 f9 ff ff ff is add eax, -7; 90; INT3
    expect(m.fault()).toMatchObject({ vector: BREAKPOINT, rip: CODE + 8 });
    expect(m.get('rax')).toBe(0xffff_fff9);
  });

  it('over a page end into code that ran before', () => {
    const m = codeMachine();
    const next = CODE + PAGE;
    m.load('b8 01 00 00 00', next);
    m.vcpu.run(100);
    expect(m.get('rax')).toBe(1);
    // mov [rdi], rax: four bytes before the page, four into it
    m.load('48 89 07 e9 f8 0f 00 00');
    m.vcpu.ctx.setBig(0, 0x0000_02b8_cccc_ccccn);
    m.set({ rdi: next - 4 });
    m.vcpu.run(100);
    expect(m.fault()).toMatchObject({ vector: BREAKPOINT, rip: next + 6 });
    expect(m.get('rax')).toBe(2);
  });

  it('through another mapping of the same page', () => {
    const m = codeMachine();
    const alias = 0x50;
    m.memory.setEntry(m.tables[3] as Mfn, alias, CODE + 7, 0);
    m.vcpu.flushTlb();
    // mov al, 1 first, then again with the changed byte: mov byte [rdi+10], 9; jmp +0; mov al, 1
    m.load('b0 01 c3', CODE + 0x100);
    m.load('e8 fb 00 00 00 c6 07 09 e8 f3 00 00 00');
    m.set({ rdi: alias * PAGE + 0x101 });
    m.vcpu.run(100);
    expect(m.fault().vector).toBe(BREAKPOINT);
    expect(m.get('rax')).toBe(9);
  });

  it('by REP MOVSB over the instructions behind it', () => {
    const m = codeMachine();
    m.write(DATA, hex('b8 07 00 00 00 90 90 90'));
    // rep movsb; mov eax, 1
    m.load('f3 a4 b8 01 00 00 00 90 90 90');
    m.set({ rsi: DATA, rdi: CODE + 2, rcx: 8 });
    m.vcpu.run(10_000);
    expect(m.fault()).toMatchObject({ vector: BREAKPOINT, rip: CODE + 11 });
    expect(m.get('rax')).toBe(7);
  });

  it('by REP STOSB, CMPXCHG, PUSH and an SSE store', () => {
    for (const [store, registers] of [
      ['f3 aa', { rax: 0x90, rdi: CODE + 0x100, rcx: 2 }],
      ['0f b1 17', { rax: 0x00c3_01b0, rdx: 0x00c3_9090, rdi: CODE + 0x100 }],
      ['50', { rax: 0x00c3_9090, rsp: CODE + 0x108 }],
      ['66 0f 6e c0 0f 11 07', { rax: 0x00c3_9090, rdi: CODE + 0x100 }],
    ] as const) {
      const m = codeMachine();
      m.load('b0 01 c3 00', CODE + 0x100);
      m.load('e8 fb 00 00 00 cc');
      m.vcpu.run(100);
      expect(m.get('rax') & 0xff, store).toBe(1);
      m.load(`${store} cc`, CODE + 0x200);
      m.set(registers);
      m.vcpu.run(10_000);
      expect(m.fault().vector, store).toBe(BREAKPOINT);
      m.set({ rax: 0, rsp: 0x31000 });
      m.vcpu.ctx.rip = CODE;
      m.vcpu.run(100);
      expect(m.fault(), store).toMatchObject({ vector: BREAKPOINT, rip: CODE + 6 });
      expect(m.get('rax') & 0xff, store).toBe(0);
    }
  });
});

describe('an instruction that reaches into the next page', () => {
  const at = CODE + PAGE - 2;
  const nextEntry = (CODE + PAGE) / PAGE;

  it('follows the second page when that is mapped elsewhere', () => {
    const m = codeMachine();
    m.load('b8 01 00 00 00 cc', at);
    m.write(DATA, hex('07 00 00 cc'));
    // The immediate's low byte stays in the first page: 01, then 00 00 00 against 07 00 00.
    m.vcpu.run(100);
    expect(m.get('rax')).toBe(1);
    m.memory.setEntry(m.tables[3] as Mfn, nextEntry, DATA + 7, 0);
    m.vcpu.invalidatePage(CODE + PAGE);
    m.vcpu.ctx.rip = at;
    m.vcpu.run(100);
    expect(m.get('rax')).toBe(0x0701);
  });

  it('sees stores into either page', () => {
    const m = codeMachine();
    m.load('b8 01 00 00 00 c3', at);
    // call; mov byte [rdi], 5; call; mov byte [rsi], 6; call
    const call = (from: number): string => {
      const distance = at - (from + 5);
      return ['e8', ...Array.from({ length: 4 }, (_, n) => ((distance >> (8 * n)) & 0xff).toString(16))].join(' ');
    };
    m.load(`${call(CODE)} 89 c3 c6 07 05 ${call(CODE + 10)} 89 c1 c6 06 06 ${call(CODE + 20)}`);
    m.set({ rdi: at + 1, rsi: CODE + PAGE });
    m.vcpu.run(1000);
    expect(m.fault().vector).toBe(BREAKPOINT);
    expect([m.get('rbx'), m.get('rcx'), m.get('rax')]).toEqual([1, 5, 0x0605]);
  });

  it('faults when the second page has lost its execute permission', () => {
    const m = codeMachine();
    m.load('b8 01 00 00 00 cc', at);
    m.vcpu.run(100);
    m.setPage(CODE + PAGE, 7, true);
    m.vcpu.ctx.rip = at;
    m.vcpu.run(100);
    expect(m.fault()).toEqual({ vector: 14, error: 0x15, cr2: CODE + PAGE, rip: at });
  });
});

describe('writes by others', () => {
  it('are seen after invalidateCode', () => {
    const m = codeMachine();
    m.load('b8 01 00 00 00');
    m.vcpu.run(100);
    m.write(CODE + 1, hex('08'));
    m.vcpu.ctx.rip = CODE;
    m.vcpu.run(100);
    expect(m.get('rax')).toBe(8);
  });
});
