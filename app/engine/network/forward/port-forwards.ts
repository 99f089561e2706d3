// SPDX-License-Identifier: Apache-2.0
/**
 * Port forwarding, both ways, changed while the network runs.
 *
 *   host to guest: a port of the host leads to a port of the guest (QEMU: hostfwd)
 *   guest to host: an address and port inside the network lead to an address of the host's choice, its loopback included, or to a
 *   service in this process (QEMU: guestfwd)
 *
 * Explicit forwards work for isolated guests too. Removing one ends its listening; connections that stand go on.
 */
import { err, ok, type Result } from '../../../base/result.ts';
import type { HostListener, HostStream, SocketAddress, SocketError, SocketHost, StreamEvents } from '../../host/sockets.ts';
import { formatIp, type IpAddress, parseIp } from '../packet/ip-address.ts';
import type { Routing } from '../routing.ts';
import type { FlowKey } from '../tcp/flow-table.ts';
import { UdpForward, type UdpForwardOptions } from './udp-forward.ts';

export type ForwardSpec =
  | {
      readonly kind: 'host-to-guest';
      readonly protocol: 'tcp' | 'udp';
      /** Port 0: any free one. */
      readonly host: SocketAddress;
      /** Without an address: the guest that asked for one last. */
      readonly guest: { readonly address?: string; readonly port: number };
    }
  | { readonly kind: 'guest-to-host'; readonly protocol: 'tcp' | 'udp'; readonly guest: SocketAddress; readonly host: SocketAddress }
  | { readonly kind: 'guest-to-service'; readonly guest: SocketAddress; readonly connect: (events: StreamEvents) => HostStream };

export interface Forward {
  readonly id: number;
  readonly spec: ForwardSpec;
  /** Where the host listens. */
  readonly local: SocketAddress | undefined;
}

export type ForwardError = SocketError | { readonly kind: 'bad-forward'; readonly message: string };

/** What the guest's connection to a forwarded address leads to. */
export type TcpTarget = (events: StreamEvents) => HostStream;

export interface PortForwardsOptions extends UdpForwardOptions {
  readonly sockets: SocketHost;
  readonly routing: Routing;
  readonly defaultGuest: () => IpAddress;
  /** Joins the stream with a new connection to the guest; `undefined`: there is no room. */
  readonly connectGuest: (key: FlowKey, stream: HostStream) => StreamEvents | undefined;
}

interface Entry {
  readonly forward: Forward;
  readonly close: () => void;
}

export class PortForwards {
  readonly #options: PortForwardsOptions;
  readonly #entries = new Map<number, Entry>();
  readonly #tcpTargets = new Map<string, TcpTarget>();
  readonly #udpTargets = new Map<string, SocketAddress>();
  readonly #udpForwards = new Set<UdpForward>();
  #nextId = 1;
  #closed = false;

  constructor(options: PortForwardsOptions) {
    this.#options = options;
  }

