// SPDX-License-Identifier: Apache-2.0
/** A host for fuzzing the network: time that moves when told, and peers that answer, refuse, flood, stall, end and reset at random. */
import { ok, type Result } from '../../base/result.ts';
import type {
  Clock,
  Entropy,
  HostListener,
  HostStream,
  HostUdp,
  NameResolver,
  PingAnswer,
  SocketAddress,
  SocketError,
  SocketHost,
  StreamEvents,
  TimerHandle,
  Timers,
  UdpOptions,
} from '../../engine/index.ts';

/** Repeatable randomness (xorshift): numbers from 0 to 1. */
export function repeatable(seed: number): () => number {
  let state = seed | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 0x1_0000_0000;
  };
}

export class FuzzTime implements Clock, Timers {
  #nowMs = 1;
  #tasks: { readonly atMs: number; readonly run: () => void }[] = [];
  #soon: (() => void)[] = [];

  nowNs(): number {
    return this.#nowMs * 1e6;
  }

  wallClock(): { seconds: number; nanoseconds: number } {
    return { seconds: Math.floor(this.#nowMs / 1000), nanoseconds: 0 };
  }

  /** Timers that are set. */
  get pending(): number {
    return this.#tasks.length;
  }

  after(delayMs: number, run: () => void): TimerHandle {
    const task = { atMs: this.#nowMs + delayMs, run };
    this.#tasks.push(task);
    return {
      cancel: () => {
        this.#tasks = this.#tasks.filter((other) => other !== task);
      },
    };
  }

  soon(task: () => void): void {
    this.#soon.push(task);
  }

  async settle(): Promise<void> {
    for (;;) {
      for (let turn = 0; turn < 6; turn++) await Promise.resolve();
      const batch = this.#soon;
      if (batch.length === 0) return;
      this.#soon = [];
      for (const task of batch) task();
    }
  }

  async advance(ms: number): Promise<void> {
    const endMs = this.#nowMs + ms;
    await this.settle();
    for (;;) {
      let next = this.#tasks[0];
      for (const task of this.#tasks) if (task.atMs < next.atMs) next = task;
      if (next === undefined || next.atMs > endMs) break;
      this.#tasks = this.#tasks.filter((task) => task !== next);
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      next.run();
      await this.settle();
    }
    this.#nowMs = endMs;
  }
}

/** A peer without a plan. */
class FuzzStream implements HostStream {
  readonly peer: SocketAddress;
  queuedBytes = 0;
  readonly #host: FuzzSockets;
  #events: StreamEvents | undefined;
  #paused = true;
  #ended = false;
  #ending = false;

  constructor(host: FuzzSockets, peer: SocketAddress, events: StreamEvents) {
    this.#host = host;
    this.peer = peer;
    this.#events = events;
    const fate = host.random();
    host.time.soon(() => {
      if (fate < 0.8) this.#events?.connected();
      else this.#fail(fate < 0.9 ? 'refused' : 'unreachable');
    });
  }

  write(bytes: Uint8Array): void {
    this.queuedBytes += bytes.length;
    this.#act();
  }

  end(): void {
    this.#ending = true;
    this.#act();
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#act();
  }

  destroy(): void {
    this.#events = undefined;
  }

  /** Something happens, now and then. */
  #act(): void {
    this.#host.time.soon(() => {
      const { random } = this.#host;
      if (this.#events === undefined) return;
      if (random() < 0.7 && this.queuedBytes > 0) {
        this.queuedBytes = 0;
        this.#events.written();
      }
      if (!this.#paused && !this.#ended && random() < 0.5) this.#events.received(new Uint8Array(1 + Math.floor(random() ** 4 * 200_000)));
      if (!this.#paused && !this.#ended && random() < 0.1) {
        this.#ended = true;
        this.#events?.end();
      }
      if (random() < 0.03) this.#fail('reset');
      if (this.#ended && this.#ending) {
        const events = this.#events;
        this.#events = undefined;
        events?.closed();
      }
    });
  }

  #fail(kind: SocketError['kind']): void {
    const events = this.#events;
    this.#events = undefined;
    events?.failed({ kind, message: 'the fuzzer says so' });
  }
}

export class FuzzSockets implements SocketHost {
  readonly time: FuzzTime;
  readonly random: () => number;
  openUdpSockets = 0;

  constructor(time: FuzzTime, random: () => number) {
    this.time = time;
    this.random = random;
  }

  readonly names: NameResolver = {
    servers: () => [{ address: '198.51.100.1', port: 53 }],
    isLocalName: (name) => name.length % 5 === 0,
    lookup: async () => (this.random() < 0.5 ? ['192.0.2.5', '127.0.0.1', 'fe80::1%eth0', 'nonsense'] : undefined),
  };

  connectTcp(to: SocketAddress, events: StreamEvents): HostStream {
    return new FuzzStream(this, to, events);
  }

  async listenTcp(at: SocketAddress): Promise<Result<HostListener, SocketError>> {
    return ok({ local: at, close: () => {} });
  }

  async openUdp(options: UdpOptions): Promise<Result<HostUdp, SocketError>> {
    this.openUdpSockets++;
    let isOpen = true;
    const { random, time } = this;
    return ok({
      local: { address: '0.0.0.0', port: 40_000 },
      send: (bytes: Uint8Array, to: SocketAddress) => {
        const answer = bytes.slice(0, Math.floor(random() * 2 * bytes.length));
        if (answer.length > 2) answer[2] |= 0x80;
        time.soon(() => {
          if (isOpen && random() < 0.7) options.message(answer, to);
        });
      },
      close: () => {
        if (isOpen) this.openUdpSockets--;
        isOpen = false;
      },
    });
  }

  async ping(): Promise<PingAnswer> {
    return (['reply', 'timeout', 'unreachable', 'unsupported'] as const)[Math.floor(this.random() * 4)];
  }
}

export function repeatableEntropy(random: () => number): Entropy {
  return {
    fill: (bytes) => {
      for (let i = 0; i < bytes.length; i++) bytes[i] = random() * 256;
    },
  };
}
