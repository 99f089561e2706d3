// SPDX-License-Identifier: Apache-2.0
/**
 * A machine for tests that need the real PV MMU: a small guest whose page tables map its memory one to one, and a vCPU that walks
 * those tables for every access and executes one store a run.
 */
import { ACCESS, VMEXIT } from '../../accel/accelerator.ts';
import { mfn } from '../../memory/frames.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { CTX, REG, RFLAGS } from '../../memory/vcpu-context.ts';
import { PV_POLICY } from '../cpuid-policy.ts';
import { Domain } from '../domain.ts';
import { PvMmu } from '../mm/pv-mmu.ts';
import { PageWalk } from '../mm/walk.ts';
import { xenFramesNeeded } from '../mm/xen-frames.ts';
import { LIFECYCLE, SharedState, STATE } from '../shared-state.ts';
import { loadFlatKernelSegments } from '../traps/segments.ts';
import { FakeClock, FakeVcpu } from './fake-machine.ts';

/** Guest frames; the last four are the page tables, mapped read-only. */
export const FRAMES = 64;
export const L4 = 60;
export const L3 = 61;
export const L2 = 62;
export const L1 = 63;
export const P_RW_U = 7;

export class TableVcpu extends FakeVcpu {
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

export interface TableMachine {
  readonly domain: Domain;
  readonly cpu: TableVcpu;
  readonly memory: GuestMemory;
  readonly mmu: PvMmu;
}

export function tableMachine(): TableMachine {
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
  state.set(STATE.lifecycle, LIFECYCLE.running);
  const attached = mmu.attachStartState(domain.vcpu, { kernelRoot: mfn(L4), pinned: [mfn(L4)] });
  if (attached !== 0) throw new Error(`the start state is refused: ${attached}`);
  mmu.setWritablePagetables(true);
  const vcpu = cpu as TableVcpu;
  loadFlatKernelSegments(vcpu.ctx);
  vcpu.ctx.setGpr(REG.rsp, 0x8000);
  vcpu.ctx.rflags = 0x246;
  domain.vcpu.traps.set(14, 0, 0xe033, 0x4_0000);
  return { domain, cpu: vcpu, memory, mmu };
}
