// SPDX-License-Identifier: Apache-2.0
/**
 * The guest's console on a stream: every byte as it came, and no faster than the stream takes them.
 *
 * A full stream makes the sink full, which holds up the guest until the stream has drained. `hold` does the same while the menu is on
 * the screen. Outlives a machine: after a reset the next one is connected.
 */
import type { ConsoleAttachment, ConsoleSink } from '../engine/index.ts';
import type { Writable } from 'node:stream';
import type { Screen } from './screen.ts';

export class ConsoleOutput implements ConsoleSink {
  readonly #stream: Writable;
  readonly #screen: Screen | null;
  #attachment: ConsoleAttachment | null = null;
  #held: Uint8Array[] | null = null;
  #full = false;
  #broken = false;
  #endsLine = true;

  /** `onBroken` runs once, when the stream cannot be written any more. */
  constructor(stream: Writable, screen: Screen | null, onBroken: (error: NodeJS.ErrnoException) => void) {
    this.#stream = stream;
    this.#screen = screen;
    stream.on('drain', () => {
      this.#full = false;
      if (this.#held === null) this.#attachment?.drained();
    });
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (this.#broken) return;
      this.#broken = true;
      this.#full = false;
      this.#attachment?.drained();
      onBroken(error);
    });
  }

  /** Whether what was written so far ends with a line feed (or is nothing). */
  get endsLine(): boolean {
    return this.#endsLine;
  }

  /** From now on, this machine's console drives the stream. */
  connect(attach: (sink: ConsoleSink) => ConsoleAttachment): void {
    this.#attachment = null;
    this.#attachment = attach(this);
  }

  write(bytes: Uint8Array): boolean {
    // Nobody reads any more: the guest goes on until its owner has decided.
    if (this.#broken) return true;
    if (this.#held !== null) {
      this.#held.push(bytes);
      return false;
    }
    if (bytes.length > 0) {
      if (!this.#stream.write(bytes)) this.#full = true;
      this.#endsLine = bytes[bytes.length - 1] === 0x0a;
      this.#screen?.observe(bytes);
    }
    return !this.#full;
  }

  /** Nothing is written until `release`. */
  hold(): void {
    this.#held ??= [];
  }

  release(): void {
    const held = this.#held;
    if (held === null) return;
    this.#held = null;
    for (const bytes of held) this.write(bytes);
    if (!this.#full) this.#attachment?.drained();
  }

  /** Resolves when everything written has left the process, or when `withinMs` have passed. */
  async flush(withinMs?: number): Promise<void> {
    this.release();
    await flushed(this.#stream, withinMs);
  }
}

/** Resolves when everything written to `stream` has left the process or cannot any more, or when `withinMs` have passed. */
export async function flushed(stream: Writable, withinMs?: number): Promise<void> {
  if (stream.destroyed || stream.writableEnded || stream.errored) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = withinMs === undefined ? undefined : setTimeout(resolve, withinMs);
  stream.write('', () => resolve());
  await promise;
  clearTimeout(timer);
}
