// SPDX-License-Identifier: Apache-2.0
/**
 * Grant-table hypercalls of a guest that offers its memory to dom0 (xen public/grant_table.h). Each operation takes an array; the
 * status of each element is in the element. Mapping is in `grant-map.ts`.
 *
 * @abi hypercall grant_table_op
 * @abi subop GNTTABOP_setup_table
 * @abi subop GNTTABOP_query_size
 * @abi subop GNTTABOP_set_version — 1 and 2
 * @abi subop GNTTABOP_get_version
 * @abi subop GNTTABOP_get_status_frames
 * @abi subop GNTTABOP_copy — within the domain
 * @abi subop GNTTABOP_swap_grant_ref
 * @abi subop GNTTABOP_transfer — GNTST_bad_domain
 * @abi subop GNTTABOP_cache_flush — -EOPNOTSUPP: caches are coherent
 */
import {
  GNTCOPY_dest_gref,
  GNTCOPY_source_gref,
  GNTST_bad_copy_arg,
  GNTST_bad_domain,
  GNTST_bad_page,
  GNTST_general_error,
  GNTST_okay,
  GNTST_permission_denied,
  GNTTABOP_cache_flush,
  GNTTABOP_copy,
  GNTTABOP_get_status_frames,
  GNTTABOP_get_version,
  GNTTABOP_map_grant_ref,
  GNTTABOP_query_size,
  GNTTABOP_set_version,
  GNTTABOP_setup_table,
  GNTTABOP_swap_grant_ref,
  GNTTABOP_transfer,
  GNTTABOP_unmap_and_replace,
  GNTTABOP_unmap_grant_ref,
} from '../abi/grant-table.ts';
import { DOMID_SELF } from '../abi/xen.ts';
import type { Domain } from '../domain.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';
import { EFAULT, EINVAL, ENOSYS, EOPNOTSUPP, ESRCH } from '../errno.ts';
import type { GrantAccess } from '../grants/grant-table.ts';
import { type Mfn, mfn, PAGE_SIZE } from '../../memory/frames.ts';
import { HYPERCALL_RESTART } from '../mmu-port.ts';
import { MAX_GRANT_FRAMES, STATE } from '../shared-state.ts';
import { mapGrantRef, unmapAndReplace, unmapGrantRef } from './grant-map.ts';
import { type HypercallArgs, setArgumentRegister } from './hypercall-args.ts';

/** Elements handled before the hypercall looks at events again. */
const BATCH = 256;
/** Elements of one call inside a multicall, which cannot be continued. */
const MAX_IN_MULTICALL = 4096;

interface Operation {
  readonly size: number;
  readonly run: (d: Domain, dv: DomainVcpu) => number;
}

/** Element size and action for each operation; the action works on the element in `d.copy` and returns 0 or an error for the whole call. */
const OPERATIONS: Readonly<Record<number, Operation>> = {
  [GNTTABOP_map_grant_ref]: { size: 32, run: (d, dv) => status(d, 18, mapGrantRef(d, dv, elementView(d))) },
  [GNTTABOP_unmap_grant_ref]: { size: 24, run: (d, dv) => status(d, 20, unmapGrantRef(d, dv)) },
  [GNTTABOP_unmap_and_replace]: { size: 24, run: (d, dv) => status(d, 20, unmapAndReplace(d, dv)) },
  [GNTTABOP_transfer]: { size: 24, run: (d) => status(d, 16, GNTST_bad_domain) },
  [GNTTABOP_setup_table]: { size: 24, run: setupTable },
  [GNTTABOP_query_size]: { size: 16, run: querySize },
  [GNTTABOP_copy]: { size: 40, run: (d) => status(d, 36, copyOne(d)) },
  [GNTTABOP_set_version]: { size: 4, run: setVersion },
  [GNTTABOP_get_version]: { size: 8, run: getVersion },
  [GNTTABOP_get_status_frames]: { size: 16, run: getStatusFrames },
  [GNTTABOP_swap_grant_ref]: { size: 12, run: (d) => status(d, 8, d.grants.swap(d.copy.u32(0), d.copy.u32(4))) },
};

/** Operations that take exactly one structure. */
const SINGLE = new Set([GNTTABOP_setup_table, GNTTABOP_query_size, GNTTABOP_set_version, GNTTABOP_get_version, GNTTABOP_get_status_frames]);

export function grantTableOp(d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  const [cmd, va, count] = [a.lo[0], a.num[1], a.lo[2]];
  if (cmd === GNTTABOP_cache_flush) return -EOPNOTSUPP;
  const operation = OPERATIONS[cmd];
  if (operation === undefined) return -ENOSYS;
  if (count > 0x7fff_ffff) return -EINVAL;
  if (SINGLE.has(cmd) && count !== 1) return -EINVAL;
  if (a.inMulticall && count > MAX_IN_MULTICALL) return -EINVAL;
  const limit = a.inMulticall ? count : Math.min(count, BATCH);
  for (let i = 0; i < limit; i++) {
    const at = va + i * operation.size;
    if (!d.copy.in(dv, at, operation.size)) return -EFAULT;
    d.element.set(d.copy.bytes.subarray(0, operation.size));
    const rc = operation.run(d, dv);
    if (rc !== 0) return rc;
    d.copy.bytes.set(d.element.subarray(0, operation.size));
    if (!d.copy.out(dv, at, operation.size)) return -EFAULT;
  }
  if (limit === count) return 0;
  setArgumentRegister(dv.ctx, 1, va + limit * operation.size);
  setArgumentRegister(dv.ctx, 2, count - limit);
  return HYPERCALL_RESTART;
}

function status(d: Domain, at: number, value: number): number {
  elementView(d).setInt16(at, value, true);
  return 0;
}

