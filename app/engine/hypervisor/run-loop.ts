// SPDX-License-Identifier: Apache-2.0
/**
 * The life of one vCPU on its thread: run guest code until it needs the hypervisor, serve it, deliver what waits, sleep when blocked.
 *
 * Order on each return to the guest: code writes of other threads, raised events, timers, then NMI and event delivery. A kick is taken
 * back before the shared state is looked at, so that nothing that happens meanwhile is missed.
 *
 * PERF: one turn of the loop does not allocate and asks for the time only when a timer may be due (every CLOCK_EVERY exits, after a
 * budget or kick exit, and when a timer was changed).
 */
import { VMEXIT } from '../accel/accelerator.ts';
import { CTX, RFLAGS } from '../memory/vcpu-context.ts';
import { VIRQ_TIMER } from './abi/xen.ts';
import { drainCodeWrites } from './code-writes.ts';
import type { Domain } from './domain.ts';
import type { DomainVcpu } from './domain-vcpu.ts';
import { EMULATED } from './emulate/privileged.ts';
import { hypercall } from './hypercalls/table.ts';
import { REQUEST_PAUSE, STATE, VCPU_STATE, VCPU_UP } from './shared-state.ts';
import { changeRunstate, RUNSTATE } from './time/runstate.ts';
import type { BounceFailure } from './traps/bounce.ts';
import {
  deliverException,
  deliverNoDevice,
  deliverPageFault,
  deliverPending,
  deliverSoftwareInterrupt,
  deliverSyscall,
  deliverSysenter,
  PFEC,
  TRAP,
} from './traps/deliver.ts';
import { loadGuestContext } from './vcpu-bringup.ts';

/** Why `runVcpu` came back: the domain ended, or its owner asked for a pause or the end of the thread. */
export type RunEnd = 'ended' | 'paused' | 'stopped';

/** Instructions in one run while no timer is near. */
const MAX_BUDGET = 500_000;
const MIN_BUDGET = 2_000;
/** Guest instructions per nanosecond assumed for budgets. */
const RATE = 0.05;
const CLOCK_EVERY = 32;
/** How long a vCPU that yields lets others work. */
const YIELD_MS = 0.05;
const SHUTDOWN_watchdog = 4;
const DR6_BS = 1 << 14;

export function runVcpu(d: Domain): RunEnd {
  const dv = d.vcpu;
  let exits = 0;
  let budget = MAX_BUDGET;
  let clockDue = true;
  let kicked = true;
  for (;;) {
    if (d.takeKick() || kicked) {
      kicked = false;
      const request = d.state.get(STATE.request);
      if (request !== 0) return (request & REQUEST_PAUSE) !== 0 && (request & ~REQUEST_PAUSE) === 0 ? 'paused' : 'stopped';
      drainCodeWrites(d.state, dv.vcpu);
      d.events.delivery.drain(dv.id);
      d.takeAreas(dv);
      if (dv.pollCount !== 0) unblock(d, dv);
      clockDue = true;
    }
    if (d.ended) return 'ended';
    if ((d.state.getVcpu(dv.id, VCPU_STATE.flags) & VCPU_UP) === 0) {
      goOffline(d, dv);
      continue;
    }
    if (d.state.getVcpu(dv.id, VCPU_STATE.runstate) === RUNSTATE.offline) comeUp(d, dv);
    if (d.ended) return 'ended';
    if (clockDue || dv.timersChanged) {
      budget = serveTimers(d, dv);
      clockDue = false;
      if (d.ended) return 'ended';
    }
    if (dv.blocked && !wakes(d, dv)) {
      sleep(d, dv);
      clockDue = true;
      continue;
    }
    if (dv.yielded) {
      dv.yielded = false;
      d.wait(YIELD_MS);
      clockDue = true;
    }
    const refused = deliverPending(dv);
    if (refused !== null) {
      d.crash(refused);
      return 'ended';
    }
    const reason = dv.vcpu.run(budget);
    dv.stats.exits[reason]++;
    exits++;
    const failure = handleExit(d, dv, reason);
    if (failure !== null) d.crash(failure);
    kicked = reason === VMEXIT.kick;
    clockDue = reason === VMEXIT.budget || kicked || exits % CLOCK_EVERY === 0;
  }
}

