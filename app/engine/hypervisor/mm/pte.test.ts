// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import {
  adjustL1Hi,
  adjustL1Lo,
  adjustTableLo,
  canonical,
  entryFrame,
  guestAddressOk,
  PTE_A,
  PTE_G,
  PTE_HI_GUEST_KERNEL,
  PTE_P,
  PTE_RW,
  PTE_U,
  signedNumber,
  tableIndex,
} from './pte.ts';

describe('page-table entries', () => {
  it('turns an entry without U into a kernel entry, as guests read it back', () => {
    // A kernel page as a domain builder writes it becomes 0x0010...067 with A and D set.
    expect(adjustL1Lo(0x52a03063, 0)).toBe(0x52a03067);
    expect(adjustL1Hi(0x52a03063, 0)).toBe(PTE_HI_GUEST_KERNEL);
  });

  it('makes user entries global and leaves kernel entries local', () => {
    expect(adjustL1Lo(PTE_P | PTE_U, 0)).toBe(PTE_P | PTE_U | PTE_G);
    expect(adjustL1Hi(PTE_P | PTE_U, 0)).toBe(0);
    expect(adjustL1Lo(PTE_P | PTE_U, PTE_HI_GUEST_KERNEL)).toBe(PTE_P | PTE_U);
  });

  it('leaves entries that are not present alone', () => {
    expect(adjustL1Lo(PTE_RW, 0)).toBe(PTE_RW);
    expect(adjustL1Hi(0, 0)).toBe(0);
    expect(adjustTableLo(0, 4)).toBe(0);
  });

  it('adds U to tables and A to L4 entries', () => {
    expect(adjustTableLo(PTE_P, 2)).toBe(PTE_P | PTE_U);
    expect(adjustTableLo(PTE_P, 4)).toBe(PTE_P | PTE_U | PTE_A);
  });

  it('reads a frame number from both halves', () => {
    expect(entryFrame(0xfffff067, 0)).toBe(0xfffff);
    expect(entryFrame(0x1067, 0x80000001)).toBe(0x100001);
    expect(entryFrame(0xfffff000, 0xfffff)).toBe(2 ** 40 - 1);
  });
});

describe('addresses', () => {
  it('splits an address into table indices', () => {
    const va = -0x7800_0000_0000 + 3 * 2 ** 30 + 5 * 2 ** 21 + 7 * 4096 + 123;
    expect([4, 3, 2, 1].map((level) => tableIndex(va, level))).toEqual([272, 3, 5, 7]);
    expect([4, 3, 2, 1].map((level) => tableIndex(-1, level))).toEqual([511, 511, 511, 511]);
    expect([4, 3, 2, 1].map((level) => tableIndex(0x7fff_ffff_ffff, level))).toEqual([255, 511, 511, 511]);
  });

  it('keeps guests out of the hypervisor hole and non-canonical space', () => {
    expect(guestAddressOk(0)).toBe(true);
    expect(guestAddressOk(-0x7800_0000_0000)).toBe(true);
    expect(guestAddressOk(-0x7800_0000_0001)).toBe(false);
    expect(guestAddressOk(-0x8000_0000_0000)).toBe(false);
    expect(guestAddressOk(0x8000_0000_0000)).toBe(false);
    expect(guestAddressOk(Number.NaN)).toBe(false);
    expect(canonical(-0x8000_0000_0000)).toBe(true);
    expect(canonical(0x8000_0000_0000)).toBe(false);
  });

  it('makes numbers of halves when they fit', () => {
    expect(signedNumber(0, 0xffff8000)).toBe(-0x8000_0000_0000);
    expect(signedNumber(0xffffffff, 0xffffffff)).toBe(-1);
    expect(signedNumber(0, 0x7fffffff)).toBeNaN();
  });
});
