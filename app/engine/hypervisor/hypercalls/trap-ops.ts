// SPDX-License-Identifier: Apache-2.0
/**
 * How the guest says where its kernel is entered (xen public/arch-x86/xen.h, public/callback.h, public/nmi.h).
 *
 * @abi hypercall set_trap_table — virtual IDT, 256 vectors
 * @abi hypercall set_callbacks — event, failsafe and syscall entry in one call (old form)
 * @abi hypercall callback_op — register and unregister entry points
 * @abi subop CALLBACKOP_register — event, failsafe, syscall, syscall32, sysenter, nmi
 * @abi subop CALLBACKOP_unregister — syscall32, sysenter, nmi
 * @abi hypercall nmi_op — register and unregister the NMI handler of vCPU 0
 * @abi subop XENNMI_register_callback — vCPU 0 only
 * @abi subop XENNMI_unregister_callback
 */
import {
  CALLBACKF_mask_events,
  CALLBACKOP_register,
  CALLBACKOP_unregister,
  CALLBACKTYPE_event,
  CALLBACKTYPE_failsafe,
  CALLBACKTYPE_nmi,
  CALLBACKTYPE_syscall,
  CALLBACKTYPE_syscall32,
  CALLBACKTYPE_sysenter,
  CALLBACKTYPE_sysenter_deprecated,
  FLAT_KERNEL_CS,
  isCanonical,
} from '../abi/xen.ts';
import type { Domain } from '../domain.ts';
import type { Callback, DomainVcpu } from '../domain-vcpu.ts';
import { EFAULT, EINVAL, ENOSYS } from '../errno.ts';
import { TRAP } from '../traps/deliver.ts';
import { TRAP_INFO_BYTES, TRAP_VECTORS } from '../traps/trap-table.ts';
import type { HypercallArgs } from './hypercall-args.ts';

/** Entries read in one call: a table names each vector once, and a longer list only repeats itself. */
const MAX_TRAP_ENTRIES = 4 * TRAP_VECTORS;

export function setTrapTable(d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  const from = a.num[0];
  if (from === 0) {
    dv.traps.clear();
    return 0;
  }
  for (let i = 0; i < MAX_TRAP_ENTRIES; i++) {
    if (!d.copy.in(dv, from + i * TRAP_INFO_BYTES, TRAP_INFO_BYTES)) return -EFAULT;
    const address = d.copy.num(8);
    if (address === 0) return 0;
    if (!isCanonical(address)) return -EINVAL;
    dv.traps.set(d.copy.bytes[0], d.copy.bytes[1] & 7, d.copy.u16(2) | 3, address);
  }
  return -EINVAL;
}

export function setCallbacks(_d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  const [event, failsafe, syscall] = [a.num[0], a.num[1], a.num[2]];
  if (!isCanonical(event) || !isCanonical(failsafe) || !isCanonical(syscall)) return -EINVAL;
  dv.event.address = event;
  dv.failsafe.address = failsafe;
  dv.syscall.address = syscall;
  dv.failsafe.maskEvents = false;
  dv.syscall.maskEvents = false;
  return 0;
}

export function callbackOp(d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  const cmd = a.lo[0];
  if (cmd !== CALLBACKOP_register && cmd !== CALLBACKOP_unregister) return -ENOSYS;
  if (!d.copy.in(dv, a.num[1], cmd === CALLBACKOP_register ? 16 : 4)) return -EFAULT;
  const type = d.copy.u16(0);
  if (cmd === CALLBACKOP_register) return register(dv, type, (d.copy.u16(2) & CALLBACKF_mask_events) !== 0, d.copy.num(8));
  switch (type) {
    case CALLBACKTYPE_nmi:
      return unregisterNmi(dv);
    case CALLBACKTYPE_syscall32:
    case CALLBACKTYPE_sysenter: {
      const callback = type === CALLBACKTYPE_sysenter ? dv.sysenter : dv.syscall32;
      callback.address = 0;
      return 0;
    }
    case CALLBACKTYPE_event:
    case CALLBACKTYPE_failsafe:
    case CALLBACKTYPE_syscall:
      return -EINVAL;
    default:
      return -ENOSYS;
  }
}

function register(dv: DomainVcpu, type: number, maskEvents: boolean, address: number): number {
  if (!isCanonical(address)) return -EINVAL;
  let callback: Callback;
  switch (type) {
    case CALLBACKTYPE_event:
      dv.event.address = address;
      return 0;
    case CALLBACKTYPE_nmi:
      return registerNmi(dv, address);
    case CALLBACKTYPE_failsafe:
      callback = dv.failsafe;
      break;
    case CALLBACKTYPE_syscall:
      callback = dv.syscall;
      break;
    case CALLBACKTYPE_syscall32:
      callback = dv.syscall32;
      break;
    case CALLBACKTYPE_sysenter:
      callback = dv.sysenter;
      break;
    case CALLBACKTYPE_sysenter_deprecated:
      return -EINVAL;
    default:
      return -ENOSYS;
  }
  callback.address = address;
  callback.maskEvents = maskEvents;
  return 0;
}

export function nmiOp(d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  switch (a.lo[0]) {
    case 0:
      if (!d.copy.in(dv, a.num[1], 16)) return -EFAULT;
      return registerNmi(dv, d.copy.num(0));
    case 1:
      return unregisterNmi(dv);
    default:
      return -ENOSYS;
  }
}

function registerNmi(dv: DomainVcpu, address: number): number {
  if (!isCanonical(address) || dv.id !== 0) return -EINVAL;
  dv.traps.set(TRAP.nmi, 0, FLAT_KERNEL_CS, address);
  return 0;
}

function unregisterNmi(dv: DomainVcpu): number {
  if (dv.id !== 0) return -EINVAL;
  dv.traps.set(TRAP.nmi, 0, 0, 0);
  return 0;
}
