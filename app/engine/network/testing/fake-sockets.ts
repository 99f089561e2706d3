// SPDX-License-Identifier: Apache-2.0
/** A host's network in memory, for tests: servers that tests write, and clients that tests are. */
import { err, ok, type Result } from '../../../base/result.ts';
import type {
  HostListener,
  HostStream,
  HostUdp,
  PingAnswer,
  SocketAddress,
  SocketError,
  SocketErrorKind,
  SocketHost,
  StreamEvents,
  UdpOptions,
} from '../../host/sockets.ts';
import type { Timers } from '../../host/timers.ts';
import { concatBytes } from '../packet/wire.ts';

/** The far end of a stream, in a test's hands. */
export class FarEnd {
  readonly #stream: FakeStream;
  #received: Uint8Array[] = [];
  /** False: what the engine writes stays queued on its side. */
  reading = true;
  ended = false;
  /** How the engine dropped the stream. */
  destroyed: 'reset' | 'closed' | undefined;

  constructor(stream: FakeStream) {
    this.#stream = stream;
  }

  get received(): Uint8Array {
    const whole = concatBytes(this.#received);
    this.#received = [whole];
    return whole;
  }

  get receivedText(): string {
    return new TextDecoder().decode(this.received);
  }

  /** Whether the engine asked to hold on. */
  get paused(): boolean {
    return this.#stream.paused;
  }

  write(bytes: Uint8Array | string): void {
    this.#stream.fromFar(typeof bytes === 'string' ? new TextEncoder().encode(bytes) : bytes.slice());
  }

  end(): void {
    this.#stream.fromFar('end');
  }

  reset(): void {
    this.#stream.fail('reset');
  }

  /** Takes what is queued. */
  read(): void {
    this.reading = true;
    this.#stream.drain();
  }

  /** For the stream. */
  take(bytes: Uint8Array): void {
    this.#received.push(bytes);
  }
}

class FakeStream implements HostStream {
  readonly peer: SocketAddress;
  readonly far: FarEnd;
  readonly #timers: Timers;
  events: StreamEvents | undefined;
  paused = true;
  #toFar: Uint8Array[] = [];
  #fromFar: (Uint8Array | 'end')[] = [];
  #ending = false;
  #farEnded = false;

  constructor(peer: SocketAddress, timers: Timers) {
    this.peer = peer;
    this.#timers = timers;
    this.far = new FarEnd(this);
  }

  get queuedBytes(): number {
    return this.#toFar.reduce((sum, bytes) => sum + bytes.length, 0);
  }

  write(bytes: Uint8Array): void {
    this.#toFar.push(bytes);
    this.#timers.soon(() => this.drain());
  }

  end(): void {
    this.#ending = true;
    this.#timers.soon(() => this.drain());
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.#timers.soon(() => this.#deliver());
  }

  destroy(reset: boolean): void {
    this.events = undefined;
    this.far.destroyed = reset ? 'reset' : 'closed';
  }

  drain(): void {
    if (!this.far.reading || this.events === undefined) return;
    const batch = this.#toFar;
    this.#toFar = [];
    for (const bytes of batch) this.far.take(bytes);
    if (batch.length > 0) this.events.written();
    if (this.#ending) this.far.ended = true;
    this.#maybeClose();
  }

  fromFar(item: Uint8Array | 'end'): void {
    this.#fromFar.push(item);
    this.#timers.soon(() => this.#deliver());
  }

  fail(kind: SocketErrorKind): void {
    const { events } = this;
    this.events = undefined;
    this.#timers.soon(() => events?.failed({ kind, message: `the test says ${kind}` }));
  }

  #deliver(): void {
    while (!this.paused && this.events !== undefined) {
      const item = this.#fromFar.shift();
      if (item === undefined) return;
      if (item === 'end') {
        this.#farEnded = true;
        this.events.end();
        this.#maybeClose();
      } else this.events.received(item);
    }
  }