function elementView(d: Domain): DataView {
  return new DataView(d.element.buffer);
}

function isSelf(d: Domain, dom: number): boolean {
  return dom === DOMID_SELF || dom === d.state.get(STATE.domid);
}

function setupTable(d: Domain, dv: DomainVcpu): number {
  const frames = d.copy.u32(4);
  const list = d.copy.num(16);
  if (!isSelf(d, d.copy.u16(0))) return status(d, 8, GNTST_permission_denied);
  if (!d.grants.grow(frames)) return status(d, 8, GNTST_general_error);
  return writeFrameList(d, dv, list, frames, (i) => d.state.grantFrame(i), 8);
}

function getStatusFrames(d: Domain, dv: DomainVcpu): number {
  const frames = d.copy.u32(0);
  const list = d.copy.num(8);
  if (!isSelf(d, d.copy.u16(4))) return status(d, 6, GNTST_permission_denied);
  if (d.grants.version !== 2 || frames > d.grants.statusFrames) return status(d, 6, GNTST_general_error);
  return writeFrameList(d, dv, list, frames, (i) => d.state.grantStatusFrame(i), 6);
}

function writeFrameList(d: Domain, dv: DomainVcpu, list: number, frames: number, frame: (index: number) => Mfn, statusAt: number): number {
  for (let i = 0; i < frames; i++) d.copy.setNum(i * 8, frame(i));
  if (frames > 0 && !d.copy.out(dv, list, frames * 8)) return -EFAULT;
  return status(d, statusAt, GNTST_okay);
}

function querySize(d: Domain): number {
  if (!isSelf(d, d.copy.u16(0))) return status(d, 12, GNTST_permission_denied);
  const view = elementView(d);
  view.setUint32(4, d.grants.frames, true);
  view.setUint32(8, MAX_GRANT_FRAMES, true);
  return status(d, 12, GNTST_okay);
}

function setVersion(d: Domain): number {
  const rc = d.grants.setVersion(d.copy.u32(0));
  elementView(d).setUint32(0, d.grants.version, true);
  return rc;
}

function getVersion(d: Domain): number {
  if (!isSelf(d, d.copy.u16(0))) return -ESRCH;
  elementView(d).setUint32(4, d.grants.version, true);
  return 0;
}

const source: GrantAccess = { frame: 0, offset: 0, length: 0, readonly: false };
const target: GrantAccess = { frame: 0, offset: 0, length: 0, readonly: false };

/** GNTTABOP_copy of one segment; both ends are frames or grants of the domain itself. */
function copyOne(d: Domain): number {
  const { copy } = d;
  const flags = copy.u16(34);
  const length = copy.u16(32);
  const from = { ref: copy.u32(0), frame: copy.num(0), dom: copy.u16(8), offset: copy.u16(10) };
  const to = { ref: copy.u32(16), frame: copy.num(16), dom: copy.u16(24), offset: copy.u16(26) };
  if (from.offset + length > PAGE_SIZE || to.offset + length > PAGE_SIZE) return GNTST_bad_copy_arg;
  if (!isSelf(d, from.dom) || !isSelf(d, to.dom)) return GNTST_bad_domain;
  const first = claim(d, (flags & GNTCOPY_source_gref) !== 0, from, false, source);
  if (first !== GNTST_okay) return first;
  const second = claim(d, (flags & GNTCOPY_dest_gref) !== 0, to, true, target);
  if (second === GNTST_okay) {
    const inside = within(source, from.offset, length) && within(target, to.offset, length);
    if (inside) moveBytes(d, from.offset, to.offset, length);
    unclaim(d, (flags & GNTCOPY_dest_gref) !== 0, to, true, target);
    unclaim(d, (flags & GNTCOPY_source_gref) !== 0, from, false, source);
    return inside ? GNTST_okay : GNTST_general_error;
  }
  unclaim(d, (flags & GNTCOPY_source_gref) !== 0, from, false, source);
  return second;
}

function moveBytes(d: Domain, fromOffset: number, toOffset: number, length: number): void {
  const memory = d.state.memory;
  const from = memory.frameOffset(mfn(source.frame)) + fromOffset;
  memory.u8.copyWithin(memory.frameOffset(mfn(target.frame)) + toOffset, from, from + length);
  memory.wrote(mfn(target.frame), toOffset, length);
}

function within(access: GrantAccess, offset: number, length: number): boolean {
  return offset >= access.offset && offset + length <= access.offset + access.length;
}

type End = { readonly ref: number; readonly frame: number; readonly dom: number; readonly offset: number };

/** Takes one end of a copy into use: a grant reference or a frame, held so that it cannot become a page table meanwhile. */
function claim(d: Domain, isGrant: boolean, end: End, write: boolean, out: GrantAccess): number {
  if (isGrant) {
    const rc = d.grants.acquire(end.ref, d.state.get(STATE.domid), write, false, out);
    if (rc !== GNTST_okay) return rc;
    if (d.mmu.holdFrame(out.frame, write) === 0) return GNTST_okay;
    d.grants.release(end.ref, write);
    return GNTST_bad_page;
  }
  const valid = end.frame >= 0 && end.frame < d.state.memory.layout.shape.guestFrames;
  if (!valid || d.mmu.holdFrame(end.frame, write) !== 0) return GNTST_bad_page;
  out.frame = end.frame;
  out.offset = 0;
  out.length = PAGE_SIZE;
  return GNTST_okay;
}

function unclaim(d: Domain, isGrant: boolean, end: End, write: boolean, held: GrantAccess): void {
  d.mmu.releaseFrame(mfn(held.frame), write);
  if (isGrant) d.grants.release(end.ref, write);
}
