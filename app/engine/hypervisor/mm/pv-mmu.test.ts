// SPDX-License-Identifier: Apache-2.0
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { mfn } from '../../memory/frames.ts';
import { EAGAIN, EBUSY, EINVAL } from '../errno.ts';
import { PvVcpu } from '../pv-vcpu.ts';
import { auditFrames } from './audit.ts';
import { FRAME_TYPE, OWNER } from './frame-table.ts';
import { m2pFramesNeeded } from './m2p.ts';
import { MmState } from './mm-state.ts';
import { MMUEXT_PIN_L1_TABLE } from './mmuext.ts';
import { PvMmu } from './pv-mmu.ts';
import { FREE, L1, L2, L4, pte, RO, RW, TestGuest, TestVcpu } from './test-guest.ts';
import { xenFramesNeeded } from './xen-frames.ts';

const SHAPE = { guestFrames: 64, xenFrames: xenFramesNeeded(64, 1), vcpus: 1, codeArenaBytes: 0x10000 };

describe('the hypervisor frames', () => {
  it.each([
    [64, 1],
    [65_536, 2],
    [786_432, 32],
  ])('are planned for %d guest frames and %d vCPUs, the array over themselves included', (guestFrames, vcpus) => {
    const total = xenFramesNeeded(guestFrames, vcpus);
    expect(total).toBeGreaterThanOrEqual(2 + 64 + 8 + 4 * vcpus + m2pFramesNeeded(guestFrames + total));
    expect(total).toBeLessThan(guestFrames / 400 + 300);
  });

  it('run out with an error of the host, not silently', () => {
    const memory = new GuestMemory({ ...SHAPE, xenFrames: 12 });
    const mmu = new PvMmu({ memory });
    expect(() => Array.from({ length: 12 }, () => mmu.xenFrames.alloc())).toThrow(RangeError);
    expect(() => new PvMmu({ memory: new GuestMemory({ ...SHAPE, xenFrames: 3 }) })).toThrow(RangeError);
  });

  it('cannot be shared unless they are the hypervisor’s', () => {
    const { mmu } = new TestGuest();
    expect(() => mmu.xenFrames.shareWithGuest(mfn(3), { writable: true })).toThrow(RangeError);
  });
});

