// SPDX-License-Identifier: Apache-2.0
/**
 * The user-mode network: a NAT router for guests that needs no privileges, because it speaks to the guest in packets and to the host
 * through ordinary sockets.
 *
 * This file takes frames apart as far as the transport protocol and puts the parts together; everything else has a file of its own. One or
 * several guests may be behind the port (a switch).
 *
 * GUEST: no frame throws; malformed ones are counted and dropped. Only addresses of the guest network are accepted as senders.
 */
import { err, ok, type Result } from '../../base/result.ts';
import type { Clock } from '../host/clock.ts';
import type { Entropy } from '../host/entropy.ts';
import type { HostStream, SocketHost, StreamEvents } from '../host/sockets.ts';
import type { Timers } from '../host/timers.ts';
import { type ConfigError, type NetworkPlan, planNetwork, type UserNetworkConfig } from './config.ts';
import { DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpServer } from './dhcp/dhcp-server.ts';
import { answerDhcpv6, DHCPV6_CLIENT_PORT, DHCPV6_SERVER_PORT } from './dhcp/dhcpv6-server.ts';
import { DNS_PORT, DnsForwarder } from './dns/dns-forwarder.ts';
import { DnsStream } from './dns/dns-stream.ts';
import { type Forward, type ForwardError, type ForwardSpec, PortForwards, type TcpTarget } from './forward/port-forwards.ts';
import { Icmp } from './icmp/icmp.ts';
import { NeighbourDiscovery } from './icmp/neighbour-discovery.ts';
import { Arp } from './link/arp.ts';
import { GuestLink, type LinkCounters } from './link/guest-link.ts';
import { IpOutput } from './link/ip-output.ts';
import { Neighbours } from './link/neighbours.ts';
import { Reassembly } from './link/reassembly.ts';
import { ETHERNET_HEADER_BYTES, type FrameReceiver, MAX_FRAME_BYTES, type Offload, type SwitchablePort } from './network-port.ts';
import { pseudoHeaderSum, sum16 } from './packet/checksum.ts';
import { ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6 } from './packet/ethernet.ts';
import { ALL_DHCPV6_AGENTS, BROADCAST_IPV4, formatIp, type IpAddress, isAny, isMulticast } from './packet/ip-address.ts';
import { IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, type IpPacket, parseIpv4, parseIpv6 } from './packet/ip-packet.ts';
import { isGroupMac } from './packet/mac-address.ts';
import { parseUdp, type UdpDatagram } from './packet/udp-datagram.ts';
import { get16, get32, sameBytes } from './packet/wire.ts';
import { Routing } from './routing.ts';
import { TcpBridge } from './tcp/bridge.ts';
import type { TcpConnection } from './tcp/connection.ts';
import type { FlowKey } from './tcp/flow-table.ts';
import { TcpLayer } from './tcp/tcp-layer.ts';
import { TimerQueue } from './timer-queue.ts';
import { UdpNat } from './udp/udp-nat.ts';
import { sendUdp, type UdpEnds } from './udp/udp-output.ts';

export interface UserNetworkPorts {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly entropy: Entropy;
  readonly sockets: SocketHost;
}

export interface UserNetworkStats extends LinkCounters {
  readonly tcpConnections: number;
  readonly tcpOpened: number;
  readonly tcpRefusedForRoom: number;
  readonly udpMappings: number;
  readonly udpDropped: number;
}

export class UserNetwork implements SwitchablePort {
  readonly plan: NetworkPlan;
  readonly #ports: UserNetworkPorts;
  readonly #timers: TimerQueue;
  readonly #routing: Routing;
  readonly #link: GuestLink;
  readonly #neighbours = new Neighbours();
  readonly #reassembly = new Reassembly();
  readonly #output: IpOutput;
  readonly #arp: Arp;
  readonly #discovery: NeighbourDiscovery;
  readonly #icmp: Icmp;
  readonly #dhcp: DhcpServer;
  readonly #dns: DnsForwarder;
  readonly #udp: UdpNat;
  readonly #tcp: TcpLayer;
  readonly #forwards: PortForwards;
  /** Connections that the guest opened to the outside, for isolation. */
  readonly #outgoing = new WeakSet<FlowKey>();
  #announced = false;
  #closed = false;

  /** Checks the configuration and creates the network. */
  static create(config: UserNetworkConfig, ports: UserNetworkPorts): Result<UserNetwork, ConfigError> {
    const plan = planNetwork(config);
    return plan.ok ? ok(new UserNetwork(plan.value, ports)) : err(plan.error);
  }

