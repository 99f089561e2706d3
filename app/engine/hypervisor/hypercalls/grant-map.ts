// SPDX-License-Identifier: Apache-2.0
/**
 * GNTTABOP_map_grant_ref and its undoing (xen public/grant_table.h), for grants that the guest makes to itself: no other domain's table
 * is reachable here.
 *
 * A mapping pins its grant once for each part that it has: a host mapping is an L1 entry of the guest's (`mm/grant-map.ts`), a device
 * mapping holds the frame and answers its machine address.
 *
 * @abi subop GNTTABOP_map_grant_ref — of the domain itself; GNTMAP_device_map, host_map, readonly, application_map, contains_pte
 * @abi subop GNTTABOP_unmap_grant_ref
 * @abi subop GNTTABOP_unmap_and_replace
 */
import {
  GNTMAP_application_map,
  GNTMAP_contains_pte,
  GNTMAP_device_map,
  GNTMAP_guest_avail0,
  GNTMAP_host_map,
  GNTMAP_readonly,
  GNTST_bad_domain,
  GNTST_bad_gntref,
  GNTST_bad_handle,
  GNTST_general_error,
  GNTST_no_space,
  GNTST_okay,
} from '../abi/grant-table.ts';
import type { Domain } from '../domain.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';
import type { GrantAccess } from '../grants/grant-table.ts';
import type { GrantHandle } from '../grants/maptrack.ts';
import { type Mfn, mfn, PAGE_SIZE } from '../../memory/frames.ts';
import type { GrantTarget } from '../mm/grant-map.ts';
import { PTE_A, PTE_AVAIL, PTE_D, PTE_P, PTE_RW, PTE_U } from '../mm/pte.ts';
import { STATE } from '../shared-state.ts';

const ANY_MAP = GNTMAP_device_map | GNTMAP_host_map;
/** Position of the first available bit in an entry. */
const AVAIL_SHIFT = 9;

const access: GrantAccess = { frame: 0, offset: 0, length: 0, readonly: false };

/** One element of GNTTABOP_map_grant_ref, in `d.copy`; the status. On success handle and bus address are in `out`. */
export function mapGrantRef(d: Domain, dv: DomainVcpu, out: DataView): number {
  const { copy, grants, maptrack } = d;
  const flags = copy.u32(8);
  const ref = copy.u32(12);
  if ((flags & ANY_MAP) === 0) return GNTST_bad_gntref;
  if (copy.u16(16) !== d.state.get(STATE.domid)) return GNTST_bad_domain;
  const target = grantTarget(d, 0, (flags & GNTMAP_contains_pte) !== 0);
  const handle = maptrack.reserve();
  if (handle < 0) return GNTST_no_space;
  const write = (flags & GNTMAP_readonly) === 0;
  let status = grants.acquire(ref, d.state.get(STATE.domid), write, true, access);
  if (status === GNTST_okay) {
    const frame = mfn(access.frame);
    status = mapParts(d, dv, frame, flags, target);
    if (status === GNTST_okay) {
      // Each part is ended on its own, so each has its own pin; the second follows the first and cannot fail but for its counter.
      if ((flags & ANY_MAP) === ANY_MAP) status = grants.acquire(ref, d.state.get(STATE.domid), write, true, access);
      if (status === GNTST_okay) {
        maptrack.fill(handle, { flags: flags & 0x1f, ref, frame });
        out.setUint32(20, handle, true);
        out.setUint32(24, frame * PAGE_SIZE, true);
        out.setUint32(28, Math.floor((frame * PAGE_SIZE) / 0x1_0000_0000), true);
        return GNTST_okay;
      }
      undoParts(d, dv, frame, flags, target);
    }
    grants.release(ref, write);
  }
  maptrack.free(handle);
  return status;
}

