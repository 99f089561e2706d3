// SPDX-License-Identifier: Apache-2.0
/**
 * Joins a TCP connection of the guest with a stream of the host, in both directions, half-closes and failures included.
 *
 * Back-pressure: the guest's window is what the host stream does not hold yet; the host stream pauses while the guest lags behind.
 */
import type { HostStream, SocketError, StreamEvents } from '../../host/sockets.ts';
import { concatBytes } from '../packet/wire.ts';
import type { TcpApplication, TcpConnection, TcpEnd } from './connection.ts';

/** From here on, pieces for the host go out before the batch ends. */
const FLUSH_BYTES = 65_536;

export interface BridgeOptions {
  /** Bytes held for one direction. */
  readonly limitBytes: () => number;
  /** The host could not reach the other end; the guest gets no reset but what this sends. */
  readonly unreachable: (error: SocketError) => void;
  /** The bridge is gone. */
  readonly ended: () => void;
}

export class TcpBridge implements TcpApplication, StreamEvents {
  readonly #connection: TcpConnection;
  readonly #options: BridgeOptions;
  #stream: HostStream | undefined;
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;
  #paused = true;
  #finishing = false;

  constructor(connection: TcpConnection, options: BridgeOptions) {
    this.#connection = connection;
    this.#options = options;
  }

  /** The stream whose events this is; to be called before any of them. */
  attach(stream: HostStream): void {
    this.#stream = stream;
  }

  // ---- what the guest does

  established(): void {
    this.#paused = false;
    this.#stream?.resume();
  }

  data(bytes: Uint8Array): void {
    if (this.#stream === undefined) return;
    this.#pending.push(bytes.slice());
    this.#pendingBytes += bytes.length;
    if (this.#pendingBytes >= FLUSH_BYTES) this.flush();
  }

  finished(): void {
    this.flush();
    this.#finishing = true;
    this.#stream?.end();
  }

  flush(): void {
    if (this.#pendingBytes === 0) return;
    const bytes = this.#pending.length === 1 ? this.#pending[0] : concatBytes(this.#pending);
    this.#pending = [];
    this.#pendingBytes = 0;
    this.#stream?.write(bytes);
  }

  acknowledged(): void {
    if (!this.#paused || this.#connection.queuedBytes > this.#options.limitBytes() / 2) return;
    this.#paused = false;
    this.#stream?.resume();
  }

  receiveSpace(): number {
    if (this.#stream === undefined) return 0;
    return Math.max(0, this.#options.limitBytes() - this.#stream.queuedBytes - this.#pendingBytes);
  }

  ended(how: TcpEnd): void {
    // After an orderly end the stream still delivers what it holds, and closes by itself.
    if (how !== 'orderly' || !this.#finishing) this.#release()?.destroy(how !== 'orderly');
  }

  // ---- what the host does

  connected(): void {
    this.#connection.accept();
  }

  /** Bytes from the host. */
  received(bytes: Uint8Array): void {
    this.#connection.write(bytes);
    if (this.#paused || this.#connection.queuedBytes < this.#options.limitBytes()) return;
    this.#paused = true;
    this.#stream?.pause();
  }

  end(): void {
    this.#connection.finish();
  }

  written(): void {
    this.#connection.receiveSpaceGrew();
  }

  failed(error: SocketError): void {
    if (this.#release() === undefined) return;
    if (this.#connection.state !== 'connecting') {
      this.#connection.abort();
      return;
    }
    const hasMessage = error.kind === 'unreachable' || error.kind === 'timeout' || error.kind === 'denied';
    if (hasMessage) this.#options.unreachable(error);
    this.#connection.refuse(hasMessage);
  }

  closed(): void {
    this.#release();
  }

  #release(): HostStream | undefined {
    const stream = this.#stream;
    if (stream === undefined) return undefined;
    this.#stream = undefined;
    this.#pending = [];
    this.#pendingBytes = 0;
    this.#options.ended();
    return stream;
  }
}
