// SPDX-License-Identifier: Apache-2.0
/**
 * Scheduling (xen public/sched.h) and the timer call that goes with it.
 *
 * @abi hypercall sched_op
 * @abi hypercall sched_op_compat — yield, block, shutdown with a plain argument
 * @abi subop SCHEDOP_yield
 * @abi subop SCHEDOP_block — unmasks events, sleeps until one arrives
 * @abi subop SCHEDOP_shutdown — poweroff, reboot, suspend, crash, watchdog, soft_reset
 * @abi subop SCHEDOP_poll — up to 128 ports, absolute timeout
 * @abi subop SCHEDOP_remote_shutdown — -EPERM for guests
 * @abi subop SCHEDOP_shutdown_code
 * @abi subop SCHEDOP_watchdog — two timers
 * @abi subop SCHEDOP_pin_override — -EPERM for guests
 * @abi hypercall set_timer_op — single-shot timer by absolute system time
 */
import type { Domain } from '../domain.ts';
import { type DomainVcpu, MAX_POLL_PORTS } from '../domain-vcpu.ts';
import { EFAULT, EINVAL, ENOSPC, ENOSYS, EPERM } from '../errno.ts';
import { STATE } from '../shared-state.ts';
import type { HypercallArgs } from './hypercall-args.ts';

const SHUTDOWN_MAX = 5;

export function schedOpCompat(d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  switch (a.lo[0]) {
    case 0:
      return yieldVcpu(dv);
    case 1:
      return block(dv);
    case 2:
      return shutdown(d, a.lo[1]);
    default:
      return -ENOSYS;
  }
}

export function schedOp(d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  const arg = a.num[1];
  switch (a.lo[0]) {
    case 0:
      return yieldVcpu(dv);
    case 1:
      return block(dv);
    case 2:
      return d.copy.in(dv, arg, 4) ? shutdown(d, d.copy.u32(0)) : -EFAULT;
    case 3:
      return d.copy.in(dv, arg, 24) ? poll(d, dv, d.copy.num(0), d.copy.u32(8), d.copy.ns(16)) : -EFAULT;
    case 4:
      return -EPERM;
    case 5:
      if (!d.copy.in(dv, arg, 4)) return -EFAULT;
      d.state.set(STATE.shutdownCode, d.copy.u32(0) & 0xff);
      return 0;
    case 6:
      return d.copy.in(dv, arg, 8) ? watchdog(d, dv, d.copy.u32(0), d.copy.u32(4)) : -EFAULT;
    case 7:
      return -EPERM;
    default:
      return -ENOSYS;
  }
}

function yieldVcpu(dv: DomainVcpu): number {
  dv.yielded = true;
  return 0;
}

function block(dv: DomainVcpu): number {
  dv.upcallMask = 0;
  if (dv.eventDeliverable) return 0;
  dv.blocked = true;
  dv.pollCount = 0;
  dv.pollDeadline = Number.POSITIVE_INFINITY;
  return 0;
}

function shutdown(d: Domain, reason: number): number {
  if (reason > SHUTDOWN_MAX) return -EINVAL;
  d.shutdown(reason);
  return 0;
}

function poll(d: Domain, dv: DomainVcpu, portsVa: number, count: number, timeout: number): number {
  if (count > MAX_POLL_PORTS) return -EINVAL;
  if (count > 0 && !d.copy.in(dv, portsVa, count * 4)) return -EFAULT;
  let pending = dv.eventDeliverable;
  for (let i = 0; i < count; i++) {
    const port = d.copy.u32(i * 4);
    if (port >= d.state.get(STATE.maxPorts)) return -EINVAL;
    dv.pollPorts[i] = port;
  }
  for (let i = 0; i < count; i++) pending ||= d.events.delivery.isPending(dv.pollPorts[i]);
  if (pending) return 0;
  dv.blocked = true;
  dv.pollCount = Math.max(count, 1);
  if (count === 0) dv.pollPorts[0] = 0;
  dv.pollDeadline = timeout === 0 ? Number.POSITIVE_INFINITY : timeout;
  return 0;
}

function watchdog(d: Domain, dv: DomainVcpu, id: number, seconds: number): number {
  const result = d.watchdogs.set(id, seconds, d.time.now());
  dv.timersChanged = true;
  if (result === null) return -EINVAL;
  return result === undefined ? -ENOSPC : result;
}

export function setTimerOp(_d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  const timeout = a.hi[0] * 0x1_0000_0000 + a.lo[0];
  dv.timers.singleShot = timeout === 0 ? Number.POSITIVE_INFINITY : timeout;
  dv.timersChanged = true;
  return 0;
}
