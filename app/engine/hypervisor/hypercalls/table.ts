// SPDX-License-Identifier: Apache-2.0
/**
 * The hypercall table and its entry: SYSCALL in the guest's kernel mode with the number in RAX (Xen guest ABI, 64-bit PV).
 *
 * RCX and R11 are clobbered as SYSCALL does; the result goes to RAX. Numbers without a handler are -ENOSYS.
 *
 * @abi hypercall iret
 * @abi hypercall xenpmu_op — -EOPNOTSUPP: no performance counters
 * @abi hypercall platform_op — -EPERM for guests
 * @abi hypercall sysctl — -EPERM for guests
 * @abi hypercall domctl — -EPERM for guests
 * @abi hypercall kexec_op — -EPERM for guests
 * @abi hypercall dm_op — -EPERM for guests
 * @abi hypercall mca — -EPERM for guests
 * @abi hypercall hvm_op — -EINVAL for parameters (a PV guest has none), otherwise -ENOSYS
 */
import { CTX, REG } from '../../memory/vcpu-context.ts';
import * as nr from '../abi/xen.ts';
import type { Domain } from '../domain.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';
import { EFAULT, EINVAL, ENOSYS, EOPNOTSUPP, EPERM } from '../errno.ts';
import { HYPERCALL_RESTART } from '../mmu-port.ts';
import type { BounceFailure } from '../traps/bounce.ts';
import { setSyscallRegisters } from '../traps/deliver.ts';
import { hypervisorIret } from '../traps/iret.ts';
import { fpuTaskswitch, getDebugreg, setDebugreg, setSegmentBase, stackSwitch, vmAssist } from './cpu-state.ts';
import { eventChannelOp, eventChannelOpCompat } from './event-channel-op.ts';
import { grantTableOp } from './grant-table-op.ts';
import type { HypercallArgs } from './hypercall-args.ts';
import { multicall } from './multicall.ts';
import { physdevOp, physdevOpCompat } from './physdev-op.ts';
import { schedOp, schedOpCompat, setTimerOp } from './sched-op.ts';
import { callbackOp, nmiOp, setCallbacks, setTrapTable } from './trap-ops.ts';
import { vcpuOp } from './vcpu-op.ts';
import { consoleIo, xenVersion } from './version-ops.ts';

/** Result: 0 or a value, a negated error number, or HYPERCALL_RESTART. */
export type Handler = (d: Domain, dv: DomainVcpu, a: HypercallArgs) => number;

const denied: Handler = () => -EPERM;

const HANDLERS: (Handler | undefined)[] = new Array<Handler | undefined>(nr.NR_HYPERCALLS).fill(undefined);
HANDLERS[nr.__HYPERVISOR_set_trap_table] = setTrapTable;
HANDLERS[nr.__HYPERVISOR_mmu_update] = (d, dv, a) =>
  badVector(a) ? -EFAULT : d.mmu.mmuUpdate(dv, a.num[0], a.lo[1], orNull(a.num[2]), a.lo[3]);
HANDLERS[nr.__HYPERVISOR_set_gdt] = (d, dv, a) => (Number.isNaN(a.num[0]) ? -EFAULT : d.mmu.setGdt(dv, a.num[0], a.lo[1]));
HANDLERS[nr.__HYPERVISOR_stack_switch] = stackSwitch;
HANDLERS[nr.__HYPERVISOR_set_callbacks] = setCallbacks;
HANDLERS[nr.__HYPERVISOR_fpu_taskswitch] = fpuTaskswitch;
HANDLERS[nr.__HYPERVISOR_sched_op_compat] = schedOpCompat;
HANDLERS[nr.__HYPERVISOR_platform_op] = denied;
HANDLERS[nr.__HYPERVISOR_set_debugreg] = setDebugreg;
HANDLERS[nr.__HYPERVISOR_get_debugreg] = getDebugreg;
HANDLERS[nr.__HYPERVISOR_update_descriptor] = (d, dv, a) => d.mmu.updateDescriptor(dv, a.lo[0], a.hi[0], a.lo[1], a.hi[1]);
HANDLERS[nr.__HYPERVISOR_memory_op] = (d, dv, a) => (Number.isNaN(a.num[1]) ? -EFAULT : d.mmu.memoryOp(dv, a.lo[0], a.num[1]));
HANDLERS[nr.__HYPERVISOR_multicall] = (d, dv, a) => multicall(d, dv, a, HANDLERS);
HANDLERS[nr.__HYPERVISOR_update_va_mapping] = (d, dv, a) =>
  Number.isNaN(a.num[0]) ? -EINVAL : d.mmu.updateVaMapping(dv, a.num[0], a.lo[1], a.hi[1], a.lo[2], a.num[2]);
