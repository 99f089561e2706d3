// SPDX-License-Identifier: Apache-2.0
/**
 * IPv4 (RFC 791) and IPv6 (RFC 8200) headers: reading hostile ones, writing ours.
 *
 * GUEST: every length is checked against the bytes that are there. IPv4 options are skipped. Of IPv6 extension headers, hop-by-hop,
 * routing without segments left, destination options and fragment are understood, at most MAX_EXTENSION_HEADERS of them.
 */
import { complement, sum16 } from './checksum.ts';
import type { IpAddress } from './ip-address.ts';
import { get16, get32, put16, put32 } from './wire.ts';

export const IPPROTO_HOPOPTS = 0;
export const IPPROTO_ICMP = 1;
export const IPPROTO_TCP = 6;
export const IPPROTO_UDP = 17;
export const IPPROTO_ROUTING = 43;
export const IPPROTO_FRAGMENT = 44;
export const IPPROTO_ICMPV6 = 58;
export const IPPROTO_NONE = 59;
export const IPPROTO_DSTOPTS = 60;

export const IPV4_HEADER_BYTES = 20;
export const IPV6_HEADER_BYTES = 40;
const MAX_EXTENSION_HEADERS = 8;

export interface Fragment {
  readonly identification: number;
  /** Where the piece lies in the whole payload, in bytes. */
  readonly offset: number;
  readonly more: boolean;
}

export interface IpPacket {
  readonly source: IpAddress;
  readonly destination: IpAddress;
  /** The transport protocol, behind extension headers. */
  readonly protocol: number;
  readonly hopLimit: number;
  readonly payload: Uint8Array;
  /** Present for a piece of a packet; `payload` is that piece. */
  readonly fragment: Fragment | undefined;
  /** The packet from its IP header on, as ICMP errors quote it. */
  readonly whole: Uint8Array;
  /** The transport checksum needs no check: it is blank, and the data never crossed a wire. */
  readonly checksumBlank: boolean;
}

/** Reads the IPv4 packet that begins at `at`. `undefined`: malformed. */
export function parseIpv4(frame: Uint8Array, at: number, checksumBlank: boolean): IpPacket | undefined {
  const available = frame.length - at;
  if (available < IPV4_HEADER_BYTES || frame[at] >>> 4 !== 4) return undefined;
  const headerBytes = (frame[at] & 15) * 4;
  const totalBytes = get16(frame, at + 2);
  if (headerBytes < IPV4_HEADER_BYTES || totalBytes < headerBytes || totalBytes > available) return undefined;
  if (sum16(frame, at, at + headerBytes) !== 0xffff) return undefined;
  const word = get16(frame, at + 6);
  const offset = (word & 0x1fff) * 8;
  const more = (word & 0x2000) !== 0;
  return {
    source: frame.subarray(at + 12, at + 16),
    destination: frame.subarray(at + 16, at + 20),
    protocol: frame[at + 9],
    hopLimit: frame[at + 8],
    payload: frame.subarray(at + headerBytes, at + totalBytes),
    fragment: offset !== 0 || more ? { identification: get16(frame, at + 4), offset, more } : undefined,
    whole: frame.subarray(at, at + totalBytes),
    checksumBlank,
  };
}

/** Reads the IPv6 packet that begins at `at`. `undefined`: malformed, or with extension headers beyond what is understood. */
export function parseIpv6(frame: Uint8Array, at: number, checksumBlank: boolean): IpPacket | undefined {
  const available = frame.length - at;
  if (available < IPV6_HEADER_BYTES || frame[at] >>> 4 !== 6) return undefined;
  const end = at + IPV6_HEADER_BYTES + get16(frame, at + 4);
  if (end > frame.length) return undefined;
  let protocol = frame[at + 6];
  let next = at + IPV6_HEADER_BYTES;
  let fragment: Fragment | undefined;
  for (let headers = 0; isExtension(protocol); headers++) {
    if (headers === MAX_EXTENSION_HEADERS || next + 8 > end) return undefined;
    const following = frame[next];
    if (protocol === IPPROTO_FRAGMENT) {
      const word = get16(frame, next + 2);
      const offset = word & 0xfff8;
      const more = (word & 1) !== 0;
      next += 8;
      protocol = following;
      // An atomic fragment (RFC 6946) is a whole packet.
      if (offset === 0 && !more) continue;
      fragment = { identification: get32(frame, next - 4), offset, more };
      break;
    }
    if (protocol === IPPROTO_ROUTING && frame[next + 3] !== 0) return undefined;
    next += (frame[next + 1] + 1) * 8;
    if (next > end) return undefined;
    protocol = following;
  }
  return {
    source: frame.subarray(at + 8, at + 24),
    destination: frame.subarray(at + 24, at + 40),
    protocol,
    hopLimit: frame[at + 7],
    payload: frame.subarray(next, end),
    fragment,
    whole: frame.subarray(at, end),
    checksumBlank,
  };
}

function isExtension(protocol: number): boolean {
  return protocol === IPPROTO_HOPOPTS || protocol === IPPROTO_ROUTING || protocol === IPPROTO_FRAGMENT || protocol === IPPROTO_DSTOPTS;
}

export interface IpHeader {
  readonly source: IpAddress;
  readonly destination: IpAddress;
  readonly protocol: number;
  readonly hopLimit: number;
  readonly payloadBytes: number;
  readonly identification: number;
  /** IPv4: the flags and offset word. */
  readonly fragmentWord: number;
}

/** Writes an IPv4 header of IPV4_HEADER_BYTES, checksum included. */
export function writeIpv4Header(frame: Uint8Array, at: number, header: IpHeader): void {
  put16(frame, at, 0x4500);
  put16(frame, at + 2, IPV4_HEADER_BYTES + header.payloadBytes);
  put16(frame, at + 4, header.identification);
  put16(frame, at + 6, header.fragmentWord);
  frame[at + 8] = header.hopLimit;
  frame[at + 9] = header.protocol;
  put16(frame, at + 10, 0);
  frame.set(header.source, at + 12);
  frame.set(header.destination, at + 16);
  put16(frame, at + 10, complement(sum16(frame, at, at + IPV4_HEADER_BYTES)));
}

/** Writes an IPv6 header of IPV6_HEADER_BYTES. */
export function writeIpv6Header(frame: Uint8Array, at: number, header: IpHeader): void {
  put32(frame, at, 0x6000_0000);
  put16(frame, at + 4, header.payloadBytes);
  frame[at + 6] = header.protocol;
  frame[at + 7] = header.hopLimit;
  frame.set(header.source, at + 8);
  frame.set(header.destination, at + 24);
}
