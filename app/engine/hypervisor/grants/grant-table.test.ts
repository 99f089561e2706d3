// SPDX-License-Identifier: Apache-2.0
import { beforeEach, describe, expect, it } from 'vitest';
import {
  GNTTABOP_copy,
  GNTTABOP_get_status_frames,
  GNTTABOP_get_version,
  GNTTABOP_map_grant_ref,
  GNTTABOP_query_size,
  GNTTABOP_set_version,
  GNTTABOP_setup_table,
  GNTTABOP_swap_grant_ref,
  GTF_permit_access,
  GTF_reading,
  GTF_readonly,
  GTF_sub_page,
  GTF_writing,
} from '../abi/grant-table.ts';
import { __HYPERVISOR_grant_table_op, DOMID_SELF } from '../abi/xen.ts';
import { reportCodeWrites } from '../code-writes.ts';
import { Dom0Grants } from '../dom0/dom0-grants.ts';
import { mfn } from '../../memory/frames.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { VMEXIT } from '../../accel/accelerator.ts';
import { CODE_RING_ENTRIES, SharedState } from '../shared-state.ts';
import { DOMID, type FakeMachine, fakeMachine, peek32, poke, poke32 } from '../testing/fake-machine.ts';
import { GrantTable } from './grant-table.ts';

const ARG = 0x3000;
const LIST = 0x4000;
const NR = __HYPERVISOR_grant_table_op;

let m: FakeMachine;
let dom0: Dom0Grants;
let table: GrantTable;

/** Word index of v1 entry `ref`. */
const entry = (ref: number): number => (m.memory.frameOffset(m.state.grantFrame(0)) >>> 2) + ref * 2;
const grantV1 = (ref: number, flags: number, domid: number, frame: number): void => {
  m.state.i32[entry(ref) + 1] = frame;
  m.state.i32[entry(ref)] = (domid << 16) | flags;
};
const flags = (ref: number): number => m.state.i32[entry(ref)] & 0xffff;

beforeEach(() => {
  m = fakeMachine();
  table = new GrantTable(m.state);
  dom0 = new Dom0Grants(m.state, table, m.mmu);
});

