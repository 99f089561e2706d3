// SPDX-License-Identifier: Apache-2.0
/**
 * Event-channel hypercalls: structures in and out of guest memory around `EventChannels` (xen public/event_channel.h).
 *
 * @abi hypercall event_channel_op
 * @abi hypercall event_channel_op_compat — the same with the command in the structure
 * @abi subop EVTCHNOP_bind_interdomain — channels of the domain with itself
 * @abi subop EVTCHNOP_bind_virq
 * @abi subop EVTCHNOP_bind_pirq — -EINVAL: no physical interrupts
 * @abi subop EVTCHNOP_close
 * @abi subop EVTCHNOP_send
 * @abi subop EVTCHNOP_status
 * @abi subop EVTCHNOP_alloc_unbound
 * @abi subop EVTCHNOP_bind_ipi
 * @abi subop EVTCHNOP_bind_vcpu
 * @abi subop EVTCHNOP_unmask
 * @abi subop EVTCHNOP_reset
 * @abi subop EVTCHNOP_init_control
 * @abi subop EVTCHNOP_expand_array — up to 4096 ports
 * @abi subop EVTCHNOP_set_priority
 */
import {
  EVTCHN_FIFO_LINK_BITS,
  EVTCHNOP_alloc_unbound,
  EVTCHNOP_bind_interdomain,
  EVTCHNOP_bind_ipi,
  EVTCHNOP_bind_pirq,
  EVTCHNOP_bind_vcpu,
  EVTCHNOP_bind_virq,
  EVTCHNOP_close,
  EVTCHNOP_expand_array,
  EVTCHNOP_init_control,
  EVTCHNOP_reset,
  EVTCHNOP_reset_cont,
  EVTCHNOP_send,
  EVTCHNOP_set_priority,
  EVTCHNOP_status,
  EVTCHNOP_unmask,
} from '../abi/event-channel.ts';
import type { Domain } from '../domain.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';
import { EFAULT, EINVAL, ENOSYS } from '../errno.ts';
import type { PortStatus } from '../events/event-channels.ts';
import type { GuestCopy } from './guest-copy.ts';
import { readU32 } from './guest-copy.ts';
import type { HypercallArgs } from './hypercall-args.ts';

/** Bytes of each operation's structure. */
const SIZES: Readonly<Record<number, number>> = {
  [EVTCHNOP_bind_interdomain]: 12,
  [EVTCHNOP_bind_virq]: 12,
  [EVTCHNOP_bind_pirq]: 12,
  [EVTCHNOP_close]: 4,
  [EVTCHNOP_status]: 24,
  [EVTCHNOP_alloc_unbound]: 8,
  [EVTCHNOP_bind_ipi]: 8,
  [EVTCHNOP_bind_vcpu]: 8,
  [EVTCHNOP_unmask]: 4,
  [EVTCHNOP_reset]: 2,
  [EVTCHNOP_reset_cont]: 2,
  [EVTCHNOP_init_control]: 24,
  [EVTCHNOP_expand_array]: 8,
  [EVTCHNOP_set_priority]: 8,
};

const statusOut: PortStatus = { status: 0, vcpu: 0, first: 0, second: 0 };

export function eventChannelOp(d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  return run(d, dv, a.lo[0], a.num[1]);
}

export function eventChannelOpCompat(d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  return d.copy.in(dv, a.num[0], 4) ? run(d, dv, d.copy.u32(0), a.num[0] + 4) : -EFAULT;
}

function run(d: Domain, dv: DomainVcpu, cmd: number, arg: number): number {
  if (cmd === EVTCHNOP_send) {
    const port = readU32(dv, d.copy, arg);
    return port < 0 ? -EFAULT : d.events.send(port);
  }
  const size = SIZES[cmd];
  if (size === undefined) return -ENOSYS;
  if (!d.copy.in(dv, arg, size)) return -EFAULT;
  const { copy, events } = d;
  switch (cmd) {
    case EVTCHNOP_alloc_unbound:
      return answerPort(d, dv, arg, size, 4, events.allocUnbound(copy.u16(0), copy.u16(2)));
    case EVTCHNOP_bind_interdomain:
      return answerPort(d, dv, arg, size, 8, events.bindInterdomain(copy.u16(0), copy.u32(4)));
    case EVTCHNOP_bind_virq:
      return answerPort(d, dv, arg, size, 8, events.bindVirq(copy.u32(0), copy.u32(4)));
    case EVTCHNOP_bind_ipi:
      return answerPort(d, dv, arg, size, 4, events.bindIpi(copy.u32(0)));
    case EVTCHNOP_bind_pirq:
      return -EINVAL;
    case EVTCHNOP_close:
      return events.close(copy.u32(0));
    case EVTCHNOP_status: {
      const rc = events.status(copy.u16(0), copy.u32(4), statusOut);
      if (rc !== 0) return rc;
      putStatus(copy);
      return copy.out(dv, arg, size) ? 0 : -EFAULT;
    }
    case EVTCHNOP_bind_vcpu:
      return events.bindVcpu(copy.u32(0), copy.u32(4));
    case EVTCHNOP_unmask:
      return events.unmask(copy.u32(0));
    case EVTCHNOP_reset:
    case EVTCHNOP_reset_cont:
      return events.reset(copy.u16(0));
    case EVTCHNOP_init_control: {
      const rc = events.initControl(copy.num(0), copy.u32(8), copy.u32(12));
      if (rc !== 0) return rc;
      copy.bytes[16] = EVTCHN_FIFO_LINK_BITS;
      return copy.out(dv, arg, size) ? 0 : -EFAULT;
    }
    case EVTCHNOP_expand_array:
      return events.expandArray(copy.num(0));
    case EVTCHNOP_set_priority:
      return events.setPriority(copy.u32(0), copy.u32(4));
    default:
      return -ENOSYS;
  }
}

/** Writes a new port back; a port that the guest never learns of is closed again. */
function answerPort(d: Domain, dv: DomainVcpu, arg: number, size: number, at: number, port: number): number {
  if (port < 0) return port;
  d.copy.setU32(at, port);
  if (d.copy.out(dv, arg, size)) return 0;
  d.events.close(port);
  return -EFAULT;
}

function putStatus(copy: GuestCopy): void {
  copy.setU32(8, statusOut.status);
  copy.setU32(12, statusOut.vcpu);
  if (statusOut.status === 0 || statusOut.status === 5) return;
  copy.setU32(16, statusOut.first);
  copy.setU32(20, statusOut.second);
}
