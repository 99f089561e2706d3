// SPDX-License-Identifier: Apache-2.0
/** Stores to live page tables through the real PV MMU, with a vCPU that walks the guest's tables and executes one store. */
import { describe, expect, it } from 'vitest';
import { ACCESS, VMEXIT } from '../../accel/accelerator.ts';
import { mfn } from '../../memory/frames.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { CTX, REG, RFLAGS } from '../../memory/vcpu-context.ts';
import { PV_POLICY } from '../cpuid-policy.ts';
import { Domain } from '../domain.ts';
import { PvMmu } from '../mm/pv-mmu.ts';
import { PageWalk } from '../mm/walk.ts';
import { xenFramesNeeded } from '../mm/xen-frames.ts';
import { handleExit } from '../run-loop.ts';
import { SharedState } from '../shared-state.ts';
import { FakeClock, FakeVcpu } from '../testing/fake-machine.ts';
import { loadFlatKernelSegments } from '../traps/segments.ts';

const FRAMES = 64;
const L4 = 60;
const L3 = 61;
const L2 = 62;
const L1 = 63;
const TABLE_VA = L1 * 4096;
const P_RW_U = 7;

class TableVcpu extends FakeVcpu {
  walk: PageWalk | null = null;
  root = mfn(L4);
  /** The store that the next step makes: address and value, in 4-byte halves. */
  store: { va: number; lo: number; hi: number } = { va: 0, lo: 0, hi: 0 };
  memory: GuestMemory | null = null;
  steps = 0;

  override translate(va: number, access: number): number {
    const walk = this.walk as PageWalk;
    const memory = this.memory as GuestMemory;
    const mapped = walk.find(this.root, va) && (walk.lo & 1) !== 0;
    if (mapped && (access !== ACCESS.write || walk.writable)) return memory.frameOffset(mfn(Math.floor(walk.lo / 4096))) + (va % 4096);
    this.ctx.setNum(CTX.cr2, va);
    this.ctx.setU32(CTX.exitError, (mapped ? 1 : 0) | access | 4);
    return -1;
  }

  override run(): 2 {
    this.steps++;
    const { va, lo, hi } = this.store;
    const host = this.translate(va, ACCESS.write);
    if (host < 0 || (this.ctx.rflags & RFLAGS.TF) === 0) {
      this.ctx.setU32(CTX.exitVector, 14);
      return VMEXIT.exception;
    }
    const memory = this.memory as GuestMemory;
    memory.u32[host >>> 2] = lo;
    memory.u32[(host >>> 2) + 1] = hi;
    this.ctx.rip = this.ctx.rip + 3;
    this.ctx.setGpr(REG.rax, 0x77);
    this.ctx.setU32(CTX.exitVector, 1);
    return VMEXIT.exception;
  }
}

function machine(): { domain: Domain; cpu: TableVcpu; memory: GuestMemory; mmu: PvMmu } {
  const memory = new GuestMemory({ guestFrames: FRAMES, xenFrames: xenFramesNeeded(FRAMES, 1), vcpus: 1, codeArenaBytes: 0x1_0000 });
  const mmu = new PvMmu({ memory, domId: 7 });
  const state = new SharedState(memory);
  state.initialise({ domid: 7, maxPorts: 128, startNs: 0 }, mmu.xenFrames);
  memory.setEntry(mfn(L4), 0, L3 * 4096 + P_RW_U, 0);
  memory.setEntry(mfn(L3), 0, L2 * 4096 + P_RW_U, 0);
  memory.setEntry(mfn(L2), 0, L1 * 4096 + P_RW_U, 0);
  for (let i = 0; i < FRAMES; i++) memory.setEntry(mfn(L1), i, i * 4096 + (i >= L4 ? 5 : P_RW_U), 0);
  let cpu: TableVcpu | undefined;
  const domain = new Domain({
    memory,
    mmu,
    clock: new FakeClock(),
    vcpuId: 0,
    config: { cpuid: PV_POLICY, uuid: new Uint8Array(16) },
    accelerator: {
      name: 'tables',
      createVcpu: (id, mem, host) => {
        cpu = new TableVcpu(id, mem, host);
        cpu.walk = new PageWalk(mem);
        cpu.memory = mem;
        return cpu;
      },
    },
  });
  expect(mmu.attachStartState(domain.vcpu, { kernelRoot: mfn(L4), pinned: [mfn(L4)] })).toBe(0);
  mmu.setWritablePagetables(true);
  const vcpu = cpu as TableVcpu;
  loadFlatKernelSegments(vcpu.ctx);
  vcpu.ctx.setGpr(REG.rsp, 0x8000);
  vcpu.ctx.rflags = 0x246;
  domain.vcpu.traps.set(14, 0, 0xe033, 0x4_0000);
  return { domain, cpu: vcpu, memory, mmu };
}

/** The guest kernel stores a 64-bit value at `va` and takes a write-protection fault for it. */
function guestStore(m: ReturnType<typeof machine>, va: number, lo: number, hi = 0): string | null {
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
    const m = machine();
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
    const m = machine();
    const before = m.memory.entryLo(mfn(L1), 40);
    expect(guestStore(m, TABLE_VA + 40 * 8, L2 * 4096 + P_RW_U)).toBeNull();
    expect(m.cpu.ctx.rip).toBe(0x4_0000);
    expect(m.cpu.ctx.gpr(REG.rax)).toBe(0);
    expect(m.memory.entryLo(mfn(L1), 40)).toBe(before);
    const frame = m.memory.read(0x8000 - 64, 32);
    expect(new DataView(frame.buffer).getBigUint64(24, true)).toBe(0x5000n);
  });

  it('need the assist, and never reach upper tables', () => {
    const m = machine();
    guestStore(m, L2 * 4096 + 8, 0);
    expect(m.cpu.steps).toBe(0);
    m.mmu.setWritablePagetables(false);
    m.cpu.ctx.setGpr(REG.rsp, 0x8000);
    guestStore(m, TABLE_VA + 40 * 8, 41 * 4096 + P_RW_U);
    expect(m.cpu.steps).toBe(0);
    expect(m.cpu.ctx.rip).toBe(0x4_0000);
  });

  it('a kick that arrives meanwhile is not lost', () => {
    const m = machine();
    m.cpu.ctx.kick();
    guestStore(m, TABLE_VA + 40 * 8, 41 * 4096 + P_RW_U);
    expect(m.cpu.ctx.takeKick()).toBe(true);
    expect(m.cpu.ctx.rip).toBe(0x5003);
  });
});
