// SPDX-License-Identifier: Apache-2.0
/** Stores to live page tables through the real PV MMU, with a vCPU that walks the guest's tables and executes one store. */
import { describe, expect, it } from 'vitest';
import { VMEXIT } from '../../accel/accelerator.ts';
import { mfn } from '../../memory/frames.ts';
import { CTX, REG } from '../../memory/vcpu-context.ts';
import { handleExit } from '../run-loop.ts';
import { L1, L2, P_RW_U, type TableMachine, tableMachine } from '../testing/table-machine.ts';

const TABLE_VA = L1 * 4096;

/** The guest kernel stores a 64-bit value at `va` and takes a write-protection fault for it. */
function guestStore(m: TableMachine, va: number, lo: number, hi = 0): string | null {
  const { ctx } = m.cpu;
  m.cpu.store = { va, lo, hi };
  ctx.rip = 0x5000;
  ctx.setNum(CTX.cr2, va);
  ctx.setU32(CTX.exitVector, 14);
  ctx.setU32(CTX.exitHasError, 1);
  ctx.setU32(CTX.exitError, 7);
  return handleExit(m.domain, m.domain.vcpu, VMEXIT.exception);
}

describe('stores to live L1 tables', () => {
  it('are carried out with the MMU checks, registers and RIP as after the instruction', () => {
    const m = tableMachine();
    expect(guestStore(m, TABLE_VA + 40 * 8, 41 * 4096 + P_RW_U)).toBeNull();
    expect(m.cpu.ctx.rip).toBe(0x5003);
    expect(m.cpu.ctx.gpr(REG.rax)).toBe(0x77);
    expect(m.memory.entryLo(mfn(L1), 40) >>> 12).toBe(41);
    expect(m.cpu.ctx.rflags).toBe(0x246);
    expect(m.domain.vcpu.stats.ptwr).toBe(1);
    // The mapping of the table itself is read-only as before, and names the table.
    expect(m.memory.entryLo(mfn(L1), L1) >>> 12).toBe(L1);
    expect(m.memory.entryLo(mfn(L1), L1) & 2).toBe(0);
  });

  it('that would make a page table writable are refused: the guest gets the fault and nothing has changed', () => {
    const m = tableMachine();
    const before = m.memory.entryLo(mfn(L1), 40);
    expect(guestStore(m, TABLE_VA + 40 * 8, L2 * 4096 + P_RW_U)).toBeNull();
    expect(m.cpu.ctx.rip).toBe(0x4_0000);
    expect(m.cpu.ctx.gpr(REG.rax)).toBe(0);
    expect(m.memory.entryLo(mfn(L1), 40)).toBe(before);
    const frame = m.memory.read(0x8000 - 64, 32);
    expect(new DataView(frame.buffer).getBigUint64(24, true)).toBe(0x5000n);
  });

  it('need the assist, and never reach upper tables', () => {
    const m = tableMachine();
    guestStore(m, L2 * 4096 + 8, 0);
    expect(m.cpu.steps).toBe(0);
    m.mmu.setWritablePagetables(false);
    m.cpu.ctx.setGpr(REG.rsp, 0x8000);
    guestStore(m, TABLE_VA + 40 * 8, 41 * 4096 + P_RW_U);
    expect(m.cpu.steps).toBe(0);
    expect(m.cpu.ctx.rip).toBe(0x4_0000);
  });

  it('a kick that arrives meanwhile is not lost', () => {
    const m = tableMachine();
    m.cpu.ctx.kick();
    guestStore(m, TABLE_VA + 40 * 8, 41 * 4096 + P_RW_U);
    expect(m.cpu.ctx.takeKick()).toBe(true);
    expect(m.cpu.ctx.rip).toBe(0x5003);
  });
});
