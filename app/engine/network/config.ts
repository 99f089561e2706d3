// SPDX-License-Identifier: Apache-2.0
/**
 * What a user network looks like: ranges, addresses, names, permissions. Text comes in, checked addresses come out.
 */
import { err, ok, type Result } from '../../base/result.ts';
import { formatIp, inPrefix, type IpAddress, isForwardable, parseIp } from './packet/ip-address.ts';
import { type MacAddress, parseMac } from './packet/mac-address.ts';

export interface UserNetworkConfig {
  /** IPv4 network, `10.0.2.0/24` unless told; between /8 and /28. */
  readonly ipv4?: string;
  /** IPv6 network of 64 bits, `fd70:6172:6176:2::/64` unless told. `false`: the guest gets no IPv6. */
  readonly ipv6?: string | false;
  /** The first address for guests, the 15th of the network unless told. */
  readonly dhcpStart?: string;
  /** Addresses to hand out, 16 unless told; at most 256. */
  readonly dhcpCount?: number;
  /** Bytes of an IP packet, 1500 unless told. */
  readonly mtu?: number;
  /** The gateway's MAC address. */
  readonly mac?: string;
  /** Names given to guests by DHCP. */
  readonly hostname?: string;
  readonly domain?: string;
  /** Names that the forwarder knows itself, each with its addresses. */
  readonly hosts?: Readonly<Record<string, readonly string[]>>;
  /** The guest reaches nothing but what is forwarded. */
  readonly isolated?: boolean;
  /** The gateway's address stands for the host's loopback. */
  readonly allowHostLoopback?: boolean;
  /** Most TCP connections at a time, 10,000 unless told. */
  readonly maxConnections?: number;
  readonly udpTimeoutMs?: number;
  /** After so long without a segment the guest is asked whether it still has the connection. */
  readonly keepaliveIdleMs?: number;
}

/** A configuration after the checks. */
export interface NetworkPlan {
  readonly network4: IpAddress;
  readonly prefix4: number;
  readonly netmask4: IpAddress;
  readonly broadcast4: IpAddress;
  readonly gateway4: IpAddress;
  readonly dns4: IpAddress;
  readonly dhcpStart: IpAddress;
  readonly dhcpCount: number;
  /** `undefined`: no IPv6. */
  readonly ipv6: Ipv6Plan | undefined;
  readonly mtu: number;
  readonly mac: MacAddress;
  readonly hostname: string | undefined;
  readonly domain: string | undefined;
  /** Lower case. */
  readonly hosts: ReadonlyMap<string, readonly IpAddress[]>;
  readonly isolated: boolean;
  readonly allowHostLoopback: boolean;
  readonly maxConnections: number;
  readonly udpTimeoutMs: number;
  readonly keepaliveIdleMs: number;
}

export interface Ipv6Plan {
  readonly prefix: IpAddress;
  readonly gateway: IpAddress;
  readonly dns: IpAddress;
  readonly linkLocal: IpAddress;
}

export type ConfigError = { readonly kind: 'bad-network-config'; readonly message: string };

