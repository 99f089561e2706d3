// SPDX-License-Identifier: Apache-2.0
/**
 * A vCPU on the caller's own thread, so that a fuzzer can look at the hypervisor between two pieces of guest execution: a `ThreadHost`
 * for `createMachine`, one vCPU.
 *
 * The guest runs in slices; between them the event loop gets its turn, for dom0's side of the machine.
 */
import type { Domain } from '../engine/hypervisor/domain.ts';
import type { PvMmu } from '../engine/hypervisor/mm/pv-mmu.ts';
import { runVcpu } from '../engine/hypervisor/run-loop.ts';
import { REQUEST_PAUSE, REQUEST_STOP, type SharedState, STATE } from '../engine/hypervisor/shared-state.ts';
import type { Clock, ThreadHost, VcpuThreadReport, VcpuThreadStart } from '../engine/index.ts';
import { attachVcpu } from '../engine/machine/vcpu-thread.ts';
import { CTX } from '../engine/memory/vcpu-context.ts';

/** Looks at a domain that stands still. Text: what is wrong; the run ends with it as its error. */
export type Inspector = (domain: Domain, mmu: PvMmu, ended: boolean) => string | null;

/** Guest execution between two turns of the event loop. */
const SLICE_NS = 5e6;
/** The longest sleep without a look around. */
const MAX_SLEEP_MS = 50;

/** The run loop asks for the time often enough for a slice to be ended by it. */
class SliceClock implements Clock {
  state: SharedState | null = null;
  #real: Clock;
  #end = 0;
  #sleepUntil = 0;

  constructor(real: Clock) {
    this.#real = real;
  }
  wallClock(): { seconds: number; nanoseconds: number } {
    return this.#real.wallClock();
  }
  nowNs(): number {
    const now = this.#real.nowNs();
    if (now >= this.#end) this.#endSlice();
    return now;
  }
  start(): void {
    this.#sleepUntil = 0;
    this.#end = this.#real.nowNs() + SLICE_NS;
  }
  sleep(timeoutMs: number): void {
    this.#sleepUntil = this.#real.nowNs() + Math.min(timeoutMs, MAX_SLEEP_MS) * 1e6;
    this.#endSlice();
  }
  get asleep(): boolean {
    return this.#sleepUntil > this.#real.nowNs();
  }
  #endSlice(): void {
    const { state } = this;
    if (state === null) return;
    Atomics.or(state.i32, state.word(STATE.request), REQUEST_PAUSE);
    state.kickAll();
  }
}

export function inProcessVcpu(clock: Clock, inspect: Inspector): ThreadHost {
  return {
    startVcpu: (data, onConsoleIo) => ({
      done: run(data as VcpuThreadStart, new SliceClock(clock), inspect, onConsoleIo),
      terminate: async () => {},
    }),
  };
}

async function run(
  start: VcpuThreadStart,
  clock: SliceClock,
  inspect: Inspector,
  onConsoleIo: (bytes: Uint8Array) => void,
): Promise<VcpuThreadReport> {
  const { domain, mmu } = attachVcpu(start, { clock, onConsoleIo, wait: (_context, timeoutMs) => clock.sleep(timeoutMs) });
  const { state, vcpu } = domain;
  clock.state = state;
  for (let ended = false; !ended; ) {
    clock.start();
    ended = runVcpu(domain) !== 'paused';
    const request = Atomics.and(state.i32, state.word(STATE.request), ~REQUEST_PAUSE);
    ended ||= (request & REQUEST_STOP) !== 0;
    const problem = inspect(domain, mmu, ended);
    if (problem !== null) throw new Error(problem);
    do await new Promise<void>((resolve) => void setImmediate(resolve));
    while (!ended && clock.asleep && vcpu.ctx.u32(CTX.kick) === 0);
  }
  return { stats: vcpu.stats.report(), cpu: vcpu.vcpu.counters(), memory: mmu.counters() };
}
