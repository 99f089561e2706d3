// SPDX-License-Identifier: Apache-2.0
/**
 * Standard error beside a guest's console: the command's own messages never end up inside a line of the guest.
 *
 * When both go to terminals, they share a screen. `say` then starts a new line first if the guest is in the middle of one; `note`, for
 * messages that nobody asked for, waits until the guest has ended its line. Console bytes themselves are never changed.
 */
import type { OutputStream } from './host.ts';

const LF = 0x0a;
const CR = 0x0d;
/** Notes that wait; more are counted and not kept, so that no guest can fill memory with them. */
const MAX_WAITING = 100;
const ERASE_LINE = '\r\x1b[K';

export class Screen {
  readonly #stderr: OutputStream;
  readonly #shared: boolean;
  #atLineStart = true;
  #waiting: string[] = [];
  #dropped = 0;
  #open = false;
  /** The terminal is in raw mode: line ends need their carriage return. */
  raw = false;

  /** `consoleOnTerminal`: the guest's console is shown on a terminal. */
  constructor(stderr: OutputStream, consoleOnTerminal: boolean) {
    this.#stderr = stderr;
    this.#shared = consoleOnTerminal && stderr.isTTY === true;
  }

  /** The guest's console was shown up to and including `bytes`. */
  observe(bytes: Uint8Array): void {
    if (!this.#shared || bytes.length === 0) return;
    let last = bytes.length - 1;
    // Some guests end lines with LF CR.
    while (last > 0 && bytes[last] === CR) last--;
    if (bytes[last] === LF) {
      this.#atLineStart = true;
      this.#writeWaiting();
    } else if (bytes[last] !== CR) {
      this.#atLineStart = false;
    }
  }

  /** One message of one or more lines, now. */
  say(message: string): void {
    this.#startLine();
    this.#write(`paravane: ${message}\n`);
  }

  /** Further lines of a message, without the program's name before them. */
  lines(lines: readonly string[]): void {
    if (lines.length === 0) return;
    this.#startLine();
    this.#write(lines.map((line) => `${line}\n`).join(''));
  }

  /** One message when the guest has ended its line. */
  note(message: string): void {
    if (this.#atLineStart && !this.#open) {
      this.#write(`paravane: ${message}\n`);
    } else if (this.#waiting.length < MAX_WAITING) {
      this.#waiting.push(message);
    } else {
      this.#dropped++;
    }
  }

  /** Shows an unfinished line in place of the one shown this way before; the guest's output must be held meanwhile. */
  prompt(text: string): void {
    this.#startLine();
    this.#write(text);
    this.#open = true;
  }

  /** Takes the line of `prompt` away. */
  closePrompt(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#write(this.#eraser());
    this.#atLineStart = true;
  }

  /** Shows what still waits; after the guest's last byte. */
  finish(): void {
    this.closePrompt();
    if (this.#waiting.length > 0) {
      this.#startLine();
      this.#writeWaiting();
    }
  }

  #eraser(): string {
    return this.#stderr.isTTY === true ? ERASE_LINE : '\n';
  }

  #startLine(): void {
    this.closePrompt();
    if (this.#atLineStart) return;
    this.#atLineStart = true;
    this.#write('\n');
  }

  #writeWaiting(): void {
    for (const message of this.#waiting) this.#write(`paravane: ${message}\n`);
    if (this.#dropped > 0) this.#write(`paravane: ${this.#dropped} further messages are not shown\n`);
    this.#waiting = [];
    this.#dropped = 0;
  }

  #write(text: string): void {
    this.#stderr.write(this.raw && this.#stderr.isTTY === true ? text.replaceAll('\n', '\r\n') : text);
  }
}
