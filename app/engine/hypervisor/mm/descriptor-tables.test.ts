// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { mfn } from '../../memory/frames.ts';
import { EFAULT, EINVAL } from '../errno.ts';
import { auditFrames } from './audit.ts';
import { checkDescriptor, checkedDescriptor } from './descriptor.ts';
import { FRAME_TYPE } from './frame-table.ts';
import { MMUEXT_NEW_BASEPTR, MMUEXT_PIN_L1_TABLE, MMUEXT_SET_LDT } from './mmuext.ts';
import { FREE, L4, pte, REQUESTS, RO, RW, TestGuest } from './test-guest.ts';

const CODE64 = 0x00af_9b00;

/** Lists frames for HYPERVISOR_set_gdt. */
function setGdt(guest: TestGuest, frames: readonly number[], entries: number): number {
  for (let i = 0; i < frames.length; i += 1) guest.set(REQUESTS, i, frames[i] >>> 0, Math.floor(frames[i] / 2 ** 32));
  return guest.mmu.setGdt(guest.pv, guest.va(REQUESTS), entries);
}

describe('descriptors', () => {
  it.each<[string, number, number, number, number]>([
    ['code of level 0 moves to level 3', 0xffff, CODE64, 0xffff, 0x00af_fb00],
    ['data stays at level 3', 0xffff, 0x00cf_f300, 0xffff, 0x00cf_f300],
    ['what is not present stays as it is', 0x1234, 0x0000_0e00, 0x1234, 0x0000_0e00],
    ['type 0 stays as it is', 0, 0x8000, 0, 0x8000],
    ['a call gate loses its level to its selector', 0x0008_1000, 0x0000_ec00, 0x000b_1000, 0x0000_8c00],
    ['a call gate to the flat code segment', 0xe033_1000, 0x0000_ec00, 0xe033_1000, 0x0000_8c00],
  ])('%s', (_name, lo, hi, lo2, hi2) => {
    expect(checkDescriptor(lo, hi)).toBe(true);
    expect([...checkedDescriptor]).toEqual([lo2, hi2]);
  });

  it.each<[string, number, number]>([
    ['a task-state segment', 0, 0x8900],
    ['an LDT', 0, 0x8200],
    ['an interrupt gate', 0x0008_0000, 0x8e00],
    ["a call gate into the hypervisor's descriptors", 0xe008_0000, 0xec00],
    ['a call gate with reserved bits', 0x0008_0000, 0xec01],
  ])('refuses %s', (_name, lo, hi) => {
    expect(checkDescriptor(lo, hi)).toBe(false);
  });
});

