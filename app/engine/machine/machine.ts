// SPDX-License-Identifier: Apache-2.0
/**
 * Puts one virtual machine together from its configuration, on the I/O thread: memory, domain builder, xenstore, console, dom0's end of
 * events and grants, and the vCPU threads. Nobody else composes.
 */
import { err, ok, type Result } from '../../base/result.ts';
import { PvConsole } from '../backends/console/index.ts';
import { buildPvDomain, loadKernel, releaseKernel, type StartState } from '../boot/index.ts';
import type { Clock } from '../host/clock.ts';
import type { Decompressors } from '../host/decompress.ts';
import type { Entropy } from '../host/entropy.ts';
import type { Log } from '../host/log.ts';
import type { EngineThread, ThreadHost } from '../host/thread.ts';
import { reportCodeWrites } from '../hypervisor/code-writes.ts';
import { DomainControl } from '../hypervisor/dom0/domain-control.ts';
import { Dom0Events, type Dom0Port } from '../hypervisor/dom0/dom0-events.ts';
import { Dom0Grants } from '../hypervisor/dom0/dom0-grants.ts';
import { EventChannels } from '../hypervisor/events/event-channels.ts';
import { GrantTable } from '../hypervisor/grants/grant-table.ts';
import { PvMmu } from '../hypervisor/mm/pv-mmu.ts';
import { xenFramesNeeded } from '../hypervisor/mm/xen-frames.ts';
import { LIFECYCLE, SharedState, STATE } from '../hypervisor/shared-state.ts';
import { PAGE_SIZE } from '../memory/frames.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import type { MemoryShape } from '../memory/layout.ts';
import { CTX } from '../memory/vcpu-context.ts';
import {
  type ControlError,
  createDomainTree,
  requestShutdown,
  sendSysrq,
  setMemoryTarget,
  type ShutdownReason,
  type XenstoreClient,
  XenstoreServer,
} from '../xenstore/index.ts';
import type { MachineConfig, MachineEnd, MachineError, MachineStats } from './config.ts';
import type { Machine } from './machine-api.ts';
import type { VcpuThreadReport, VcpuThreadStart } from './vcpu-thread.ts';

/** The world, as the machine needs it. */
export interface MachinePorts {
  readonly clock: Clock;
  readonly entropy: Entropy;
  readonly log: Log;
  readonly threads: ThreadHost;
  readonly decompressors: Decompressors;
  /** Runs a task in a later turn of the event loop. */
  readonly soon: (task: () => void) => void;
}

const DOMID = 1;
const DOM0 = 0;
const MIB = 1024 * 1024;
export const MIN_MEMORY_MIB = 8;
export const MAX_MEMORY_MIB = 3072;
const GRANT_CONSOLE = 0;
const GRANT_XENSTORE = 1;
const MAX_PORTS = 4096;

function configurationError(message: string): Result<never, MachineError> {
  return err({ kind: 'configuration', message });
}

/** Builds a machine, ready to start. */
export async function createMachine(config: MachineConfig, ports: MachinePorts): Promise<Result<Machine, MachineError>> {
  if (config.vcpus !== 1) return configurationError(`${config.vcpus} vCPUs are not possible yet; use 1`);
  if (!(Number.isInteger(config.memoryMib) && config.memoryMib >= MIN_MEMORY_MIB && config.memoryMib <= MAX_MEMORY_MIB)) {
    return configurationError(`${config.memoryMib} MiB of memory are not possible; choose ${MIN_MEMORY_MIB} to ${MAX_MEMORY_MIB}`);
  }
  const kernel = await loadKernel(config.kernel, ports.decompressors);
  if (!kernel.ok) return err({ kind: 'image', message: kernel.error.message, cause: kernel.error });

  const guestFrames = (config.memoryMib * MIB) / PAGE_SIZE;
  const shape: MemoryShape = { guestFrames, xenFrames: xenFramesNeeded(guestFrames, config.vcpus), vcpus: config.vcpus };
  let memory: GuestMemory;
  try {
    memory = new GuestMemory(shape);
  } catch (error) {
    return err({
      kind: 'host',
      message: `this computer cannot give the machine ${config.memoryMib} MiB of memory (${String(error)}); use less`,
    });
  }
  const mmu = new PvMmu({ memory, domId: DOMID });
  const state = new SharedState(memory);
  state.initialise({ domid: DOMID, maxPorts: MAX_PORTS, startNs: ports.clock.nowNs() }, mmu.xenFrames);
  const events = new EventChannels(state, -1, mmu);
  const storeEvtchn = events.allocUnbound(DOMID, DOM0);
  const consoleEvtchn = events.allocUnbound(DOMID, DOM0);
  const built = buildPvDomain(
    memory,
    { commandLine: config.commandLine, sharedInfo: state.sharedInfoFrame, storeEvtchn, consoleEvtchn },
    kernel.value,
    config.initrd,
  );
  releaseKernel(kernel.value);
  if (!built.ok) return err({ kind: 'image', message: built.error.message, cause: built.error });
  return ok(new PvMachine(config, ports, { shape, memory, mmu, state, events, start: built.value, storeEvtchn, consoleEvtchn }));
}

