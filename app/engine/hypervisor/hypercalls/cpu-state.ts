// SPDX-License-Identifier: Apache-2.0
/**
 * Processor state that a guest kernel changes by hypercall: its stack, TS, segment bases, debug registers, assists.
 *
 * @abi hypercall stack_switch — stack of the next entry from user mode
 * @abi hypercall fpu_taskswitch — set or clear CR0.TS
 * @abi hypercall set_segment_base — FS, GS of user and kernel mode, selector of the user's GS
 * @abi subop SEGBASE_FS
 * @abi subop SEGBASE_GS_USER
 * @abi subop SEGBASE_GS_KERNEL
 * @abi subop SEGBASE_GS_USER_SEL — a selector that cannot be loaded becomes null
 * @abi hypercall set_debugreg — DR0..DR3, DR6, DR7, checked
 * @abi hypercall get_debugreg
 * @abi hypercall vm_assist — enable and disable
 * @abi subop VMASST_TYPE_4gb_segments — recorded, without effect for 64-bit code
 * @abi subop VMASST_TYPE_writable_pagetables — direct writes to L1 tables
 * @abi subop VMASST_TYPE_pae_extended_cr3 — recorded, shows in the feature map
 * @abi subop VMASST_TYPE_architectural_iopl
 * @abi subop VMASST_TYPE_runstate_update_flag
 * @abi subop VMASST_TYPE_m2p_strict
 */
import { CTX, SEGREG, type VcpuContext } from '../../memory/vcpu-context.ts';
import {
  HYPERVISOR_VIRT_END,
  isCanonical,
  SEGBASE_FS,
  SEGBASE_GS_KERNEL,
  SEGBASE_GS_USER,
  SEGBASE_GS_USER_SEL,
  VMASST_CMD_disable,
  VMASST_CMD_enable,
  VMASST_TYPE_4gb_segments,
  VMASST_TYPE_4gb_segments_notify,
  VMASST_TYPE_architectural_iopl,
  VMASST_TYPE_m2p_strict,
  VMASST_TYPE_pae_extended_cr3,
  VMASST_TYPE_runstate_update_flag,
  VMASST_TYPE_writable_pagetables,
} from '../abi/xen.ts';
import type { Domain } from '../domain.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';
import { EINVAL, ENOSYS, EPERM } from '../errno.ts';
import { STATE } from '../shared-state.ts';
import type { HypercallArgs } from './hypercall-args.ts';

const GS_BASE = CTX.segBase + SEGREG.gs * 8;
const FS_BASE = CTX.segBase + SEGREG.fs * 8;
const CR0_TS = 8;
const CR4_DE = 8;

export function stackSwitch(_d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  dv.kernelSs = (a.lo[0] & 0xffff) | 3;
  dv.kernelSp = a.num[1];
  return 0;
}

export function fpuTaskswitch(_d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  setTaskSwitched(dv.ctx, a.lo[0] !== 0);
  return 0;
}

export function setTaskSwitched(ctx: VcpuContext, on: boolean): void {
  const lo = ctx.lo(CTX.cr0);
  ctx.setLoHi(CTX.cr0, on ? lo | CR0_TS : lo & ~CR0_TS, ctx.hi(CTX.cr0));
}

export function setSegmentBase(_d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  const ctx = dv.ctx;
  const which = a.lo[0];
  if (which === SEGBASE_GS_USER_SEL) {
    loadUserGs(dv, a.lo[1] & 0xffff);
    return 0;
  }
  if (!isCanonical(a.num[1])) return -EINVAL;
  switch (which) {
    case SEGBASE_FS:
      ctx.setLoHi(FS_BASE, a.lo[1], a.hi[1]);
      return 0;
    case SEGBASE_GS_USER:
      ctx.setLoHi(CTX.kernelGsBase, a.lo[1], a.hi[1]);
      return 0;
    case SEGBASE_GS_KERNEL:
      ctx.setLoHi(GS_BASE, a.lo[1], a.hi[1]);
      return 0;
    default:
      return -EINVAL;
  }
}

