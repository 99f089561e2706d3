// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { SPACE } from '../../accel/accelerator.ts';
import { auditFrames } from './audit.ts';
import { PTE_G, PTE_P } from './pte.ts';
import { FREE, L1, L2, pte, RO, RW, TestGuest } from './test-guest.ts';

const WRITE_FAULT = 3;
const LAST = 500;

function withAssist(): TestGuest {
  const guest = TestGuest.running();
  guest.mmu.setWritablePagetables(true);
  return guest;
}

/** A store of `size` bytes to byte `offset` of the kernel map's L1 table, at which the guest faulted. */
function store(guest: TestGuest, offset: number, size: number, lo: number, hi = 0, error = WRITE_FAULT): boolean {
  Object.assign(guest.store, { offset, size, lo, hi });
  return guest.mmu.tryPtwr(guest.pv, guest.va(L1) + offset, error);
}

describe('stores to L1 tables', () => {
  it('carries a store out with checks and counts', () => {
    const guest = withAssist();
    expect(store(guest, LAST * 8, 8, pte(FREE, RW), 0x8000_0000)).toBe(true);
    expect([guest.lo(L1, LAST), guest.hi(L1, LAST)]).toEqual([pte(FREE, RW | PTE_G), 0x8000_0000]);
    expect(guest.mmu.context.frames.typeCount(FREE)).toBe(2);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
    expect(guest.mmu.counters().ptwrEmulated).toBe(1);
  });

  it('completes partial stores from what the table holds', () => {
    const guest = withAssist();
    expect(store(guest, LAST * 8 + 4, 4, 0x8000_0000)).toBe(true);
    expect(store(guest, LAST * 8, 4, pte(FREE, RO))).toBe(true);
    expect([guest.lo(L1, LAST), guest.hi(L1, LAST)]).toEqual([pte(FREE, RO | PTE_G), 0x8000_0000]);
    expect(store(guest, LAST * 8 + 1, 1, 0x83)).toBe(true);
    expect(guest.lo(L1, LAST) & 0xff00).toBe(0x8300);
    expect(store(guest, LAST * 8 + 6, 2, 0)).toBe(true);
    expect(guest.hi(L1, LAST)).toBe(0);
    expect(store(guest, LAST * 8 + 7, 1, 0x80)).toBe(true);
    expect(guest.hi(L1, LAST)).toBe(0x8000_0000);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it.each<[string, number, number, number]>([
    ['a writable mapping of a table', LAST * 8, 8, pte(L2, RW)],
    ['a half that completes a forbidden entry', LAST * 8, 4, pte(64, PTE_P)],
    ['an unaligned store', LAST * 8 + 4, 8, 0],
    ['a store of 16 bytes', LAST * 8, 16, 0],
    ['a store past the page', 4096, 8, 0],
  ])('refuses %s', (_name, offset, size, lo) => {
    const guest = withAssist();
    expect(store(guest, offset, size, lo)).toBe(false);
    expect(guest.lo(L1, LAST)).toBe(0);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('leaves other faults to the guest', () => {
    const guest = withAssist();
    const entry = (error: number): boolean => store(guest, LAST * 8, 8, pte(FREE, RO), 0, error);
    expect([0, 1, 2, 3 | 8, 3 | 16].map(entry)).toEqual([false, false, false, false, false]);
    const at = (va: number): boolean => guest.mmu.tryPtwr(guest.pv, va, WRITE_FAULT);
    expect([guest.va(L2), guest.va(FREE), guest.va(300), 0x1000, -0x8000_0000_0000, Number.NaN].map(at)).toEqual(Array(6).fill(false));
    guest.vcpu.enterSpace(SPACE.user);
    expect(entry(WRITE_FAULT)).toBe(false);
    guest.vcpu.enterSpace(SPACE.kernel);
    guest.mmu.setWritablePagetables(false);
    expect(entry(WRITE_FAULT)).toBe(false);
    expect(guest.lo(L1, LAST)).toBe(0);
  });

  it('accepts the user bit of the error code: a PV kernel runs at CPL 3', () => {
    expect(store(withAssist(), LAST * 8, 8, pte(FREE, RO), 0, WRITE_FAULT | 4)).toBe(true);
  });
});