describe('grant_table_op', () => {
  it('tells and grows the size, and lists the frames', () => {
    poke32(m, ARG, DOMID_SELF, 0, 0, 0);
    expect(m.call(NR, GNTTABOP_query_size, ARG, 1)).toBe(0);
    expect([peek32(m, ARG + 4), peek32(m, ARG + 8), peek32(m, ARG + 12)]).toEqual([1, 64, 0]);
    poke32(m, ARG, DOMID_SELF, 3, 0, 0, LIST, 0);
    expect(m.call(NR, GNTTABOP_setup_table, ARG, 1)).toBe(0);
    expect(peek32(m, ARG + 8) & 0xffff).toBe(0);
    expect([0, 8, 16].map((at) => peek32(m, LIST + at))).toEqual([0, 1, 2].map((i) => m.state.grantFrame(i)));
    poke32(m, ARG, DOMID_SELF, 65, 0, 0, LIST, 0);
    m.call(NR, GNTTABOP_setup_table, ARG, 1);
    expect(peek32(m, ARG + 8) & 0xffff).toBe(0xffff);
    poke32(m, ARG, 3, 1, 0, 0, LIST, 0);
    m.call(NR, GNTTABOP_setup_table, ARG, 1);
    expect((peek32(m, ARG + 8) << 16) >> 16).toBe(-8);
    expect(m.call(NR, GNTTABOP_setup_table, ARG, 2)).toBe(-22);
    expect(m.call(NR, 99, ARG, 1)).toBe(-38);
  });

  it('has no foreign domain to map', () => {
    poke32(m, ARG, 0, 0, 2, 5, 0, 0, 0, 0);
    expect(m.call(NR, GNTTABOP_map_grant_ref, ARG, 1)).toBe(0);
    expect((peek32(m, ARG + 16) >>> 16) - 0x1_0000).toBe(-2);
  });

  it('continues long lists without losing its place', () => {
    for (let i = 0; i < 300; i++) poke32(m, 0x8000 + i * 12, 9999, 9999, 0x7777);
    m.run((ctx) => {
      ctx.rip = 0x5002;
      ctx.setGpr(0, NR);
      ctx.setGpr(7, GNTTABOP_swap_grant_ref);
      ctx.setGpr(6, 0x8000);
      ctx.setGpr(2, 300);
      return VMEXIT.syscall;
    });
    expect(m.cpu.ctx.rip).toBe(0x5000);
    expect([m.cpu.ctx.gpr(0), m.cpu.ctx.gpr(6), m.cpu.ctx.gpr(2)]).toEqual([NR, 0x8000 + 256 * 12, 44]);
    expect((peek32(m, 0x8000 + 255 * 12 + 8) << 16) >> 16).toBe(-3);
    expect(peek32(m, 0x8000 + 256 * 12 + 8)).toBe(0x7777);
  });

  it('copies within the domain, by frame and by grant', () => {
    poke(m, 0x6100, 0x1122_3344_5566_7788n);
    grantV1(9, GTF_permit_access, DOMID, 7);
    const header = (source: number, sourceOffset: number, target: number, targetOffset: number, length: number, op: number): void =>
      poke32(
        m,
        ARG,
        source,
        0,
        (sourceOffset << 16) | DOMID_SELF,
        0,
        target,
        0,
        (targetOffset << 16) | DOMID_SELF,
        0,
        (op << 16) | length,
        0,
      );
    header(6, 0x100, 9, 0x20, 8, 2);
    expect(m.call(NR, GNTTABOP_copy, ARG, 1)).toBe(0);
    expect(peek32(m, ARG + 36) & 0xffff).toBe(0);
    expect(peek32(m, 0x7020)).toBe(0x5566_7788);
    expect(flags(9)).toBe(GTF_permit_access);
    header(6, 0xffc, 9, 0, 8, 2);
    m.call(NR, GNTTABOP_copy, ARG, 1);
    expect((peek32(m, ARG + 36) << 16) >> 16).toBe(-10);
    m.mmu.tables.add(7);
    header(6, 0, 7, 0, 8, 0);
    m.call(NR, GNTTABOP_copy, ARG, 1);
    expect((peek32(m, ARG + 36) << 16) >> 16).toBe(-9);
  });

  it('changes to version 2 and back only while nothing is in use; reserved entries survive', () => {
    table.grant(0, 0, 11);
    table.grant(1, 0, 12);
    const reserved = dom0.map(DOMID, 1, true);
    grantV1(20, GTF_permit_access, 0, 13);
    const mapping = dom0.map(DOMID, 20, false);
    poke32(m, ARG, 2);
    expect(m.call(NR, GNTTABOP_set_version, ARG, 1)).toBe(-16);
    mapping?.release();
    poke32(m, ARG, 2);
    expect(m.call(NR, GNTTABOP_set_version, ARG, 1)).toBe(0);
    poke32(m, ARG, DOMID_SELF, 0);
    m.call(NR, GNTTABOP_get_version, ARG, 1);
    expect(peek32(m, ARG + 4)).toBe(2);
    poke32(m, ARG, 1, DOMID_SELF, LIST, 0);
    expect(m.call(NR, GNTTABOP_get_status_frames, ARG, 1)).toBe(0);
    expect(peek32(m, LIST)).toBe(m.state.grantStatusFrame(0));
    // Entry 1 is still marked, now in the status array; entry 20 is gone.
    const status = m.memory.frameOffset(m.state.grantStatusFrame(0)) >>> 1;
    expect(m.memory.u16[status + 1]).toBe(GTF_reading | GTF_writing);
    expect(dom0.map(DOMID, 20, false)).toBeNull();
    const console = dom0.map(DOMID, 0, true);
    expect(console?.bytes.byteOffset).toBe(m.memory.frameOffset(mfn(11)));
    expect(m.memory.u16[status]).toBe(GTF_reading | GTF_writing);
    console?.release();
    reserved?.release();
    expect([m.memory.u16[status], m.memory.u16[status + 1]]).toEqual([0, 0]);
    poke32(m, ARG, 3);
    expect(m.call(NR, GNTTABOP_set_version, ARG, 1)).toBe(-22);
  });

  it('version 2 part-page grants can be copied from, within their range, and not mapped', () => {
    poke32(m, ARG, 2);
    m.call(NR, GNTTABOP_set_version, ARG, 1);
    const at = (m.memory.frameOffset(m.state.grantFrame(0)) >>> 2) + 30 * 4;
    m.state.i32[at + 1] = (0x40 << 16) | 0x100;
    m.state.i32[at + 2] = 8;
    m.state.i32[at] = GTF_permit_access | GTF_sub_page;
    expect(dom0.map(DOMID, 30, false)).toBeNull();
    expect(dom0.copyFrom(DOMID, 30, 0x100, 0x40)?.length).toBe(0x40);
    expect(dom0.copyFrom(DOMID, 30, 0x101, 0x40)).toBeNull();
    expect(dom0.copyTo(DOMID, 30, 0xff, new Uint8Array(1))).toBe(false);
  });
});