HANDLERS[nr.__HYPERVISOR_update_va_mapping_otherdomain] = (d, dv, a) =>
  Number.isNaN(a.num[0]) ? -EINVAL : d.mmu.updateVaMappingOtherdomain(dv, a.num[0], a.lo[1], a.hi[1], a.lo[2], a.num[2], a.lo[3]);
HANDLERS[nr.__HYPERVISOR_set_timer_op] = setTimerOp;
HANDLERS[nr.__HYPERVISOR_event_channel_op_compat] = eventChannelOpCompat;
HANDLERS[nr.__HYPERVISOR_xen_version] = xenVersion;
HANDLERS[nr.__HYPERVISOR_console_io] = consoleIo;
HANDLERS[nr.__HYPERVISOR_physdev_op_compat] = physdevOpCompat;
HANDLERS[nr.__HYPERVISOR_grant_table_op] = grantTableOp;
HANDLERS[nr.__HYPERVISOR_vm_assist] = vmAssist;
HANDLERS[nr.__HYPERVISOR_vcpu_op] = vcpuOp;
HANDLERS[nr.__HYPERVISOR_set_segment_base] = setSegmentBase;
HANDLERS[nr.__HYPERVISOR_mmuext_op] = (d, dv, a) =>
  badVector(a) ? -EFAULT : d.mmu.mmuextOp(dv, a.num[0], a.lo[1], orNull(a.num[2]), a.lo[3]);
HANDLERS[nr.__HYPERVISOR_nmi_op] = nmiOp;
HANDLERS[nr.__HYPERVISOR_sched_op] = schedOp;
HANDLERS[nr.__HYPERVISOR_callback_op] = callbackOp;
HANDLERS[nr.__HYPERVISOR_event_channel_op] = eventChannelOp;
HANDLERS[nr.__HYPERVISOR_physdev_op] = physdevOp;
HANDLERS[nr.__HYPERVISOR_hvm_op] = (_d, _dv, a) => (a.lo[0] <= 1 ? -EINVAL : -ENOSYS);
HANDLERS[nr.__HYPERVISOR_sysctl] = denied;
HANDLERS[nr.__HYPERVISOR_domctl] = denied;
HANDLERS[nr.__HYPERVISOR_kexec_op] = denied;
HANDLERS[nr.__HYPERVISOR_xenpmu_op] = () => -EOPNOTSUPP;
HANDLERS[nr.__HYPERVISOR_dm_op] = denied;
HANDLERS[nr.__HYPERVISOR_mca] = denied;

/** Is the address of an array that is to be read no address at all? */
function badVector(a: HypercallArgs): boolean {
  return Number.isNaN(a.num[0]);
}

/** A pointer that may be absent; what cannot be an address counts as one that faults. */
function orNull(va: number): number {
  return Number.isNaN(va) ? 2 ** 47 : va;
}

/**
 * Executes the hypercall that the vCPU has just issued (RIP is past SYSCALL). Null, or why the domain has to end.
 * PERF: nothing here allocates.
 */
export function hypercall(d: Domain, dv: DomainVcpu): BounceFailure {
  const ctx = dv.ctx;
  const rax = CTX.gpr + REG.rax * 8;
  const number = ctx.hi(rax) === 0 ? ctx.lo(rax) : nr.NR_HYPERCALLS;
  if (number === nr.__HYPERVISOR_iret) {
    dv.stats.hypercalls[number]++;
    return hypervisorIret(dv, d.readDescriptor);
  }
  let result = -ENOSYS;
  if (number < nr.NR_HYPERCALLS) {
    dv.stats.hypercalls[number]++;
    const handler = HANDLERS[number];
    if (handler !== undefined) {
      dv.args.fromRegisters(ctx);
      result = handler(d, dv, dv.args);
    }
  }
  setSyscallRegisters(dv);
  if (result === HYPERCALL_RESTART) ctx.rip = ctx.rip - SYSCALL_BYTES;
  else ctx.setNum(rax, result);
  return null;
}

const SYSCALL_BYTES = 2;
