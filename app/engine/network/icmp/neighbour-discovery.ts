// SPDX-License-Identifier: Apache-2.0
/**
 * Neighbour discovery and router advertisement (RFC 4861), with the prefix for SLAAC (RFC 4862) and name servers (RFC 8106).
 *
 * Advertisements go out when asked and every ADVERTISE_MS. Addresses come from SLAAC alone; DHCPv6 has the other options.
 */
import type { NetworkPlan } from '../config.ts';
import type { IpOutput } from '../link/ip-output.ts';
import { ALL_NODES_IPV6, type IpAddress, isAny, isMulticast, parseIp } from '../packet/ip-address.ts';
import { IPPROTO_ICMPV6, type IpPacket } from '../packet/ip-packet.ts';
import { isGroupMac } from '../packet/mac-address.ts';
import { put16, put32 } from '../packet/wire.ts';
import type { Deadline, TimerQueue } from '../timer-queue.ts';
import { checksumIsRight } from './icmp.ts';

const ROUTER_SOLICITATION = 133;
const ROUTER_ADVERTISEMENT = 134;
const NEIGHBOUR_SOLICITATION = 135;
const NEIGHBOUR_ADVERTISEMENT = 136;
const OPTION_SOURCE_LINK = 1;
const OPTION_TARGET_LINK = 2;
const OPTION_PREFIX = 3;
const OPTION_MTU = 5;
const OPTION_RDNSS = 25;
const OPTION_DNSSL = 31;
const FLAG_OTHER_CONFIG = 0x40;
const FLAGS_ON_LINK_AND_AUTONOMOUS = 0xc0;
const FLAG_ROUTER = 0x8000_0000;
const FLAG_SOLICITED = 0x4000_0000;
const FLAG_OVERRIDE = 0x2000_0000;
/** Off-link senders cannot reach this value (RFC 4861 §6.1). */
const HOP_LIMIT = 255;
const ROUTER_LIFETIME_S = 1800;
const PREFIX_LIFETIME_S = 86_400;
const ADVERTISE_MS = 200_000;
const SOLICIT_ANSWERS_MS = 50;
const SOLICITED_NODE = parseIp('ff02::1:ff00:0')!;

export interface NeighbourDiscoveryOptions {
  readonly plan: NetworkPlan;
  readonly output: IpOutput;
  readonly timers: TimerQueue;
  readonly isOurs: (address: IpAddress) => boolean;
  readonly isGuest: (address: IpAddress) => boolean;
  readonly learn: (address: IpAddress, mac: Uint8Array) => void;
}

export class NeighbourDiscovery {
  readonly #options: NeighbourDiscoveryOptions;
  readonly #timer: Deadline;
  #advertisedMs = Number.NEGATIVE_INFINITY;

  constructor(options: NeighbourDiscoveryOptions) {
    this.#options = options;
    this.#timer = options.timers.deadline(() => this.advertiseRouter());
  }

  /** An ICMPv6 packet; true: it was one of these and is dealt with. */
  input(packet: IpPacket): boolean {
    const { payload, hopLimit } = packet;
    if (payload.length < 8 || payload[0] < ROUTER_SOLICITATION || payload[0] > 137) return false;
    if (hopLimit !== HOP_LIMIT || payload[1] !== 0 || !checksumIsRight(packet)) return true;
    if (payload[0] === ROUTER_SOLICITATION) {
      // GUEST: a flood of solicitations is answered once in a while.
      if (this.#options.timers.nowMs() - this.#advertisedMs >= SOLICIT_ANSWERS_MS) this.advertiseRouter();
    } else if (payload[0] === NEIGHBOUR_SOLICITATION) this.#solicited(packet);
    else if (payload[0] === NEIGHBOUR_ADVERTISEMENT) this.#advertised(packet);
    return true;
  }

  /** To everyone, now and then again and again. */
  advertiseRouter(): void {
    const { plan, output, timers } = this.#options;
    if (plan.ipv6 === undefined) return;
    this.#advertisedMs = timers.nowMs();
    this.#timer.set(ADVERTISE_MS);
    const at = output.begin(16);
    const { frame } = output;
    const end = writeAdvertisement(frame, at, plan);
    output.finish(plan.ipv6.linkLocal, ALL_NODES_IPV6, IPPROTO_ICMPV6, end - at, { hopLimit: HOP_LIMIT });
  }

  /** Asks who has `address`. */
  ask(address: IpAddress): void {
    const { plan, output } = this.#options;
    if (plan.ipv6 === undefined) return;
    const group = SOLICITED_NODE.slice();
    group.set(address.subarray(13), 13);
    const at = output.begin(16);
    put32(output.frame, at, NEIGHBOUR_SOLICITATION << 24);
    put32(output.frame, at + 4, 0);
    output.frame.set(address, at + 8);
    writeLinkOption(output.frame, at + 24, OPTION_SOURCE_LINK, output.mac);
    output.finish(plan.ipv6.linkLocal, group, IPPROTO_ICMPV6, 32, { hopLimit: HOP_LIMIT });
  }

  stop(): void {
    this.#timer.dispose();
  }

  #solicited({ payload, source }: IpPacket): void {
    if (payload.length < 24) return;
    const target = payload.subarray(8, 24);
    const { isOurs, isGuest, learn, output } = this.#options;
    const mac = linkOption(payload, 24, OPTION_SOURCE_LINK);
    if (mac !== undefined && isGuest(source)) learn(source, mac);
    if (!isOurs(target)) return;
    // Duplicate address detection asks from nowhere and is answered to everyone.
    const isProbe = isAny(source);
    if (!isProbe && !isGuest(source)) return;
    const own = target.slice();
    const to = isProbe ? ALL_NODES_IPV6 : source.slice();
    const at = output.begin(16);
    put32(output.frame, at, NEIGHBOUR_ADVERTISEMENT << 24);
    put32(output.frame, at + 4, FLAG_ROUTER | FLAG_OVERRIDE | (isProbe ? 0 : FLAG_SOLICITED));
    output.frame.set(own, at + 8);
    writeLinkOption(output.frame, at + 24, OPTION_TARGET_LINK, output.mac);
    output.finish(own, to, IPPROTO_ICMPV6, 32, { hopLimit: HOP_LIMIT });
  }