describe('the GDT', () => {
  it('is checked, held read-only and read by selector', () => {
    const guest = TestGuest.running();
    guest.set(FREE, 2, 0xffff, CODE64);
    expect(setGdt(guest, [FREE], 16)).toBe(-EINVAL);
    guest.remap(FREE, pte(FREE, RO));
    expect(setGdt(guest, [FREE], 16)).toBe(0);
    expect(guest.type(FREE)).toBe(FRAME_TYPE.segdesc);
    expect(guest.mmu.readDescriptor(guest.pv, 0x13)).toEqual([0xffff, 0x00af_fb00]);
    expect(guest.mmu.readDescriptor(guest.pv, 0x1000)).toBeNull();
    expect(guest.remap(FREE, pte(FREE, RW))).toBeLessThan(0);
    expect(guest.ext(MMUEXT_PIN_L1_TABLE, FREE)).toBe(-EINVAL);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
    expect(setGdt(guest, [], 0)).toBe(0);
    expect(guest.type(FREE)).toBe(FRAME_TYPE.none);
    expect(guest.remap(FREE, pte(FREE, RW))).toBe(0);
  });

  it('always has the flat descriptors, and nothing else of the hypervisor', () => {
    const guest = TestGuest.running();
    const read = (selector: number): readonly number[] | null => {
      const found = guest.mmu.readDescriptor(guest.pv, selector);
      return found === null ? null : [...found];
    };
    expect(read(0xe023)).toEqual([0xffff, 0x00cf_fb00]);
    expect(read(0xe02b)).toEqual([0xffff, 0x00cf_f300]);
    expect(read(0xe033)).toEqual([0xffff, 0x00af_fb00]);
    expect([0xe000, 0xe008, 0xe010, 0xe040, 0xfff8].map(read)).toEqual([null, null, null, null, null]);
  });

  it('keeps the old table when the new one is unfit', () => {
    const guest = TestGuest.running();
    for (const frame of [FREE, FREE + 1]) guest.remap(frame, pte(frame, RO));
    expect(setGdt(guest, [FREE], 512)).toBe(0);
    guest.set(FREE + 1, 0, 0, 0x8900);
    expect(setGdt(guest, [FREE, FREE + 1], 1024)).toBe(-EINVAL);
    expect(setGdt(guest, [64], 1)).toBe(-EINVAL);
    expect(setGdt(guest, [2 ** 40], 1)).toBe(-EINVAL);
    expect(setGdt(guest, [FREE], 7169)).toBe(-EINVAL);
    expect(guest.mmu.setGdt(guest.pv, 0x1000, 1)).toBe(-EFAULT);
    expect(guest.pv.gdtFrames).toEqual([FREE]);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('updates descriptors in place', () => {
    const guest = TestGuest.running();
    const update = (frame: number, offset: number, hi: number): number =>
      guest.mmu.updateDescriptor(guest.pv, frame * 4096 + offset, 0, 0xffff, hi);
    guest.remap(FREE, pte(FREE, RO));
    setGdt(guest, [FREE], 512);
    expect(update(FREE, 24, CODE64)).toBe(0);
    expect(guest.mmu.readDescriptor(guest.pv, 0x1b)).toEqual([0xffff, 0x00af_fb00]);
    expect(update(FREE, 24, 0x8900)).toBe(-EINVAL);
    expect(update(FREE, 20, CODE64)).toBe(-EINVAL);
    expect(update(L4, 0, CODE64)).toBe(-EINVAL);
    expect(update(64, 0, CODE64)).toBe(-EINVAL);
    expect(update(FREE + 1, 0, CODE64)).toBe(0);
    expect(guest.hi(FREE + 1, 0)).toBe(0x00af_fb00);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });
});

describe('the LDT', () => {
  it('is looked up through the kernel tables, checked and held', () => {
    const guest = TestGuest.running();
    guest.set(FREE, 1, 0xffff, CODE64);
    expect(guest.ext(MMUEXT_SET_LDT, guest.va(FREE), 512)).toBe(0);
    expect(guest.mmu.readDescriptor(guest.pv, 0xf)).toBeNull();
    guest.remap(FREE, pte(FREE, RO));
    expect(guest.mmu.readDescriptor(guest.pv, 0xf)).toEqual([0xffff, 0x00af_fb00]);
    expect(guest.type(FREE)).toBe(FRAME_TYPE.segdesc);
    expect(guest.mmu.readDescriptor(guest.pv, 4 | (512 << 3))).toBeNull();
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
    expect(guest.ext(MMUEXT_SET_LDT, 0, 0)).toBe(0);
    expect(guest.type(FREE)).toBe(FRAME_TYPE.none);
  });

  it('is let go with the kernel root and found again', () => {
    const guest = TestGuest.running();
    guest.remap(FREE, pte(FREE, RO));
    guest.ext(MMUEXT_SET_LDT, guest.va(FREE), 512);
    guest.mmu.readDescriptor(guest.pv, 7);
    guest.remap(FREE + 1, pte(FREE + 1, RO));
    guest.memory.frame(mfn(FREE + 1)).set(guest.memory.frame(mfn(L4)));
    expect(guest.ext(MMUEXT_NEW_BASEPTR, FREE + 1)).toBe(0);
    expect(guest.type(FREE)).toBe(FRAME_TYPE.none);
    expect(guest.mmu.readDescriptor(guest.pv, 7)).toEqual([0, 0]);
    expect(guest.type(FREE)).toBe(FRAME_TYPE.segdesc);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('refuses bad bases and sizes', () => {
    const guest = TestGuest.running();
    expect(guest.ext(MMUEXT_SET_LDT, guest.va(FREE) + 8, 1)).toBe(-EINVAL);
    expect(guest.ext(MMUEXT_SET_LDT, guest.va(FREE), 8193)).toBe(-EINVAL);
    expect(guest.ext(MMUEXT_SET_LDT, 2 ** 47, 1)).toBe(-EINVAL);
    expect(guest.ext(MMUEXT_SET_LDT, -(2 ** 47), 1)).toBe(-EINVAL);
  });
});
