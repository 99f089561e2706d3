// SPDX-License-Identifier: Apache-2.0
/**
 * One guest under test: `paravane run` as a child process with pipes.
 *
 * INVARIANT: the child is gone when the test is; every test ends with `exit` or `stop`.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Guest } from '../../app/tools/guests/catalog.ts';
import { GuestConsole } from './guest-console.ts';

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
  readonly console: GuestConsole;
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #exited: Promise<number | null>;
  #errors = '';
  #ended = false;

  constructor(guest: Guest, options: RunOptions = {}) {
    const initrd = options.testInitrd === true ? guest.testInitrd : guest.initrd;
    const append = [guest.append, options.append ?? ''].join(' ').trim();
    const args = ['run', '--mode', guest.mode, '--kernel', guest.kernel, '--append', append, '--memory', guest.memory];
    if (initrd !== undefined) args.push('--initrd', initrd);
    const child = spawn(process.execPath, [CLI, ...args, ...(options.args ?? [])], { stdio: 'pipe' });
    this.#child = child;
    this.console = new GuestConsole((text) => child.stdin.write(text));
    child.stdout.setEncoding('latin1').on('data', (text: string) => this.console.hear(text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#errors += text;
    });
    // Typing into a guest that has just ended is not an error of the test's process.
    child.stdin.on('error', () => {});
    this.#exited = new Promise((resolve, reject) => {
      child.on('error', reject).on('close', (status) => {
        this.#ended = true;
        this.console.end();
        resolve(status);
      });
    });
  }

  /** What the command itself said on standard error. */
  get errors(): string {
    return this.#errors;
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
}
