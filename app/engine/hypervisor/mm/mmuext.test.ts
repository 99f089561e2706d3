// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { ACCESS, SPACE } from '../../accel/accelerator.ts';
import { mfn } from '../../memory/frames.ts';
import { EACCES, EAGAIN, EBUSY, EINVAL, ENOSYS, EOPNOTSUPP, ESRCH } from '../errno.ts';
import { auditFrames } from './audit.ts';
import { DOMID_SELF } from './context.ts';
import { FRAME_TYPE } from './frame-table.ts';
import { MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START } from './m2p.ts';
import * as op from './mmuext.ts';
import { FREE, L1, L3, L4, pte, REQUESTS, RO, RW, TABLE, TestGuest } from './test-guest.ts';

/** Frames 8..11 become an L4, L3, L2, L1 that maps frame 12 writable and its own tables read-only; all unmapped for writing. */
function buildTables(guest: TestGuest): void {
  for (let frame = FREE; frame < FREE + 4; frame += 1) guest.remap(frame, pte(frame, RO), 0, 1);
  guest.set(FREE, 0, pte(FREE + 1, TABLE));
  guest.set(FREE, 272, pte(L3, TABLE));
  guest.set(FREE + 1, 0, pte(FREE + 2, TABLE));
  guest.set(FREE + 2, 0, pte(FREE + 3, TABLE));
  guest.set(FREE + 3, 0, pte(FREE + 4, RW));
  for (let i = 0; i < 4; i += 1) guest.set(FREE + 3, i + 1, pte(FREE + i, RO));
}

const types = (guest: TestGuest): number[] => [0, 1, 2, 3].map((i) => guest.type(FREE + i));

