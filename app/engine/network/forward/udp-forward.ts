// SPDX-License-Identifier: Apache-2.0
/**
 * One UDP port of the host that leads to the guest. Each sender appears to the guest with an address and port of its own, so that answers
 * find back.
 *
 * Senders are bounded; the one not heard of for longest makes room.
 */
import { ok, type Result } from '../../../base/result.ts';
import type { HostUdp, SocketAddress, SocketError, SocketHost } from '../../host/sockets.ts';
import { formatIp, type IpAddress } from '../packet/ip-address.ts';
import type { TimerQueue } from '../timer-queue.ts';
import type { UdpEnds } from '../udp/udp-output.ts';

const MAX_SENDERS = 1024;
const FIRST_REPLACEMENT_PORT = 49_152;

export interface UdpForwardOptions {
  readonly sockets: SocketHost;
  readonly timers: TimerQueue;
  readonly timeoutMs: number;
  readonly sendUdp: (ends: UdpEnds, payload: Uint8Array) => void;
}

/** Which guest gets a sender's datagrams, and as whose. */
export type Placement = (peer: string) => { readonly guest: IpAddress; readonly local: IpAddress } | undefined;

interface Sender {
  readonly peer: SocketAddress;
  readonly ends: UdpEnds;
  readonly guestKey: string;
  heardMs: number;
}

export class UdpForward {
  readonly #options: UdpForwardOptions;
  readonly #guestPort: number;
  readonly #place: Placement;
  /** By the host's peer, in order of use. */
  readonly #senders = new Map<string, Sender>();
  readonly #byGuest = new Map<string, Sender>();
  #socket: HostUdp | undefined;

  private constructor(options: UdpForwardOptions, guestPort: number, place: Placement) {
    this.#options = options;
    this.#guestPort = guestPort;
    this.#place = place;
  }

  static async open(
    options: UdpForwardOptions,
    at: SocketAddress,
    guestPort: number,
    place: Placement,
  ): Promise<Result<UdpForward, SocketError>> {
    const forward = new UdpForward(options, guestPort, place);
    const opened = await options.sockets.openUdp({
      family: at.address.includes(':') ? 6 : 4,
      address: at.address,
      port: at.port,
      message: (bytes, from) => forward.#received(bytes, from),
      failed: () => forward.close(),
    });
    if (!opened.ok) return opened;
    forward.#socket = opened.value;
    return ok(forward);
  }

  get local(): SocketAddress {
    return this.#socket?.local ?? { address: '', port: 0 };
  }

  /** Takes the guest's datagram if it answers one of the senders. */
  answer(guest: IpAddress, guestPort: number, local: IpAddress, localPort: number, payload: Uint8Array): boolean {
    if (guestPort !== this.#guestPort || this.#byGuest.size === 0) return false;
    const sender = this.#byGuest.get(guestKey(guest, local, localPort));
    if (sender === undefined) return false;
    sender.heardMs = this.#options.timers.nowMs();
    this.#socket?.send(payload, sender.peer);
    return true;
  }

  close(): void {
    this.#socket?.close();
    this.#socket = undefined;
    this.#senders.clear();
    this.#byGuest.clear();
  }

  #received(bytes: Uint8Array, from: SocketAddress): void {
    const sender = this.#sender(from);
    if (sender !== undefined) this.#options.sendUdp(sender.ends, bytes);
  }

  #sender(from: SocketAddress): Sender | undefined {
    this.#expire();
    const key = `${from.address} ${from.port}`;
    const known = this.#senders.get(key);
    const sender = known ?? this.#newSender(from);
    if (sender === undefined) return undefined;
    sender.heardMs = this.#options.timers.nowMs();
    this.#senders.delete(key);
    this.#senders.set(key, sender);
    this.#byGuest.set(sender.guestKey, sender);
    if (this.#senders.size > MAX_SENDERS) this.#forgetOldest();
    return sender;
  }

  #newSender(from: SocketAddress): Sender | undefined {
    const placement = this.#place(from.address);
    if (placement === undefined) return undefined;
    const { guest, local } = placement;
    let port = from.port;
    for (let tries = 0; this.#byGuest.has(guestKey(guest, local, port)); tries++) {
      if (tries > MAX_SENDERS) return undefined;
      port = FIRST_REPLACEMENT_PORT + ((port + tries) % (0x10000 - FIRST_REPLACEMENT_PORT));
    }
    const ends: UdpEnds = { source: local, sourcePort: port, destination: guest, destinationPort: this.#guestPort };
    return { peer: from, ends, guestKey: guestKey(guest, local, port), heardMs: 0 };
  }

  #expire(): void {
    const before = this.#options.timers.nowMs() - this.#options.timeoutMs;
    for (const sender of this.#senders.values()) {
      if (sender.heardMs >= before) return;
      this.#forgetOldest();
    }
  }

  #forgetOldest(): void {
    const [key, sender] = this.#senders.entries().next().value!;
    this.#senders.delete(key);
    this.#byGuest.delete(sender.guestKey);
  }
}

function guestKey(guest: IpAddress, local: IpAddress, localPort: number): string {
  return `${formatIp(guest)} ${formatIp(local)} ${localPort}`;
}
