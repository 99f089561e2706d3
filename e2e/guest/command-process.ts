// SPDX-License-Identifier: Apache-2.0
/** The real command as a child process: with pipes, or on a terminal of its own that util-linux's `script` makes. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export const MAIN = fileURLToPath(new URL('../../app/cli/main.ts', import.meta.url));

export class CommandProcess {
  readonly child: ChildProcess;
  output = '';
  errors = '';
  readonly #ended: Promise<number | string>;
  #heard: () => void = () => {};

  constructor(file: string, args: readonly string[]) {
    this.child = spawn(file, args, { stdio: 'pipe' });
    this.child.stdin!.on('error', () => {});
    this.child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      this.output += text;
      this.#heard();
    });
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.errors += text;
    });
    this.#ended = new Promise((resolve, reject) => {
      this.child.on('error', reject).on('close', (status, signal) => {
        resolve(status ?? signal ?? '');
        this.#heard();
      });
    });
  }

  /** Waits for text of the output; throws when the process ends without it. */
  async waitFor(wanted: string | RegExp): Promise<void> {
    let ended = false;
    this.#ended.then(
      () => {
        ended = true;
      },
      () => {},
    );
    while (typeof wanted === 'string' ? !this.output.includes(wanted) : !wanted.test(this.output)) {
      if (ended) throw new Error(`ended without ${wanted}:\n${this.output}\n--- stderr ---\n${this.errors}`);
      await new Promise<void>((resolve) => {
        this.#heard = resolve;
      });
    }
  }

  type(text: string): void {
    this.child.stdin!.write(text);
  }

  /** Exit status, or the name of the signal that ended it. */
  end(): Promise<number | string> {
    return this.#ended;
  }

  kill(): void {
    this.child.kill('SIGKILL');
  }
}

/** `paravane` with pipes. */
export function withPipes(...args: string[]): CommandProcess {
  return new CommandProcess(process.execPath, [MAIN, ...args]);
}

/** Whether `script` is here to make terminals with. */
export function hasScript(): boolean {
  return process.platform === 'linux' && spawnSync('script', ['--version'], { encoding: 'utf8' }).stdout?.includes('util-linux') === true;
}

/** Shell commands on a terminal; `$PARAVANE` is the command. Both outputs arrive as `output`. */
export function onTerminal(commands: string): CommandProcess {
  const paravane = `'${process.execPath}' '${MAIN}'`;
  return new CommandProcess('script', ['-qec', commands.replaceAll('$PARAVANE', paravane), '/dev/null']);
}