interface Parts {
  readonly shape: MemoryShape;
  readonly memory: GuestMemory;
  readonly mmu: PvMmu;
  readonly state: SharedState;
  readonly events: EventChannels;
  readonly start: StartState;
  readonly storeEvtchn: number;
  readonly consoleEvtchn: number;
}

class PvMachine implements Machine {
  readonly domid = DOMID;
  readonly console: PvConsole;
  readonly xenstore: XenstoreClient;
  readonly ended: Promise<MachineEnd>;
  readonly #config: MachineConfig;
  readonly #ports: MachinePorts;
  readonly #parts: Parts;
  readonly #store: XenstoreServer;
  readonly #dom0: Dom0Events;
  readonly #control: DomainControl;
  readonly #uuid = new Uint8Array(16);
  readonly #threads: EngineThread[] = [];
  readonly #reports: VcpuThreadReport[] = [];
  #finish: (end: MachineEnd) => void = () => {};
  #startedNs = 0;
  #endedNs = 0;
  #firstByteNs = 0;
  #stopping = false;
  #onSuspended: (() => void) | null = null;
  #resumeSuspended: (() => void) | null = null;

  constructor(config: MachineConfig, ports: MachinePorts, parts: Parts) {
    this.#config = config;
    this.#ports = ports;
    this.#parts = parts;
    const { state, memory, mmu, events, start } = parts;
    this.ended = new Promise((resolve) => {
      this.#finish = resolve;
    });
    ports.entropy.fill(this.#uuid);
    reportCodeWrites(state);
    const grants = new GrantTable(state);
    grants.grant(GRANT_CONSOLE, DOM0, start.consoleRing);
    grants.grant(GRANT_XENSTORE, DOM0, start.xenstoreRing);
    const log = ports.log;
    this.#dom0 = new Dom0Events(state, events, (error) => log.write('error', 'a backend failed', { error: String(error) }));
    this.#control = new DomainControl(state);
    this.grants = new Dom0Grants(state, grants, mmu);

    const consolePort = this.#bind(parts.consoleEvtchn);
    this.console = new PvConsole({
      page: memory.frame(start.consoleRing),
      notify: () => consolePort.notify(),
      tasks: { soon: ports.soon },
    });
    consolePort.onEvent(() => this.#consoleEvent());
    mmu.holdFrame(start.consoleRing, true);
    mmu.holdFrame(start.xenstoreRing, true);

    this.#store = new XenstoreServer({ log, soon: ports.soon });
    this.xenstore = this.#store.client('toolstack');
    this.#writeTree();
    const storePort = this.#bind(parts.storeEvtchn);
    const connection = this.#store.introduceDomain(DOMID, { page: memory.frame(start.xenstoreRing), notify: () => storePort.notify() });
    storePort.onEvent(() => connection.pump());
  }

  /** Dom0's grants, for backends. */
  readonly grants: Dom0Grants;

  #bind(port: number): Dom0Port {
    const bound = this.#dom0.bindInterdomain(DOMID, port);
    if (!bound) throw new Error(`event channel ${port} of a new domain cannot be bound`);
    return bound;
  }

  #writeTree(): void {
    const kib = this.#config.memoryMib * 1024;
    const { start, storeEvtchn, consoleEvtchn } = this.#parts;
    const written = createDomainTree(this.xenstore, {
      domid: DOMID,
      name: this.#config.name,
      uuid: uuidText(this.#uuid),
      type: 'pv',
      memoryTargetKib: kib,
      memoryMaxKib: kib,
      vcpus: Array.from({ length: this.#config.vcpus }, () => true),
      store: { ringRef: start.xenstoreRing, port: storeEvtchn },
      console: { ringRef: start.consoleRing, port: consoleEvtchn },
      image: { cmdline: this.#config.commandLine },
    });
    if (!written.ok) throw new Error('the store refuses the tree of a new domain');
  }

  #consoleEvent(): void {
    if (this.#firstByteNs === 0) this.#firstByteNs = this.#ports.clock.nowNs();
    this.console.pump();
  }

  start(): void {
    const { state, memory, shape, start } = this.#parts;
    this.#startedNs = this.#ports.clock.nowNs();
    state.set(STATE.lifecycle, LIFECYCLE.running);
    this.#dom0.start();
    const data: VcpuThreadStart = {
      memory: memory.memory,
      shape,
      vcpuId: 0,
      domid: DOMID,
      uuid: this.#uuid,
      accel: this.#config.accel,
      registers: start.registers,
      root: start.root,
    };
    this.#threads.push(this.#ports.threads.startVcpu(data, (bytes) => this.console.earlyOutput(bytes)));
    void this.#watch();
    void this.#watchSuspends();
  }

  /** Waits for the threads, then says how it ended. */
  async #watch(): Promise<void> {
    let end: MachineEnd;
    try {
      for (const thread of this.#threads) this.#reports.push((await thread.done) as VcpuThreadReport);
      end = this.#describeEnd();
    } catch (error) {
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
      end = this.#stopping ? { kind: 'stopped' } : { kind: 'engine-fault', report: text.split('\n') };
    }
    this.#endedNs = this.#ports.clock.nowNs();
    // What the guest printed last is still in its ring.
    this.#dom0.dispatch();
    this.console.pump();
    this.#dom0.stop();
    this.#store.domainShutdown(DOMID);
    this.#finish(end);
  }

  /** A suspended domain's threads wait: for its listener to have it resumed or stopped, or to be told to end at once. */
  async #watchSuspends(): Promise<void> {
    for (;;) {
      await this.#control.ended();
      if (!this.#control.suspended) return;
      if (this.#onSuspended === null) {
        this.#control.stop();
        return;
      }
      const resumed = new Promise<void>((resolve) => {
        this.#resumeSuspended = resolve;
      });
      this.#onSuspended();
      await resumed;
      await this.#control.continueSuspended();
    }
  }

  #describeEnd(): MachineEnd {
    const end = this.#control.end;
    if (end === null) return { kind: 'stopped' };
    if (end.kind === 'crashed') return { kind: 'crashed', report: end.report };
    switch (end.reason) {
      case 'poweroff':
      case 'reboot':
      case 'suspend':
        return { kind: end.reason };
      case 'soft_reset':
        return { kind: 'reboot' };
      default:
        return { kind: 'crashed', report: [`the guest ended with ${end.reason}`] };
    }
  }

  stop(): void {
    this.#stopping = true;
    this.#control.stop();
  }
  pause(): void {
    this.#control.pause();
  }
  resume(): void {
    this.#control.resume();
    this.#parts.state.kickAll();
  }
  requestShutdown(reason: ShutdownReason, onAcknowledged: () => void): Result<() => void, ControlError> {
    return requestShutdown(this.xenstore, DOMID, reason, onAcknowledged);
  }
  onSuspended(listener: () => void): void {
    this.#onSuspended = listener;
  }
  resumeAfterSuspend(): boolean {
    const resume = this.#resumeSuspended;
    this.#resumeSuspended = null;
    resume?.();
    return resume !== null;
  }
  sendSysrq(key: string): Result<void, ControlError> {
    return sendSysrq(this.xenstore, DOMID, key);
  }
  setMemoryTarget(mib: number): Result<void, ControlError> {
    return setMemoryTarget(this.xenstore, DOMID, mib * 1024);
  }

  stats(): MachineStats {
    const now = this.#endedNs || this.#ports.clock.nowNs();
    const wallSeconds = this.#startedNs === 0 ? 0 : (now - this.#startedNs) / 1e9;
    const context = this.#parts.state.contexts[0];
    const instructions = context.num(CTX.instructions);
    const report = this.#reports[0];
    return {
      wallSeconds,
      secondsToFirstConsoleByte: this.#firstByteNs === 0 ? null : (this.#firstByteNs - this.#startedNs) / 1e9,
      instructions,
      instructionsPerSecond: wallSeconds > 0 ? Math.round(instructions / wallSeconds) : 0,
      exits: report?.stats.exits ?? {},
      hypercalls: report?.stats.hypercalls ?? {},
      exceptions: report?.stats.exceptions ?? {},
      cpu: {
        ...report?.cpu,
        tlbMisses: context.num(CTX.tlbMisses),
        ...(report
          ? {
              emulated: report.stats.emulated,
              syscalls: report.stats.syscalls,
              ptwr: report.stats.ptwr,
              upcalls: report.stats.upcalls,
              blocks: report.stats.blocks,
            }
          : {}),
      },
      memory: report?.memory ?? {},
    };
  }

  async close(): Promise<void> {
    this.#dom0.stop();
    this.console.close();
    for (const thread of this.#threads) await thread.terminate();
  }
}

function uuidText(bytes: Uint8Array): string {
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}