describe('the PV MMU', () => {
  it('starts with the guest owning its frames, each at its own number', () => {
    const { mmu } = new TestGuest(64, 48);
    const { frames, m2p } = mmu.context;
    expect([frames.owner(47), frames.owner(48), frames.owner(64)]).toEqual([OWNER.guest, OWNER.free, OWNER.xen]);
    expect([m2p.lo(mfn(47)), m2p.lo(mfn(48))]).toEqual([47, 0xffff_ffff]);
    expect(mmu.currentReservation).toBe(48);
    expect(auditFrames(mmu, [])).toEqual([]);
  });

  it('is one state, seen by each thread through its own view', () => {
    const guest = TestGuest.running();
    const other = new PvMmu({ memory: guest.memory });
    expect(other.context.frames.type(mfn(L4))).toBe(FRAME_TYPE.l4);
    expect(other.xenFrames.alloc()).toBe(guest.mmu.xenFrames.alloc() - 1);
    expect(other.holdFrame(FREE, true)).toBe(0);
    guest.remap(FREE, pte(FREE, RO));
    expect(guest.ext(MMUEXT_PIN_L1_TABLE, FREE)).toBe(-EINVAL);
  });

  it('wants to know how to reach the TLBs of other vCPUs', () => {
    const memory = new GuestMemory({ ...SHAPE, vcpus: 2 });
    expect(() => new PvMmu({ memory })).toThrow(RangeError);
  });

  it('flushes other vCPUs before a frame changes its type', () => {
    const guestFrames = 64;
    const memory = new GuestMemory({ guestFrames, xenFrames: xenFramesNeeded(guestFrames, 2), vcpus: 2, codeArenaBytes: 0x10000 });
    const flushed: number[] = [];
    const mmu = new PvMmu({ memory, remoteTlb: { flush: (vcpu) => flushed.push(vcpu), invalidate: () => {} } });
    const boot = new PvVcpu(new TestVcpu(0, memory), memory);
    const second = new PvVcpu(new TestVcpu(1, memory), memory);
    memory.setEntry(mfn(L1), 0, pte(FREE, RW), 0);
    for (const [table, next] of [
      [L4, 2],
      [2, 3],
      [3, L1],
    ])
      memory.setEntry(mfn(table), table === L4 ? 272 : 0, pte(next, RW), 0);
    expect(mmu.attachStartState(boot, { kernelRoot: mfn(L4), pinned: [] })).toBe(0);
    expect(mmu.initializeVcpu(second, L4, 0, [], 0)).toBe(0);
    expect(mmu.updateVaMapping(boot, -0x7800_0000_0000, 0, 0, 0, 0)).toBe(0);
    expect(flushed).toEqual([]);
    expect(mmu.initializeVcpu(second, L4, 0, [FREE], 512)).toBe(0);
    expect(flushed).toEqual([0]);
    expect(auditFrames(mmu, [boot, second])).toEqual([]);
  });

  it('gives a tree of tables back that is too large to check in one call', () => {
    const guest = new TestGuest();
    const mmu = new PvMmu({ memory: guest.memory, workLimit: 1000 });
    const before = auditFrames(mmu, []);
    expect(mmu.attachStartState(guest.pv, { kernelRoot: mfn(L4), pinned: [mfn(L4)] })).toBe(-EAGAIN);
    expect([guest.type(L4), guest.type(L1), guest.pv.kernelRoot]).toEqual([FRAME_TYPE.none, FRAME_TYPE.none, -1]);
    expect(auditFrames(mmu, [])).toEqual(before);
  });

  it('refuses a start state whose tables are mapped writable', () => {
    const guest = new TestGuest();
    guest.set(L1, L2, pte(L2, RW));
    const before = auditFrames(guest.mmu, [guest.pv]);
    expect(guest.mmu.attachStartState(guest.pv, { kernelRoot: mfn(L4), pinned: [mfn(L4)] })).toBe(-EBUSY);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual(before);
  });

  it('holds nothing of a vCPU whose description is unfit', () => {
    const guest = TestGuest.running();
    const pv = guest.pv;
    guest.remap(FREE, pte(FREE, RO));
    expect(guest.mmu.initializeVcpu(pv, FREE + 1, 0, [FREE], 512)).toBe(-EINVAL);
    expect([pv.kernelRoot, pv.gdtEntries, guest.type(FREE)]).toEqual([-1, 0, FRAME_TYPE.none]);
    expect(auditFrames(guest.mmu, [pv])).toEqual([]);
  });
});

describe('the memory lock', () => {
  it('keeps threads apart', async () => {
    const memory = new GuestMemory(SHAPE);
    const state = new MmState(memory);
    state.initialized();
    const rounds = 20_000;
    const source = `
      const { workerData, parentPort } = await import('node:worker_threads');
      const { GuestMemory } = await import(workerData.guestMemory);
      const { MmState } = await import(workerData.mmState);
      const memory = new GuestMemory(workerData.shape, workerData.memory);
      const state = new MmState(memory);
      parentPort.postMessage(state.fresh);
      for (let i = 0; i < workerData.rounds; i += 1) { state.lock(); memory.u32[workerData.at] += 1; state.unlock(); }
      parentPort.postMessage('done');
    `;
    const at = memory.frameOffset(mfn(1)) >>> 2;
    const worker = new Worker(`(async () => {${source}})()`, {
      eval: true,
      workerData: {
        guestMemory: new URL('../../memory/guest-memory.ts', import.meta.url).href,
        mmState: new URL('./mm-state.ts', import.meta.url).href,
        shape: SHAPE,
        memory: memory.memory,
        rounds,
        at,
      },
    });
    const fresh = await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    expect(fresh).toBe(false);
    const done = new Promise((resolve) => worker.once('message', resolve));
    for (let i = 0; i < rounds; i += 1) {
      state.lock();
      memory.u32[at] += 1;
      state.unlock();
    }
    await done;
    await worker.terminate();
    expect(memory.u32[at]).toBe(2 * rounds);
  });

  it('starts its flush clock anew before it wraps', () => {
    const memory = new GuestMemory(SHAPE);
    const state = new MmState(memory);
    memory.u32[(memory.frameOffset(mfn(64)) >>> 2) + 3] = 0xffff_ffee;
    expect(state.recordFlush(0, 0)).toBe(false);
    expect(state.recordFlush(0, 1)).toBe(true);
    state.restartClock();
    expect([state.flushClock, state.mayBeStale(0, 0), state.mayBeStale(0, 1)]).toEqual([1, false, true]);
  });
});