const MIN_MTU = 576;
const MIN_MTU_IPV6 = 1280;
const MAX_MTU = 65_521;
const NAME = /^(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*$/i;

const bad = (message: string): Result<never, ConfigError> => err({ kind: 'bad-network-config', message });

export function planNetwork(config: UserNetworkConfig): Result<NetworkPlan, ConfigError> {
  const range = parsePrefix(config.ipv4 ?? '10.0.2.0/24');
  if (range === undefined || range.address.length !== 4) return bad(`"${config.ipv4}" is not an IPv4 network such as 10.0.2.0/24`);
  const { address: network4, bits: prefix4 } = range;
  if (prefix4 < 8 || prefix4 > 28) return bad(`an IPv4 network of ${prefix4} bits cannot serve guests; use /8 to /28`);
  if (!isForwardable(network4)) return bad(`${formatIp(network4)} is reserved and cannot be a guest network`);
  const base = toNumber(network4);
  const size = 2 ** (32 - prefix4);
  const dhcpStart = config.dhcpStart === undefined ? fromNumber(base + Math.min(15, size - 2)) : parseIp(config.dhcpStart);
  const first = dhcpStart === undefined || dhcpStart.length !== 4 ? -1 : toNumber(dhcpStart) - base;
  if (dhcpStart === undefined || first < 4 || first > size - 2)
    return bad('the first DHCP address must lie in the network, behind the first three');
  const dhcpCount = config.dhcpCount ?? Math.min(16, size - 1 - first);
  if (!Number.isInteger(dhcpCount) || dhcpCount < 1 || dhcpCount > 256) return bad('DHCP hands out 1 to 256 addresses');
  if (first + dhcpCount > size - 1) return bad(`${dhcpCount} addresses from ${formatIp(dhcpStart)} on do not fit the network`);
  const ipv6 = planIpv6(config.ipv6);
  if (!ipv6.ok) return ipv6;
  const mtu = config.mtu ?? 1500;
  const minMtu = ipv6.value === undefined ? MIN_MTU : MIN_MTU_IPV6;
  if (!Number.isInteger(mtu) || mtu < minMtu || mtu > MAX_MTU) return bad(`the MTU must lie between ${minMtu} and ${MAX_MTU}`);
  const mac = parseMac(config.mac ?? '52:55:0a:00:02:02');
  if (mac === undefined || (mac[0] & 1) !== 0) return bad(`"${config.mac}" is not the MAC address of one station`);
  for (const name of [config.hostname, config.domain])
    if (name !== undefined && !NAME.test(name)) return bad(`"${name}" is not a host or domain name`);
  const hosts = planHosts(config.hosts ?? {});
  if (!hosts.ok) return hosts;
  const maxConnections = config.maxConnections ?? 10_000;
  if (!Number.isInteger(maxConnections) || maxConnections < 1 || maxConnections > 60_000)
    return bad('1 to 60,000 connections can be allowed');
  return ok({
    network4,
    prefix4,
    netmask4: fromNumber(0x1_0000_0000 - size),
    broadcast4: fromNumber(base + size - 1),
    gateway4: fromNumber(base + 2),
    dns4: fromNumber(base + 3),
    dhcpStart,
    dhcpCount,
    ipv6: ipv6.value,
    mtu,
    mac,
    hostname: config.hostname,
    domain: config.domain,
    hosts: hosts.value,
    isolated: config.isolated ?? false,
    allowHostLoopback: config.allowHostLoopback ?? false,
    maxConnections,
    udpTimeoutMs: Math.max(1000, config.udpTimeoutMs ?? 120_000),
    keepaliveIdleMs: Math.max(10_000, config.keepaliveIdleMs ?? 1_800_000),
  });
}

function planIpv6(text: string | false | undefined): Result<Ipv6Plan | undefined, ConfigError> {
  if (text === false) return ok(undefined);
  const range = parsePrefix(text ?? 'fd70:6172:6176:2::/64');
  if (range === undefined || range.address.length !== 16 || range.bits !== 64) return bad(`"${text}" is not an IPv6 network of 64 bits`);
  if (!isForwardable(range.address)) return bad(`${formatIp(range.address)} is reserved and cannot be a guest network`);
  const at = (prefix: IpAddress, host: number) => {
    const address = prefix.slice();
    address[15] = host;
    return address;
  };
  const linkLocal = at(parseIp('fe80::')!, 2);
  return ok({ prefix: range.address, gateway: at(range.address, 2), dns: at(range.address, 3), linkLocal });
}

function planHosts(hosts: Readonly<Record<string, readonly string[]>>): Result<Map<string, IpAddress[]>, ConfigError> {
  const plan = new Map<string, IpAddress[]>();
  for (const [name, texts] of Object.entries(hosts)) {
    if (!NAME.test(name)) return bad(`"${name}" is not a host name`);
    const addresses: IpAddress[] = [];
    for (const text of texts) {
      const address = parseIp(text);
      if (address === undefined) return bad(`"${text}" is not an IP address`);
      addresses.push(address);
    }
    plan.set(name.toLowerCase(), addresses);
  }
  return ok(plan);
}

/** `address/bits`; bits of the host part must be 0. */
function parsePrefix(text: string): { address: IpAddress; bits: number } | undefined {
  const match = /^([^/]+)\/(\d{1,3})$/.exec(text);
  const address = match === null ? undefined : parseIp(match[1]);
  if (match === null || address === undefined) return undefined;
  const bits = Number(match[2]);
  if (bits > address.length * 8) return undefined;
  const network = address.map((byte, index) => byte & (0xff << Math.max(0, Math.min(8, (index + 1) * 8 - bits))));
  return inPrefix(address, network, address.length * 8) ? { address, bits } : undefined;
}

export function toNumber(address: IpAddress): number {
  return address[0] * 0x100_0000 + ((address[1] << 16) | (address[2] << 8) | address[3]);
}

export function fromNumber(value: number): IpAddress {
  return Uint8Array.of(value / 0x100_0000, value >>> 16, value >>> 8, value);
}
