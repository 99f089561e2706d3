// SPDX-License-Identifier: Apache-2.0
/**
 * One guest under test: `paravane run` as a child process, its console as text that can be waited for and typed into.
 *
 * INVARIANT: the child is gone when the test is; every test ends with `exit` or `stop`.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Guest } from '../../app/tools/guests/catalog.ts';

const CLI = fileURLToPath(new URL('../../app/cli/main.ts', import.meta.url));

export interface RunOptions {
  /** Words after the guest's own kernel command line. */
  readonly append?: string;
  /** The initramfs with the test programs instead of the small one. */
  readonly testInitrd?: boolean;
  /** Further arguments of `paravane run`. */
  readonly args?: readonly string[];
}

export class GuestRun {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #exited: Promise<number | null>;
  #console = '';
  #errors = '';
  #searched = 0;
  #changed: () => void = () => {};
  #ended = false;

  constructor(guest: Guest, options: RunOptions = {}) {
    const initrd = options.testInitrd === true ? guest.testInitrd : guest.initrd;
    const append = [guest.append, options.append ?? ''].join(' ').trim();
    const args = ['run', '--mode', guest.mode, '--kernel', guest.kernel, '--append', append, '--memory', guest.memory];
    if (initrd !== undefined) args.push('--initrd', initrd);
    this.#child = spawn(process.execPath, [CLI, ...args, ...(options.args ?? [])], { stdio: 'pipe' });
    const hear = (text: string): void => {
      this.#console += text;
      this.#changed();
    };
    this.#child.stdout.setEncoding('utf8').on('data', hear);
    this.#child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#errors += text;
    });
    // Typing into a guest that has just ended is not an error of the test's process.
    this.#child.stdin.on('error', () => {});
    this.#exited = new Promise((resolve, reject) => {
      this.#child.on('error', reject).on('close', (status) => {
        this.#ended = true;
        this.#changed();
        resolve(status);
      });
    });
  }

  /** Everything the guest printed so far, line ends as `\n`. */
  get console(): string {
    return this.#console.replaceAll('\r\n', '\n');
  }

  /** What the command itself said on standard error. */
  get errors(): string {
    return this.#errors;
  }

  /** Waits for text that follows what earlier waits found; throws with the console's end when the guest ends or time is up. */
  async waitFor(wanted: string, timeoutMs: number): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const at = this.#console.indexOf(wanted, this.#searched);
      if (at >= 0) {
        this.#searched = at + wanted.length;
        return;
      }
      const left = deadline - Date.now();
      if (this.#ended || left <= 0)
        throw new Error(`no ${JSON.stringify(wanted)} ${this.#ended ? 'before the end' : 'in time'}:\n${this.#tail()}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#changed = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  type(text: string): void {
    this.#child.stdin.write(text);
  }

  /** Waits for the command to end by itself; returns its exit status. */
  exit(): Promise<number | null> {
    return this.#exited;
  }

  /** Ends the command whatever it does. */
  async stop(): Promise<void> {
    if (!this.#ended) this.#child.kill('SIGKILL');
    await this.#exited;
  }

  #tail(): string {
    return `${this.console.slice(-4000)}\n--- stderr ---\n${this.#errors.slice(-2000)}`;
  }
}
