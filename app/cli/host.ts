// SPDX-License-Identifier: Apache-2.0
/**
 * What the commands use of the process around them, as one object, so that tests run a whole command without a terminal, a guest, or
 * real signals. `main.ts` holds the real one.
 */
import type { Readable, Writable } from 'node:stream';
import type { Result } from '../base/result.ts';
import type { Decompressors, Log, Machine, MachineConfig, MachineError, PvConsole } from '../engine/index.ts';

/** Standard input; a terminal has `isTTY` and `setRawMode`. */
export interface InputStream extends Readable {
  readonly isTTY?: boolean;
  setRawMode?(raw: boolean): unknown;
}

/** Standard output or error; a terminal has `isTTY` and its size. */
export interface OutputStream extends Writable {
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly rows?: number;
}

export interface Signals {
  on(signal: NodeJS.Signals, handler: () => void): unknown;
  off(signal: NodeJS.Signals, handler: () => void): unknown;
}

export type ConsolePort = Pick<PvConsole, 'attach' | 'input' | 'onInputDrained' | 'scrollback'>;

/** The part of a machine that the command line uses. */
export interface CliMachine extends Pick<Machine, 'start' | 'ended' | 'stop' | 'requestShutdown' | 'sendSysrq' | 'stats' | 'close'> {
  readonly console: ConsolePort;
}

export interface CliHost {
  readonly stdin: InputStream;
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  readonly signals: Signals;
  /** Runs when the process exits for a reason that no command sees. */
  onExit(handler: () => void): void;
  /** Stops this process until it is continued, as the default action of SIGTSTP does. */
  suspend(): void;
  /** Makes the terminal of standard input pass output on unchanged too; what it cannot do is no error. */
  passOutputThrough(): void;
  /** Ends the process at once. */
  exit(status: number): void;
  readonly decompressors: Decompressors;
  createMachine(config: MachineConfig, log: Log): Promise<Result<CliMachine, MachineError>>;
}
