// SPDX-License-Identifier: Apache-2.0
/**
 * The state of one PV vCPU that the guest sets by hypercall and that only its own thread needs: traps, callbacks, kernel stack,
 * I/O privilege, timers, what it waits for. What other threads touch is in `SharedState`.
 */
import type { Vcpu } from '../accel/accelerator.ts';
import { CTX } from '../memory/vcpu-context.ts';
import { FLAT_KERNEL_SS, VCPU_INFO } from './abi/xen.ts';
import { HypercallArgs } from './hypercalls/hypercall-args.ts';
import { PvVcpu } from './pv-vcpu.ts';
import type { SharedState } from './shared-state.ts';
import { VcpuTimers } from './time/timers.ts';
import { VcpuStats } from './stats.ts';
import { TrapTable } from './traps/trap-table.ts';

/** A callback address; 0 means not registered. */
export interface Callback {
  address: number;
  maskEvents: boolean;
}

/** Most ports that SCHEDOP_poll looks at. */
export const MAX_POLL_PORTS = 128;

export class DomainVcpu extends PvVcpu {
  readonly shared: SharedState;
  readonly traps = new TrapTable();
  readonly timers = new VcpuTimers();
  readonly stats = new VcpuStats();
  readonly args = new HypercallArgs();
  readonly event: Callback = { address: 0, maskEvents: true };
  readonly failsafe: Callback = { address: 0, maskEvents: false };
  readonly syscall: Callback = { address: 0, maskEvents: false };
  readonly syscall32: Callback = { address: 0, maskEvents: false };
  readonly sysenter: Callback = { address: 0, maskEvents: false };
  /** HYPERVISOR_stack_switch; the pointer is NaN when the guest gave one that is no address. */
  kernelSs: number = FLAT_KERNEL_SS;
  kernelSp = 0;
  /** PHYSDEVOP_set_iopl: 0..3. */
  iopl = 0;
  /** PHYSDEVOP_set_iobitmap: guest address of the bitmap and number of ports that it covers. */
  ioBitmapVa = 0;
  ioBitmapPorts = 0;
  /** IA32_SPEC_CTRL, which only reads back. */
  specCtrl = 0;
  /** An NMI is being handled: none is delivered before the next HYPERVISOR_iret. */
  nmiMasked = false;
  /** Guest addresses of registered copies; 0: none. */
  runstateArea = 0;
  timeArea = 0;
  /** Waits in SCHEDOP_block or SCHEDOP_poll. */
  blocked = false;
  pollCount = 0;
  pollDeadline = Number.POSITIVE_INFINITY;
  readonly pollPorts = new Uint32Array(MAX_POLL_PORTS);
  /** SCHEDOP_yield: let other threads of the VM work for a moment. */
  yielded = false;
  /** A timer changed: look at the clock before the guest runs on. */
  timersChanged = true;

  constructor(vcpu: Vcpu, shared: SharedState) {
    super(vcpu, shared.memory);
    this.shared = shared;
  }

  /** Byte offset in the shared buffer of this vCPU's `vcpu_info`. */
  get info(): number {
    return this.shared.vcpuInfo(this.id);
  }
  get upcallMask(): number {
    return this.shared.u8[this.info + VCPU_INFO.upcallMask];
  }
  set upcallMask(value: number) {
    this.shared.u8[this.info + VCPU_INFO.upcallMask] = value;
  }
  /** Is an event pending and not masked? */
  get eventDeliverable(): boolean {
    const info = this.info;
    const u8 = this.shared.u8;
    return u8[info + VCPU_INFO.upcallPending] !== 0 && u8[info + VCPU_INFO.upcallMask] === 0;
  }

  /** Switches between the guest's kernel and user mode: address space and GS base. */
  toggleMode(): void {
    const ctx = this.ctx;
    const lo = ctx.lo(GS_BASE);
    const hi = ctx.hi(GS_BASE);
    ctx.setLoHi(GS_BASE, ctx.lo(CTX.kernelGsBase), ctx.hi(CTX.kernelGsBase));
    ctx.setLoHi(CTX.kernelGsBase, lo, hi);
    this.vcpu.enterSpace(this.inKernelMode ? 1 : 0);
  }
}

const GS_BASE = CTX.segBase + 5 * 8;
