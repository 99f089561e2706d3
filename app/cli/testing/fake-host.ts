// SPDX-License-Identifier: Apache-2.0
/** A process around a command that exists in the test only: streams in memory, signals by call, machines without guests. */
import { EventEmitter } from 'node:events';
import { PassThrough, Writable } from 'node:stream';
import { ok, type Result } from '../../base/result.ts';
import type { MachineConfig, MachineError } from '../../engine/index.ts';
import { nodeDecompressors } from '../../node/decompress.ts';
import type { CliHost, CliMachine, OutputStream } from '../host.ts';
import { FakeMachine } from './fake-machine.ts';

/** Takes what is written; `stuck` keeps writes from finishing until `unstick`. */
export class FakeOutput extends Writable implements OutputStream {
  text = '';
  readonly isTTY: boolean;
  readonly columns?: number;
  readonly rows?: number;
  stuck = false;
  #waiting: (() => void) | null = null;

  constructor(terminal: boolean) {
    super({ highWaterMark: 1024 });
    this.isTTY = terminal;
    if (terminal) {
      this.columns = 100;
      this.rows = 40;
    }
  }

  override _write(chunk: Uint8Array, _encoding: string, done: () => void): void {
    this.text += new TextDecoder('latin1').decode(chunk);
    if (this.stuck) this.#waiting = done;
    else done();
  }

  unstick(): void {
    this.stuck = false;
    this.#waiting?.();
  }
}

export class FakeInput extends PassThrough {
  readonly isTTY: boolean;
  outputUnchanged = false;
  /** Every mode that was set. */
  readonly modes: boolean[] = [];

  constructor(terminal: boolean) {
    super();
    this.isTTY = terminal;
  }

  get raw(): boolean {
    return this.modes.at(-1) ?? false;
  }

  setRawMode(raw: boolean): void {
    this.modes.push(raw);
  }
}

export class FakeHost implements CliHost {
  readonly stdin: FakeInput;
  readonly stdout: FakeOutput;
  readonly stderr: FakeOutput;
  readonly signals = new EventEmitter();
  readonly decompressors = nodeDecompressors;
  readonly machines: FakeMachine[] = [];
  readonly configs: MachineConfig[] = [];
  readonly exits: number[] = [];
  suspended = 0;
  /** What `createMachine` answers instead of a machine. */
  refusal: MachineError | null = null;
  readonly #exitHandlers: (() => void)[] = [];
  #created: (() => void)[] = [];

  constructor(terminal = false) {
    this.stdin = new FakeInput(terminal);
    this.stdout = new FakeOutput(terminal);
    this.stderr = new FakeOutput(terminal);
  }

  onExit(handler: () => void): void {
    this.#exitHandlers.push(handler);
  }

  /** The process exits without any command's doing. */
  exitSuddenly(): void {
    for (const handler of this.#exitHandlers) handler();
  }

  suspend(): void {
    this.suspended++;
  }

  passOutputThrough(): void {
    this.stdin.outputUnchanged = true;
  }

  exit(status: number): void {
    this.exits.push(status);
  }

  async createMachine(config: MachineConfig): Promise<Result<CliMachine, MachineError>> {
    this.configs.push(config);
    if (this.refusal !== null) return { ok: false, error: this.refusal };
    const machine = new FakeMachine();
    this.machines.push(machine);
    for (const created of this.#created.splice(0)) created();
    return ok(machine);
  }

  /** The machine number `index`, as soon as it runs. */
  async machine(index = 0): Promise<FakeMachine> {
    while (this.machines.length <= index) await new Promise<void>((resolve) => this.#created.push(resolve));
    const machine = this.machines[index];
    while (!machine.calls.includes('start')) await turn();
    return machine;
  }
}

/** Lets everything run that is ready to. */
export async function turn(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}
