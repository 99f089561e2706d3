// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { mfn } from '../../memory/frames.ts';
import { EBUSY, EFAULT, EINVAL, EPERM, ESRCH } from '../errno.ts';
import { auditFrames } from './audit.ts';
import { DOMID_IO, DOMID_SELF } from './context.ts';
import { FRAME_TYPE } from './frame-table.ts';
import { MMU_MACHPHYS_UPDATE, MMU_PT_UPDATE_NO_TRANSLATE, MMU_PT_UPDATE_PRESERVE_AD } from './mmu-update.ts';
import { PTE_A, PTE_D, PTE_G, PTE_HI_GUEST_KERNEL, PTE_P, PTE_PCD, PTE_PSE, PTE_RW, PTE_U } from './pte.ts';
import { DONE, FREE, L1, L2, L3, L4, pte, REQUESTS, RO, RW, TABLE, TestGuest } from './test-guest.ts';

const LAST = 500;

describe('mmu_update of L1 entries', () => {
  it('maps a frame of the guest and counts it', () => {
    const guest = TestGuest.running();
    const { frames } = guest.mmu.context;
    const before = frames.refs(FREE);
    expect(guest.update(L1, LAST, pte(FREE, RW))).toBe(0);
    expect(guest.lo(L1, LAST)).toBe(pte(FREE, RW | PTE_G));
    expect(frames.refs(FREE)).toBe(before + 1);
    expect(frames.typeCount(FREE)).toBe(2);
    expect(guest.update(L1, LAST, 0)).toBe(0);
    expect(frames.refs(FREE)).toBe(before);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('marks an entry without U as a kernel entry', () => {
    const guest = TestGuest.running();
    expect(guest.update(L1, LAST, pte(FREE, PTE_P | PTE_RW | PTE_A | PTE_D))).toBe(0);
    expect(guest.lo(L1, LAST)).toBe(pte(FREE, RW));
    expect(guest.hi(L1, LAST)).toBe(PTE_HI_GUEST_KERNEL);
  });

  it.each([
    ['a writable mapping of a page table', pte(L2, RW), 0, -EBUSY],
    ['a writable mapping of its own table', pte(L1, RW), 0, -EBUSY],
    ['a hypervisor frame', pte(64, RO), 0, -EBUSY],
    ['a frame past the end', pte(0xffff0, RO), 0, -EPERM],
    ['a frame above 4 GiB', pte(FREE, RO), 1, -EPERM],
    ['the invalid frame number', pte(0xfffff, RO), 0xfffff, -EINVAL],
    ['uncached memory', pte(FREE, RO | PTE_PCD), 0, -EINVAL],
    ['PAT', pte(FREE, RO | PTE_PSE), 0, -EINVAL],
  ])('refuses %s', (_name, lo, hi, error) => {
    const guest = TestGuest.running();
    expect(guest.update(L1, LAST, lo, hi)).toBe(error);
    expect(guest.lo(L1, LAST)).toBe(0);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('allows a read-only mapping of a page table', () => {
    const guest = TestGuest.running();
    expect(guest.update(L1, LAST, pte(L4, RO))).toBe(0);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('takes any value that is not present', () => {
    const guest = TestGuest.running();
    expect(guest.update(L1, LAST, 0xffff_fffe, 0xffff_ffff)).toBe(0);
    expect([guest.lo(L1, LAST), guest.hi(L1, LAST)]).toEqual([0xffff_fffe, 0xffff_ffff]);
  });

  it('keeps accessed and dirty with PRESERVE_AD only', () => {
    const guest = TestGuest.running();
    guest.update(L1, LAST, pte(FREE, RW));
    guest.update(L1, LAST, pte(FREE, PTE_P | PTE_U), 0, MMU_PT_UPDATE_PRESERVE_AD);
    expect(guest.lo(L1, LAST) & (PTE_A | PTE_D | PTE_RW)).toBe(PTE_A | PTE_D);
    guest.update(L1, LAST, pte(FREE, PTE_P | PTE_U), 0, MMU_PT_UPDATE_NO_TRANSLATE);
    expect(guest.lo(L1, LAST) & (PTE_A | PTE_D)).toBe(0);
  });

  it('keeps them as well when the high half changes', () => {
    const guest = TestGuest.running();
    guest.update(L1, LAST, pte(FREE, RW));
    guest.update(L1, LAST, pte(FREE, PTE_P | PTE_U), 0x8000_0000, MMU_PT_UPDATE_PRESERVE_AD);
    expect(guest.lo(L1, LAST) & (PTE_A | PTE_D)).toBe(PTE_A | PTE_D);
    expect(guest.hi(L1, LAST)).toBe(0x8000_0000);
  });

  it('lets a shared hypervisor frame be mapped as it is shared', () => {
    const guest = TestGuest.running();
    const shared = guest.mmu.xenFrames.alloc();
    const fixed = guest.mmu.xenFrames.alloc();
    guest.mmu.xenFrames.shareWithGuest(shared, { writable: true });
    guest.mmu.xenFrames.shareWithGuest(fixed, { writable: false });
    expect(guest.update(L1, LAST, pte(shared, RW))).toBe(0);
    expect(guest.update(L1, LAST + 1, pte(fixed, RW))).toBe(-EBUSY);
    expect(guest.update(L1, LAST + 1, pte(fixed, RO))).toBe(0);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });
});

describe('mmu_update of upper tables', () => {
  it('checks a new L1 table when it is installed and drops it when it is removed', () => {
    const guest = TestGuest.running();
    guest.set(FREE, 0, pte(FREE + 1, RO));
    guest.remap(FREE, pte(FREE, RO));
    expect(guest.update(L2, 1, pte(FREE, TABLE))).toBe(0);
    expect(guest.type(FREE)).toBe(FRAME_TYPE.l1);
    expect(guest.update(L2, 1, 0)).toBe(0);
    expect(guest.type(FREE)).toBe(FRAME_TYPE.none);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it.each([
    ['a writable frame as a table', L2, 1, pte(FREE, TABLE)],
    ['an L2 table as L1', L2, 1, pte(L2, TABLE)],
    ['an L3 entry that names its own table', L3, 1, pte(L3, TABLE)],
    ['an L4 entry that names its own table', L4, 1, pte(L4, TABLE)],
    ['a large page', L2, 1, pte(0, TABLE | PTE_PSE)],
    ['a frame that does not exist', L2, 1, pte(0xffff0, TABLE)],
    ['the first slot of the hypervisor', L4, 256, pte(L3, TABLE)],
    ['the last slot of the hypervisor', L4, 271, 0],
  ])('refuses %s', (_name, table, index, lo) => {
    const guest = TestGuest.running();
    expect(guest.update(table, index, lo)).toBe(-EINVAL);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('changes RW of an upper entry without another check', () => {
    const guest = TestGuest.running();
    expect(guest.update(L2, 0, pte(L1, PTE_P | PTE_U | PTE_A))).toBe(0);
    expect(guest.lo(L2, 0)).toBe(pte(L1, PTE_P | PTE_U | PTE_A));
  });
});

describe('mmu_update of other frames', () => {
  it('stores to writable and to unused frames', () => {
    const guest = TestGuest.running();
    expect(guest.update(FREE, 3, 0x1234, 0x5678)).toBe(0);
    expect([guest.lo(FREE, 3), guest.hi(FREE, 3)]).toEqual([0x1234, 0x5678]);
    expect(guest.remap(FREE, 0)).toBe(0);
    expect(guest.type(FREE)).toBe(FRAME_TYPE.none);
    expect(guest.update(FREE, 3, 0x4321)).toBe(0);
    expect(guest.lo(FREE, 3)).toBe(0x4321);
    expect(guest.type(FREE)).toBe(FRAME_TYPE.none);
  });

  it('does not store to the hypervisor or past the end', () => {
    const guest = TestGuest.running();
    const state = guest.lo(64, 0);
    expect(guest.update(64, 0, 0)).toBe(-EINVAL);
    expect(guest.lo(64, 0)).toBe(state);
    expect(guest.update(0xfffff, 0, 0)).toBe(-EINVAL);
    guest.set(REQUESTS, 0, 0, 0xffff_ffff);
    expect(guest.mmu.mmuUpdate(guest.pv, guest.va(REQUESTS), 1, 0, DOMID_SELF)).toBe(-EINVAL);
  });

  it('updates the machine-to-physical array', () => {
    const guest = TestGuest.running();
    expect(guest.update(FREE, 0, 0x77, 0, MMU_MACHPHYS_UPDATE)).toBe(0);
    expect(guest.mmu.context.m2p.lo(mfn(FREE))).toBe(0x77);
    expect(guest.update(0xfffff, 0, 0x77, 0, MMU_MACHPHYS_UPDATE)).toBe(-EINVAL);
  });
});

describe('mmu_update batches', () => {
  it('reports how many requests were done', () => {
    const guest = TestGuest.running();
    const request = (i: number, index: number, lo: number): void => {
      guest.set(REQUESTS, i * 2, pte(L1, index * 8));
      guest.set(REQUESTS, i * 2 + 1, lo);
    };
    request(0, LAST, pte(FREE, RO));
    request(1, LAST + 1, pte(L1, RW));
    request(2, LAST + 2, pte(FREE, RO));
    expect(guest.mmu.mmuUpdate(guest.pv, guest.va(REQUESTS), 3, guest.va(DONE), DOMID_SELF)).toBe(-EBUSY);
    expect(guest.lo(DONE, 0)).toBe(1);
    expect(guest.lo(L1, LAST + 2)).toBe(0);
  });

  it('reads requests that are not aligned', () => {
    const guest = TestGuest.running();
    const at = guest.va(REQUESTS) + 4;
    guest.mmu.context.words.write64(guest.pv, at, L1 * 4096 + LAST * 8);
    guest.mmu.context.words.write64(guest.pv, at + 8, pte(FREE, RO));
    expect(guest.mmu.mmuUpdate(guest.pv, at, 1, 0, DOMID_SELF)).toBe(0);
    expect(guest.lo(L1, LAST)).toBe(pte(FREE, RO | PTE_G));
  });

  it.each([
    ['an unmapped address', 0x1000, 1, DOMID_SELF, -EFAULT],
    ['no address at all', Number.NaN, 1, DOMID_SELF, -EFAULT],
    ['an absurd count', 0, 0xffff_ffff, DOMID_SELF, -EINVAL],
    ['nothing to do', Number.NaN, 0, DOMID_SELF, 0],
    ['the own domain by number', Number.NaN, 0, 1, 0],
    ['I/O memory', 0, 1, DOMID_IO, -EPERM],
    ['another domain', 0, 1, 7, -ESRCH],
    ["another domain's tables", 0, 1, (8 << 16) | DOMID_SELF, -ESRCH],
    ['the own tables by number', Number.NaN, 0, (2 << 16) | DOMID_SELF, 0],
  ])('answers %s', (_name, va, count, domain, expected) => {
    const guest = TestGuest.running();
    expect(guest.mmu.mmuUpdate(guest.pv, va, count, 0, domain)).toBe(expected);
  });
});

describe('update_va_mapping', () => {
  it('changes the entry that maps an address', () => {
    const guest = TestGuest.running();
    expect(guest.remap(FREE, pte(FREE + 1, RO))).toBe(0);
    expect(guest.lo(L1, FREE)).toBe(pte(FREE + 1, RO | PTE_G));
  });

  it('refuses addresses without an L1 table and those of the hypervisor', () => {
    const guest = TestGuest.running();
    const map = (va: number): number => guest.mmu.updateVaMapping(guest.pv, va, 0, 0, 0, 0);
    expect([0x1000, -0x8000_0000_0000, 0x8000_0000_0000, Number.NaN].map(map)).toEqual([-EINVAL, -EINVAL, -EINVAL, -EINVAL]);
  });

  it('flushes what it is asked to', () => {
    const guest = TestGuest.running();
    const stale = (): boolean => guest.vcpu.writableFrames().includes(FREE);
    const touch = (): void => {
      guest.remap(FREE, pte(FREE, RW), 0, 2);
      guest.guestStore(guest.va(FREE), 1);
    };
    touch();
    expect(guest.remap(FREE, pte(FREE, RO), 0, 0)).toBe(0);
    expect(stale()).toBe(true);
    for (const flags of [1, 2, 1 | 4, 2 | 4]) {
      touch();
      expect(guest.remap(FREE, pte(FREE, RO), 0, flags)).toBe(0);
      expect(stale()).toBe(false);
    }
    guest.set(REQUESTS, 0, 1);
    for (const flags of [1, 2]) {
      touch();
      const pointer = guest.va(REQUESTS) + flags;
      expect(guest.mmu.updateVaMapping(guest.pv, guest.va(FREE), pte(FREE, RO), 0, flags, pointer)).toBe(0);
      expect(stale()).toBe(false);
    }
  });

  it('is refused for other domains', () => {
    const guest = TestGuest.running();
    expect(guest.mmu.updateVaMappingOtherdomain(guest.pv, guest.va(FREE), 0, 0, 0, 0, 5)).toBe(-ESRCH);
    expect(guest.mmu.updateVaMappingOtherdomain(guest.pv, guest.va(FREE), 0, 0, 0, 0, DOMID_SELF)).toBe(0);
  });
});
