// SPDX-License-Identifier: Apache-2.0
/**
 * What a vCPU thread does from its first to its last moment: it makes its view of the domain over the VM's shared memory, loads the start
 * state, and runs the guest until the domain ends.
 */
import type { Accelerator } from '../accel/accelerator.ts';
import { softwareCpu, translatingCpu } from '../cpu/software-cpu.ts';
import type { Clock } from '../host/clock.ts';
import { Domain } from '../hypervisor/domain.ts';
import { PV_POLICY } from '../hypervisor/cpuid-policy.ts';
import { PvMmu } from '../hypervisor/mm/pv-mmu.ts';
import { runVcpu } from '../hypervisor/run-loop.ts';
import { LIFECYCLE, REQUEST_CONTINUE, REQUEST_PAUSE, REQUEST_STOP, STATE } from '../hypervisor/shared-state.ts';
import type { StatsReport } from '../hypervisor/stats.ts';
import { loadFlatKernelSegments } from '../hypervisor/traps/segments.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import type { MemoryShape } from '../memory/layout.ts';
import type { Mfn } from '../memory/frames.ts';
import { CTX, REG, SEGREG, type VcpuContext } from '../memory/vcpu-context.ts';
import type { PvStartRegisters } from '../boot/index.ts';

/** Sent to the thread; plain data. */
export interface VcpuThreadStart {
  readonly memory: WebAssembly.Memory;
  readonly shape: MemoryShape;
  readonly vcpuId: number;
  readonly domid: number;
  readonly uuid: Uint8Array;
  readonly accel: string;
  readonly registers: PvStartRegisters;
  readonly root: Mfn;
}

/** The thread's last word. */
export interface VcpuThreadReport {
  readonly stats: StatsReport;
  readonly cpu: Record<string, number>;
  readonly memory: Record<string, number>;
}

const CR0_PV = 0x8005_0033;
const CR4_PV = 0x660;
/** SCE, LME, LMA, NXE. */
const EFER_PV = 0xd01;
const USER_CPL = 3;
const SHUTDOWN_suspend = 2;

function accelerator(name: string): Accelerator {
  if (name === softwareCpu.name) return softwareCpu;
  if (name === translatingCpu.name) return translatingCpu;
  throw new Error(`there is no accelerator ${name}`);
}

/** What a vCPU thread needs of its host. */
export interface VcpuThreadPorts {
  readonly clock: Clock;
  readonly onConsoleIo: (bytes: Uint8Array) => void;
  /** See `DomainConfig.wait`; for hosts that run the vCPU on a thread with other work. */
  readonly wait?: (context: VcpuContext, timeoutMs: number) => void;
}

/** GUEST: console_io is for early messages; what a guest prints there beyond this is dropped, so that it can't fill the message queue. */
const CONSOLE_IO_LIMIT = 1024 * 1024;

/** Makes this thread's view of the domain and loads the start state. Throws when the start state is refused. */
export function attachVcpu(start: VcpuThreadStart, ports: VcpuThreadPorts): { readonly domain: Domain; readonly mmu: PvMmu } {
  let consoleIoLeft = CONSOLE_IO_LIMIT;
  const onConsoleIo = (bytes: Uint8Array): void => {
    if (bytes.length > consoleIoLeft) return;
    consoleIoLeft -= bytes.length;
    ports.onConsoleIo(bytes.slice());
  };
  const memory = new GuestMemory(start.shape, start.memory);
  const mmu = new PvMmu({ memory, domId: start.domid });
  const domain = new Domain({
    memory,
    accelerator: accelerator(start.accel),
    mmu,
    clock: ports.clock,
    config: { cpuid: PV_POLICY, uuid: start.uuid, onConsoleIo, ...(ports.wait ? { wait: ports.wait } : {}) },
    vcpuId: start.vcpuId,
  });
  const { vcpu } = domain;
  loadStartRegisters(vcpu.ctx, start.registers);
  const attached = mmu.attachStartState(vcpu, { kernelRoot: start.root, pinned: [start.root] });
  if (attached !== 0) throw new Error(`the hypervisor refuses the domain builder's page tables (error ${attached})`);
  vcpu.vcpu.enterSpace(0);
  return { domain, mmu };
}

export function runVcpuThread(start: VcpuThreadStart, ports: VcpuThreadPorts): VcpuThreadReport {
  const { domain, mmu } = attachVcpu(start, ports);
  const { state, vcpu } = domain;
  for (;;) {
    const end = runVcpu(domain);
    if (end === 'paused') {
      // Resuming clears the bit and kicks.
      while ((state.get(STATE.request) & REQUEST_PAUSE) !== 0) awaitKick(vcpu.ctx);
    } else if (end === 'ended' && awaitContinue(domain)) {
      domain.continueAfterSuspend(true);
    } else {
      break;
    }
  }
  return { stats: vcpu.stats.report(), cpu: vcpu.vcpu.counters(), memory: mmu.counters() };
}

function awaitKick(ctx: VcpuContext): void {
  ctx.waitForKick(1000);
  ctx.takeKick();
}

/** A domain that has suspended itself waits for its owner: true, it is to go on; false, it ends (as every other end does at once). */
function awaitContinue(domain: Domain): boolean {
  const { state, vcpu } = domain;
  if (state.lifecycle !== LIFECYCLE.shutdown || state.get(STATE.shutdownReason) !== SHUTDOWN_suspend) return false;
  while ((state.get(STATE.request) & (REQUEST_CONTINUE | REQUEST_STOP)) === 0) awaitKick(vcpu.ctx);
  const before = Atomics.and(state.i32, state.word(STATE.request), ~REQUEST_CONTINUE);
  return (before & REQUEST_STOP) === 0;
}

/** Start of day of a PV vCPU (xen public/xen.h): everything is zero but this. */
function loadStartRegisters(ctx: VcpuContext, registers: PvStartRegisters): void {
  ctx.rip = registers.rip;
  ctx.setGpr(REG.rsp, registers.rsp);
  ctx.setGpr(REG.rsi, registers.rsi);
  ctx.rflags = registers.rflags | 2;
  loadFlatKernelSegments(ctx);
  for (const segment of [SEGREG.es, SEGREG.ds, SEGREG.fs, SEGREG.gs]) ctx.setSegment(segment, 0, 0, 0, 0);
  ctx.setU32(CTX.cpl, USER_CPL);
  ctx.setLoHi(CTX.cr0, CR0_PV, 0);
  ctx.setLoHi(CTX.cr4, CR4_PV, 0);
  ctx.setLoHi(CTX.efer, EFER_PV, 0);
  ctx.setLoHi(CTX.xcr0, 1, 0);
  ctx.setLoHi(CTX.dr + 6 * 8, 0xffff_0ff0, 0);
  ctx.setLoHi(CTX.dr + 7 * 8, 0x400, 0);
  ctx.setU16(CTX.fcw, 0x37f);
  ctx.setU32(CTX.mxcsr, 0x1f80);
}