  #advertised({ payload }: IpPacket): void {
    if (payload.length < 24) return;
    const target = payload.subarray(8, 24);
    const mac = linkOption(payload, 24, OPTION_TARGET_LINK);
    if (mac !== undefined && !isMulticast(target) && this.#options.isGuest(target)) this.#options.learn(target, mac);
  }
}

function writeLinkOption(frame: Uint8Array, at: number, type: number, mac: Uint8Array): number {
  frame[at] = type;
  frame[at + 1] = 1;
  frame.set(mac, at + 2);
  return at + 8;
}

/** The link address option of that type. GUEST: option lengths are multiples of 8 and never 0, or the rest is ignored. */
function linkOption(bytes: Uint8Array, start: number, type: number): Uint8Array | undefined {
  for (let at = start; at + 8 <= bytes.length && bytes[at + 1] > 0; at += bytes[at + 1] * 8) {
    if (bytes[at] !== type || bytes[at + 1] !== 1) continue;
    const mac = bytes.subarray(at + 2, at + 8);
    return isGroupMac(mac) ? undefined : mac;
  }
  return undefined;
}

function writeAdvertisement(frame: Uint8Array, start: number, plan: NetworkPlan): number {
  const { ipv6 } = plan;
  if (ipv6 === undefined) return start;
  put32(frame, start, ROUTER_ADVERTISEMENT << 24);
  put16(frame, start + 4, (64 << 8) | FLAG_OTHER_CONFIG);
  put16(frame, start + 6, ROUTER_LIFETIME_S);
  put32(frame, start + 8, 0);
  put32(frame, start + 12, 0);
  let at = writeLinkOption(frame, start + 16, OPTION_SOURCE_LINK, plan.mac);
  put32(frame, at, (OPTION_MTU << 24) | (1 << 16));
  put32(frame, at + 4, plan.mtu);
  at += 8;
  put32(frame, at, (OPTION_PREFIX << 24) | (4 << 16) | (64 << 8) | FLAGS_ON_LINK_AND_AUTONOMOUS);
  put32(frame, at + 4, PREFIX_LIFETIME_S);
  put32(frame, at + 8, PREFIX_LIFETIME_S);
  put32(frame, at + 12, 0);
  frame.set(ipv6.prefix, at + 16);
  at += 32;
  put32(frame, at, (OPTION_RDNSS << 24) | (3 << 16));
  put32(frame, at + 4, ROUTER_LIFETIME_S);
  frame.set(ipv6.dns, at + 8);
  at += 24;
  return plan.domain === undefined ? at : writeSearchList(frame, at, plan.domain);
}

function writeSearchList(frame: Uint8Array, start: number, domain: string): number {
  let at = start + 8;
  for (const label of domain.split('.')) {
    frame[at++] = label.length;
    for (let i = 0; i < label.length; i++) frame[at++] = label.charCodeAt(i);
  }
  frame[at++] = 0;
  while ((at - start) % 8 !== 0) frame[at++] = 0;
  put32(frame, start, (OPTION_DNSSL << 24) | (((at - start) / 8) << 16));
  put32(frame, start + 4, ROUTER_LIFETIME_S);
  return at;
}
