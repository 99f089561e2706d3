// SPDX-License-Identifier: Apache-2.0
/**
 * `node app/bench/network.ts [megabytes]`: what the user network itself costs, on one core, with frames as long as xen-netfront's.
 *
 * The guest is a few lines that send and acknowledge, the host's end of the connection is memory; frames are copied once on either side, as
 * a backend copies them. What the host's kernel adds is not in these figures.
 */
import { ok } from '../base/result.ts';
import { type FrameReceiver, type HostStream, type SocketHost, type StreamEvents, UserNetwork } from '../engine/index.ts';
import { put16, put32, get16, get32 } from '../engine/network/packet/wire.ts';
import { complement, sum16 } from '../engine/network/packet/checksum.ts';
import { nodeTimers } from '../node/timers.ts';

const MSS = 1460;
const CHUNK_BYTES = 65_536;
const SYN = 2;
const ACK = 16;
const HEADERS = 54;

/** The host's end: takes everything at once, and produces when resumed. */
class MemoryStream implements HostStream {
  readonly peer = { address: '192.0.2.1', port: 80 };
  readonly queuedBytes = 0;
  taken = 0;
  #toSend: number;
  #running = false;
  readonly #events: StreamEvents;

  constructor(events: StreamEvents, toSend: number) {
    this.#events = events;
    this.#toSend = toSend;
    setImmediate(() => events.connected());
  }

  write(bytes: Uint8Array): void {
    this.taken += bytes.length;
  }

  resume(): void {
    if (this.#running) return;
    this.#running = true;
    setImmediate(() => {
      while (this.#running && this.#toSend > 0) {
        this.#toSend -= CHUNK_BYTES;
        this.#events.received(new Uint8Array(CHUNK_BYTES));
      }
      this.#running = false;
    });
  }

  pause(): void {
    this.#running = false;
  }

  end(): void {}
  destroy(): void {}
}

class BenchGuest implements FrameReceiver {
  readonly features = { checksumBlank: true, gsoTcp4: true, gsoTcp6: true };
  readonly #frame = new Uint8Array(HEADERS + 44 * MSS);
  readonly #copy = new Uint8Array(65_536);
  readonly #network: UserNetwork;
  received = 0;
  frames = 0;
  acknowledged = 0;
  #next = 0;
  #sent = 0;
  #window = 0;
  #scheduled = false;
  toSend = 0;

  constructor(network: UserNetwork) {
    this.#network = network;
    this.#frame.set([0x52, 0x55, 0x0a, 0, 2, 2, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 8, 0, 0x45]);
    this.#frame.set([64, 6, 0, 0, 10, 0, 2, 15, 192, 0, 2, 1], 22);
    put16(this.#frame, 34, 5000);
    put16(this.#frame, 36, 80);
    put16(this.#frame, 48, 0xffff);
    network.attach(this);
    this.#segment(SYN, -1, 8, [2, 4, MSS >> 8, MSS & 255, 1, 3, 3, 7]);
  }

  receive(frame: Uint8Array): boolean {
    this.#copy.set(frame);
    if (frame[12] !== 8 || frame[13] !== 0 || frame[23] !== 6) return true;
    this.frames++;
    const length = get16(frame, 16) - 20 - (frame[46] >>> 4) * 4;
    const isSyn = (frame[47] & SYN) !== 0;
    this.received += length;
    this.#next = (get32(frame, 38) + length + (isSyn ? 1 : 0)) >>> 0;
    this.acknowledged = get32(frame, 42) - 1;
    this.#window = isSyn ? get16(frame, 48) : get16(frame, 48) * 128;
    if (!this.#scheduled) {
      this.#scheduled = true;
      setImmediate(() => this.#turn());
    }
    return true;
  }

  sendReady(): void {}
  linkChanged(): void {}

  #turn(): void {
    this.#scheduled = false;
    this.#segment(ACK, this.#sent, 0);
    while (this.#sent < this.toSend) {
      const length = Math.min(44 * MSS, this.toSend - this.#sent, this.#window - (this.#sent - this.acknowledged));
      if (length < MSS && length < this.toSend - this.#sent) return;
      this.#segment(ACK, this.#sent, length);
      this.#sent += length;
    }
  }

  #segment(flags: number, offset: number, length: number, options: readonly number[] = []): void {
    const frame = this.#frame;
    put16(frame, 16, 40 + length);
    put16(frame, 24, 0);
    put16(frame, 24, complement(sum16(frame, 14, 34)));
    put32(frame, 38, offset + 1);
    put32(frame, 42, this.#next);
    frame[46] = (5 + options.length / 4) << 4;
    frame[47] = flags;
    frame.set(options, HEADERS);
    // What a backend does: one copy out of the guest.
    const copy = frame.slice(0, HEADERS + length);
    this.#network.send(copy, { checksumBlank: true, gsoSize: length > MSS ? MSS : 0 });
  }
}

async function measure(direction: 'guest to host' | 'host to guest', bytes: number): Promise<void> {
  let stream: MemoryStream | undefined;
  const sockets: SocketHost = {
    names: { servers: () => [], isLocalName: () => false, lookup: async () => undefined },
    connectTcp: (_to, events) => {
      stream = new MemoryStream(events, direction === 'host to guest' ? bytes : 0);
      return stream;
    },
    listenTcp: async (at) => ok({ local: at, close: () => {} }),
    openUdp: async () => ok({ local: { address: '', port: 0 }, send: () => {}, close: () => {} }),
    ping: async () => 'timeout',
  };
  const clock = { nowNs: () => performance.now() * 1e6, wallClock: () => ({ seconds: 0, nanoseconds: 0 }) };
  const created = UserNetwork.create({}, { clock, timers: nodeTimers, entropy: { fill: () => {} }, sockets });
  if (!created.ok) throw new Error(created.error.message);
  const guest = new BenchGuest(created.value);
  if (direction === 'guest to host') guest.toSend = bytes;
  const cpu = process.cpuUsage();
  const done = () => (direction === 'guest to host' ? (stream?.taken ?? 0) : guest.received) >= bytes;
  while (!done()) await new Promise(setImmediate);
  const { user, system } = process.cpuUsage(cpu);
  const seconds = (user + system) / 1e6;
  const gigabits = (bytes * 8) / 1e9 / seconds;
  console.log(`${direction}: ${gigabits.toFixed(1)} Gbit/s of one core (${seconds.toFixed(2)} s, ${guest.frames} frames to the guest)`);
  created.value.close();
}

const bytes = Number(process.argv[2] ?? 2000) * 1_000_000;
for (const direction of ['guest to host', 'host to guest'] as const) {
  await measure(direction, Math.ceil(bytes / 10 / CHUNK_BYTES) * CHUNK_BYTES);
  await measure(direction, Math.ceil(bytes / CHUNK_BYTES) * CHUNK_BYTES);
}
