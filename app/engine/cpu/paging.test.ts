// SPDX-License-Identifier: Apache-2.0
/** Four-level paging: page sizes, permissions, accessed and dirty bits, reserved bits, invalidation (SDM volume 3A, §4.5 to §4.10). */
import { describe, expect, it } from 'vitest';
import { ACCESS } from '../accel/accelerator.ts';
import type { Mfn } from '../memory/frames.ts';
import { CTX } from '../memory/vcpu-context.ts';
import { CODE, codeMachine, type CodeMachine, DATA, hex } from './testing/code-machine.ts';

const A = 0x20n;
const D = 0x40n;
const LARGE = 0x87;
const MIB2 = 0x200000;
const GIB = 0x40000000;
const NX_HIGH = 0x8000_0000;

function load(m: CodeMachine, va: number): ReturnType<CodeMachine['fault']> {
  // mov rax, [rdi]
  m.load('48 8b 07');
  m.set({ rdi: va });
  m.vcpu.run(10);
  return m.fault();
}
function store(m: CodeMachine, va: number): ReturnType<CodeMachine['fault']> {
  // mov [rdi], rax
  m.load('48 89 07');
  m.set({ rdi: va });
  m.vcpu.run(10);
  return m.fault();
}

describe('page sizes', () => {
  it('2 MiB', () => {
    const m = codeMachine();
    const directory = m.tables[2] as Mfn;
    m.memory.setEntry(directory, 1, 2 * MIB2 + LARGE, 0);
    m.vcpu.flushTlb();
    m.write(2 * MIB2 + 0x12345, hex('11 22 33 44 55 66 77 00'));
    expect(load(m, MIB2 + 0x12345).vector).toBe(3);
    expect(m.vcpu.ctx.big(CTX.gpr)).toBe(0x0077_6655_4433_2211n);
    expect(m.entry(directory, 1) & (A | D)).toBe(A);
    store(m, MIB2 + 0x1ffff8);
    expect(m.u64(2 * MIB2 + 0x1ffff8)).toBe(0x0077_6655_4433_2211n);
    expect(m.entry(directory, 1) & (A | D)).toBe(A | D);
  });

  it('1 GiB', () => {
    const m = codeMachine();
    m.memory.setEntry(m.tables[1] as Mfn, 1, LARGE, 0);
    m.vcpu.flushTlb();
    m.write(DATA, hex('78 56 34 12 00 00 00 00'));
    expect(load(m, GIB + DATA).vector).toBe(3);
    expect(m.get('rax')).toBe(0x1234_5678);
    m.load('b0 2a cc');
    m.vcpu.ctx.rip = GIB + CODE;
    m.vcpu.run(10);
    expect(m.fault()).toMatchObject({ vector: 3, rip: GIB + CODE + 3 });
  });

  it('memory behind the end of what the machine has is reserved', () => {
    const m = codeMachine();
    m.memory.setEntry(m.tables[1] as Mfn, 1, LARGE, 0);
    m.vcpu.flushTlb();
    expect(load(m, GIB + 0x3000_0000)).toEqual({ vector: 14, error: 0xd, cr2: GIB + 0x3000_0000, rip: CODE });
  });
});

describe('reserved bits', () => {
  it('below the frame of a large page', () => {
    const m = codeMachine();
    m.memory.setEntry(m.tables[2] as Mfn, 1, (2 * MIB2) | 0x2000 | LARGE, 0);
    m.vcpu.flushTlb();
    expect(load(m, MIB2).error).toBe(0xd);
    expect(store(m, MIB2 + 5)).toEqual({ vector: 14, error: 0xf, cr2: MIB2 + 5, rip: CODE });
  });

  it('the PAT bit of a large page is none', () => {
    const m = codeMachine();
    m.memory.setEntry(m.tables[2] as Mfn, 1, (2 * MIB2) | 0x1000 | LARGE, 0);
    m.vcpu.flushTlb();
    expect(load(m, MIB2).vector).toBe(3);
  });

  it('a frame number out of reach, at each level', () => {
    for (let level = 0; level < 4; level++) {
      const m = codeMachine();
      // The entry that covers 6 MiB, or the last one of level 1.
      const va = level === 3 ? 0x1ff000 : level === 2 ? 3 * MIB2 : level === 1 ? GIB : 2 ** 39;
      const index = [1, 1, 3, 0x1ff][level];
      m.memory.setEntry(m.tables[level] as Mfn, index, 0x7, 0x000f_0000);
      m.vcpu.flushTlb();
      expect(load(m, va), `level ${4 - level}`).toEqual({ vector: 14, error: 0xd, cr2: va, rip: CODE });
    }
  });
});

