// SPDX-License-Identifier: Apache-2.0
/**
 * The terminal's raw mode: taken for a guest's console, given back whatever happens.
 *
 * Covers normal ends, signals that stop and continue the process, and exits that nobody planned. SIGKILL leaves no chance to anyone.
 */
import type { CliHost } from './host.ts';

export class Terminal {
  readonly #host: CliHost;
  #raw = false;
  #wanted = false;
  readonly #onStop = (): void => {
    this.#set(false);
    this.#host.suspend();
  };
  readonly #onContinue = (): void => {
    // Another program, or the shell, may have changed the mode behind our back: set it anew, not "if it differs".
    if (!this.#wanted) return;
    this.#set(false);
    this.#set(true);
  };

  constructor(host: CliHost) {
    this.#host = host;
  }

  /** Whether standard input is a terminal at all. */
  get present(): boolean {
    return this.#host.stdin.isTTY === true && this.#host.stdin.setRawMode !== undefined;
  }

  /** Every key reaches the guest from here on, Ctrl-C included. */
  enterRaw(): void {
    if (!this.present || this.#wanted) return;
    this.#wanted = true;
    this.#host.onExit(() => this.#set(false));
    this.#host.signals.on('SIGTSTP', this.#onStop);
    this.#host.signals.on('SIGCONT', this.#onContinue);
    this.#set(true);
  }

  restore(): void {
    if (!this.#wanted) return;
    this.#wanted = false;
    this.#host.signals.off('SIGTSTP', this.#onStop);
    this.#host.signals.off('SIGCONT', this.#onContinue);
    this.#set(false);
  }

  #set(raw: boolean): void {
    if (this.#raw === raw) return;
    this.#raw = raw;
    try {
      this.#host.stdin.setRawMode!(raw);
      if (raw) this.#host.passOutputThrough();
    } catch {
      // The terminal is gone (its window was closed); there is nothing left to set.
    }
  }
}
