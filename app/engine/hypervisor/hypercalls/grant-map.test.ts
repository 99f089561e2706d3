// SPDX-License-Identifier: Apache-2.0
import { beforeEach, describe, expect, it } from 'vitest';
import { mfn } from '../../memory/frames.ts';
import { REG } from '../../memory/vcpu-context.ts';
import {
  GNTMAP_application_map,
  GNTMAP_contains_pte,
  GNTMAP_device_map,
  GNTMAP_host_map,
  GNTMAP_readonly,
  GNTST_bad_domain,
  GNTST_bad_gntref,
  GNTST_bad_handle,
  GNTST_general_error,
  GNTST_no_space,
  GNTST_okay,
  GNTST_permission_denied,
  GNTTABOP_map_grant_ref,
  GNTTABOP_unmap_and_replace,
  GNTTABOP_unmap_grant_ref,
  GTF_permit_access,
  GTF_reading,
  GTF_readonly,
  GTF_writing,
} from '../abi/grant-table.ts';
import { __HYPERVISOR_grant_table_op } from '../abi/xen.ts';
import { auditFrames } from '../mm/audit.ts';
import { MAX_GRANT_HANDLES } from '../shared-state.ts';
import { hypercallStep } from '../testing/fake-machine.ts';
import { L1, type TableMachine, tableMachine } from '../testing/table-machine.ts';
import { hypercall } from './table.ts';

const OWN = 7;
const ARG = 0x3000;
/** A page that nothing is mapped at, and the frame that gets granted. */
const HOLE = 40;
const FRAME = 20;
const REF = 9;

let m: TableMachine;

const grant = (flags: number, frame = FRAME): void => {
  const at = m.memory.frameOffset(m.domain.state.grantFrame(0)) >>> 2;
  m.memory.i32[at + REF * 2 + 1] = frame;
  m.memory.i32[at + REF * 2] = (OWN << 16) | flags;
};
const grantFlags = (): number => m.memory.i32[(m.memory.frameOffset(m.domain.state.grantFrame(0)) >>> 2) + REF * 2] & 0xffff;
const call = (op: number): number => {
  hypercallStep(m.cpu.ctx, __HYPERVISOR_grant_table_op, [op, ARG, 1]);
  hypercall(m.domain, m.domain.vcpu);
  return m.cpu.ctx.gpr(REG.rax);
};
const element = (): DataView => new DataView(m.memory.buffer, m.memory.frameOffset(mfn(3)), 32);

interface Mapped {
  readonly status: number;
  readonly handle: number;
  readonly bus: bigint;
}

function map(flags: number, address = HOLE * 4096, ref = REF, dom = OWN): Mapped {
  const e = element();
  e.setBigUint64(0, BigInt(address), true);
  e.setUint32(8, flags, true);
  e.setUint32(12, ref, true);
  e.setUint32(16, dom, true);
  expect(call(GNTTABOP_map_grant_ref)).toBe(0);
  return { status: e.getInt16(18, true), handle: e.getUint32(20, true), bus: e.getBigUint64(24, true) };
}

function unmap(handle: number, address = HOLE * 4096, bus = 0n): number {
  const e = element();
  e.setBigUint64(0, BigInt(address), true);
  e.setBigUint64(8, bus, true);
  e.setUint32(16, handle, true);
  expect(call(GNTTABOP_unmap_grant_ref)).toBe(0);
  return e.getInt16(20, true);
}

const pte = (page: number): bigint => new DataView(m.memory.buffer, m.memory.frameOffset(mfn(L1))).getBigUint64(page * 8, true);
const audit = (): string[] =>
  auditFrames(
    m.mmu,
    [m.domain.vcpu],
    m.domain.maptrack
      .all()
      .filter((handle) => handle.flags & GNTMAP_device_map)
      .map(({ frame, flags }) => ({ frame: mfn(frame), writable: (flags & GNTMAP_readonly) === 0 })),
  );

beforeEach(() => {
  m = tableMachine();
  m.mmu.updateVaMapping(m.domain.vcpu, HOLE * 4096, 0, 0, 0, 0);
});