  #maybeClose(): void {
    if (!this.far.ended || !this.#farEnded || this.events === undefined) return;
    const { events } = this;
    this.events = undefined;
    events.closed();
  }
}

type Server = ((far: FarEnd) => void) | SocketErrorKind | 'silent';

class FakeUdp implements HostUdp {
  readonly local: SocketAddress;
  readonly options: UdpOptions;
  readonly #host: FakeSockets;
  closed = false;

  constructor(host: FakeSockets, local: SocketAddress, options: UdpOptions) {
    this.#host = host;
    this.local = local;
    this.options = options;
  }

  send(bytes: Uint8Array, to: SocketAddress): void {
    this.#host.udpSent.push({ from: this.local, to, bytes: bytes.slice() });
    this.#host.udpServer?.(bytes.slice(), to, (answer, from) => this.deliver(answer, from ?? to));
  }

  deliver(bytes: Uint8Array, from: SocketAddress): void {
    this.#host.timers.soon(() => {
      if (!this.closed) this.options.message(bytes, from);
    });
  }

  close(): void {
    this.closed = true;
  }
}

export class FakeSockets implements SocketHost {
  readonly timers: Timers;
  /** By `address port`. Others refuse. */
  readonly servers = new Map<string, Server>();
  readonly connected: SocketAddress[] = [];
  readonly udp: FakeUdp[] = [];
  readonly udpSent: { from: SocketAddress; to: SocketAddress; bytes: Uint8Array }[] = [];
  udpServer: ((bytes: Uint8Array, to: SocketAddress, answer: (bytes: Uint8Array, from?: SocketAddress) => void) => void) | undefined;
  readonly pings: string[] = [];
  pingAnswer: PingAnswer = 'reply';
  dnsServers: SocketAddress[] = [];
  readonly localNames = new Map<string, readonly string[]>();
  readonly #listeners = new Map<number, (stream: HostStream) => StreamEvents | undefined>();
  #nextPort = 40_000;

  constructor(timers: Timers) {
    this.timers = timers;
  }

  readonly names = {
    servers: (): readonly SocketAddress[] => this.dnsServers,
    isLocalName: (name: string): boolean => this.localNames.has(name),
    lookup: async (name: string, family: 4 | 6): Promise<readonly string[] | undefined> =>
      this.localNames.get(name)?.filter((address) => address.includes(':') === (family === 6)),
  };

  connectTcp(to: SocketAddress, events: StreamEvents): HostStream {
    this.connected.push(to);
    const stream = new FakeStream(to, this.timers);
    stream.events = events;
    const server = this.servers.get(`${to.address} ${to.port}`) ?? 'refused';
    if (server === 'silent') return stream;
    if (typeof server === 'string') stream.fail(server);
    else {
      this.timers.soon(() => {
        stream.events?.connected();
        server(stream.far);
      });
    }
    return stream;
  }

  async listenTcp(at: SocketAddress, accept: (stream: HostStream) => StreamEvents | undefined): Promise<Result<HostListener, SocketError>> {
    const port = at.port === 0 ? this.#nextPort++ : at.port;
    if (this.#listeners.has(port)) return err({ kind: 'in-use', message: `port ${port} is in use` });
    this.#listeners.set(port, accept);
    return ok({ local: { address: at.address, port }, close: () => void this.#listeners.delete(port) });
  }

  /** A client of a listening port; `undefined`: nobody listens, or it was refused. */
  dial(port: number, from: SocketAddress): FarEnd | undefined {
    const stream = new FakeStream(from, this.timers);
    stream.events = this.#listeners.get(port)?.(stream);
    return stream.events === undefined ? undefined : stream.far;
  }

  async openUdp(options: UdpOptions): Promise<Result<HostUdp, SocketError>> {
    const port = options.port === undefined || options.port === 0 ? this.#nextPort++ : options.port;
    const socket = new FakeUdp(this, { address: options.address ?? '0.0.0.0', port }, options);
    this.udp.push(socket);
    return ok(socket);
  }

  async ping(address: string): Promise<PingAnswer> {
    this.pings.push(address);
    return this.pingAnswer;
  }
}