describe('permissions', () => {
  it('are those of every level', () => {
    for (let level = 0; level < 4; level++) {
      const m = codeMachine();
      const table = m.tables[level] as Mfn;
      const index = level === 3 ? DATA / 4096 : 0;
      const was = Number(m.entry(table, index) & 0xffff_ffffn);
      m.memory.setEntry(table, index, was & ~2, 0);
      m.vcpu.flushTlb();
      expect(load(m, DATA).vector).toBe(3);
      expect(store(m, DATA), `level ${4 - level}`).toEqual({ vector: 14, error: 7, cr2: DATA, rip: CODE });
      m.memory.setEntry(table, index, was & ~4, 0);
      m.vcpu.flushTlb();
      m.vcpu.run(10);
      if (level === 3) expect(load(m, DATA)).toEqual({ vector: 14, error: 5, cr2: DATA, rip: CODE });
      else expect(m.fault(), 'the code is covered as well').toMatchObject({ vector: 14, error: 0x15 });
    }
  });

  it('execute is forbidden by NX at any level', () => {
    const m = codeMachine();
    m.load('90');
    m.setPage(CODE, 7, true);
    m.vcpu.run(10);
    expect(m.fault()).toEqual({ vector: 14, error: 0x15, cr2: CODE, rip: CODE });
    m.setPage(CODE, 7);
    const was = Number(m.entry(m.tables[1], 0) & 0xffff_ffffn);
    m.memory.setEntry(m.tables[1] as Mfn, 0, was, NX_HIGH);
    m.vcpu.flushTlb();
    m.vcpu.run(10);
    expect(m.fault()).toEqual({ vector: 14, error: 0x15, cr2: CODE, rip: CODE });
    expect(m.vcpu.translate(CODE, ACCESS.read)).toBeGreaterThan(0);
  });

  it('change with a flush, and with the invalidation of the page alone', () => {
    const m = codeMachine();
    expect(store(m, DATA).vector).toBe(3);
    m.memory.setEntry(m.tables[3] as Mfn, DATA / 4096, DATA + 5, 0);
    m.vcpu.invalidatePage(DATA);
    expect(store(m, DATA)).toMatchObject({ vector: 14, error: 7 });
    expect(load(m, DATA).vector).toBe(3);
    m.setPage(DATA, 0);
    expect(load(m, DATA)).toMatchObject({ vector: 14, error: 4 });
    m.setPage(DATA, 7);
    expect(store(m, DATA).vector).toBe(3);
  });

  it('a fault does not linger: the page may become present without an invalidation', () => {
    const m = codeMachine();
    m.setPage(DATA, 0);
    expect(load(m, DATA).vector).toBe(14);
    m.memory.setEntry(m.tables[3] as Mfn, DATA / 4096, DATA + 5, 0);
    expect(load(m, DATA).vector).toBe(3);
    expect(store(m, DATA).vector).toBe(14);
    m.memory.setEntry(m.tables[3] as Mfn, DATA / 4096, DATA + 7, 0);
    expect(store(m, DATA).vector).toBe(3);
  });
});

describe('accessed and dirty bits', () => {
  it('are set by loads and stores, not by what faults', () => {
    const m = codeMachine();
    const table = m.tables[3];
    const page = DATA / 4096;
    const bits = (): bigint => m.entry(table, page) & (A | D);
    m.setPage(DATA, 7);
    expect(bits()).toBe(0n);
    load(m, DATA);
    expect(bits()).toBe(A);
    store(m, DATA);
    expect(bits()).toBe(A | D);
    m.setPage(DATA, 5);
    store(m, DATA);
    expect(bits() & D).toBe(0n);
  });

  it('are set anew after they were cleared and flushed', () => {
    const m = codeMachine();
    store(m, DATA);
    m.setPage(DATA, 7);
    store(m, DATA);
    expect(m.entry(m.tables[3], DATA / 4096) & (A | D)).toBe(A | D);
  });

  it('accessed is set in the tables on the way', () => {
    const m = codeMachine();
    load(m, DATA);
    for (const table of m.tables.slice(0, 3)) expect(m.entry(table, 0) & A).toBe(A);
  });
});

describe('a fresh processor', () => {
  it('has no translation of page 0', () => {
    const m = codeMachine();
    m.memory.setEntry(m.tables[3] as Mfn, 0, 0, 0);
    expect(load(m, 8)).toEqual({ vector: 14, error: 4, cr2: 8, rip: CODE });
  });
});
