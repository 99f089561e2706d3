// SPDX-License-Identifier: Apache-2.0
/**
 * The name server behind a TCP connection (RFC 7766): messages with a length in front, answered one after the other.
 *
 * GUEST: what is not answered yet counts as queued, so that the guest's window closes.
 */
import type { HostStream, SocketAddress, StreamEvents } from '../../host/sockets.ts';
import { concatBytes, get16, put16 } from '../packet/wire.ts';

export class DnsStream implements HostStream {
  readonly peer: SocketAddress = { address: '0.0.0.0', port: 53 };
  readonly #events: StreamEvents;
  readonly #handle: (query: Uint8Array) => Promise<Uint8Array | undefined>;
  #buffer: Uint8Array = new Uint8Array(0);
  #paused = true;
  #busy = false;
  #ending = false;
  #gone = false;

  constructor(events: StreamEvents, soon: (task: () => void) => void, handle: (query: Uint8Array) => Promise<Uint8Array | undefined>) {
    this.#events = events;
    this.#handle = handle;
    soon(() => {
      if (!this.#gone) events.connected();
    });
  }

  get queuedBytes(): number {
    return this.#buffer.length;
  }

  write(bytes: Uint8Array): void {
    this.#buffer = concatBytes([this.#buffer, bytes]);
    void this.#work();
  }

  end(): void {
    this.#ending = true;
    void this.#work();
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    void this.#work();
  }

  destroy(): void {
    this.#gone = true;
    this.#buffer = new Uint8Array(0);
  }

  async #work(): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    while (!this.#gone && !this.#paused) {
      const length = this.#buffer.length >= 2 ? get16(this.#buffer, 0) : 0xffff;
      if (this.#buffer.length < 2 + length) break;
      const answer = await this.#handle(this.#buffer.subarray(2, 2 + length));
      if (this.#isGone()) return;
      this.#buffer = this.#buffer.slice(2 + length);
      this.#events.written();
      if (answer === undefined || answer.length > 0xffff) continue;
      const framed = new Uint8Array(2 + answer.length);
      put16(framed, 0, answer.length);
      framed.set(answer, 2);
      this.#events.received(framed);
    }
    this.#busy = false;
    if (!this.#ending || this.#gone || this.#paused) return;
    this.#gone = true;
    this.#events.end();
    this.#events.closed();
  }

  /** A call, because it changes while the answer is awaited. */
  #isGone(): boolean {
    return this.#gone;
  }
}
