// SPDX-License-Identifier: Apache-2.0
/**
 * ICMP (RFC 792) and ICMPv6 (RFC 4443): echo answered by the gateway or asked of the host, and the errors that the guest is told.
 *
 * GUEST: echo requests that wait for the host are bounded, and so is the rate of errors; no error answers an error or a group address.
 */
import type { SocketHost } from '../../host/sockets.ts';
import type { IpOutput } from '../link/ip-output.ts';
import { pseudoHeaderSum, sum16 } from '../packet/checksum.ts';
import { formatIp, type IpAddress, isAny, isMulticast } from '../packet/ip-address.ts';
import { IPPROTO_ICMP, IPPROTO_ICMPV6, type IpPacket } from '../packet/ip-packet.ts';
import { put32 } from '../packet/wire.ts';
import { TokenBucket } from '../token-bucket.ts';
import type { Routing } from '../routing.ts';

const ICMP_ECHOREPLY = 0;
const ICMP_ECHO = 8;
const ICMPV6_ECHO_REQUEST = 128;
const ICMPV6_ECHO_REPLY = 129;
const HEADER_BYTES = 8;
const MAX_PENDING_ECHOES = 32;
const ECHO_TIMEOUT_MS = 4000;
const ERRORS_PER_SECOND = 100;
const MAX_ERROR_BYTES_V4 = 548;
const MAX_ERROR_BYTES_V6 = 1232;

export type IcmpError = 'host-unreachable' | 'port-unreachable' | 'protocol-unreachable' | 'prohibited' | 'time-exceeded';

/** Type and code, for IPv4 and for IPv6. */
const ERRORS: Readonly<Record<IcmpError, { readonly v4: readonly [number, number]; readonly v6: readonly [number, number] }>> = {
  'host-unreachable': { v4: [3, 1], v6: [1, 3] },
  'port-unreachable': { v4: [3, 3], v6: [1, 4] },
  'protocol-unreachable': { v4: [3, 2], v6: [4, 1] },
  prohibited: { v4: [3, 13], v6: [1, 1] },
  'time-exceeded': { v4: [11, 0], v6: [3, 0] },
};

export interface IcmpOptions {
  readonly output: IpOutput;
  readonly routing: Routing;
  readonly sockets: SocketHost;
  readonly nowMs: () => number;
}

export class Icmp {
  readonly #options: IcmpOptions;
  readonly #errors: TokenBucket;
  #pending = 0;

  constructor(options: IcmpOptions) {
    this.#options = options;
    this.#errors = new TokenBucket(ERRORS_PER_SECOND, ERRORS_PER_SECOND, options.nowMs());
  }

  /** An echo request of the guest, or something that is ignored. */
  input(packet: IpPacket): void {
    const { payload, source, destination } = packet;
    if (payload.length < HEADER_BYTES || !checksumIsRight(packet)) return;
    if (payload[0] !== (source.length === 4 ? ICMP_ECHO : ICMPV6_ECHO_REQUEST) || payload[1] !== 0) return;
    const { routing } = this.#options;
    const route = routing.route(destination);
    if (routing.isOurs(destination)) this.#reply(source, destination, payload);
    else if (route.to === 'prohibited') this.error('prohibited', packet);
    else if (route.to === 'host') void this.#askHost(packet, route.address);
  }

  /** Tells the guest why its packet went nowhere. */
  error(kind: IcmpError, packet: IpPacket): void {
    const { output, routing, nowMs } = this.#options;
    const { source, destination, whole } = packet;
    if (!mayCauseError(packet) || !routing.isGuest(source) || !this.#errors.take(1, nowMs())) return;
    const isIpv4 = source.length === 4;
    const us = isIpv4 ? routing.plan.gateway4 : routing.plan.ipv6?.gateway;
    if (us === undefined) return;
    const [type, code] = isIpv4 ? ERRORS[kind].v4 : ERRORS[kind].v6;
    const quoted = Math.min(whole.length, isIpv4 ? MAX_ERROR_BYTES_V4 : MAX_ERROR_BYTES_V6);
    const at = output.begin(source.length);
    output.frame[at] = type;
    output.frame[at + 1] = code;
    put32(output.frame, at + 4, 0);
    output.frame[at + 2] = 0;
    output.frame[at + 3] = 0;
    output.frame.set(whole.subarray(0, quoted), at + HEADER_BYTES);
    // A closed port is told by the host itself; everything else by the router.
    const from = kind === 'port-unreachable' || kind === 'protocol-unreachable' ? destination : us;
    output.finish(from, source, isIpv4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, HEADER_BYTES + quoted);
  }

  async #askHost(packet: IpPacket, address: string): Promise<void> {
    if (this.#pending >= MAX_PENDING_ECHOES) return;
    // The frame is only valid now.
    const kept = { ...packet, source: packet.source.slice(), destination: packet.destination.slice(), payload: packet.payload.slice() };
    const quoted = { ...kept, whole: packet.whole.slice(0, MAX_ERROR_BYTES_V6) };
    this.#pending++;
    const answer = await this.#options.sockets.ping(address, kept.payload.length - HEADER_BYTES, ECHO_TIMEOUT_MS);
    this.#pending--;
    if (answer === 'reply') this.#reply(kept.source, kept.destination, kept.payload);
    else if (answer === 'unreachable') this.error('host-unreachable', quoted);
    else if (answer === 'unsupported') this.error('prohibited', quoted);
  }

  #reply(guest: IpAddress, from: IpAddress, request: Uint8Array): void {
    const { output } = this.#options;
    if (request.length > output.roomBytes(guest.length)) return;
    const isIpv4 = guest.length === 4;
    const at = output.begin(guest.length);
    output.frame.set(request, at);
    output.frame[at] = isIpv4 ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY;
    output.frame[at + 2] = 0;
    output.frame[at + 3] = 0;
    output.finish(from, guest, isIpv4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, request.length);
  }
}

/** RFC 1122 §3.2.2, RFC 4443 §2.4. */
function mayCauseError(packet: IpPacket): boolean {
  const { protocol, payload, source, destination } = packet;
  if (isMulticast(destination) || isAny(source) || formatIp(destination) === '255.255.255.255') return false;
  if (protocol === IPPROTO_ICMP) return payload.length > 0 && payload[0] === ICMP_ECHO;
  if (protocol === IPPROTO_ICMPV6) return payload.length > 0 && payload[0] >= 128;
  return true;
}

/** Of an ICMP or ICMPv6 packet. */
export function checksumIsRight({ source, destination, payload }: IpPacket): boolean {
  const pseudo = source.length === 4 ? 0 : pseudoHeaderSum(source, destination, IPPROTO_ICMPV6, payload.length);
  return sum16(payload, 0, payload.length, pseudo) === 0xffff;
}