/** Serves one exit. Null, or why the domain has to end. */
export function handleExit(d: Domain, dv: DomainVcpu, reason: number): BounceFailure {
  const ctx = dv.ctx;
  switch (reason) {
    case VMEXIT.budget:
    case VMEXIT.kick:
      return null;
    case VMEXIT.syscall:
      if (dv.inKernelMode) return hypercall(d, dv);
      dv.stats.syscalls++;
      return deliverSyscall(dv);
    case VMEXIT.exception:
      return handleException(d, dv, ctx.u32(CTX.exitVector));
    case VMEXIT.softwareInterrupt:
      return deliverSoftwareInterrupt(dv, ctx.u32(CTX.exitVector) & 0xff, ctx.u32(CTX.exitLength));
    case VMEXIT.sysenter:
      return deliverSysenter(dv);
    case VMEXIT.halt:
      return deliverException(dv, TRAP.gpFault, 0);
    default:
      return 'the engine cannot continue from this state';
  }
}

function handleException(d: Domain, dv: DomainVcpu, vector: number): BounceFailure {
  const ctx = dv.ctx;
  const error = ctx.u32(CTX.exitHasError) !== 0 ? ctx.u32(CTX.exitError) : -1;
  if (vector < dv.stats.exceptions.length) dv.stats.exceptions[vector]++;
  switch (vector) {
    case TRAP.pageFault:
      return handlePageFault(d, dv, error);
    case TRAP.gpFault:
      if (error === 0) {
        const result = d.emulator.emulate(dv);
        if (result === EMULATED.done) {
          dv.stats.emulated++;
          return singleStep(dv);
        }
        if (result === EMULATED.restart) return null;
        if (result === EMULATED.pageFault) return deliverPageFault(dv, ctx.lo(CTX.cr2), ctx.hi(CTX.cr2), ctx.u32(CTX.exitError));
      }
      return deliverException(dv, vector, Math.max(error, 0));
    case TRAP.invalidOp:
      if (d.emulator.emulateForced(dv)) {
        dv.stats.emulated++;
        return singleStep(dv);
      }
      return deliverException(dv, vector, -1);
    case TRAP.noDevice:
      return deliverNoDevice(dv);
    default:
      return vector < 32 ? deliverException(dv, vector, error) : 'the engine reported an impossible exception';
  }
}

function handlePageFault(d: Domain, dv: DomainVcpu, error: number): BounceFailure {
  const ctx = dv.ctx;
  const lo = ctx.lo(CTX.cr2);
  const hi = ctx.hi(CTX.cr2);
  const wanted = PFEC.present | PFEC.write;
  if ((error & (wanted | PFEC.reserved | PFEC.fetch)) === wanted && dv.inKernelMode && d.mmu.tryPtwr(dv, ctx.num(CTX.cr2), error)) {
    dv.stats.ptwr++;
    return null;
  }
  return deliverPageFault(dv, lo, hi, error);
}

/** An emulated instruction under TF traps like any other. */
function singleStep(dv: DomainVcpu): BounceFailure {
  if ((dv.ctx.rflags & RFLAGS.TF) === 0) return null;
  dv.ctx.setLoHi(CTX.dr + 48, dv.ctx.lo(CTX.dr + 48) | DR6_BS, 0);
  return deliverException(dv, TRAP.debug, -1);
}

