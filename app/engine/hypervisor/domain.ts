// SPDX-License-Identifier: Apache-2.0
/**
 * One PV guest as one of its vCPU threads sees it: the vCPU, and the parts of the hypervisor that serve it, over shared state.
 *
 * Each vCPU thread makes its own `Domain` over the same memory; the thread that builds the guest has called
 * `SharedState.initialise` before. Dom0's side of the same domain is in `dom0/`.
 */
import type { Accelerator, VcpuHost } from '../accel/accelerator.ts';
import type { Clock } from '../host/clock.ts';
import { mfn } from '../memory/frames.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { VcpuContext } from '../memory/vcpu-context.ts';
import { CTX, REG } from '../memory/vcpu-context.ts';
import { TIME_INFO, VMASST_TYPE_runstate_update_flag } from './abi/xen.ts';
import { cpuid, type CpuidPolicy } from './cpuid-policy.ts';
import { crashReport, storeCrashReport } from './crash-report.ts';
import { DomainVcpu } from './domain-vcpu.ts';
import { PrivilegedEmulator } from './emulate/privileged.ts';
import { IoPorts } from './emulate/io-ports.ts';
import { StoreEmulator } from './emulate/store-emulator.ts';
import { EventChannels } from './events/event-channels.ts';
import { GrantTable } from './grants/grant-table.ts';
import { Maptrack } from './grants/maptrack.ts';
import { GuestCopy } from './hypercalls/guest-copy.ts';
import type { MmuPort } from './mmu-port.ts';
import { LIFECYCLE, SharedState, VCPU_STATE } from './shared-state.ts';
import { RUNSTATE_INFO_BYTES, runstateInfo } from './time/runstate.ts';
import { Watchdogs } from './time/timers.ts';
import { TSC_SHIFT, TSC_TO_SYSTEM_MUL, VmTime } from './time/vm-time.ts';
import { type DescriptorReader, flatDescriptor } from './traps/segments.ts';

const SHUTDOWN_crash = 3;

export interface DomainConfig {
  readonly cpuid: CpuidPolicy;
  /** 16 bytes that identify the VM (XENVER_guest_handle). */
  readonly uuid: Uint8Array;
  /** Output of console_io, for early messages of a kernel. */
  readonly onConsoleIo?: (bytes: Uint8Array) => void;
  /** Sleeps until the vCPU is kicked or `timeoutMs` is over; a test replaces it. Default: the context's own wait. */
  readonly wait?: (context: VcpuContext, timeoutMs: number) => void;
}

export interface DomainParts {
  readonly memory: GuestMemory;
  readonly accelerator: Accelerator;
  readonly mmu: MmuPort;
  readonly clock: Clock;
  readonly config: DomainConfig;
  readonly vcpuId: number;
}

export class Domain {
  readonly config: DomainConfig;
  readonly state: SharedState;
  readonly mmu: MmuPort;
  readonly time: VmTime;
  readonly events: EventChannels;
  readonly grants: GrantTable;
  readonly maptrack: Maptrack;
  readonly ports: IoPorts;
  readonly emulator: PrivilegedEmulator;
  readonly watchdogs = new Watchdogs();
  readonly copy = new GuestCopy();
  /** The element of a grant operation in progress. */
  readonly element = new Uint8Array(64);
  readonly vcpu: DomainVcpu;

  constructor(parts: DomainParts) {
    this.config = parts.config;
    this.state = new SharedState(parts.memory);
    this.mmu = parts.mmu;
    this.time = new VmTime(this.state, parts.clock);
    this.events = new EventChannels(this.state, parts.vcpuId, parts.mmu);
    this.grants = new GrantTable(this.state);
    this.maptrack = new Maptrack(this.state);
    this.ports = new IoPorts(this.time);
    this.emulator = new PrivilegedEmulator(this);
    const host: VcpuHost = {
      readDescriptor: (selector) => this.readDescriptor(selector),
      readTsc: () => this.time.now(),
      cpuid: (leaf, subleaf, out) => cpuid(parts.config.cpuid, parts.vcpuId, leaf, subleaf, out),
    };
    const vcpu = parts.accelerator.createVcpu(parts.vcpuId, parts.memory, host);
    parts.memory.onCodeWrite = (frame, offset, length) => vcpu.invalidateCode(frame, offset, length);
    this.vcpu = new DomainVcpu(vcpu, this.state);
    parts.mmu.setWriteEmulator(this.vcpu, new StoreEmulator(this.vcpu, mfn(this.state.getVcpu(parts.vcpuId, VCPU_STATE.scratchFrame))));
    this.time.writeTimeInfo(parts.vcpuId);
    if (parts.vcpuId === 0) this.time.writeWallClock();
  }