  private constructor(plan: NetworkPlan, ports: UserNetworkPorts) {
    this.plan = plan;
    this.#ports = ports;
    const { sockets } = ports;
    const timers = new TimerQueue(ports.clock, ports.timers);
    const routing = new Routing(plan);
    const link = new GuestLink(() => this.#linkReady());
    this.#timers = timers;
    this.#routing = routing;
    this.#link = link;
    const nowMs = () => timers.nowMs();
    const output = new IpOutput(plan.mac, plan.mtu, {
      link,
      neighbours: this.#neighbours,
      nowMs,
      solicit: (address) => this.#solicit(address),
    });
    this.#output = output;
    const isOurs = (address: IpAddress) => routing.isOurs(address);
    const isGuest = (address: IpAddress) => routing.isGuest(address);
    const learn = (address: IpAddress, mac: Uint8Array) => this.#learn(address, mac);
    this.#arp = new Arp({ mac: plan.mac, gateway: plan.gateway4, link, isOurs, isGuest, learn });
    this.#discovery = new NeighbourDiscovery({ plan, output, timers, isOurs, isGuest, learn });
    this.#icmp = new Icmp({ output, routing, sockets, nowMs });
    this.#dhcp = new DhcpServer(plan);
    const random32 = () => this.#random32();
    this.#dns = new DnsForwarder({ sockets, timers, random32, names: sockets.names, routing });
    const send = (ends: UdpEnds, payload: Uint8Array) => sendUdp(output, ends, payload);
    this.#udp = new UdpNat({ sockets, timers, timeoutMs: plan.udpTimeoutMs, send });
    this.#tcp = new TcpLayer({
      timers,
      link,
      output,
      random32,
      maxConnections: plan.maxConnections,
      keepaliveIdleMs: plan.keepaliveIdleMs,
      incoming: (key, packet) => this.#incoming(key, packet),
    });
    this.#forwards = new PortForwards({
      sockets,
      timers,
      timeoutMs: plan.udpTimeoutMs,
      sendUdp: send,
      routing,
      defaultGuest: () => this.#dhcp.defaultGuest(),
      connectGuest: (key, stream) => this.#connectGuest(key, stream),
    });
  }

  // ---- the device's side

  get linkUp(): boolean {
    return this.#link.up;
  }

  attach(receiver: FrameReceiver | undefined): void {
    this.#neighbours.clear();
    this.#reassembly.clear();
    this.#link.attach(receiver);
  }

  setLink(up: boolean): void {
    this.#link.setUp(up);
  }

  receiveReady(): void {
    this.#link.receiveReady();
  }

  /** A frame from the guest; always taken. */
  send(frame: Uint8Array, offload: Offload): boolean {
    const { counters } = this.#link;
    counters.framesFromGuest++;
    counters.bytesFromGuest += frame.length;
    if (this.#closed || !this.#link.up || !this.#input(frame, offload)) counters.droppedFromGuest++;
    return true;
  }

  // ---- the user's side

  addForward(spec: ForwardSpec): Promise<Result<Forward, ForwardError>> {
    return this.#forwards.add(spec);
  }

  removeForward(id: number): boolean {
    return this.#forwards.remove(id);
  }

  forwards(): Forward[] {
    return this.#forwards.list();
  }

  /** Changes what the guest may reach from now on. Isolation also ends the connections that it forbids. */
  allow(options: { readonly isolated?: boolean; readonly allowHostLoopback?: boolean }): void {
    this.#routing.allow(options);
    if (options.isolated !== true) return;
    this.#udp.close();
    this.#tcp.abort(({ key }) => this.#outgoing.has(key) && this.#forwards.tcpTarget(key.localAddress, key.localPort) === undefined);
  }

  /** The addresses given by DHCP, by MAC address. */
  leases(): { readonly mac: string; readonly address: string }[] {
    return this.#dhcp.leases().map(({ mac, address }) => ({ mac, address: formatIp(address) }));
  }

  stats(): UserNetworkStats {
    return {
      ...this.#link.counters,
      tcpConnections: this.#tcp.size,
      tcpOpened: this.#tcp.counters.opened,
      tcpRefusedForRoom: this.#tcp.counters.refusedForRoom,
      udpMappings: this.#udp.size,
      udpDropped: this.#udp.dropped,
    };
  }

  /** Ends everything; nothing happens afterwards. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#forwards.close();
    this.#tcp.abort(() => true);
    this.#udp.close();
    this.#discovery.stop();
    this.#link.attach(undefined);
    this.#timers.close();
  }

  // ---- frames

  /** False: the frame is dropped. */
  #input(frame: Uint8Array, offload: Offload): boolean {
    if (frame.length < ETHERNET_HEADER_BYTES || frame.length > MAX_FRAME_BYTES || isGroupMac(frame, 6)) return false;
    if (!isGroupMac(frame) && !sameMac(frame, this.plan.mac)) return false;
    const type = get16(frame, 12);
    if (type === ETHERTYPE_ARP) return this.#arp.input(frame);
    const blank = offload.checksumBlank || offload.gsoSize > 0;
    let packet: IpPacket | undefined;
    if (type === ETHERTYPE_IPV4) packet = parseIpv4(frame, ETHERNET_HEADER_BYTES, blank);
    else if (type === ETHERTYPE_IPV6 && this.plan.ipv6 !== undefined) packet = parseIpv6(frame, ETHERNET_HEADER_BYTES, blank);
    if (packet === undefined) return false;
    if (this.#routing.isGuest(packet.source)) this.#learn(packet.source, frame.subarray(6, 12));
    else if (!isAny(packet.source)) return false;
    if (packet.fragment === undefined) return this.#packet(packet);
    const whole = this.#reassembly.add(packet, this.#timers.nowMs());
    return whole === undefined || this.#packet(whole);
  }

  #packet(packet: IpPacket): boolean {
    const { protocol, destination, hopLimit } = packet;
    if (isAny(packet.source)) {
      // Only who has no address yet may come from nowhere.
      if (protocol === IPPROTO_UDP) return this.#udpInput(packet);
      return protocol === IPPROTO_ICMPV6 && this.#discovery.input(packet);
    }
    if (hopLimit <= 1 && this.#routing.route(destination).to === 'host' && !this.#routing.isInside(destination)) {
      this.#icmp.error('time-exceeded', packet);
      return true;
    }
    if (protocol === IPPROTO_TCP) {
      if (isMulticast(destination) || sameBytes(destination, BROADCAST_IPV4)) return false;
      this.#tcp.input(packet);
      return true;
    }
    if (protocol === IPPROTO_UDP) return this.#udpInput(packet);
    if (protocol === (destination.length === 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
      if (destination.length === 4 || !this.#discovery.input(packet)) this.#icmp.input(packet);
      return true;
    }
    this.#icmp.error('protocol-unreachable', packet);
    return false;
  }

  // ---- UDP

  #udpInput(packet: IpPacket): boolean {
    const datagram = parseUdp(packet.payload);
    if (datagram === undefined || !udpChecksumIsRight(packet, datagram)) return false;
    const { source, destination } = packet;
    const { sourcePort, destinationPort, payload } = datagram;
    if (source.length === 4 && destinationPort === DHCP_SERVER_PORT) return this.#dhcpInput(packet, payload);
    if (isAny(source)) return false;
    if (destinationPort === DHCPV6_SERVER_PORT && destination.length === 16) return this.#dhcpv6Input(packet, payload);
    if (isMulticast(destination)) return false;
    if (this.#forwards.answerUdp(source, sourcePort, destination, destinationPort, payload)) return true;
    const nat = { guestAddress: source, guestPort: sourcePort, destination, destinationPort, payload };
    const target = this.#forwards.udpTarget(destination, destinationPort);
    if (target !== undefined) {
      this.#udp.send({ ...nat, hostAddress: target.address, hostPort: target.port });
      return true;
    }
    const route = this.#routing.route(destination);
    if (route.to === 'dns' && destinationPort === DNS_PORT) void this.#dnsQuery(packet, datagram);
    else if (route.to === 'host' && destinationPort !== 0) this.#udp.send({ ...nat, hostAddress: route.address });
    else if (route.to === 'prohibited') this.#icmp.error('prohibited', packet);
    else if (route.to === 'gateway' || route.to === 'dns') this.#icmp.error('port-unreachable', packet);
    else return false;
    return true;
  }

  #dhcpInput({ destination }: IpPacket, payload: Uint8Array): boolean {
    if (!sameBytes(destination, BROADCAST_IPV4) && !sameBytes(destination, this.plan.gateway4)) return false;
    const answer = this.#dhcp.handle(payload);
    if (answer === undefined) return false;
    const to = answer.to?.address ?? BROADCAST_IPV4;
    const ends = { source: this.plan.gateway4, sourcePort: DHCP_SERVER_PORT, destination: to, destinationPort: DHCP_CLIENT_PORT };
    if (answer.to === undefined) sendUdp(this.#output, ends, answer.bytes);
    // GUEST: an answer outside the network would be the guest's own doing, and only reach itself.
    else sendUdp(this.#output, ends, answer.bytes, { mac: answer.to.mac });
    return true;
  }

  #dhcpv6Input({ source, destination }: IpPacket, payload: Uint8Array): boolean {
    if (!sameBytes(destination, ALL_DHCPV6_AGENTS) && !this.#routing.isOurs(destination)) return false;
    const answer = answerDhcpv6(this.plan, payload);
    if (answer === undefined || this.plan.ipv6 === undefined) return false;
    const from = this.plan.ipv6.linkLocal;
    const ends = { source: from, sourcePort: DHCPV6_SERVER_PORT, destination: source.slice(), destinationPort: DHCPV6_CLIENT_PORT };
    sendUdp(this.#output, ends, answer);
    return true;
  }

  async #dnsQuery(packet: IpPacket, datagram: UdpDatagram): Promise<void> {
    const ends = {
      source: packet.destination.slice(),
      sourcePort: DNS_PORT,
      destination: packet.source.slice(),
      destinationPort: datagram.sourcePort,
    };
    const answer = await this.#dns.handle(datagram.payload.slice(), 'udp');
    if (answer !== undefined && !this.#closed) sendUdp(this.#output, ends, answer);
  }

  // ---- TCP

  #incoming(key: FlowKey, packet: IpPacket): ((connection: TcpConnection) => TcpBridge) | 'reset' | 'ignore' {
    const target = this.#forwards.tcpTarget(key.localAddress, key.localPort) ?? this.#tcpTarget(key, packet);
    if (typeof target === 'string') return target;
    this.#outgoing.add(key);
    // For an error that comes later, when the frame is gone.
    const quoted = { ...packet, source: key.guestAddress, destination: key.localAddress, whole: packet.whole.slice(0, 128) };
    return (connection) => {
      const bridge = this.#bridge(connection, () => this.#icmp.error('host-unreachable', quoted));
      bridge.attach(target(bridge));
      return bridge;
    };
  }

  #tcpTarget(key: FlowKey, packet: IpPacket): TcpTarget | 'reset' | 'ignore' {
    const route = this.#routing.route(key.localAddress);
    if (key.localPort === 0) return 'reset';
    if (route.to === 'host') return (events) => this.#ports.sockets.connectTcp({ address: route.address, port: key.localPort }, events);
    if (route.to === 'dns' && key.localPort === DNS_PORT) {
      return (events) =>
        new DnsStream(
          events,
          (task) => this.#timers.soon(task),
          (query) => this.#dns.handle(query, 'tcp'),
        );
    }
    if (route.to === 'prohibited') this.#icmp.error('prohibited', packet);
    return route.to === 'gateway' || route.to === 'dns' || this.#routing.isOurs(key.localAddress) ? 'reset' : 'ignore';
  }

  #connectGuest(key: FlowKey, stream: HostStream): StreamEvents | undefined {
    let bridge: TcpBridge | undefined;
    const create = (connection: TcpConnection) => {
      bridge = this.#bridge(connection, () => {});
      bridge.attach(stream);
      return bridge;
    };
    // The sender's port may be in use; any other is as good.
    for (let tries = 0; tries < 8; tries++) {
      const localPort = tries === 0 ? key.localPort : 1024 + ((this.#random32() >>> 0) % 64_000);
      if (this.#tcp.open({ ...key, localPort }, create) !== undefined) return bridge;
    }
    return undefined;
  }

  #bridge(connection: TcpConnection, unreachable: () => void): TcpBridge {
    return new TcpBridge(connection, { limitBytes: () => this.#tcp.limitBytes(), unreachable, ended: () => {} });
  }

  // ---- the link

  #linkReady(): void {
    this.#tcp.linkReady();
    if (!this.#link.busy && !this.#closed && this.plan.ipv6 !== undefined && !this.#announced) this.#announce();
  }

  /** New guests need not ask for a router. */
  #announce(): void {
    this.#announced = true;
    this.#timers.soon(() => {
      if (!this.#closed) this.#discovery.advertiseRouter();
    });
  }

  #learn(address: IpAddress, mac: Uint8Array): void {
    for (const { frame, offload } of this.#neighbours.learn(address, mac)) {
      frame.set(mac, 0);
      this.#link.transmit(frame, offload);
    }
  }

  #solicit(address: IpAddress): void {
    if (address.length === 4) this.#arp.ask(address);
    // The scratch frame is in use by the packet that waits.
    else this.#timers.soon(() => this.#discovery.ask(address));
  }

  #random32(): number {
    const bytes = new Uint8Array(4);
    this.#ports.entropy.fill(bytes);
    return get32(bytes, 0);
  }
}

function sameMac(frame: Uint8Array, mac: Uint8Array): boolean {
  for (let i = 0; i < 6; i++) if (frame[i] !== mac[i]) return false;
  return true;
}

function udpChecksumIsRight(packet: IpPacket, { checksum }: UdpDatagram): boolean {
  if (packet.checksumBlank || (checksum === 0 && packet.source.length === 4)) return true;
  const { payload } = packet;
  const length = get16(payload, 4);
  return sum16(payload, 0, length, pseudoHeaderSum(packet.source, packet.destination, IPPROTO_UDP, length)) === 0xffff;
}
