// SPDX-License-Identifier: Apache-2.0
/** The engine's sockets over Node's: TCP and UDP, names, and echo through the system's `ping`. */
import { createSocket, type Socket as DatagramSocket } from 'node:dgram';
import { createServer, connect, type Server, type Socket } from 'node:net';
import { err, ok, type Result } from '../base/result.ts';
import type {
  HostListener,
  HostStream,
  HostUdp,
  SocketAddress,
  SocketError,
  SocketErrorKind,
  SocketHost,
  StreamEvents,
  UdpOptions,
} from '../engine/index.ts';
import { nodeNames } from './names.ts';
import { ping } from './ping.ts';

/** Datagrams that the kernel did not take yet; more are dropped, as a full queue of a router would. */
const MAX_UDP_QUEUE_BYTES = 1 << 20;
const UDP_BUFFER_BYTES = 1 << 20;

const KINDS: Readonly<Record<string, SocketErrorKind>> = {
  ECONNREFUSED: 'refused',
  ECONNRESET: 'reset',
  EPIPE: 'reset',
  ETIMEDOUT: 'timeout',
  ENETUNREACH: 'unreachable',
  EHOSTUNREACH: 'unreachable',
  EADDRNOTAVAIL: 'unreachable',
  EADDRINUSE: 'in-use',
  EACCES: 'denied',
  EPERM: 'denied',
};

function describe(error: Error): SocketError {
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  return { kind: KINDS[code] ?? 'failed', message: error.message };
}

class NodeStream implements HostStream {
  readonly peer: SocketAddress;
  readonly #socket: Socket;
  #events: StreamEvents | undefined;

  constructor(socket: Socket, peer: SocketAddress) {
    this.#socket = socket;
    this.peer = peer;
    socket.pause();
    socket.setNoDelay(true);
  }

  listen(events: StreamEvents): void {
    this.#events = events;
    const socket = this.#socket;
    socket.on('connect', () => this.#events?.connected());
    socket.on('data', (bytes: Buffer) => this.#events?.received(bytes));
    socket.on('end', () => this.#events?.end());
    socket.on('error', (error) => this.#over()?.failed(describe(error)));
    socket.on('close', () => this.#over()?.closed());
    // Attaching a listener of `data` made the stream flow.
    socket.pause();
  }

  get queuedBytes(): number {
    return this.#socket.writableLength;
  }

  write(bytes: Uint8Array): void {
    if (this.#socket.writable) this.#socket.write(bytes, this.#written);
  }

  end(): void {
    if (this.#socket.writable) this.#socket.end();
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  destroy(reset: boolean): void {
    this.#events = undefined;
    if (reset && !this.#socket.connecting) this.#socket.resetAndDestroy();
    else this.#socket.destroy();
  }

  readonly #written = (): void => this.#events?.written();

  #over(): StreamEvents | undefined {
    const events = this.#events;
    this.#events = undefined;
    return events;
  }
}

function connectTcp(to: SocketAddress, events: StreamEvents): HostStream {
  const socket = connect({ host: to.address, port: to.port, allowHalfOpen: true, family: to.address.includes(':') ? 6 : 4 });
  const stream = new NodeStream(socket, to);
  stream.listen(events);
  return stream;
}

function listenTcp(
  at: SocketAddress,
  accept: (stream: HostStream) => StreamEvents | undefined,
): Promise<Result<HostListener, SocketError>> {
  const server: Server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    const stream = new NodeStream(socket, { address: socket.remoteAddress ?? '', port: socket.remotePort ?? 0 });
    const events = accept(stream);
    if (events === undefined) {
      // Nobody listens for errors of a stream that was refused.
      socket.on('error', () => {});
      socket.resetAndDestroy();
    } else stream.listen(events);
  });
  return new Promise((resolve) => {
    server.once('error', (error) => resolve(err(describe(error))));
    server.listen({ host: at.address, port: at.port, ipv6Only: at.address.includes(':') }, () => {
      server.removeAllListeners('error');
      // Failing accepts (no file descriptors left) pass; the listener stays.
      server.on('error', () => {});
      const address = server.address();
      const port = typeof address === 'object' && address !== null ? address.port : at.port;
      resolve(ok({ local: { address: at.address, port }, close: () => void server.close() }));
    });
  });
}

class NodeUdp implements HostUdp {
  readonly local: SocketAddress;
  readonly #socket: DatagramSocket;
  #closed = false;

  constructor(socket: DatagramSocket) {
    this.#socket = socket;
    const { address, port } = socket.address();
    this.local = { address, port };
  }

  send(bytes: Uint8Array, to: SocketAddress): void {
    if (this.#closed || to.port === 0 || this.#socket.getSendQueueSize() > MAX_UDP_QUEUE_BYTES) return;
    // Node may send later: it gets bytes of its own. Unreachable destinations are as lost datagrams.
    this.#socket.send(bytes.slice(), to.port, to.address, ignore);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.close();
  }
}

const ignore = (): void => {};

/** Addresses are numeric: nothing to look up. */
function numericLookup(address: string, ...rest: unknown[]): void {
  const callback = rest.at(-1) as (error: Error | null, address: string, family: number) => void;
  callback(null, address, address.includes(':') ? 6 : 4);
}

function openUdp(options: UdpOptions): Promise<Result<HostUdp, SocketError>> {
  const socket = createSocket({
    type: options.family === 6 ? 'udp6' : 'udp4',
    ipv6Only: options.family === 6,
    lookup: numericLookup,
  });
  return new Promise((resolve) => {
    const failed = (error: Error) => {
      socket.close();
      resolve(err(describe(error)));
    };
    socket.once('error', failed);
    socket.bind({ port: options.port ?? 0, exclusive: true, ...(options.address !== undefined && { address: options.address }) }, () => {
      socket.off('error', failed);
      socket.on('error', (error) => options.failed(describe(error)));
      socket.on('message', (bytes, from) => options.message(bytes, from));
      enlargeBuffers(socket);
      resolve(ok(new NodeUdp(socket)));
    });
  });
}

/** Bursts must survive until the event loop comes round; hosts that allow less keep their own sizes. */
function enlargeBuffers(socket: DatagramSocket): void {
  try {
    socket.setRecvBufferSize(UDP_BUFFER_BYTES);
    socket.setSendBufferSize(UDP_BUFFER_BYTES);
  } catch {
    // A matter of speed alone.
  }
}

export const nodeSockets: SocketHost = { names: nodeNames, connectTcp, listenTcp, openUdp, ping };