  /** The descriptor of `selector`: one of the flat ones behind every GDT, or the guest's own. */
  readonly readDescriptor: DescriptorReader = (selector) => flatDescriptor(selector) ?? this.mmu.readDescriptor(this.vcpu, selector);

  /** The domain does not run any more. */
  get ended(): boolean {
    const lifecycle = this.state.lifecycle;
    return lifecycle === LIFECYCLE.shutdown || lifecycle === LIFECYCLE.crashed;
  }

  /** The guest asked to end (SCHEDOP_shutdown), or its watchdog did. A crash that the guest itself declares gets a report, too. */
  shutdown(reason: number): void {
    if (reason === SHUTDOWN_crash) this.crash('the guest declared a crash (SHUTDOWN_crash)');
    else this.state.end(LIFECYCLE.shutdown, reason);
  }

  /** The guest cannot go on. The first reason counts. */
  crash(reason: string): void {
    if (this.ended) return;
    storeCrashReport(this.state, crashReport(this.vcpu, reason));
    this.state.end(LIFECYCLE.crashed, SHUTDOWN_crash);
  }

  /** The guest goes on after SHUTDOWN_suspend: in the same VM (the hypercall answers 1) or in a new one (0). */
  continueAfterSuspend(cancelled: boolean): void {
    this.vcpu.ctx.setGpr(REG.rax, cancelled ? 1 : 0);
    this.time.writeTimeInfo(this.vcpu.id);
    this.time.writeWallClock();
    this.state.unend();
  }

  /** MOV to CR3. */
  loadKernelRoot(dv: DomainVcpu, frame: number): boolean {
    return frame >= 0 && this.mmu.attachStartState(dv, { kernelRoot: mfn(frame), pinned: [] }) === 0;
  }

  /** Keeps the guest's registered copy of its run states up to date; a copy that cannot be written is left alone. */
  writeRunstateArea(dv: DomainVcpu): void {
    if (dv.runstateArea === 0) return;
    const { copy } = this;
    runstateInfo(this.state, dv.id, this.time.now(), copy.view);
    if (!this.state.vmAssist(VMASST_TYPE_runstate_update_flag)) {
      copy.out(dv, dv.runstateArea, RUNSTATE_INFO_BYTES);
      return;
    }
    const high = copy.u32(12);
    copy.setU32(12, (high | 0x8000_0000) >>> 0);
    if (!copy.out(dv, dv.runstateArea, RUNSTATE_INFO_BYTES)) return;
    copy.setU32(12, high);
    copy.out(dv, dv.runstateArea, 16);
  }

  /** Fills the guest's registered copy of the clock parameters, which never change afterwards. */
  writeTimeArea(dv: DomainVcpu): void {
    if (dv.timeArea === 0) return;
    const { copy } = this;
    copy.bytes.fill(0, 0, TIME_INFO.size);
    copy.setU32(TIME_INFO.version, 2);
    copy.setU32(TIME_INFO.mul, TSC_TO_SYSTEM_MUL);
    copy.bytes[TIME_INFO.shift] = TSC_SHIFT;
    copy.bytes[TIME_INFO.flags] = 1;
    copy.out(dv, dv.timeArea, TIME_INFO.size);
  }

  /** Another vCPU's area was registered from here: its own thread takes it over. */
  requestArea(vcpu: number, size: number, va: number): void {
    this.state.setVcpuF64(vcpu, size === TIME_INFO.size ? VCPU_STATE.timeArea : VCPU_STATE.runstateArea, va);
    this.state.contexts[vcpu].kick();
  }

  /** Takes over areas that other vCPUs registered for this one. */
  takeAreas(dv: DomainVcpu): void {
    const runstate = this.state.getVcpuF64(dv.id, VCPU_STATE.runstateArea);
    const time = this.state.getVcpuF64(dv.id, VCPU_STATE.timeArea);
    if (runstate !== 0) {
      this.state.setVcpuF64(dv.id, VCPU_STATE.runstateArea, 0);
      dv.runstateArea = runstate;
      this.writeRunstateArea(dv);
    }
    if (time !== 0) {
      this.state.setVcpuF64(dv.id, VCPU_STATE.timeArea, 0);
      dv.timeArea = time;
      this.writeTimeArea(dv);
    }
  }

  /** Sleeps until the vCPU is kicked or the time is over. */
  wait(timeoutMs: number): void {
    const { wait } = this.config;
    if (wait === undefined) this.vcpu.ctx.waitForKick(timeoutMs);
    else wait(this.vcpu.ctx, timeoutMs);
  }

  /** Was the vCPU kicked since the last look? */
  takeKick(): boolean {
    return this.vcpu.ctx.u32(CTX.kick) !== 0 && this.vcpu.ctx.takeKick();
  }
}