describe('pinning', () => {
  it('checks all levels at once and gives everything back', () => {
    const guest = TestGuest.running();
    buildTables(guest);
    expect(guest.ext(op.MMUEXT_PIN_L4_TABLE, FREE)).toBe(0);
    expect(types(guest)).toEqual([FRAME_TYPE.l4, FRAME_TYPE.l3, FRAME_TYPE.l2, FRAME_TYPE.l1]);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
    expect(guest.ext(op.MMUEXT_PIN_L4_TABLE, FREE)).toBe(-EINVAL);
    expect(guest.ext(op.MMUEXT_UNPIN_TABLE, FREE)).toBe(0);
    expect(types(guest)).toEqual([0, 0, 0, 0]);
    expect(guest.mmu.context.frames.refs(FREE)).toBe(2);
    expect(guest.ext(op.MMUEXT_UNPIN_TABLE, FREE)).toBe(-EINVAL);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('keeps a shared lower table until its last user is gone', () => {
    const guest = TestGuest.running();
    buildTables(guest);
    guest.set(FREE, 5, pte(FREE + 1, TABLE));
    expect(guest.ext(op.MMUEXT_PIN_L4_TABLE, FREE)).toBe(0);
    expect(guest.ext(op.MMUEXT_PIN_L1_TABLE, FREE + 3)).toBe(0);
    expect(guest.mmu.context.frames.typeCount(FREE + 1)).toBe(2);
    guest.ext(op.MMUEXT_UNPIN_TABLE, FREE);
    expect(types(guest)).toEqual([0, 0, 0, FRAME_TYPE.l1]);
    guest.ext(op.MMUEXT_UNPIN_TABLE, FREE + 3);
    expect(types(guest)).toEqual([0, 0, 0, 0]);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it.each<[string, (guest: TestGuest) => void, number]>([
    ['a writable mapping of the L1 itself', (g) => g.set(FREE + 3, 9, pte(FREE + 3, RW)), -EBUSY],
    ['a writable mapping of the L4', (g) => g.set(FREE + 3, 9, pte(FREE, RW)), -EBUSY],
    ['an L4 that names itself as L3', (g) => g.set(FREE, 9, pte(FREE, TABLE)), -EINVAL],
    ['an L2 that names itself as L1', (g) => g.set(FREE + 2, 9, pte(FREE + 2, RO)), -EINVAL],
    ['an L3 that names the L4', (g) => g.set(FREE + 1, 9, pte(FREE, TABLE)), -EINVAL],
    ['one frame as L3 and as L1', (g) => g.set(FREE + 2, 9, pte(FREE + 1, TABLE)), -EINVAL],
    ['an L2 in two roles', (g) => g.set(FREE, 9, pte(FREE + 2, TABLE)), -EINVAL],
    ['a table that is still mapped writable', (g) => g.remap(FREE + 2, pte(FREE + 2, RW)), -EINVAL],
    ['a frame that the guest does not own', (g) => g.set(FREE + 3, 511, pte(64, RO)), -EBUSY],
    ['a global bit in an upper table', (g) => g.set(FREE + 1, 511, pte(FREE + 2, TABLE | 0x100)), -EINVAL],
  ])('refuses %s and leaves no reference', (_name, spoil, error) => {
    const guest = TestGuest.running();
    buildTables(guest);
    spoil(guest);
    const before = auditFrames(guest.mmu, [guest.pv]);
    expect(before).toEqual([]);
    expect(guest.ext(op.MMUEXT_PIN_L4_TABLE, FREE)).toBe(error);
    expect(types(guest).every((type) => type === FRAME_TYPE.none || type === FRAME_TYPE.writable)).toBe(true);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('overwrites what the guest put into the slots of the hypervisor', () => {
    const guest = TestGuest.running();
    buildTables(guest);
    guest.set(FREE, 256, pte(64, TABLE));
    guest.set(FREE, 271, pte(FREE, RW));
    expect(guest.ext(op.MMUEXT_PIN_L4_TABLE, FREE)).toBe(0);
    expect([guest.lo(FREE, 256), guest.lo(FREE, 271)]).toEqual([0, 0]);
  });

  it('refuses frames that do not exist or are not the guest’s', () => {
    const guest = TestGuest.running();
    for (const frame of [64, 0xffff0, 2 ** 40, -1]) {
      expect(guest.ext(op.MMUEXT_PIN_L1_TABLE, frame)).toBe(-EINVAL);
      expect(guest.ext(op.MMUEXT_UNPIN_TABLE, frame)).toBe(-EINVAL);
      expect(guest.ext(op.MMUEXT_NEW_BASEPTR, frame)).toBe(-EINVAL);
      expect(guest.ext(op.MMUEXT_NEW_USER_BASEPTR, frame)).toBe(-EINVAL);
      expect(guest.ext(op.MMUEXT_CLEAR_PAGE, frame)).toBe(-EINVAL);
      expect(guest.ext(op.MMUEXT_COPY_PAGE, FREE, frame)).toBe(-EINVAL);
    }
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('never lets a shared frame become a table', () => {
    const guest = TestGuest.running();
    const shared = guest.mmu.xenFrames.alloc();
    guest.mmu.xenFrames.shareWithGuest(shared, { writable: false });
    expect(guest.ext(op.MMUEXT_PIN_L1_TABLE, shared)).toBe(-EINVAL);
  });
});

describe('stale translations', () => {
  it('flushes before a frame becomes a table, and not again for the next one', () => {
    const guest = TestGuest.running();
    guest.guestStore(guest.va(FREE), 0);
    guest.guestStore(guest.va(FREE + 1), 0);
    guest.remap(FREE, pte(FREE, RO));
    guest.remap(FREE + 1, pte(FREE + 1, RO));
    expect(guest.vcpu.writableFrames()).toEqual(expect.arrayContaining([FREE, FREE + 1]));
    const flushes = guest.vcpu.flushes;
    expect(guest.ext(op.MMUEXT_PIN_L1_TABLE, FREE)).toBe(0);
    expect(guest.ext(op.MMUEXT_PIN_L1_TABLE, FREE + 1)).toBe(0);
    expect(guest.vcpu.flushes).toBe(flushes + 1);
    expect(guest.staleTables()).toEqual([]);
  });

  it('does not flush when the guest has flushed itself', () => {
    const guest = TestGuest.running();
    guest.guestStore(guest.va(FREE), 0);
    guest.remap(FREE, pte(FREE, RO));
    guest.ext(op.MMUEXT_TLB_FLUSH_LOCAL, 0);
    const flushes = guest.vcpu.flushes;
    expect(guest.ext(op.MMUEXT_PIN_L1_TABLE, FREE)).toBe(0);
    expect(guest.vcpu.flushes).toBe(flushes);
  });

  it('knows that loading the user root flushes nothing of the kernel space', () => {
    const guest = TestGuest.running();
    buildTables(guest);
    guest.guestStore(guest.va(FREE + 6), 0);
    guest.remap(FREE + 6, pte(FREE + 6, RO));
    expect(guest.ext(op.MMUEXT_NEW_USER_BASEPTR, FREE)).toBe(0);
    expect(guest.vcpu.writableFrames()).toContain(FREE + 6);
    expect(guest.ext(op.MMUEXT_PIN_L1_TABLE, FREE + 6)).toBe(0);
    expect(guest.staleTables()).toEqual([]);
  });

  it('flushes what the user space holds as well', () => {
    const guest = TestGuest.running();
    buildTables(guest);
    guest.ext(op.MMUEXT_PIN_L4_TABLE, FREE);
    guest.ext(op.MMUEXT_NEW_USER_BASEPTR, FREE);
    guest.vcpu.enterSpace(SPACE.user);
    expect(guest.vcpu.translate(0, ACCESS.write)).toBeGreaterThan(0);
    guest.vcpu.enterSpace(SPACE.kernel);
    expect(guest.update(FREE + 3, 0, 0)).toBe(0);
    guest.remap(FREE + 4, pte(FREE + 4, RO));
    expect(guest.vcpu.writableFrames()).toContain(FREE + 4);
    expect(guest.ext(op.MMUEXT_PIN_L1_TABLE, FREE + 4)).toBe(0);
    expect(guest.staleTables()).toEqual([]);
  });
});

describe('root tables', () => {
  it('shows the machine-to-physical array read-only in a loaded kernel root', () => {
    const guest = TestGuest.running();
    const at = guest.vcpu.translate(MACH2PHYS_VIRT_START + 8 * 33, ACCESS.read);
    expect(guest.memory.u32[at >>> 2]).toBe(33);
    for (const va of [MACH2PHYS_VIRT_START + 8 * 4000, MACH2PHYS_VIRT_START + 8 * 2 ** 21, MACH2PHYS_VIRT_END - 8]) {
      const word = guest.vcpu.translate(va, ACCESS.read);
      expect([guest.memory.u32[word >>> 2], guest.memory.u32[(word >>> 2) + 1]]).toEqual([0xffff_ffff, 0xffff_ffff]);
    }
    expect(guest.vcpu.translate(MACH2PHYS_VIRT_START, ACCESS.write)).toBe(-1);
    expect(guest.vcpu.translate(MACH2PHYS_VIRT_END, ACCESS.read)).toBe(-1);
  });

  it('switches roots and keeps the one in use checked after unpinning', () => {
    const guest = TestGuest.running();
    buildTables(guest);
    expect(guest.ext(op.MMUEXT_NEW_BASEPTR, FREE)).toBe(0);
    expect(guest.pv.kernelRoot).toBe(FREE);
    expect(guest.vcpu.roots[SPACE.kernel]).toBe(FREE);
    expect(guest.ext(op.MMUEXT_UNPIN_TABLE, L4)).toBe(0);
    expect(guest.type(L4)).toBe(FRAME_TYPE.none);
    expect(guest.type(L3)).toBe(FRAME_TYPE.l3);
    expect(guest.lo(L4, 256)).toBe(0);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
    guest.mmu.detachVcpu(guest.pv);
    expect(guest.type(FREE)).toBe(FRAME_TYPE.none);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('has a user root or none', () => {
    const guest = TestGuest.running();
    buildTables(guest);
    expect(guest.ext(op.MMUEXT_NEW_USER_BASEPTR, FREE)).toBe(0);
    expect(guest.vcpu.roots[SPACE.user]).toBe(FREE);
    expect(guest.lo(FREE, 256)).toBe(0);
    expect(guest.ext(op.MMUEXT_NEW_USER_BASEPTR, 0)).toBe(0);
    expect(guest.pv.userRoot).toBe(-1);
    expect(guest.vcpu.roots[SPACE.user]).toBe(-1);
    expect(guest.type(FREE)).toBe(FRAME_TYPE.none);
  });

  it('forgets user translations when the kernel root is loaded', () => {
    const guest = TestGuest.running();
    buildTables(guest);
    guest.ext(op.MMUEXT_NEW_USER_BASEPTR, FREE);
    guest.vcpu.enterSpace(SPACE.user);
    guest.vcpu.translate(0, ACCESS.write);
    guest.vcpu.enterSpace(SPACE.kernel);
    expect(guest.vcpu.writableFrames()).toContain(FREE + 4);
    expect(guest.ext(op.MMUEXT_NEW_BASEPTR, L4)).toBe(0);
    expect(guest.vcpu.writableFrames()).not.toContain(FREE + 4);
  });

  it('hides the array from user roots under m2p_strict', () => {
    const guest = TestGuest.running();
    guest.mmu.setM2pStrict(true);
    buildTables(guest);
    guest.ext(op.MMUEXT_PIN_L4_TABLE, FREE);
    expect(guest.lo(FREE, 256)).not.toBe(0);
    guest.ext(op.MMUEXT_NEW_USER_BASEPTR, FREE);
    expect(guest.lo(FREE, 256)).toBe(0);
  });
});

describe('other operations', () => {
  it('clears and copies writable frames only', () => {
    const guest = TestGuest.running();
    guest.set(FREE, 7, 0xabcd);
    expect(guest.ext(op.MMUEXT_COPY_PAGE, FREE + 1, FREE)).toBe(0);
    expect(guest.lo(FREE + 1, 7)).toBe(0xabcd);
    expect(guest.ext(op.MMUEXT_CLEAR_PAGE, FREE)).toBe(0);
    expect(guest.lo(FREE, 7)).toBe(0);
    expect(guest.ext(op.MMUEXT_CLEAR_PAGE, L4)).toBe(-EINVAL);
    expect(guest.ext(op.MMUEXT_COPY_PAGE, L4, FREE)).toBe(-EINVAL);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('invalidates pages', () => {
    const guest = TestGuest.running();
    for (const [command, arg2] of [
      [op.MMUEXT_INVLPG_LOCAL, 0],
      [op.MMUEXT_INVLPG_ALL, 0],
      [op.MMUEXT_INVLPG_MULTI, guest.va(REQUESTS + 2)],
    ]) {
      guest.guestStore(guest.va(FREE), 0);
      guest.set(REQUESTS + 2, 0, 1);
      expect(guest.ext(command, guest.va(FREE), arg2)).toBe(0);
      expect(guest.vcpu.writableFrames()).not.toContain(FREE);
    }
    expect(guest.ext(op.MMUEXT_TLB_FLUSH_MULTI, 0, 0x1000)).toBe(-EINVAL);
    expect(guest.ext(op.MMUEXT_INVLPG_LOCAL, 2 ** 48)).toBe(0);
  });

  it.each([
    [op.MMUEXT_FLUSH_CACHE, -EACCES],
    [op.MMUEXT_MARK_SUPER, -EOPNOTSUPP],
    [op.MMUEXT_UNMARK_SUPER, -EOPNOTSUPP],
    [14, -ENOSYS],
    [99, -ENOSYS],
  ])('answers operation %d with %d', (command, error) => {
    expect(TestGuest.running().ext(command, 0)).toBe(error);
  });

  it('refuses other domains', () => {
    const guest = TestGuest.running();
    expect(guest.mmu.mmuextOp(guest.pv, guest.va(REQUESTS), 0, 0, 9)).toBe(-ESRCH);
    expect(guest.mmu.mmuextOp(guest.pv, guest.va(REQUESTS), 0, 0, DOMID_SELF)).toBe(0);
  });

  it('stops a batch that costs too much and says how far it came', () => {
    // Three frames full of flushes, mapped over and over: more than eighty thousand of them.
    const guest = new TestGuest();
    for (let page = 16; page < 511; page += 1) guest.set(L1, page, pte(16 + ((page - 16) % 3), RO));
    for (let i = 0; i < 512; i += 1) guest.set(16 + Math.floor((i * 3) / 512), (i * 3) % 512, op.MMUEXT_TLB_FLUSH_LOCAL);
    expect(guest.mmu.attachStartState(guest.pv, { kernelRoot: mfn(L4), pinned: [mfn(L4)] })).toBe(0);
    expect(guest.mmu.mmuextOp(guest.pv, guest.va(16), 80_000, guest.va(REQUESTS), DOMID_SELF)).toBe(-EAGAIN);
    expect(guest.lo(REQUESTS, 0)).toBeGreaterThan(10_000);
    expect(guest.lo(REQUESTS, 0)).toBeLessThan(80_000);
  });
});

describe('held frames', () => {
  it('cannot become tables while a backend writes to them', () => {
    const guest = TestGuest.running();
    expect(guest.mmu.holdFrame(FREE, true)).toBe(0);
    guest.remap(FREE, pte(FREE, RO));
    expect(guest.ext(op.MMUEXT_PIN_L1_TABLE, FREE)).toBe(-EINVAL);
    expect(auditFrames(guest.mmu, [guest.pv], [{ frame: mfn(FREE), writable: true }])).toEqual([]);
    guest.mmu.releaseFrame(mfn(FREE), true);
    expect(guest.ext(op.MMUEXT_PIN_L1_TABLE, FREE)).toBe(0);
    expect(guest.mmu.holdFrame(FREE, true)).toBe(-EINVAL);
    expect(guest.mmu.holdFrame(FREE, false)).toBe(0);
    expect(guest.mmu.holdFrame(64, false)).toBe(-EINVAL);
  });
});