describe('mapping a grant of its own', () => {
  it('writes the entry, marks the grant, and undoes both', () => {
    grant(GTF_permit_access);
    const { status, handle, bus } = map(GNTMAP_host_map | (5 << 16));
    expect(status).toBe(GNTST_okay);
    expect(bus).toBe(BigInt(FRAME * 4096));
    // P RW U A D, available bits 9 and 11, marked as a kernel entry.
    expect(pte(HOLE)).toBe(0x0010_0000_0000_0a67n | BigInt(FRAME * 4096));
    expect(grantFlags()).toBe(GTF_permit_access | GTF_reading | GTF_writing);
    expect(audit()).toEqual([]);
    expect(unmap(handle)).toBe(GNTST_okay);
    expect(pte(HOLE)).toBe(0n);
    expect(grantFlags()).toBe(GTF_permit_access);
    expect(unmap(handle)).toBe(GNTST_bad_handle);
    expect(audit()).toEqual([]);
  });

  it('a read-only mapping of a read-only grant for the application', () => {
    grant(GTF_permit_access | GTF_readonly);
    expect(map(GNTMAP_host_map).status).toBe(GNTST_permission_denied);
    const { status } = map(GNTMAP_host_map | GNTMAP_readonly | GNTMAP_application_map);
    expect(status).toBe(GNTST_okay);
    expect(pte(HOLE)).toBe(BigInt(FRAME * 4096) | 0x165n);
    expect(grantFlags()).toBe(GTF_permit_access | GTF_readonly | GTF_reading);
    expect(audit()).toEqual([]);
  });

  it('at the machine address of an entry', () => {
    grant(GTF_permit_access);
    const address = L1 * 4096 + HOLE * 8;
    const flags = GNTMAP_host_map | GNTMAP_contains_pte;
    expect(map(flags, address + 4).status).toBe(GNTST_general_error);
    expect(map(flags, FRAME * 4096).status).toBe(GNTST_general_error);
    expect(map(flags, 2 ** 52).status).toBe(GNTST_general_error);
    expect(grantFlags()).toBe(GTF_permit_access);
    const { status, handle } = map(flags, address);
    expect(status).toBe(GNTST_okay);
    expect(pte(HOLE) & 0xfff_f000n).toBe(BigInt(FRAME * 4096));
    expect(unmap(handle, address)).toBe(GNTST_okay);
    expect(pte(HOLE)).toBe(0n);
    expect(audit()).toEqual([]);
  });

  it('the parts of a mapping end one by one', () => {
    grant(GTF_permit_access);
    const { status, handle, bus } = map(GNTMAP_host_map | GNTMAP_device_map);
    expect(status).toBe(GNTST_okay);
    expect(audit()).toEqual([]);
    expect(unmap(handle, 0, bus + 4096n)).toBe(GNTST_general_error);
    expect(unmap(handle, 0, bus)).toBe(GNTST_okay);
    expect(grantFlags()).toBe(GTF_permit_access | GTF_reading | GTF_writing);
    expect(audit()).toEqual([]);
    expect(unmap(handle)).toBe(GNTST_okay);
    expect(grantFlags()).toBe(GTF_permit_access);
    expect(m.domain.maptrack.all()).toEqual([]);
    expect(audit()).toEqual([]);
  });

  it('an entry that maps something else by now keeps it, and the grant stays in use', () => {
    grant(GTF_permit_access);
    const { handle } = map(GNTMAP_host_map);
    m.mmu.updateVaMapping(m.domain.vcpu, HOLE * 4096, 21 * 4096 + 7, 0, 0, 0);
    expect(unmap(handle)).toBe(GNTST_general_error);
    expect(pte(HOLE) & 0xf_f000n).toBe(BigInt(21 * 4096));
    expect(grantFlags()).toBe(GTF_permit_access | GTF_reading | GTF_writing);
    expect(audit()).toEqual([]);
  });

  it('GNTTABOP_unmap_and_replace moves another mapping there', () => {
    grant(GTF_permit_access);
    const { handle } = map(GNTMAP_host_map);
    const e = element();
    e.setBigUint64(0, BigInt(HOLE * 4096), true);
    e.setBigUint64(8, BigInt(22 * 4096), true);
    e.setUint32(16, handle, true);
    call(GNTTABOP_unmap_and_replace);
    expect(e.getInt16(20, true)).toBe(GNTST_okay);
    expect(pte(HOLE) & 0xf_f000n).toBe(BigInt(22 * 4096));
    expect(pte(22)).toBe(0n);
    expect(grantFlags()).toBe(GTF_permit_access);
    expect(audit()).toEqual([]);
  });

  it.each([
    ['no part', 0, HOLE * 4096, REF, OWN, GNTST_bad_gntref],
    ['another domain', GNTMAP_host_map, HOLE * 4096, REF, 3, GNTST_bad_domain],
    ['DOMID_SELF, which names nobody here', GNTMAP_host_map, HOLE * 4096, REF, 0x7ff0, GNTST_bad_domain],
    ['a reference outside of the table', GNTMAP_host_map, HOLE * 4096, 512, OWN, GNTST_bad_gntref],
    ['an entry that grants nothing', GNTMAP_host_map, HOLE * 4096, REF + 1, OWN, GNTST_general_error],
    ['an address without tables', GNTMAP_host_map, 0x4000_0000, REF, OWN, GNTST_general_error],
    ["the hypervisor's range", GNTMAP_host_map, -(2 ** 47), REF, OWN, GNTST_general_error],
  ])('refuses %s', (_what, flags, address, ref, dom, status) => {
    grant(GTF_permit_access);
    expect(map(flags, address < 0 ? 2 ** 64 + address : address, ref, dom).status).toBe(status);
    expect(grantFlags()).toBe(GTF_permit_access);
    expect(m.domain.maptrack.all()).toEqual([]);
    expect(audit()).toEqual([]);
  });

  it('a page table is mapped neither writable nor for a device', () => {
    grant(GTF_permit_access, L1);
    expect(map(GNTMAP_host_map).status).toBe(GNTST_general_error);
    expect(map(GNTMAP_device_map).status).toBe(GNTST_general_error);
    expect(map(GNTMAP_host_map | GNTMAP_readonly).status).toBe(GNTST_okay);
    expect(audit()).toEqual([]);
  });

  it('handles run out', () => {
    grant(GTF_permit_access);
    for (let i = 0; i < MAX_GRANT_HANDLES; i++) m.domain.maptrack.reserve();
    expect(map(GNTMAP_host_map).status).toBe(GNTST_no_space);
    expect(grantFlags()).toBe(GTF_permit_access);
    expect(unmap(0)).toBe(GNTST_bad_handle);
    expect(unmap(0xffff_ffff)).toBe(GNTST_bad_handle);
  });
});
