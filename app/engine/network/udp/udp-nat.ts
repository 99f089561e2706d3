// SPDX-License-Identifier: Apache-2.0
/**
 * UDP from the guest to the outside (RFC 4787): one host socket for each port of the guest, whomever it talks to; answers pass only from
 * addresses that the guest sent to (address-dependent filtering). Mappings end after a time without traffic from the guest.
 *
 * GUEST: mappings, the peers of each and the datagrams that wait for a socket are bounded; the mapping that was used least recently makes
 * room for a new one.
 */
import type { HostUdp, SocketHost } from '../../host/sockets.ts';
import { formatIp, type IpAddress, parseIp } from '../packet/ip-address.ts';
import type { Deadline, TimerQueue } from '../timer-queue.ts';
import type { UdpEnds } from './udp-output.ts';

const MAX_MAPPINGS = 2048;
const MAX_PEERS = 512;
const MAX_WAITING = 32;
/** Name lookups past our forwarder: asked once, answered once. */
const DNS_PORT = 53;
const DNS_TIMEOUT_MS = 15_000;

export interface UdpNatOptions {
  readonly sockets: SocketHost;
  readonly timers: TimerQueue;
  readonly timeoutMs: number;
  readonly send: (ends: UdpEnds, payload: Uint8Array) => void;
}

/** A datagram on its way out: the address in the guest's eyes, and on the host. */
export interface OutgoingDatagram {
  readonly guestAddress: IpAddress;
  readonly guestPort: number;
  readonly destination: IpAddress;
  readonly destinationPort: number;
  readonly hostAddress: string;
  /** Present for a forward: this one port of the host stands for the destination. */
  readonly hostPort?: number;
  readonly payload: Uint8Array;
}

interface Waiting {
  readonly payload: Uint8Array;
  readonly address: string;
  readonly port: number;
}

interface Mapping {
  readonly key: string;
  readonly guestAddress: IpAddress;
  readonly guestPort: number;
  socket: HostUdp | undefined;
  waiting: Waiting[];
  /** The host's addresses that may answer, and how the guest knows them. */
  readonly peers: Map<string, IpAddress>;
  /** The same for single ports, `address port`. */
  readonly forwards: Map<string, { readonly address: IpAddress; readonly port: number }>;
  readonly deadline: Deadline;
  timeoutMs: number;
  closed: boolean;
}

export class UdpNat {
  readonly #options: UdpNatOptions;
  /** In order of use. */
  readonly #mappings = new Map<string, Mapping>();
  #dropped = 0;

  constructor(options: UdpNatOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#mappings.size;
  }

  /** Datagrams that found no socket or no permission. */
  get dropped(): number {
    return this.#dropped;
  }

  /** Sends the guest's datagram to the host's network. */
  send(datagram: OutgoingDatagram): void {
    const key = `${formatIp(datagram.guestAddress)} ${datagram.guestPort} ${datagram.destination.length}`;
    let mapping = this.#mappings.get(key);
    if (mapping === undefined) mapping = this.#create(key, datagram);
    else {
      this.#mappings.delete(key);
      this.#mappings.set(key, mapping);
    }
    const { hostAddress, destination, destinationPort, payload } = datagram;
    if (destinationPort !== DNS_PORT) mapping.timeoutMs = this.#options.timeoutMs;
    mapping.deadline.set(mapping.timeoutMs);
    const port = datagram.hostPort ?? destinationPort;
    if (datagram.hostPort === undefined) remember(mapping.peers, hostAddress, () => destination.slice());
    else remember(mapping.forwards, `${hostAddress} ${port}`, () => ({ address: destination.slice(), port: destinationPort }));
    if (mapping.socket !== undefined) mapping.socket.send(payload, { address: hostAddress, port });
    else if (mapping.waiting.length < MAX_WAITING) mapping.waiting.push({ payload: payload.slice(), address: hostAddress, port });
    else this.#dropped++;
  }

  close(): void {
    for (const mapping of [...this.#mappings.values()]) this.#drop(mapping);
  }

  #create(key: string, datagram: OutgoingDatagram): Mapping {
    const mapping: Mapping = {
      key,
      guestAddress: datagram.guestAddress.slice(),
      guestPort: datagram.guestPort,
      socket: undefined,
      waiting: [],
      peers: new Map(),
      forwards: new Map(),
      deadline: this.#options.timers.deadline(() => this.#drop(mapping)),
      timeoutMs: DNS_TIMEOUT_MS,
      closed: false,
    };
    this.#mappings.set(key, mapping);
    if (this.#mappings.size > MAX_MAPPINGS) this.#drop(this.#mappings.values().next().value!);
    void this.#open(mapping, datagram.destination.length === 4 ? 4 : 6);
    return mapping;
  }

  async #open(mapping: Mapping, family: 4 | 6): Promise<void> {
    const opened = await this.#options.sockets.openUdp({
      family,
      message: (bytes, from) => this.#answer(mapping, bytes, from.address, from.port),
      failed: () => this.#drop(mapping),
    });
    if (!opened.ok || mapping.closed) {
      if (opened.ok) opened.value.close();
      this.#drop(mapping);
      return;
    }
    mapping.socket = opened.value;
    for (const { payload, address, port } of mapping.waiting) opened.value.send(payload, { address, port });
    mapping.waiting = [];
  }

  #answer(mapping: Mapping, payload: Uint8Array, address: string, port: number): void {
    const from = mapping.peers.has(address) ? address : normalised(address);
    const forward = mapping.forwards.get(`${from} ${port}`);
    const source = forward?.address ?? mapping.peers.get(from);
    if (source === undefined || mapping.closed) {
      this.#dropped++;
      return;
    }
    const { guestAddress, guestPort } = mapping;
    const sourcePort = forward?.port ?? port;
    this.#options.send({ source, sourcePort, destination: guestAddress, destinationPort: guestPort }, payload);
  }

  #drop(mapping: Mapping): void {
    if (mapping.closed) return;
    mapping.closed = true;
    mapping.deadline.dispose();
    mapping.waiting = [];
    mapping.socket?.close();
    if (this.#mappings.get(mapping.key) === mapping) this.#mappings.delete(mapping.key);
  }
}

/** Adds what is missing; the oldest entry makes room. */
function remember<T>(map: Map<string, T>, key: string, value: () => T): void {
  if (map.has(key)) return;
  if (map.size >= MAX_PEERS) map.delete(map.keys().next().value!);
  map.set(key, value());
}

/** Hosts may write IPv6 addresses in ways of their own. */
function normalised(address: string): string {
  const parsed = parseIp(address.replace(/%.*$/, ''));
  return parsed === undefined ? address : formatIp(parsed);
}
