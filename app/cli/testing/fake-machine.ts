// SPDX-License-Identifier: Apache-2.0
/** A machine without a guest: tests print on its console, read what was typed, and say how it ends. */
import { err, ok, type Result } from '../../base/result.ts';
import type { ConsoleAttachment, ConsoleSink, MachineEnd, MachineStats } from '../../engine/index.ts';
import type { CliMachine, ConsolePort } from '../host.ts';

export class FakeConsole implements ConsolePort {
  /** Everything typed so far. */
  typed = '';
  /** Bytes that `input` still takes. */
  room = Number.POSITIVE_INFINITY;
  #sink: ConsoleSink | null = null;
  #full = false;
  #waiting: Uint8Array[] = [];
  #printed: Uint8Array[] = [];
  #whenDrained: (() => void)[] = [];

  /** What the guest could not print yet because the sink is full. */
  get heldUpBytes(): number {
    return this.#waiting.reduce((total, bytes) => total + bytes.length, 0);
  }

  print(text: string | Uint8Array): void {
    const bytes = typeof text === 'string' ? new TextEncoder().encode(text) : text;
    this.#waiting.push(bytes);
    this.#pump();
  }

  attach(sink: ConsoleSink): ConsoleAttachment {
    this.#sink = sink;
    this.#full = false;
    return {
      drained: () => {
        this.#full = false;
        this.#pump();
      },
      missedBytes: 0,
      detach: () => {
        this.#sink = null;
      },
    };
  }

  input(bytes: Uint8Array): number {
    const count = Math.min(bytes.length, this.room);
    this.room -= count;
    this.typed += new TextDecoder('latin1').decode(bytes.subarray(0, count));
    return count;
  }

  onInputDrained(callback: () => void): void {
    this.#whenDrained.push(callback);
  }

  /** The guest has read what was typed. */
  drainInput(room: number): void {
    this.room = room;
    for (const callback of this.#whenDrained.splice(0)) callback();
  }

  scrollback(): Uint8Array {
    return Buffer.concat(this.#printed);
  }

  /** Hands over what is left, to a full sink too. */
  close(): void {
    for (const bytes of this.#waiting.splice(0)) this.#deliver(bytes);
    this.#sink = null;
  }

  #pump(): void {
    while (this.#sink !== null && !this.#full) {
      const bytes = this.#waiting.shift();
      if (bytes === undefined) return;
      this.#deliver(bytes);
    }
  }

  #deliver(bytes: Uint8Array): void {
    this.#printed.push(bytes);
    if (this.#sink?.write(bytes) === false) this.#full = true;
  }
}

const STATS: MachineStats = {
  wallSeconds: 2,
  secondsToFirstConsoleByte: 0.25,
  instructions: 150_000_000,
  instructionsPerSecond: 75_000_000,
  exits: { hypercall: 7 },
  hypercalls: { sched_op: 5 },
  exceptions: {},
  cpu: {},
  memory: {},
};

export class FakeMachine implements CliMachine {
  readonly console = new FakeConsole();
  readonly ended: Promise<MachineEnd>;
  /** `start`, `stop`, `close` and requests, in order. */
  readonly calls: string[] = [];
  /** Whether the guest knows `control/shutdown` and SysRq. */
  listens = true;
  /** `stop` ends the machine. */
  obedient = true;
  acknowledge: () => void = () => {};
  #finish: (end: MachineEnd) => void = () => {};

  constructor() {
    this.ended = new Promise((resolve) => {
      this.#finish = resolve;
    });
  }

  end(end: MachineEnd): void {
    this.#finish(end);
  }

  start(): void {
    this.calls.push('start');
  }

  stop(): void {
    this.calls.push('stop');
    if (this.obedient) this.#finish({ kind: 'stopped' });
  }

  requestShutdown(reason: string, onAcknowledged: () => void): Result<() => void, { kind: 'busy'; message: string }> {
    if (!this.listens) return err({ kind: 'busy', message: 'The guest has not answered an earlier request yet.' });
    this.calls.push(`shutdown ${reason}`);
    this.acknowledge = onAcknowledged;
    return ok(() => {});
  }

  sendSysrq(key: string): Result<void, { kind: 'no-domain'; message: string }> {
    if (!this.listens) return err({ kind: 'no-domain', message: 'There is no domain 1.' });
    this.calls.push(`sysrq ${key}`);
    return ok(undefined);
  }

  stats(): MachineStats {
    return STATS;
  }

  async close(): Promise<void> {
    this.console.close();
    this.calls.push('close');
  }
}