  list(): Forward[] {
    return [...this.#entries.values()].map((entry) => entry.forward);
  }

  async add(spec: ForwardSpec): Promise<Result<Forward, ForwardError>> {
    const problem = this.#check(spec);
    if (problem !== undefined) return err({ kind: 'bad-forward', message: problem });
    if (spec.kind !== 'host-to-guest') return ok(this.#addFromGuest(spec));
    const opened = spec.protocol === 'tcp' ? await this.#listenTcp(spec) : await this.#listenUdp(spec);
    if (!opened.ok) return opened;
    if (this.#closed) {
      opened.value.close();
      return err({ kind: 'bad-forward', message: 'the network was closed meanwhile' });
    }
    return ok(this.#keep(spec, opened.value.local, () => opened.value.close()));
  }

  /** False: there is no such forward. */
  remove(id: number): boolean {
    const entry = this.#entries.get(id);
    if (entry === undefined) return false;
    this.#entries.delete(id);
    entry.close();
    return true;
  }

  close(): void {
    this.#closed = true;
    for (const id of [...this.#entries.keys()]) this.remove(id);
  }

  /** Where the guest's new connection to a forwarded address leads. */
  tcpTarget(address: IpAddress, port: number): TcpTarget | undefined {
    return this.#tcpTargets.size === 0 ? undefined : this.#tcpTargets.get(`${formatIp(address)} ${port}`);
  }

  udpTarget(address: IpAddress, port: number): SocketAddress | undefined {
    return this.#udpTargets.size === 0 ? undefined : this.#udpTargets.get(`${formatIp(address)} ${port}`);
  }

  /** Takes the guest's answer to a forwarded datagram; false: it is none. */
  answerUdp(guest: IpAddress, guestPort: number, local: IpAddress, localPort: number, payload: Uint8Array): boolean {
    for (const forward of this.#udpForwards) if (forward.answer(guest, guestPort, local, localPort, payload)) return true;
    return false;
  }

  #check(spec: ForwardSpec): string | undefined {
    const { routing } = this.#options;
    const isPort = (port: number, lowest: number) => Number.isInteger(port) && port >= lowest && port <= 0xffff;
    if (!isPort(spec.guest.port, 1)) return `${spec.guest.port} is not a port`;
    if (spec.kind === 'host-to-guest') {
      if (!isPort(spec.host.port, 0)) return `${spec.host.port} is not a port`;
      if (parseIp(spec.host.address) === undefined) return `"${spec.host.address}" is not an IP address of this host`;
      if (spec.guest.address === undefined) return undefined;
      const guest = parseIp(spec.guest.address);
      return guest !== undefined && routing.isGuest(guest)
        ? undefined
        : `"${spec.guest.address}" is not an address for guests of this network`;
    }
    const inside = parseIp(spec.guest.address);
    if (inside === undefined || !routing.isInside(inside)) return `"${spec.guest.address}" does not lie in the guest network`;
    const key = `${formatIp(inside)} ${spec.guest.port}`;
    const isUdp = spec.kind === 'guest-to-host' && spec.protocol === 'udp';
    if (isUdp ? this.#udpTargets.has(key) : this.#tcpTargets.has(key))
      return `${spec.guest.address} port ${spec.guest.port} is forwarded already`;
    if (spec.kind === 'guest-to-service') return undefined;
    if (!isPort(spec.host.port, 1)) return `${spec.host.port} is not a port`;
    const host = parseIp(spec.host.address);
    if (host === undefined) return `"${spec.host.address}" is not an IP address`;
    return isUdp && host.length !== inside.length ? 'a UDP forward cannot change between IPv4 and IPv6' : undefined;
  }

  #addFromGuest(spec: Exclude<ForwardSpec, { kind: 'host-to-guest' }>): Forward {
    const { routing, sockets } = this.#options;
    const address = parseIp(spec.guest.address)!;
    const key = `${formatIp(address)} ${spec.guest.port}`;
    routing.addAddress(address);
    if (spec.kind === 'guest-to-service') this.#tcpTargets.set(key, spec.connect);
    else {
      const host = { address: formatIp(parseIp(spec.host.address)!), port: spec.host.port };
      if (spec.protocol === 'udp') this.#udpTargets.set(key, host);
      else this.#tcpTargets.set(key, (events) => sockets.connectTcp(host, events));
    }
    const targets = spec.kind === 'guest-to-host' && spec.protocol === 'udp' ? this.#udpTargets : this.#tcpTargets;
    return this.#keep(spec, undefined, () => {
      targets.delete(key);
      routing.removeAddress(address);
    });
  }

  async #listenTcp(spec: Extract<ForwardSpec, { kind: 'host-to-guest' }>): Promise<Result<HostListener, SocketError>> {
    return this.#options.sockets.listenTcp(spec.host, (stream) => {
      const guestAddress = this.#guestOf(spec);
      const localAddress = this.#senderFor(stream.peer.address, guestAddress);
      if (localAddress === undefined) return undefined;
      const key = { guestAddress, guestPort: spec.guest.port, localAddress, localPort: stream.peer.port };
      return this.#options.connectGuest(key, stream);
    });
  }

  async #listenUdp(spec: Extract<ForwardSpec, { kind: 'host-to-guest' }>): Promise<Result<HostListener, SocketError>> {
    const opened = await UdpForward.open(this.#options, spec.host, spec.guest.port, (peer) => {
      const guest = this.#guestOf(spec);
      const local = this.#senderFor(peer, guest);
      return local === undefined ? undefined : { guest, local };
    });
    if (!opened.ok) return opened;
    const forward = opened.value;
    this.#udpForwards.add(forward);
    const close = () => {
      this.#udpForwards.delete(forward);
      forward.close();
    };
    return ok({ local: forward.local, close });
  }

  #guestOf(spec: Extract<ForwardSpec, { kind: 'host-to-guest' }>): IpAddress {
    return spec.guest.address === undefined ? this.#options.defaultGuest() : parseIp(spec.guest.address)!;
  }

  /** Who the guest thinks is talking to it. */
  #senderFor(peer: string, guest: IpAddress): IpAddress | undefined {
    const { routing } = this.#options;
    const address = parseIp(peer.replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/, ''));
    if (address !== undefined && address.length === guest.length) return routing.senderFor(address);
    return guest.length === 4 ? routing.plan.gateway4 : routing.plan.ipv6?.gateway;
  }

  #keep(spec: ForwardSpec, local: SocketAddress | undefined, close: () => void): Forward {
    const forward: Forward = { id: this.#nextId++, spec, local };
    this.#entries.set(forward.id, { forward, close });
    return forward;
  }
}
