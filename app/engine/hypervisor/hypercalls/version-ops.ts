// SPDX-License-Identifier: Apache-2.0
/**
 * What the guest is told about its hypervisor, and the console of last resort (xen public/version.h).
 *
 * @abi hypercall xen_version — version 4.17 as an unprivileged PV guest sees it
 * @abi subop XENVER_version
 * @abi subop XENVER_extraversion
 * @abi subop XENVER_compile_info
 * @abi subop XENVER_capabilities — xen-3.0-x86_64
 * @abi subop XENVER_changeset
 * @abi subop XENVER_platform_parameters
 * @abi subop XENVER_get_features — submap 0
 * @abi subop XENVER_pagesize
 * @abi subop XENVER_guest_handle — the VM's UUID
 * @abi subop XENVER_commandline — denied to guests
 * @abi subop XENVER_build_id — -EPERM for guests
 * @abi hypercall console_io — writes go to the VM's log
 * @abi subop CONSOLEIO_write
 * @abi subop CONSOLEIO_read — never has input
 */
import { HYPERVISOR_VIRT_START, VMASST_TYPE_pae_extended_cr3 } from '../abi/xen.ts';
import { XEN_VERSION_MAJOR, XEN_VERSION_MINOR } from '../cpuid-policy.ts';
import type { Domain } from '../domain.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';
import { EFAULT, EINVAL, ENOSYS, EPERM } from '../errno.ts';
import { PAGE_SIZE } from '../../memory/frames.ts';
import type { HypercallArgs } from './hypercall-args.ts';

const XENFEAT_pae_pgdir_above_4gb = 4;
const XENFEAT_mmu_pt_update_preserve_ad = 5;
const XENFEAT_highmem_assist = 6;
const XENFEAT_gnttab_map_avail_bits = 7;
const XENFEAT_memory_op_vnode_supported = 13;
const XENFEAT_direct_mapped = 17;

const DENIED = '<denied>';
/** Bytes of console output taken in one call. */
const MAX_CONSOLE_BYTES = 0x1_0000;
const CONSOLE_CHUNK = 4096;

export function xenVersion(d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  const arg = a.num[1];
  const copy = d.copy;
  switch (a.lo[0]) {
    case 0:
      return (XEN_VERSION_MAJOR << 16) | XEN_VERSION_MINOR;
    case 1:
      return answerText(d, dv, arg, '.7', 16);
    case 2:
      copy.bytes.fill(0, 0, 144);
      copy.text(0, 'Paravane', 64);
      copy.text(64, '', 16);
      copy.text(80, '', 32);
      copy.text(112, '', 32);
      return copy.out(dv, arg, 144) ? 0 : -EFAULT;
    case 3:
      return answerText(d, dv, arg, 'xen-3.0-x86_64 ', 1024);
    case 4:
      return answerText(d, dv, arg, '', 64);
    case 5:
      copy.setNum(0, HYPERVISOR_VIRT_START);
      return copy.out(dv, arg, 8) ? 0 : -EFAULT;
    case 6:
      if (!copy.in(dv, arg, 8)) return -EFAULT;
      if (copy.u32(0) !== 0) return -EINVAL;
      copy.setU32(4, features(d));
      return copy.out(dv, arg, 8) ? 0 : -EFAULT;
    case 7:
      return PAGE_SIZE;
    case 8:
      copy.bytes.set(d.config.uuid.subarray(0, 16), 0);
      return copy.out(dv, arg, 16) ? 0 : -EFAULT;
    case 9:
      return answerText(d, dv, arg, DENIED, 1024);
    case 10:
      return -EPERM;
    default:
      return -ENOSYS;
  }
}

function answerText(d: Domain, dv: DomainVcpu, arg: number, text: string, length: number): number {
  d.copy.text(0, text, length);
  return d.copy.out(dv, arg, length) ? 0 : -EFAULT;
}

function features(d: Domain): number {
  const map =
    (1 << XENFEAT_mmu_pt_update_preserve_ad) |
    (1 << XENFEAT_highmem_assist) |
    (1 << XENFEAT_gnttab_map_avail_bits) |
    (1 << XENFEAT_memory_op_vnode_supported) |
    (1 << XENFEAT_direct_mapped);
  return d.state.vmAssist(VMASST_TYPE_pae_extended_cr3) ? map | (1 << XENFEAT_pae_pgdir_above_4gb) : map;
}

export function consoleIo(d: Domain, dv: DomainVcpu, a: HypercallArgs): number {
  const [cmd, count, buffer] = [a.lo[0], a.lo[1] | 0, a.num[2]];
  if (cmd === 1) return 0;
  if (cmd !== 0) return -ENOSYS;
  if (count < 0 || count > MAX_CONSOLE_BYTES) return -EINVAL;
  for (let done = 0; done < count; done += CONSOLE_CHUNK) {
    const length = Math.min(CONSOLE_CHUNK, count - done);
    if (!d.copy.in(dv, buffer + done, length)) return -EFAULT;
    d.config.onConsoleIo?.(d.copy.bytes.slice(0, length));
  }
  return 0;
}
