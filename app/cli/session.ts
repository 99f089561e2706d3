// SPDX-License-Identifier: Apache-2.0
/**
 * One guest from its first instruction to its last, resets included, with its console on standard input and output (or a file, or nothing).
 *
 * Whatever ends it first wins: the guest, the user (menu), a signal, the time limit, a reader of the output that went away. INVARIANT: when
 * `runSession` has resolved or thrown, the terminal is as it was, no handler of its own is left, and the machine is closed.
 */
import type { Writable } from 'node:stream';
import type { Result } from '../base/result.ts';
import type { Log, MachineConfig, MachineEnd, MachineError, MachineStats } from '../engine/index.ts';
import { ConsoleInput } from './console-input.ts';
import { ConsoleOutput } from './console-output.ts';
import { crashLines } from './crash-report.ts';
import type { CliHost, CliMachine } from './host.ts';
import { Menu } from './menu.ts';
import { withProgress } from './progress.ts';
import { Screen } from './screen.ts';
import { signalStatus, STATUS } from './status.ts';
import { Terminal } from './terminal.ts';

export interface SessionOptions {
  readonly config: MachineConfig;
  /** A stream takes the output and gives no input. */
  readonly console: 'stdio' | 'none' | Writable;
  readonly timeoutMs: number | null;
  /** Start the guest again when it asks for a reboot. */
  readonly reboot: boolean;
  /** The engine's debug and info messages too. */
  readonly verbose: boolean;
  /** What stands before the sentence about an image that does not boot. */
  readonly describeError: (error: MachineError) => string;
}

export interface SessionResult {
  readonly status: number;
  /** Of the last machine; null when none was made. */
  readonly stats: MachineStats | null;
  /** In one word, for `--stats`. */
  readonly end: string;
  /** The output stands at the start of a line. */
  readonly endsLine: boolean;
}

type Interruption =
  | { readonly kind: 'quit' | 'reset' | 'timeout' }
  | { readonly kind: 'signal'; readonly signal: NodeJS.Signals }
  | { readonly kind: 'output-broken'; readonly error: NodeJS.ErrnoException };

type Outcome = { readonly kind: 'ended'; readonly end: MachineEnd } | Interruption;

const SIGNALS: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'];
/** How long a machine may take to stop before its threads are ended. */
const STOP_MS = 2000;
/** How long output may take to leave after a time-out or a signal, when its reader is slow. */
const LAST_OUTPUT_MS = 2000;

export async function runSession(host: CliHost, options: SessionOptions): Promise<SessionResult> {
  const session = new Session(host, options);
  try {
    return await session.run();
  } finally {
    session.dispose();
  }
}

class Session {
  readonly #host: CliHost;
  readonly #options: SessionOptions;
  readonly #screen: Screen;
  readonly #terminal: Terminal;
  readonly #output: ConsoleOutput | null;
  readonly #input: ConsoleInput | null;
  readonly #cleanups: (() => void)[] = [];
  #machine: CliMachine | null = null;
  #pending: Interruption | null = null;
  #interrupt: (interruption: Interruption) => void = () => {};

  constructor(host: CliHost, options: SessionOptions) {
    this.#host = host;
    this.#options = options;
    const stdio = options.console === 'stdio';
    this.#screen = new Screen(host.stderr, stdio && host.stdout.isTTY === true);
    this.#terminal = new Terminal(host);
    const stream = stdio ? host.stdout : options.console === 'none' ? null : options.console;
    this.#output =
      stream === null
        ? null
        : new ConsoleOutput(stream, stdio ? this.#screen : null, (error) => this.#raise({ kind: 'output-broken', error }));
    this.#input = stdio ? new ConsoleInput(host.stdin, (event) => menu.handle(event)) : null;
    const menu = new Menu(this.#screen, host.stdout, {
      machine: () => this.#machine,
      type: (bytes) => this.#input?.type(bytes),
      holdOutput: () => this.#output?.hold(),
      releaseOutput: () => this.#output?.release(),
      quit: () => this.#raise({ kind: 'quit' }),
      reset: () => this.#raise({ kind: 'reset' }),
    });
  }

