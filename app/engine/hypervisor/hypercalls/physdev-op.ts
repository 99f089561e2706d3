// SPDX-License-Identifier: Apache-2.0
/**
 * Physical devices, of which a guest has none (xen public/physdev.h).
 *
 * @abi hypercall physdev_op
 * @abi hypercall physdev_op_compat — the same with the command in the structure
 * @abi subop PHYSDEVOP_set_iopl
 * @abi subop PHYSDEVOP_set_iobitmap
 * @abi subop PHYSDEVOP_eoi — -EINVAL: no interrupt is bound
 * @abi subop PHYSDEVOP_irq_status_query — -EINVAL: no interrupt exists
 * @abi subop PHYSDEVOP_apic_read — -EPERM for guests
 * @abi subop PHYSDEVOP_apic_write — -EPERM for guests
 * @abi subop PHYSDEVOP_map_pirq — -EPERM for guests
 * @abi subop PHYSDEVOP_unmap_pirq — -EPERM for guests
 */
import type { Domain } from '../domain.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';
import { EFAULT, EINVAL, ENOSYS, EPERM } from '../errno.ts';
import type { HypercallArgs } from './hypercall-args.ts';

export function physdevOp(d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  return run(d, dv, a.lo[0], a.num[1]);
}

export function physdevOpCompat(d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  return d.copy.in(dv, a.num[0], 4) ? run(d, dv, d.copy.u32(0), a.num[0] + 8) : -EFAULT;
}

function run(d: Domain, dv: DomainVcpu, cmd: number, arg: number): number {
  switch (cmd) {
    case 6: {
      if (!d.copy.in(dv, arg, 4)) return -EFAULT;
      const iopl = d.copy.u32(0);
      if (iopl > 3) return -EINVAL;
      dv.iopl = iopl;
      return 0;
    }
    case 7: {
      if (!d.copy.in(dv, arg, 16)) return -EFAULT;
      const ports = d.copy.u32(8);
      if (ports > 65536) return -EINVAL;
      dv.ioBitmapVa = d.copy.num(0);
      dv.ioBitmapPorts = ports;
      return 0;
    }
    case 12:
    case 5:
      return -EINVAL;
    case 8:
    case 9:
    case 10:
    case 11:
    case 13:
    case 14:
    case 15:
    case 16:
    case 19:
    case 20:
    case 21:
    case 24:
    case 25:
      return -EPERM;
    default:
      return -ENOSYS;
  }
}
