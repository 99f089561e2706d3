// SPDX-License-Identifier: Apache-2.0
/**
 * A guest for tests, written apart from the engine's packet code: its own headers, checksums and TCP (simple on purpose: go-back-N with a
 * fixed time-out, reassembly by offset), so that one misreading of an RFC does not agree with itself.
 */
import type { FrameReceiver, NetworkPort, Offload, ReceiverFeatures } from '../network-port.ts';
import type { FakeTime } from './fake-time.ts';
import { SimTcp } from './sim-tcp.ts';

export const GUEST_MAC = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
export const GATEWAY_MAC = [0x52, 0x55, 0x0a, 0, 2, 2];

/** What the wire does to frames: `lost`, `doubled` and `late` are probabilities. */
export interface WireFaults {
  readonly random: () => number;
  readonly lost: number;
  readonly doubled: number;
  readonly late: number;
}

export interface SeenPacket {
  readonly frame: Uint8Array;
  readonly offload: Offload;
  readonly view: DataView;
  readonly version: 4 | 6 | undefined;
  readonly protocol: number;
  /** Where the transport header begins. */
  readonly at: number;
}

export const ip = (text: string): number[] => text.split('.').map(Number);

/** RFC 1071, the slow way. */
export function internetSum(bytes: readonly number[]): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) {
    sum += bytes[i] * 256 + (i + 1 < bytes.length ? bytes[i + 1] : 0);
    if (sum > 0xffff) sum -= 0xffff;
  }
  return sum;
}

export const be16 = (value: number): number[] => [(value >> 8) & 255, value & 255];
export const be32 = (value: number): number[] => [...be16(value >>> 16), ...be16(value & 0xffff)];

export function ethernet(type: number, payload: readonly number[] | Uint8Array, destination = GATEWAY_MAC): Uint8Array {
  const frame = new Uint8Array(14 + payload.length);
  frame.set([...destination, ...GUEST_MAC, ...be16(type)]);
  frame.set(payload, 14);
  return frame;
}

/** An IPv4 frame; `fragment` is the flags and offset word. */
export function ipv4(protocol: number, from: string, to: string, payload: Uint8Array, ttl = 64, id = 7, fragment = 0): Uint8Array {
  const header = [0x45, 0, ...be16(20 + payload.length), ...be16(id), ...be16(fragment), ttl, protocol, 0, 0, ...ip(from), ...ip(to)];
  const sum = 0xffff - internetSum(header);
  header[10] = sum >> 8;
  header[11] = sum & 255;
  const packet = new Uint8Array(20 + payload.length);
  packet.set(header);
  packet.set(payload, 20);
  return ethernet(0x0800, packet);
}

export function udp4(from: string, fromPort: number, to: string, toPort: number, data: Uint8Array): Uint8Array {
  const datagram = Uint8Array.from([...be16(fromPort), ...be16(toPort), ...be16(8 + data.length), 0, 0, ...data]);
  const sum = 0xffff - internetSum([...ip(from), ...ip(to), 0, 17, ...be16(datagram.length), ...datagram]);
  datagram.set(be16(sum === 0 ? 0xffff : sum), 6);
  return ipv4(17, from, to, datagram);
}

export class SimGuest implements FrameReceiver {
  readonly features: ReceiverFeatures;
  readonly time: FakeTime;
  readonly address: string;
  readonly mac: readonly number[];
  readonly seen: SeenPacket[] = [];
  /** By `remote:port>local port`. */
  readonly tcp = new Map<string, SimTcp>();
  /** Guest ports that accept connections. */
  readonly listening = new Map<number, (connection: SimTcp) => void>();
  faults: WireFaults | undefined;
  /** False: the receive ring is full. */
  hasRoom = true;
  /** Keep what arrives in `seen`; off for long transfers. */
  recording = true;
  linkUp = true;
  badChecksums = 0;
  readonly #port: NetworkPort;
  #nextPort = 50_000;

