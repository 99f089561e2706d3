// SPDX-License-Identifier: Apache-2.0
/**
 * IP addresses as 4 or 16 bytes; text forms (RFC 4291 §2.2, RFC 5952); what kinds of address there are.
 *
 * Text with anything unusual in it (leading zeros, scope ids, shortened IPv4) is refused: who reads "010.0.0.1" as octal and who as
 * decimal is how filters get fooled.
 */
import { get16, sameBytes } from './wire.ts';

/** Four bytes: IPv4; sixteen: IPv6. */
export type IpAddress = Uint8Array;

export const ANY_IPV4: IpAddress = new Uint8Array(4);
export const BROADCAST_IPV4: IpAddress = Uint8Array.of(255, 255, 255, 255);
export const ANY_IPV6: IpAddress = new Uint8Array(16);
export const ALL_NODES_IPV6: IpAddress = Uint8Array.of(0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);
export const ALL_ROUTERS_IPV6: IpAddress = Uint8Array.of(0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2);
export const ALL_DHCPV6_AGENTS: IpAddress = Uint8Array.of(0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2);

function parseIpv4(text: string): IpAddress | undefined {
  if (!/^(?:0|[1-9]\d{0,2})(?:\.(?:0|[1-9]\d{0,2})){3}$/.test(text)) return undefined;
  const parts = text.split('.').map(Number);
  return parts.some((part) => part > 255) ? undefined : Uint8Array.from(parts);
}

/** Groups of a piece of IPv6 text without `::`; a dotted IPv4 tail becomes two groups. */
function parseGroups(text: string): number[] | undefined {
  if (text === '') return [];
  const groups: number[] = [];
  const parts = text.split(':');
  for (const [index, part] of parts.entries()) {
    if (index === parts.length - 1 && part.includes('.')) {
      const tail = parseIpv4(part);
      if (tail === undefined) return undefined;
      groups.push(get16(tail, 0), get16(tail, 2));
    } else if (/^[0-9a-f]{1,4}$/i.test(part)) groups.push(Number.parseInt(part, 16));
    else return undefined;
  }
  return groups;
}

function parseIpv6(text: string): IpAddress | undefined {
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const head = parseGroups(halves[0]);
  const tail = halves.length === 2 ? parseGroups(halves[1]) : [];
  if (head === undefined || tail === undefined) return undefined;
  const missing = 8 - head.length - tail.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined;
  const groups = [...head, ...new Array<number>(missing).fill(0), ...tail];
  return Uint8Array.from(groups.flatMap((group) => [group >>> 8, group & 0xff]));
}

/** The address in `text`, or `undefined` when it is none. */
export function parseIp(text: string): IpAddress | undefined {
  return text.includes(':') ? parseIpv6(text) : parseIpv4(text);
}

export function formatIp(address: IpAddress): string {
  if (address.length === 4) return `${address[0]}.${address[1]}.${address[2]}.${address[3]}`;
  const groups = Array.from({ length: 8 }, (_, index) => get16(address, index * 2));
  let bestStart = -1;
  let bestLength = 1;
  for (let start = 0; start < 8; start++) {
    let length = 0;
    while (start + length < 8 && groups[start + length] === 0) length++;
    if (length > bestLength) {
      bestStart = start;
      bestLength = length;
    }
  }
  const text = (part: readonly number[]) => part.map((group) => group.toString(16)).join(':');
  if (bestStart < 0) return text(groups);
  return `${text(groups.slice(0, bestStart))}::${text(groups.slice(bestStart + bestLength))}`;
}

/** Whether the first `prefixBits` bits agree; never across families. */
export function inPrefix(address: IpAddress, prefix: IpAddress, prefixBits: number): boolean {
  if (address.length !== prefix.length) return false;
  const whole = prefixBits >>> 3;
  for (let i = 0; i < whole; i++) if (address[i] !== prefix[i]) return false;
  const rest = prefixBits & 7;
  return rest === 0 || ((address[whole] ^ prefix[whole]) & (0xff << (8 - rest)) & 0xff) === 0;
}

export function isAny(address: IpAddress): boolean {
  return sameBytes(address, address.length === 4 ? ANY_IPV4 : ANY_IPV6);
}

export function isMulticast(address: IpAddress): boolean {
  return address.length === 4 ? (address[0] & 0xf0) === 0xe0 : address[0] === 0xff;
}

export function isLinkLocal(address: IpAddress): boolean {
  return address.length === 4 ? address[0] === 169 && address[1] === 254 : address[0] === 0xfe && (address[1] & 0xc0) === 0x80;
}

/** Loopback, also in the forms in which IPv6 carries IPv4. */
export function isLoopback(address: IpAddress): boolean {
  if (address.length === 4) return address[0] === 127;
  return embedsIpv4(address) ? address[12] === 127 || (sameBytes(address.subarray(10, 15), new Uint8Array(5)) && address[15] === 1) : false;
}

/** `::a.b.c.d` and `::ffff:a.b.c.d`: a kernel may turn these into IPv4 behind a filter's back. `::` and `::1` count too. */
export function embedsIpv4(address: IpAddress): boolean {
  if (address.length !== 16) return false;
  for (let i = 0; i < 10; i++) if (address[i] !== 0) return false;
  return get16(address, 10) === 0 || get16(address, 10) === 0xffff;
}

/** Addresses that no packet may be forwarded to: this host, this link, groups, reserved space. */
export function isForwardable(address: IpAddress): boolean {
  if (isMulticast(address) || isLoopback(address) || isLinkLocal(address) || embedsIpv4(address)) return false;
  return address.length === 16 || (address[0] !== 0 && address[0] < 240);
}
