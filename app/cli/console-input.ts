// SPDX-License-Identifier: Apache-2.0
/**
 * Standard input as the guest's keyboard.
 *
 * From a terminal, Ctrl-] is taken out first, and what the guest does not take while its queue is full is dropped, as terminals do:
 * the menu has to stay within reach. From a pipe or a file every byte reaches the guest, and reading waits while the guest is
 * busy; its end does not end the machine.
 */
import type { ConsolePort, InputStream } from './host.ts';
import { EscapeKeys, type KeyEvent } from './escape-keys.ts';

export type MenuEvent = Exclude<KeyEvent, { readonly kind: 'bytes' }>;

export class ConsoleInput {
  readonly #stdin: InputStream;
  readonly #keys: EscapeKeys | null;
  readonly #onMenu: (event: MenuEvent) => void;
  #console: ConsolePort | null = null;
  /** What a pipe delivered and the guest has not taken. */
  #rest: Uint8Array = new Uint8Array(0);
  #listening = false;
  readonly #onData = (chunk: Uint8Array | string): void => this.#take(typeof chunk === 'string' ? Buffer.from(chunk) : chunk);

  constructor(stdin: InputStream, onMenu: (event: MenuEvent) => void) {
    this.#stdin = stdin;
    this.#keys = stdin.isTTY === true ? new EscapeKeys() : null;
    this.#onMenu = onMenu;
    // A terminal that went away reports an input error; the signal that comes with it decides.
    stdin.on('error', () => {});
  }

  /** Starts reading, into nothing until a console is connected. A pipe is read only for a console. */
  start(): void {
    if (this.#listening) return;
    this.#listening = true;
    this.#stdin.on('data', this.#onData);
    if (this.#keys === null) this.#stdin.pause();
    else this.#stdin.resume();
  }

  /** `null`: no machine at the moment. */
  connect(console: ConsolePort | null): void {
    this.#console = console;
    if (this.#keys !== null) return;
    if (console === null) this.#stdin.pause();
    else this.#offer();
  }

  /** Types text as if it came from the keyboard. */
  type(bytes: Uint8Array): void {
    this.#console?.input(bytes);
  }

  stop(): void {
    this.#console = null;
    this.#stdin.off('data', this.#onData);
    this.#stdin.pause();
  }

  #take(chunk: Uint8Array): void {
    if (this.#keys !== null) {
      for (const event of this.#keys.feed(chunk)) {
        if (event.kind === 'bytes') this.#console?.input(event.bytes);
        else this.#onMenu(event);
      }
      return;
    }
    this.#rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    this.#offer();
  }

  /** Gives a pipe's bytes to the guest and reads on when it took them all. */
  #offer(): void {
    const console = this.#console;
    if (console === null) return;
    if (this.#rest.length > 0) this.#rest = this.#rest.subarray(console.input(this.#rest));
    if (this.#rest.length === 0) {
      this.#stdin.resume();
      return;
    }
    this.#stdin.pause();
    console.onInputDrained(() => {
      if (console === this.#console) this.#offer();
    });
  }
}
