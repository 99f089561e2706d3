// SPDX-License-Identifier: Apache-2.0
/**
 * Sends hostile frames of one kind through a whole user network on a fake host, and looks whether it stands: nothing thrown, bounds kept,
 * and an ordinary echo answered afterwards.
 */
import { type FrameReceiver, UserNetwork } from '../../engine/index.ts';
import { get16, get32 } from '../../engine/network/packet/wire.ts';
import { type FrameKind, type FuzzFrame, makeFrame, type TcpProgress } from './frames.ts';
import { FuzzSockets, FuzzTime, repeatable, repeatableEntropy } from './fuzz-host.ts';

export interface FuzzReport {
  readonly kind: FrameKind;
  readonly cases: number;
  /** Frames that the network sent. */
  readonly answers: number;
  readonly dropped: number;
  readonly mostConnections: number;
}

/** A frame that broke something; its number repeats it under the same seed. */
export class FuzzFailure extends Error {
  constructor(kind: FrameKind, seed: number, index: number, { frame, offload }: FuzzFrame, cause: unknown) {
    const hex = Buffer.from(frame.subarray(0, 512)).toString('hex');
    super(`${kind}, seed ${seed}, frame ${index} (${JSON.stringify(offload)}): ${String(cause)}\n${hex}`, { cause });
  }
}

const MAX_CONNECTIONS = 200;
/** Frames between two looks at the clock; then half a second passes. */
const BATCH = 64;

/** Watches what the network answers, so that TCP fuzzing keeps to the sequence numbers. */
class Watcher implements FrameReceiver {
  readonly features = { checksumBlank: true, gsoTcp4: true, gsoTcp6: true };
  readonly connections = new Map<string, TcpProgress>();
  answers = 0;
  echoes = 0;
  room = true;

  receive(frame: Uint8Array): boolean {
    if (!this.room) return false;
    this.answers++;
    if (frame[12] !== 8 || frame[13] !== 0) return true;
    if (frame[23] === 1 && frame[34] === 0) this.echoes++;
    if (frame[23] === 6) this.#segment(frame);
    return true;
  }

  sendReady(): void {}
  linkChanged(): void {}

  #segment(frame: Uint8Array): void {
    const localPort = get16(frame, 34);
    const guestPort = get16(frame, 36);
    const key = `${localPort} ${guestPort}`;
    const flags = frame[47];
    if ((flags & 4) !== 0) {
      this.connections.delete(key);
      return;
    }
    const length = get16(frame, 16) - 20 - (frame[46] >>> 4) * 4 + (flags & 1) + ((flags >> 1) & 1);
    this.connections.set(key, { guestPort, localPort, guestNext: get32(frame, 42), localNext: (get32(frame, 38) + length) >>> 0 });
    if (this.connections.size > 60) this.connections.delete(this.connections.keys().next().value!);
  }
}

export async function fuzzNetwork(kind: FrameKind, cases: number, seed: number): Promise<FuzzReport> {
  const random = repeatable(seed);
  const time = new FuzzTime();
  const sockets = new FuzzSockets(time, random);
  const config = { maxConnections: MAX_CONNECTIONS, domain: 'fuzz.test', hosts: { 'a.b': ['192.0.2.1'] } };
  const created = UserNetwork.create(config, { clock: time, timers: time, entropy: repeatableEntropy(random), sockets });
  if (!created.ok) throw new Error(created.error.message);
  const network = created.value;
  const watcher = new Watcher();
  network.attach(watcher);
  const context = { random, connections: watcher.connections };
  let mostConnections = 0;
  for (let index = 0; index < cases; index++) {
    const made = makeFrame(kind, context);
    try {
      network.send(made.frame, made.offload);
      if (index % BATCH === BATCH - 1) {
        watcher.room = random() < 0.9;
        if (watcher.room) network.receiveReady();
        await time.advance(500);
      } else if (index % 4 === 3) await time.settle();
    } catch (error) {
      throw new FuzzFailure(kind, seed, index, made, error);
    }
    mostConnections = Math.max(mostConnections, network.stats().tcpConnections);
  }
  watcher.room = true;
  network.receiveReady();
  await expectAlive(network, time, watcher);
  const stats = network.stats();
  if (mostConnections > MAX_CONNECTIONS) throw new Error(`${mostConnections} connections, more than allowed`);
  if (stats.udpMappings > 2048) throw new Error(`${stats.udpMappings} UDP mappings, more than allowed`);
  network.close();
  await time.advance(200_000);
  if (time.pending !== 0) throw new Error(`${time.pending} timers outlive the network`);
  if (sockets.openUdpSockets !== 0) throw new Error(`${sockets.openUdpSockets} sockets outlive the network`);
  return { kind, cases, answers: watcher.answers, dropped: stats.droppedFromGuest, mostConnections };
}

async function expectAlive(network: UserNetwork, time: FuzzTime, watcher: Watcher): Promise<void> {
  await time.advance(10_000);
  const before = watcher.echoes;
  const echo = Buffer.from(
    '5255 0a00 0202 5254 0012 3456 0800 4500 001c 0001 0000 4001 62d0 0a00 020f 0a00 0202 0800 f7fe 0000 0001'.replaceAll(' ', ''),
    'hex',
  );
  network.send(new Uint8Array(echo), { checksumBlank: false, gsoSize: 0 });
  await time.advance(1);
  if (watcher.echoes !== before + 1) throw new Error('the network does not answer an echo any more');
}