function mapParts(d: Domain, dv: DomainVcpu, frame: Mfn, flags: number, target: GrantTarget): number {
  const write = (flags & GNTMAP_readonly) === 0;
  if ((flags & GNTMAP_device_map) !== 0 && d.mmu.holdFrame(frame, write) !== 0) return GNTST_general_error;
  if ((flags & GNTMAP_host_map) === 0) return GNTST_okay;
  const available = ((flags >>> GNTMAP_guest_avail0) << AVAIL_SHIFT) & PTE_AVAIL;
  let lo = frame * PAGE_SIZE + (PTE_P | PTE_A | PTE_D | available);
  if (write) lo += PTE_RW;
  if ((flags & GNTMAP_application_map) !== 0) lo += PTE_U;
  if (d.mmu.mapGrant(dv, target, lo >>> 0, Math.floor(lo / 0x1_0000_0000)) === 0) return GNTST_okay;
  if ((flags & GNTMAP_device_map) !== 0) d.mmu.releaseFrame(frame, write);
  return GNTST_general_error;
}

function undoParts(d: Domain, dv: DomainVcpu, frame: Mfn, flags: number, target: GrantTarget): void {
  if ((flags & GNTMAP_host_map) !== 0) d.mmu.unmapGrant(dv, target, frame, 0);
  if ((flags & GNTMAP_device_map) !== 0) d.mmu.releaseFrame(frame, (flags & GNTMAP_readonly) === 0);
}

/** One element of GNTTABOP_unmap_grant_ref. */
export function unmapGrantRef(d: Domain, dv: DomainVcpu): number {
  const { copy } = d;
  const host = copy.u32(0) !== 0 || copy.u32(4) !== 0;
  const bus = copy.u32(8) !== 0 || copy.u32(12) !== 0;
  return unmap(d, dv, copy.u32(16), { host, busAddress: bus ? copy.num(8) : 0, from: 0 });
}

/** One element of GNTTABOP_unmap_and_replace. */
export function unmapAndReplace(d: Domain, dv: DomainVcpu): number {
  const { copy } = d;
  const host = copy.u32(0) !== 0 || copy.u32(4) !== 0;
  return unmap(d, dv, copy.u32(16), { host, busAddress: 0, from: copy.num(8) });
}

interface Unmap {
  /** Whether a host address is given; it is in the element. */
  readonly host: boolean;
  /** Machine address of a device mapping, or 0. */
  readonly busAddress: number;
  /** Virtual address whose mapping takes the place of the host mapping, or 0. */
  readonly from: number;
}

function unmap(d: Domain, dv: DomainVcpu, handle: number, what: Unmap): number {
  const { maptrack } = d;
  const taken = maptrack.take(handle);
  if (taken === null) return GNTST_bad_handle;
  let parts = 0;
  let status = GNTST_okay;
  if (what.host && (taken.flags & GNTMAP_host_map) !== 0) {
    const target = grantTarget(d, 0, (taken.flags & GNTMAP_contains_pte) !== 0);
    if (d.mmu.unmapGrant(dv, target, mfn(taken.frame), what.from) === 0) parts |= GNTMAP_host_map;
    else status = GNTST_general_error;
  }
  if (status === GNTST_okay && what.busAddress !== 0 && (taken.flags & GNTMAP_device_map) !== 0) {
    if (what.busAddress === taken.frame * PAGE_SIZE) parts |= GNTMAP_device_map;
    else status = GNTST_general_error;
  }
  release(d, taken, parts);
  maptrack.finish(handle, taken, parts);
  return status;
}

/** Gives back what the ended parts of a mapping held. */
function release(d: Domain, taken: GrantHandle, parts: number): void {
  const write = (taken.flags & GNTMAP_readonly) === 0;
  if ((parts & GNTMAP_device_map) !== 0) {
    d.mmu.releaseFrame(mfn(taken.frame), write);
    d.grants.release(taken.ref, write);
  }
  if ((parts & GNTMAP_host_map) !== 0) d.grants.release(taken.ref, write);
}

/** The host address at `at` of the element. */
function grantTarget(d: Domain, at: number, entry: boolean): GrantTarget {
  return { lo: d.copy.u32(at), hi: d.copy.u32(at + 4), address: d.copy.num(at), entry };
}
