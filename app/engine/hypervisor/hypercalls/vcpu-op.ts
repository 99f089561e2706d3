// SPDX-License-Identifier: Apache-2.0
/**
 * Operations on vCPUs (xen public/vcpu.h). A vCPU exists when the domain was built with it; a number past that is -ENOENT, which is
 * how a guest counts them.
 *
 * @abi hypercall vcpu_op
 * @abi subop VCPUOP_initialise — stores a checked vcpu_guest_context
 * @abi subop VCPUOP_up
 * @abi subop VCPUOP_down
 * @abi subop VCPUOP_is_up
 * @abi subop VCPUOP_get_runstate_info
 * @abi subop VCPUOP_register_runstate_memory_area
 * @abi subop VCPUOP_set_periodic_timer — of the calling vCPU
 * @abi subop VCPUOP_stop_periodic_timer — of the calling vCPU
 * @abi subop VCPUOP_set_singleshot_timer
 * @abi subop VCPUOP_stop_singleshot_timer
 * @abi subop VCPUOP_register_vcpu_info — once a vCPU
 * @abi subop VCPUOP_send_nmi — without an argument
 * @abi subop VCPUOP_get_physid — -EINVAL: no vCPU is pinned
 * @abi subop VCPUOP_register_vcpu_time_memory_area
 */
import { isGuestRange, TIME_INFO } from '../abi/xen.ts';
import type { Domain } from '../domain.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';
import { EFAULT, EINVAL, ENOENT, ENOSYS, ETIME } from '../errno.ts';
import { VCPU_INITIALISED, VCPU_STATE, VCPU_UP } from '../shared-state.ts';
import { RUNSTATE_INFO_BYTES, runstateInfo } from '../time/runstate.ts';
import { MIN_PERIOD_NS } from '../time/timers.ts';
import { storeGuestContext } from '../vcpu-bringup.ts';
import type { HypercallArgs } from './hypercall-args.ts';

const VCPU_SSHOTTMR_future = 1;
const SHUTDOWN_poweroff = 0;
/** The longest time ahead that a timer may be set: a quarter of the range of a signed 64-bit count of nanoseconds. */
const MAX_PERIOD_NS = 2 ** 61;

export function vcpuOp(d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  const [cmd, id, arg] = [a.lo[0], a.lo[1], a.num[2]];
  if (id >= d.state.vcpuCount) return -ENOENT;
  const own = id === dv.id;
  switch (cmd) {
    case 0:
      return storeGuestContext(d, dv, id, arg);
    case 1:
      return bringUp(d, id);
    case 2:
      return bringDown(d, id);
    case 3:
      return (d.state.getVcpu(id, VCPU_STATE.flags) & VCPU_UP) !== 0 ? 1 : 0;
    case 4:
      runstateInfo(d.state, id, d.time.now(), d.copy.view);
      return d.copy.out(dv, arg, RUNSTATE_INFO_BYTES) ? 0 : -EFAULT;
    case 5:
      return registerArea(d, dv, id, arg, RUNSTATE_INFO_BYTES, (va) => {
        dv.runstateArea = va;
        d.writeRunstateArea(dv);
      });
    case 6: {
      if (!own) return -EINVAL;
      if (!d.copy.in(dv, arg, 8)) return -EFAULT;
      const period = d.copy.ns(0);
      if (period < MIN_PERIOD_NS || period > MAX_PERIOD_NS) return -EINVAL;
      dv.timers.setPeriodic(period, d.time.now());
      dv.timersChanged = true;
      return 0;
    }
    case 7:
      if (!own) return -EINVAL;
      dv.timers.stopPeriodic();
      return 0;
    case 8: {
      if (!own) return -EINVAL;
      if (!d.copy.in(dv, arg, 16)) return -EFAULT;
      const timeout = d.copy.ns(0);
      if ((d.copy.u32(8) & VCPU_SSHOTTMR_future) !== 0 && timeout < d.time.now()) return -ETIME;
      dv.timers.singleShot = timeout;
      dv.timersChanged = true;
      return 0;
    }
    case 9:
      if (!own) return -EINVAL;
      dv.timers.singleShot = Number.POSITIVE_INFINITY;
      return 0;
    case 10:
      return registerVcpuInfo(d, dv, id, arg);
    case 11:
      if (a.lo[2] !== 0 || a.hi[2] !== 0) return -EINVAL;
      d.state.setVcpu(id, VCPU_STATE.nmiPending, 1);
      if (!own) d.state.contexts[id].kick();
      return 0;
    case 12:
      return -EINVAL;
    case 13:
      return registerArea(d, dv, id, arg, TIME_INFO.size, (va) => {
        dv.timeArea = va;
        d.writeTimeArea(dv);
      });
    default:
      return -ENOSYS;
  }
}

function bringUp(d: Domain, id: number): number {
  const flags = d.state.getVcpu(id, VCPU_STATE.flags);
  if ((flags & VCPU_INITIALISED) === 0) return -EINVAL;
  d.state.setVcpu(id, VCPU_STATE.flags, flags | VCPU_UP);
  d.state.contexts[id].kick();
  return 0;
}

/** The last vCPU that goes down takes the domain with it. */
function bringDown(d: Domain, id: number): number {
  d.state.setVcpu(id, VCPU_STATE.flags, d.state.getVcpu(id, VCPU_STATE.flags) & ~VCPU_UP);
  d.state.contexts[id].kick();
  for (let other = 0; other < d.state.vcpuCount; other++) {
    if ((d.state.getVcpu(other, VCPU_STATE.flags) & VCPU_UP) !== 0) return 0;
  }
  d.shutdown(SHUTDOWN_poweroff);
  return 0;
}

/** Areas are virtual addresses of the vCPU's own kernel, so only the vCPU itself can register one here; others are told it exists. */
function registerArea(d: Domain, dv: DomainVcpu, id: number, arg: number, size: number, apply: (va: number) => void): number {
  if (!d.copy.in(dv, arg, 8)) return -EFAULT;
  const va = d.copy.num(0);
  if (!isGuestRange(va, size)) return -EFAULT;
  if (id === dv.id) apply(va);
  else d.requestArea(id, size, va);
  return 0;
}

function registerVcpuInfo(d: Domain, dv: DomainVcpu, id: number, arg: number): number {
  if (id !== dv.id && (d.state.getVcpu(id, VCPU_STATE.flags) & VCPU_UP) !== 0) return -EINVAL;
  if (!d.copy.in(dv, arg, 16)) return -EFAULT;
  const result = d.events.moveVcpuInfo(id, d.copy.num(0), d.copy.u32(8));
  if (result === 0) d.time.writeTimeInfo(id);
  return result;
}
