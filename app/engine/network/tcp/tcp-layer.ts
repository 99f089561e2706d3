// SPDX-License-Identifier: Apache-2.0
/**
 * All TCP connections with guests: finding them, creating and bounding them, batching their output, waiting for the link.
 *
 * GUEST: connections are bounded in number, and the bytes they may hold by a budget that they share.
 */
import type { GuestLink } from '../link/guest-link.ts';
import type { IpOutput } from '../link/ip-output.ts';
import { pseudoHeaderSum, sum16 } from '../packet/checksum.ts';
import { IPPROTO_TCP, type IpPacket } from '../packet/ip-packet.ts';
import { ACK, FIN, parseTcp, RST, SYN, TCP_HEADER_BYTES, type TcpSegment, writeTcpHeader } from '../packet/tcp-segment.ts';
import type { TimerQueue } from '../timer-queue.ts';
import { type OutgoingSegment, type TcpApplication, TcpConnection, type TcpLayerPort } from './connection.ts';
import { type FlowKey, FlowTable } from './flow-table.ts';
import { advance } from './sequence.ts';

/** For all connections, each way. */
const BUDGET_BYTES = 256 << 20;
const MIN_LIMIT_BYTES = 32 << 10;
const MAX_LIMIT_BYTES = 1 << 20;

export interface TcpLayerOptions {
  readonly timers: TimerQueue;
  readonly link: GuestLink;
  readonly output: IpOutput;
  /** Random 32 bits. */
  readonly random32: () => number;
  readonly maxConnections: number;
  readonly keepaliveIdleMs: number;
  /**
   * Who answers the guest's new connection: its application, a reset, or nobody (an ICMP error went out, or shall not).
   */
  readonly incoming: (key: FlowKey, packet: IpPacket) => ((connection: TcpConnection) => TcpApplication) | 'reset' | 'ignore';
}

export interface TcpCounters {
  opened: number;
  /** SYNs that found no room. */
  refusedForRoom: number;
  badChecksums: number;
}

export class TcpLayer {
  readonly counters: TcpCounters = { opened: 0, refusedForRoom: 0, badChecksums: 0 };
  readonly #options: TcpLayerOptions;
  readonly #flows: FlowTable<TcpConnection>;
  readonly #port: TcpLayerPort;
  readonly #timeWait = new Set<TcpConnection>();
  #scheduled: TcpConnection[] = [];
  #waiting: TcpConnection[] = [];