  constructor(port: NetworkPort, time: FakeTime, options: { offloads?: boolean; address?: string; mac?: readonly number[] } = {}) {
    const on = options.offloads ?? true;
    this.features = { checksumBlank: on, gsoTcp4: on, gsoTcp6: on };
    this.time = time;
    this.address = options.address ?? '10.0.2.15';
    this.mac = options.mac ?? GUEST_MAC;
    this.#port = port;
    port.attach(this);
  }

  connect(to: string, port: number): SimTcp {
    const connection = new SimTcp(this, to, port, this.#nextPort++);
    this.tcp.set(`${to}:${port}>${connection.localPort}`, connection);
    connection.open();
    return connection;
  }

  send(frame: Uint8Array, offload: Offload = { checksumBlank: false, gsoSize: 0 }): void {
    const own = frame.slice();
    if (own.length >= 12) own.set(this.mac, 6);
    this.#cross(() => this.#port.send(own, offload));
  }

  sendReady(): void {}

  linkChanged(up: boolean): void {
    this.linkUp = up;
  }

  /** The ring has room again. */
  makeRoom(): void {
    this.hasRoom = true;
    this.#port.receiveReady();
  }

  receive(frame: Uint8Array, offload: Offload): boolean {
    if (!this.hasRoom) return false;
    const copy = frame.slice();
    this.#cross(() => this.#arrived(copy, offload));
    return true;
  }

  /** Frames seen of an IP protocol. */
  packets(protocol: number): SeenPacket[] {
    return this.seen.filter((packet) => packet.protocol === protocol);
  }

  #cross(deliver: () => void): void {
    const { faults } = this;
    if (faults !== undefined && faults.random() < faults.lost) return;
    const isLate = faults !== undefined && faults.random() < faults.late;
    if (isLate) this.time.after(1 + Math.floor(faults.random() * 4), deliver);
    else this.time.soon(deliver);
    if (faults !== undefined && faults.random() < faults.doubled) this.time.soon(deliver);
  }

  #arrived(frame: Uint8Array, offload: Offload): void {
    const view = new DataView(frame.buffer);
    const type = view.getUint16(12);
    const version = type === 0x0800 ? 4 : type === 0x86dd ? 6 : undefined;
    const at = 14 + (version === 4 ? (frame[14] & 15) * 4 : version === 6 ? 40 : 0);
    const protocol = version === 4 ? frame[23] : version === 6 ? frame[20] : -1;
    const packet: SeenPacket = { frame, offload, view, version, protocol, at };
    if (this.recording) this.seen.push(packet);
    if (type === 0x0806) this.#arp(frame);
    if (version === 4 && internetSum([...frame.subarray(14, at)]) !== 0xffff) this.badChecksums++;
    if (protocol === 6) this.#segment(packet);
  }

  #arp(frame: Uint8Array): void {
    if (frame[21] !== 1 || frame.subarray(38, 42).join('.') !== this.address) return;
    const sender = [...frame.subarray(22, 32)];
    this.send(ethernet(0x0806, [0, 1, 8, 0, 6, 4, 0, 2, ...this.mac, ...ip(this.address), ...sender]));
  }

  #segment(packet: SeenPacket): void {
    const { frame, view, at, offload } = packet;
    if (!offload.checksumBlank) {
      const length = view.getUint16(16) - (at - 14);
      const pseudo = [...frame.subarray(26, 34), 0, 6, ...be16(length)];
      if (internetSum([...pseudo, ...frame.subarray(at, at + length)]) !== 0xffff) this.badChecksums++;
    }
    const localPort = view.getUint16(at + 2);
    const isSyn = (frame[at + 13] & 0x12) === 2;
    const accept = this.listening.get(localPort);
    const remote = frame.subarray(26, 30).join('.');
    const key = `${remote}:${view.getUint16(at)}>${localPort}`;
    let connection = this.tcp.get(key);
    if (connection === undefined && isSyn && accept !== undefined) {
      connection = new SimTcp(this, remote, view.getUint16(at), localPort);
      this.tcp.set(key, connection);
      accept(connection);
    }
    connection?.arrived(packet);
  }
}
