// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { mfn } from '../../memory/frames.ts';
import { EACCES, EFAULT, EINVAL, ENOMEM, ENOSYS, EPERM, ESRCH } from '../errno.ts';
import { auditFrames } from './audit.ts';
import { DOMID_SELF } from './context.ts';
import { OWNER } from './frame-table.ts';
import * as mem from './memory-op.ts';
import { DONE, FREE, L1, pte, REQUESTS, RO, TestGuest } from './test-guest.ts';

/** Word 0..3 of REQUESTS: struct xen_memory_reservation; the extent list is in DONE. */
function reservation(guest: TestGuest, at: number, listWord: number, extents: number, order: number, flags = 0, domid = DOMID_SELF): void {
  const list = guest.va(DONE) + listWord * 8;
  guest.set(REQUESTS, at, list >>> 0, Math.floor(list / 2 ** 32) >>> 0);
  guest.set(REQUESTS, at + 1, extents >>> 0, Math.floor(extents / 2 ** 32));
  guest.set(REQUESTS, at + 2, order, flags);
  guest.set(REQUESTS, at + 3, domid);
}

function op(guest: TestGuest, cmd: number, list: readonly number[], order = 0, flags = 0, domid = DOMID_SELF): number {
  for (let i = 0; i < list.length; i += 1) guest.set(DONE, i, list[i] >>> 0, Math.floor(list[i] / 2 ** 32));
  reservation(guest, 0, 0, list.length, order, flags, domid);
  return guest.mmu.memoryOp(guest.pv, cmd, guest.va(REQUESTS));
}

const owner = (guest: TestGuest, frame: number): number => guest.mmu.context.frames.owner(frame);
const m2p = (guest: TestGuest, frame: number): number => guest.mmu.context.m2p.lo(mfn(frame));