  constructor(options: TcpLayerOptions) {
    this.#options = options;
    this.#flows = new FlowTable(options.random32());
    const { link, output, timers } = options;
    const mss = output.mtu - 40;
    this.#port = {
      timers,
      mss,
      maxBurst: output.frameRoomBytes(16) - TCP_HEADER_BYTES,
      keepaliveIdleMs: options.keepaliveIdleMs,
      initialSequence: () => options.random32() >>> 0,
      linkBusy: () => link.busy,
      waitForLink: (connection) => this.#wait(connection),
      schedule: (connection) => this.#schedule(connection),
      transmit: (connection, segment) => this.#transmit(connection, segment),
      limitBytes: () => this.limitBytes(),
      timeWait: (connection) => void this.#timeWait.add(connection),
      closed: (connection) => this.#closed(connection),
    };
  }

  get size(): number {
    return this.#flows.size;
  }

  /** What one connection may hold, each way. */
  limitBytes(): number {
    const share = BUDGET_BYTES / Math.max(1, this.#flows.size);
    return Math.max(MIN_LIMIT_BYTES, Math.min(MAX_LIMIT_BYTES, Math.floor(share)));
  }

  /** A packet from the guest. */
  input(packet: IpPacket): void {
    const segment = parseTcp(packet.payload);
    if (segment === undefined) return;
    if (!packet.checksumBlank && !checksumIsRight(packet)) {
      this.counters.badChecksums++;
      return;
    }
    const found = this.#flows.get(packet.source, segment.sourcePort, packet.destination, segment.destinationPort);
    const isOpening = (segment.flags & (SYN | ACK | RST)) === SYN;
    if (found !== undefined && !(isOpening && found.yieldsTo(segment))) {
      found.segmentArrived(segment);
      return;
    }
    found?.drop();
    if (isOpening) this.#opening(packet, segment);
    else this.#resetUnknown(packet, segment);
  }

  /** Connects to the guest; `undefined`: no room, or the ports are taken. */
  open(key: FlowKey, application: (connection: TcpConnection) => TcpApplication): TcpConnection | undefined {
    if (this.#flows.get(key.guestAddress, key.guestPort, key.localAddress, key.localPort) !== undefined) return undefined;
    if (!this.#makeRoom()) return undefined;
    const connection = this.#create(key);
    connection.application = application(connection);
    connection.open();
    return connection;
  }

  /** The link takes frames again. */
  linkReady(): void {
    while (this.#waiting.length > 0 && !this.#options.link.busy) {
      const batch = this.#waiting.splice(0, 64);
      for (const connection of batch) {
        connection.waiting = false;
        connection.flush();
      }
    }
  }

  /** Ends every connection that `filter` picks; the guest gets a reset. */
  abort(filter: (connection: TcpConnection) => boolean): void {
    for (const connection of [...this.#flows.values()]) {
      if (!filter(connection)) continue;
      const { application } = connection;
      connection.abort();
      application?.ended('reset');
    }
  }

  #opening(packet: IpPacket, segment: TcpSegment): void {
    const { sourcePort, destinationPort } = segment;
    const guestAddress = packet.source.slice();
    const localAddress = packet.destination.slice();
    const key: FlowKey = { guestAddress, guestPort: sourcePort, localAddress, localPort: destinationPort };
    if (!this.#makeRoom()) return;
    const application = this.#options.incoming(key, packet);
    if (application === 'ignore') return;
    if (application === 'reset') {
      this.#resetUnknown(packet, segment);
      return;
    }
    const connection = this.#create(key);
    connection.start(segment);
    connection.application = application(connection);
  }

  #create(key: FlowKey): TcpConnection {
    const connection = new TcpConnection(key, this.#port);
    this.#flows.add(key, connection);
    this.counters.opened++;
    return connection;
  }

  #makeRoom(): boolean {
    if (this.#flows.size < this.#options.maxConnections) return true;
    for (const oldest of this.#timeWait) {
      oldest.drop();
      return true;
    }
    this.counters.refusedForRoom++;
    return false;
  }

  #closed(connection: TcpConnection): void {
    this.#timeWait.delete(connection);
    this.#flows.delete(connection.key, connection);
  }

  #schedule(connection: TcpConnection): void {
    if (connection.scheduled) return;
    connection.scheduled = true;
    this.#scheduled.push(connection);
    if (this.#scheduled.length === 1) this.#options.timers.soon(() => this.#flushScheduled());
  }

  #flushScheduled(): void {
    const batch = this.#scheduled;
    this.#scheduled = [];
    for (const connection of batch) {
      connection.scheduled = false;
      connection.flush();
    }
  }

  #wait(connection: TcpConnection): void {
    if (connection.waiting) return;
    connection.waiting = true;
    this.#waiting.push(connection);
  }

  #transmit(connection: TcpConnection, segment: OutgoingSegment): void {
    const { output } = this.#options;
    const { key } = connection;
    const at = output.begin(key.localAddress.length);
    const headerBytes = writeTcpHeader(output.frame, at, {
      sourcePort: key.localPort,
      destinationPort: key.guestPort,
      sequence: segment.sequence,
      acknowledgement: segment.acknowledgement,
      flags: segment.flags,
      window: segment.window,
      sack: segment.sack,
      ...(segment.handshake && {
        mss: output.mtu - (key.localAddress.length === 4 ? 40 : 60),
        windowShift: segment.handshake.windowShift,
        sackPermitted: segment.handshake.sackPermitted,
      }),
    });
    if (segment.length > 0) connection.sender.queue.copy(segment.offset, segment.length, output.frame, at + headerBytes);
    const gsoSize = segment.length > segment.segmentBytes ? segment.segmentBytes : 0;
    output.finish(key.localAddress, key.guestAddress, IPPROTO_TCP, headerBytes + segment.length, { gsoSize });
  }

  /** RFC 9293 §3.10.7.1. */
  #resetUnknown(packet: IpPacket, segment: TcpSegment): void {
    if ((segment.flags & RST) !== 0) return;
    const { output } = this.#options;
    const at = output.begin(packet.source.length);
    const hasAck = (segment.flags & ACK) !== 0;
    const length = segment.payload.length + (segment.flags & FIN) + ((segment.flags & SYN) >> 1);
    writeTcpHeader(output.frame, at, {
      sourcePort: segment.destinationPort,
      destinationPort: segment.sourcePort,
      sequence: hasAck ? segment.acknowledgement : 0,
      acknowledgement: hasAck ? 0 : advance(segment.sequence, length),
      flags: hasAck ? RST : RST | ACK,
      window: 0,
    });
    output.finish(packet.destination, packet.source, IPPROTO_TCP, TCP_HEADER_BYTES);
  }
}

function checksumIsRight(packet: IpPacket): boolean {
  const { payload } = packet;
  return sum16(payload, 0, payload.length, pseudoHeaderSum(packet.source, packet.destination, IPPROTO_TCP, payload.length)) === 0xffff;
}