  async run(): Promise<SessionResult> {
    this.#listen();
    let restarts = 0;
    for (;;) {
      const made = await this.#prepare(restarts === 0);
      if (made === null) return this.#interrupted(this.#pending!, null);
      if (!made.ok) {
        this.#terminal.restore();
        this.#screen.raw = false;
        this.#screen.say(this.#options.describeError(made.error));
        return { status: STATUS.badInput, stats: null, end: 'not-started', endsLine: this.#endsLine };
      }
      const machine = made.value;
      let outcome: Outcome;
      let stats: MachineStats;
      try {
        outcome = await this.#runMachine(machine);
        stats = machine.stats();
      } catch (error) {
        await machine.close();
        throw error;
      }
      await this.#closeMachine(machine, outcome);
      if (outcome.kind === 'reset' || (outcome.kind === 'ended' && outcome.end.kind === 'reboot' && this.#options.reboot)) {
        restarts++;
        this.#screen.say(outcome.kind === 'reset' ? 'the machine was reset' : 'the guest reboots');
        continue;
      }
      return outcome.kind === 'ended' ? this.#ended(outcome.end, machine, stats) : this.#interrupted(outcome, stats);
    }
  }

  dispose(): void {
    this.#input?.stop();
    this.#terminal.restore();
    this.#screen.raw = false;
    for (const cleanup of this.#cleanups) cleanup();
  }

  get #endsLine(): boolean {
    return this.#output?.endsLine ?? true;
  }

  #listen(): void {
    const { signals } = this.#host;
    for (const signal of SIGNALS) {
      let seen = false;
      const handler = (): void => {
        // Whoever asks twice does not want to wait.
        if (seen) {
          this.#terminal.restore();
          this.#host.exit(signalStatus(signal));
          return;
        }
        seen = true;
        this.#raise({ kind: 'signal', signal });
      };
      signals.on(signal, handler);
      this.#cleanups.push(() => signals.off(signal, handler));
    }
    if (this.#options.timeoutMs !== null) {
      const timer = setTimeout(() => this.#raise({ kind: 'timeout' }), this.#options.timeoutMs);
      this.#cleanups.push(() => clearTimeout(timer));
    }
  }

  /** The first interruption that nobody has answered counts; whatever ends the machine for good counts more than a reset. */
  #raise(interruption: Interruption): void {
    if (this.#pending !== null && (this.#pending.kind !== 'reset' || interruption.kind === 'reset')) return;
    this.#pending = interruption;
    this.#interrupt(interruption);
  }

  #interruption(): Promise<Interruption> {
    if (this.#pending !== null) return Promise.resolve(this.#pending);
    return new Promise((resolve) => {
      this.#interrupt = resolve;
    });
  }

  /** Makes a machine; null when something came in between. */
  async #prepare(first: boolean): Promise<Result<CliMachine, MachineError> | null> {
    const creating = this.#host.createMachine(this.#options.config, this.#log());
    const work = (): Promise<Result<CliMachine, MachineError> | null> => Promise.race([creating, this.#interruption().then(() => null)]);
    const made = await (first ? withProgress(this.#host.stderr, 'preparing the guest', work) : work());
    if (made !== null && this.#pending === null) return made;
    // A machine that nobody wants any more.
    creating.then(
      (late) => (late.ok ? late.value.close() : undefined),
      () => {},
    );
    return null;
  }

  #log(): Log {
    return {
      write: (level, message, fields) => {
        if (!this.#options.verbose && level !== 'warn' && level !== 'error') return;
        const details = fields === undefined || Object.keys(fields).length === 0 ? '' : ` ${JSON.stringify(fields)}`;
        this.#screen.note(`${level === 'warn' ? 'warning: ' : level === 'error' ? 'error: ' : ''}${message}${details}`);
      },
    };
  }

  /** Runs one machine until it ends or something interrupts it; it has stopped afterwards. */
  async #runMachine(machine: CliMachine): Promise<Outcome> {
    this.#machine = machine;
    if (this.#input !== null) {
      this.#terminal.enterRaw();
      this.#screen.raw = this.#terminal.present;
      this.#input.start();
    }
    this.#output?.connect((sink) => machine.console.attach(sink));
    machine.start();
    this.#input?.connect(machine.console);
    const outcome = await Promise.race([machine.ended.then((end): Outcome => ({ kind: 'ended', end })), this.#interruption()]);
    this.#input?.connect(null);
    this.#machine = null;
    if (outcome.kind !== 'ended') {
      machine.stop();
      await settledWithin(machine.ended, STOP_MS);
    }
    if (outcome.kind === 'reset' && this.#pending?.kind === 'reset') this.#pending = null;
    return outcome;
  }

  async #closeMachine(machine: CliMachine, outcome: Outcome): Promise<void> {
    // The guest's last words: what a held or full output kept in the ring follows when the machine lets go of it.
    this.#screen.closePrompt();
    this.#output?.release();
    await machine.close();
    if (this.#output === null || outcome.kind === 'output-broken') return;
    if (outcome.kind === 'ended' || outcome.kind === 'reset') await Promise.race([this.#output.flush(), this.#interruption()]);
    else await this.#output.flush(LAST_OUTPUT_MS);
  }

  #ended(end: MachineEnd, machine: CliMachine, stats: MachineStats): SessionResult {
    this.#leaveTerminal();
    const result = (status: number): SessionResult => ({ status, stats, end: end.kind, endsLine: this.#endsLine });
    switch (end.kind) {
      case 'poweroff':
      case 'reboot':
      case 'stopped':
        return result(STATUS.ok);
      case 'suspend':
        this.#screen.say('the guest suspended itself; this version cannot keep its state, so the machine has ended');
        return result(STATUS.ok);
      case 'crashed':
        this.#screen.say('the guest crashed');
        this.#screen.lines(crashLines(end.report, machine.console.scrollback()));
        return result(STATUS.guestCrashed);
      case 'engine-fault':
        this.#screen.say('the engine failed; this is a defect of Paravane, not of the guest');
        this.#screen.lines(end.report.map((line) => `  ${line}`));
        return result(STATUS.engineFault);
    }
  }

  #interrupted(cause: Interruption, stats: MachineStats | null): SessionResult {
    this.#leaveTerminal();
    const result = (status: number): SessionResult => ({ status, stats, end: cause.kind, endsLine: this.#endsLine });
    switch (cause.kind) {
      case 'quit':
      case 'reset':
        return result(STATUS.ok);
      case 'timeout':
        this.#screen.say(`time-out: the guest was still running after ${this.#options.timeoutMs! / 1000} s`);
        return result(STATUS.timeOut);
      case 'signal':
        return result(signalStatus(cause.signal));
      case 'output-broken':
        // Like any other program in a pipe whose reader has left: quietly.
        if (cause.error.code !== 'EPIPE') this.#screen.say(`the console's output cannot be written: ${cause.error.message}`);
        return result(cause.error.code === 'EPIPE' ? signalStatus('SIGPIPE') : STATUS.badInput);
    }
  }

  #leaveTerminal(): void {
    this.#terminal.restore();
    this.#screen.raw = false;
    this.#screen.finish();
  }
}

/** Waits for `promise`, but not longer than `withinMs`. */
async function settledWithin(promise: Promise<unknown>, withinMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, withinMs);
  });
  await Promise.race([promise, limit]);
  clearTimeout(timer);
}