describe('the balloon', () => {
  it('gives frames up and gets the same ones back', () => {
    const guest = TestGuest.running();
    for (const frame of [FREE, FREE + 1]) guest.remap(frame, 0);
    expect(op(guest, mem.XENMEM_decrease_reservation, [FREE, FREE + 1])).toBe(2);
    expect([owner(guest, FREE), m2p(guest, FREE)]).toEqual([OWNER.free, 0xffff_ffff]);
    expect(guest.mmu.currentReservation).toBe(62);
    expect(guest.update(L1, 500, pte(FREE, RO))).toBeLessThan(0);
    expect(op(guest, mem.XENMEM_populate_physmap, [FREE + 1, FREE])).toBe(2);
    expect([guest.lo(DONE, 0), guest.lo(DONE, 1), m2p(guest, FREE)]).toEqual([FREE + 1, FREE, FREE]);
    expect(guest.update(L1, 500, pte(FREE, RO))).toBe(0);
    expect(guest.mmu.currentReservation).toBe(64);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('gives another frame when the one asked for is taken, and says which', () => {
    const guest = TestGuest.running();
    guest.remap(FREE, 0);
    op(guest, mem.XENMEM_decrease_reservation, [FREE]);
    expect(op(guest, mem.XENMEM_populate_physmap, [0x12345])).toBe(1);
    expect([guest.lo(DONE, 0), m2p(guest, FREE)]).toEqual([FREE, 0x12345]);
  });

  it('frees a frame that is still mapped with its last reference', () => {
    const guest = TestGuest.running();
    expect(op(guest, mem.XENMEM_decrease_reservation, [FREE])).toBe(1);
    expect(owner(guest, FREE)).toBe(OWNER.guest);
    expect(op(guest, mem.XENMEM_decrease_reservation, [FREE])).toBe(1);
    expect(guest.mmu.currentReservation).toBe(64);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
    guest.remap(FREE, 0);
    expect(owner(guest, FREE)).toBe(OWNER.free);
    expect(guest.mmu.currentReservation).toBe(63);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('stops at what it cannot do and answers how far it came', () => {
    const guest = TestGuest.running();
    guest.remap(FREE, 0);
    expect(op(guest, mem.XENMEM_decrease_reservation, [FREE, FREE, 9])).toBe(1);
    expect(op(guest, mem.XENMEM_decrease_reservation, [64])).toBe(0);
    expect(op(guest, mem.XENMEM_decrease_reservation, [2 ** 40])).toBe(0);
    expect(op(guest, mem.XENMEM_populate_physmap, [FREE, 9])).toBe(1);
    expect(op(guest, mem.XENMEM_populate_physmap, [9])).toBe(0);
    expect(op(guest, mem.XENMEM_populate_physmap, [9], 10)).toBe(0);
    expect(op(guest, mem.XENMEM_decrease_reservation, [9], 0, 0, 3)).toBe(0);
    expect(guest.mmu.memoryOp(guest.pv, mem.XENMEM_decrease_reservation, 0x1000)).toBe(0);
    reservation(guest, 0, 0, 2 ** 40, 0);
    expect(guest.mmu.memoryOp(guest.pv, mem.XENMEM_decrease_reservation, guest.va(REQUESTS))).toBe(0);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('goes on from the extent in the upper bits of the command', () => {
    const guest = TestGuest.running();
    guest.remap(FREE, 0);
    guest.remap(FREE + 1, 0);
    expect(op(guest, mem.XENMEM_decrease_reservation | (1 << 6), [FREE, FREE + 1])).toBe(2);
    expect([owner(guest, FREE), owner(guest, FREE + 1)]).toEqual([OWNER.guest, OWNER.free]);
  });

  it('starts below its maximum and grows by extents', () => {
    const guest = TestGuest.running(64, 40);
    expect(guest.mmu.currentReservation).toBe(40);
    expect(op(guest, mem.XENMEM_increase_reservation, [0, 0], 3)).toBe(2);
    expect([guest.lo(DONE, 0) % 8, guest.lo(DONE, 1) % 8]).toEqual([0, 0]);
    expect(guest.mmu.currentReservation).toBe(56);
    expect(op(guest, mem.XENMEM_populate_physmap, [0x100], 3, 17)).toBe(0);
    expect(op(guest, mem.XENMEM_populate_physmap, [0x100], 3)).toBe(1);
    const base = guest.lo(DONE, 0);
    expect([m2p(guest, base), m2p(guest, base + 7)]).toEqual([0x100, 0x107]);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });
});

describe('exchange', () => {
  function exchange(guest: TestGuest, input: readonly number[], inOrder: number, output: readonly number[], outOrder: number): number {
    for (let i = 0; i < input.length; i += 1) guest.set(DONE, i, input[i]);
    for (let i = 0; i < output.length; i += 1) guest.set(DONE, 64 + i, output[i]);
    reservation(guest, 0, 0, input.length, inOrder);
    reservation(guest, 4, 64, output.length, outOrder);
    guest.set(REQUESTS, 8, 0);
    return guest.mmu.memoryOp(guest.pv, mem.XENMEM_exchange, guest.va(REQUESTS));
  }

  it('makes single frames into a contiguous extent and back', () => {
    const guest = TestGuest.running();
    for (let frame = 8; frame < 16; frame += 1) guest.remap(frame, 0);
    expect(exchange(guest, [9, 8, 11, 10, 12, 13, 14, 15], 0, [8], 3)).toBe(0);
    expect([guest.lo(DONE, 64), guest.lo(REQUESTS, 8), m2p(guest, 15)]).toEqual([8, 8, 15]);
    expect(exchange(guest, [8], 3, [0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47], 0)).toBe(0);
    expect(guest.lo(REQUESTS, 8)).toBe(1);
    expect(m2p(guest, guest.lo(DONE, 64 + 5))).toBe(0x45);
    expect(guest.mmu.currentReservation).toBe(64);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('changes nothing when a frame is in use or no extent is free', () => {
    const guest = TestGuest.running();
    guest.remap(8, 0);
    expect(exchange(guest, [8, 9], 0, [8], 1)).toBe(-EINVAL);
    expect([owner(guest, 8), guest.lo(REQUESTS, 8)]).toEqual([OWNER.guest, 0]);
    guest.remap(11, 0);
    expect(exchange(guest, [8, 11], 0, [8], 1)).toBe(-ENOMEM);
    expect([owner(guest, 8), owner(guest, 11), m2p(guest, 11)]).toEqual([OWNER.guest, OWNER.guest, 11]);
    expect(exchange(guest, [8, 8], 0, [8], 1)).toBe(-EINVAL);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });

  it('checks its arguments', () => {
    const guest = TestGuest.running();
    expect(exchange(guest, [8], 0, [8], 10)).toBe(-EPERM);
    expect(exchange(guest, [8], 0, [8], 1)).toBe(-EINVAL);
    expect(guest.mmu.memoryOp(guest.pv, mem.XENMEM_exchange, 0x1000)).toBe(-EFAULT);
    expect(auditFrames(guest.mmu, [guest.pv])).toEqual([]);
  });
});

describe('questions', () => {
  it('answers sizes', () => {
    const guest = TestGuest.running(64, 40);
    guest.set(REQUESTS, 0, DOMID_SELF);
    const ask = (cmd: number): number => guest.mmu.memoryOp(guest.pv, cmd, guest.va(REQUESTS));
    expect(ask(mem.XENMEM_current_reservation)).toBe(40);
    expect(ask(mem.XENMEM_maximum_reservation)).toBe(64);
    expect(ask(mem.XENMEM_maximum_gpfn)).toBe(63);
    expect(ask(mem.XENMEM_maximum_ram_page)).toBe(guest.memory.frameCount);
    guest.set(REQUESTS, 0, 4);
    expect(ask(mem.XENMEM_current_reservation)).toBe(-ESRCH);
    guest.set(REQUESTS, 0, 0);
    expect(ask(mem.XENMEM_current_reservation)).toBe(-EPERM);
    expect(guest.mmu.memoryOp(guest.pv, mem.XENMEM_current_reservation, 0x1000)).toBe(-EFAULT);
  });

  it('describes one region of RAM up to the maximum', () => {
    const guest = TestGuest.running();
    const buffer = guest.va(DONE);
    guest.set(REQUESTS, 0, 128);
    guest.set(REQUESTS, 1, buffer >>> 0, Math.floor(buffer / 2 ** 32) >>> 0);
    expect(guest.mmu.memoryOp(guest.pv, mem.XENMEM_memory_map, guest.va(REQUESTS))).toBe(0);
    expect(guest.lo(REQUESTS, 0)).toBe(1);
    expect([guest.lo(DONE, 0), guest.lo(DONE, 1), guest.lo(DONE, 2)]).toEqual([0, 64 * 4096, 1]);
  });

  it('says where the machine-to-physical array is', () => {
    const guest = TestGuest.running();
    expect(guest.mmu.memoryOp(guest.pv, mem.XENMEM_machphys_mapping, guest.va(REQUESTS))).toBe(0);
    expect([guest.hi(REQUESTS, 0), guest.lo(REQUESTS, 0)]).toEqual([0xffff_8000, 0]);
    expect([guest.hi(REQUESTS, 1), guest.lo(REQUESTS, 1)]).toEqual([0xffff_8040, 0]);
    expect([guest.hi(REQUESTS, 2), guest.lo(REQUESTS, 2)]).toEqual([0x7, 0xffff_ffff]);
  });

  it('refuses what a PV guest may not', () => {
    const guest = TestGuest.running();
    const ask = (cmd: number): number => guest.mmu.memoryOp(guest.pv, cmd, guest.va(REQUESTS));
    expect([7, 15, 23].map(ask)).toEqual([-EACCES, -EACCES, -EACCES]);
    expect(ask(mem.XENMEM_machine_memory_map)).toBe(-EPERM);
    expect([5, 40, Number.NaN, -1, 2 ** 40].map(ask)).toEqual(Array(5).fill(-ENOSYS));
  });
});