/** Loads the selector that user mode's GS will hold; its base goes to the inactive GS base. */
function loadUserGs(dv: DomainVcpu, value: number): void {
  const ctx = dv.ctx;
  const lo = ctx.lo(GS_BASE);
  const hi = ctx.hi(GS_BASE);
  const selector = value > 3 ? value | 3 : value;
  if (selector <= 3 || !dv.vcpu.loadSegment(SEGREG.gs, selector)) ctx.setSegment(SEGREG.gs, selector <= 3 ? selector : 0, 0, 0, 0);
  ctx.setLoHi(CTX.kernelGsBase, ctx.lo(GS_BASE), ctx.hi(GS_BASE));
  ctx.setLoHi(GS_BASE, lo, hi);
}

export function setDebugreg(_d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  return writeDebugRegister(dv.ctx, a.lo[0], a.num[1]);
}

export function getDebugreg(_d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  const reg = debugRegister(dv.ctx, a.lo[0]);
  return reg < 0 ? -EINVAL : dv.ctx.num(CTX.dr + reg * 8);
}

/** The register that a number means (DR4 and DR5 are DR6 and DR7 while CR4.DE is clear), or -1. */
export function debugRegister(ctx: VcpuContext, reg: number): number {
  if (reg === 4 || reg === 5) return (ctx.lo(CTX.cr4) & CR4_DE) === 0 ? reg + 2 : -1;
  return reg >= 0 && reg <= 7 ? reg : -1;
}

/** 0, -EINVAL or -EPERM. No breakpoint in the hypervisor's range, no general detect, no I/O breakpoint without CR4.DE. */
export function writeDebugRegister(ctx: VcpuContext, number: number, value: number): number {
  const reg = debugRegister(ctx, number);
  if (reg < 0) return -EINVAL;
  if (reg < 4) {
    if (!isCanonical(value) || (value < HYPERVISOR_VIRT_END && value < 0)) return -EPERM;
    ctx.setNum(CTX.dr + reg * 8, value);
    return 0;
  }
  if (!(value >= 0 && value <= 0xffff_ffff)) return reg === 6 ? -EINVAL : -EPERM;
  if (reg === 6) {
    ctx.setLoHi(CTX.dr + 48, (value & 0xe00f) | 0xffff_0ff0, 0);
    return 0;
  }
  const enabled = value & 0xff;
  if ((value & 0x2000) !== 0) return -EPERM;
  for (let i = 0; i < 4; i++) {
    if ((enabled & (3 << (i * 2))) === 0) continue;
    const type = (value >>> (16 + i * 4)) & 3;
    if (type === 2 && (ctx.lo(CTX.cr4) & CR4_DE) === 0) return -EPERM;
  }
  ctx.setLoHi(CTX.dr + 56, ((value & 0xffff_0bff) | 0x400) >>> 0, 0);
  return 0;
}

const KNOWN_ASSISTS =
  (1 << VMASST_TYPE_4gb_segments) |
  (1 << VMASST_TYPE_4gb_segments_notify) |
  (1 << VMASST_TYPE_writable_pagetables) |
  (1 << VMASST_TYPE_pae_extended_cr3) |
  (1 << VMASST_TYPE_architectural_iopl) |
  (1 << VMASST_TYPE_runstate_update_flag);

export function vmAssist(d: Domain, _dv: DomainVcpu, a: HypercallArgs): number {
  const [cmd, type] = [a.lo[0], a.lo[1]];
  if (type !== VMASST_TYPE_m2p_strict && (type >= 32 || ((KNOWN_ASSISTS >>> type) & 1) === 0)) return -EINVAL;
  if (cmd !== VMASST_CMD_enable && cmd !== VMASST_CMD_disable) return -ENOSYS;
  applyAssist(d, type, cmd === VMASST_CMD_enable);
  return 0;
}

function applyAssist(d: Domain, type: number, on: boolean): void {
  const word = d.state.word(type < 32 ? STATE.vmAssistLo : STATE.vmAssistHi);
  if (on) Atomics.or(d.state.i32, word, 1 << (type & 31));
  else Atomics.and(d.state.i32, word, ~(1 << (type & 31)));
  if (type === VMASST_TYPE_writable_pagetables) d.mmu.setWritablePagetables(on);
  if (type === VMASST_TYPE_m2p_strict) d.mmu.setM2pStrict(on);
}