describe('grants seen from dom0', () => {
  it('marks an entry while it is mapped, with counts', () => {
    grantV1(10, GTF_permit_access, 0, 5);
    const reader = dom0.map(DOMID, 10, false);
    expect(flags(10)).toBe(GTF_permit_access | GTF_reading);
    const writer = dom0.map(DOMID, 10, true);
    expect(flags(10)).toBe(GTF_permit_access | GTF_reading | GTF_writing);
    expect([table.uses(10), dom0.mapped, m.mmu.held.get(5)]).toEqual([2, 2, 2]);
    writer?.release();
    writer?.release();
    expect(flags(10)).toBe(GTF_permit_access | GTF_reading);
    reader?.release();
    expect([flags(10), dom0.mapped, m.mmu.held.get(5)]).toEqual([GTF_permit_access, 0, 0]);
  });

  it.each([
    ['past the table', 512, GTF_permit_access, 0, 5],
    ['far past everything', 0xffff_ffff, GTF_permit_access, 0, 5],
    ['not granted', 11, 0, 0, 5],
    ['granted to another domain', 11, GTF_permit_access, 3, 5],
    ['read-only', 11, GTF_permit_access | GTF_readonly, 0, 5],
    ['a frame outside of memory', 11, GTF_permit_access, 0, 0x7fff_ffff],
    ["a frame of the hypervisor's", 11, GTF_permit_access, 0, 70],
    ['a transfer', 11, 2, 0, 5],
  ])('refuses %s', (_what, ref, entryFlags, domid, frame) => {
    if (ref < 512) grantV1(ref, entryFlags, domid, frame);
    expect(dom0.map(DOMID, ref, true)).toBeNull();
    expect(dom0.copyTo(DOMID, ref, 0, new Uint8Array(4))).toBe(false);
    expect(dom0.map(DOMID + 1, ref, false)).toBeNull();
    if (ref < 512) expect(flags(ref) & (GTF_reading | GTF_writing)).toBe(0);
  });

  it('refuses a page table for writing, and ranges that leave the page', () => {
    grantV1(10, GTF_permit_access, 0, 5);
    m.mmu.tables.add(5);
    expect(dom0.map(DOMID, 10, true)).toBeNull();
    expect(flags(10)).toBe(GTF_permit_access);
    expect(dom0.copyFrom(DOMID, 10, 4000, 97)).toBeNull();
    expect(dom0.copyFrom(DOMID, 10, 4000, 96)?.length).toBe(96);
  });

  it('queues code writes of the I/O thread for the vCPU, and everything on overflow', () => {
    const io = new SharedState(new GuestMemory(m.memory.layout.shape, m.memory.memory));
    reportCodeWrites(io);
    const grants = new Dom0Grants(io, new GrantTable(io), m.mmu);
    grantV1(10, GTF_permit_access, 0, 5);
    m.memory.u8[m.memory.layout.codeFlags + 5] = 1;
    m.memory.u8[m.memory.layout.codeFlags + 9] = 1;
    grants.copyTo(DOMID, 10, 0, new Uint8Array(4));
    m.run(() => VMEXIT.budget);
    expect(m.cpu.invalidated).toEqual([5]);
    for (let i = 0; i < CODE_RING_ENTRIES + 5; i++) grants.copyTo(DOMID, 10, 0, new Uint8Array(4));
    m.cpu.invalidated.length = 0;
    m.run(() => VMEXIT.budget);
    expect(new Set(m.cpu.invalidated)).toEqual(new Set([5, 9]));
    m.cpu.invalidated.length = 0;
    m.run(() => VMEXIT.budget);
    expect(m.cpu.invalidated).toEqual([]);
  });
});