/** Raises what has expired; the number of instructions until the next look at the clock. */
function serveTimers(d: Domain, dv: DomainVcpu): number {
  const now = d.time.now();
  dv.timersChanged = false;
  if (dv.timers.expire(now)) d.events.sendVirq(dv.id, VIRQ_TIMER);
  if (d.watchdogs.deadline <= now) d.shutdown(SHUTDOWN_watchdog);
  if (dv.blocked && dv.pollDeadline <= now) unblock(d, dv);
  const left = nextDeadline(d, dv) - now;
  return Math.max(MIN_BUDGET, Math.min(MAX_BUDGET, Math.floor(left * RATE)));
}

function nextDeadline(d: Domain, dv: DomainVcpu): number {
  const timers = Math.min(dv.timers.deadline, d.watchdogs.deadline);
  return dv.blocked ? Math.min(timers, dv.pollDeadline) : timers;
}

/** Does something end a SCHEDOP_block or SCHEDOP_poll? */
function wakes(d: Domain, dv: DomainVcpu): boolean {
  let wake = dv.eventDeliverable || (d.state.getVcpu(dv.id, VCPU_STATE.nmiPending) !== 0 && !dv.nmiMasked);
  for (let i = 0; !wake && i < dv.pollCount; i++) wake = dv.pollPorts[i] !== 0 && d.events.delivery.isPending(dv.pollPorts[i]);
  if (wake) unblock(d, dv);
  return wake;
}

function unblock(d: Domain, dv: DomainVcpu): void {
  dv.blocked = false;
  if (dv.pollCount !== 0) setPolling(d, dv, false);
  dv.pollCount = 0;
  dv.pollDeadline = Number.POSITIVE_INFINITY;
  if (d.state.getVcpu(dv.id, VCPU_STATE.runstate) === RUNSTATE.running) return;
  changeRunstate(d.state, dv.id, RUNSTATE.running, d.time.now());
  d.writeRunstateArea(dv);
}

/** Sleeps until a kick or the next deadline; the loop looks again afterwards. */
function sleep(d: Domain, dv: DomainVcpu): void {
  if (d.state.getVcpu(dv.id, VCPU_STATE.runstate) === RUNSTATE.running) {
    dv.stats.blocks++;
    changeRunstate(d.state, dv.id, RUNSTATE.blocked, d.time.now());
    d.writeRunstateArea(dv);
    if (dv.pollCount !== 0) setPolling(d, dv, true);
  }
  const left = nextDeadline(d, dv) - d.time.now();
  if (left > 0) d.wait(left === Number.POSITIVE_INFINITY ? Number.POSITIVE_INFINITY : Math.min(left / 1e6, MAX_WAIT_MS));
}

/** A sleep is cut into pieces of at most a day, which every host's timers can express. */
const MAX_WAIT_MS = 86_400_000;

function setPolling(d: Domain, dv: DomainVcpu, on: boolean): void {
  const word = d.state.vcpuWord(dv.id, VCPU_STATE.polling);
  if (Atomics.exchange(d.state.i32, word, on ? 1 : 0) === (on ? 1 : 0)) return;
  Atomics.add(d.state.i32, d.state.word(STATE.pollers), on ? 1 : -1);
}

/** A vCPU that is not up sleeps until somebody kicks it. */
function goOffline(d: Domain, dv: DomainVcpu): void {
  if (d.state.getVcpu(dv.id, VCPU_STATE.runstate) !== RUNSTATE.offline) changeRunstate(d.state, dv.id, RUNSTATE.offline, d.time.now());
  d.wait(Number.POSITIVE_INFINITY);
}

/** The start of vCPU 0, and VCPUOP_up: the first time, a further vCPU loads the context it was initialised with. */
function comeUp(d: Domain, dv: DomainVcpu): void {
  const now = d.time.now();
  changeRunstate(d.state, dv.id, RUNSTATE.running, now);
  if (dv.timers.periodNs !== 0) dv.timers.setPeriodic(dv.timers.periodNs, now);
  if (dv.kernelRoot !== -1) return;
  const failure = loadGuestContext(d, dv);
  if (failure !== null) d.crash(failure);
}
