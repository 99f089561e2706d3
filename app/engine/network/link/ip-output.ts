// SPDX-License-Identifier: Apache-2.0
/**
 * Sends IP packets to guests: headers, checksums, fragments, the guest's MAC address.
 *
 * One scratch frame serves all protocols: `begin` says where the transport header goes, `finish` sends what lies there. Nothing may be
 * built between the two but that packet.
 */
import { complement, pseudoHeaderSum, sum16 } from '../packet/checksum.ts';
import { ETHERTYPE_IPV4, ETHERTYPE_IPV6, writeEthernetHeader } from '../packet/ethernet.ts';
import { BROADCAST_IPV4, type IpAddress, isMulticast } from '../packet/ip-address.ts';
import {
  IPPROTO_FRAGMENT,
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  IPPROTO_TCP,
  IPPROTO_UDP,
  IPV4_HEADER_BYTES,
  IPV6_HEADER_BYTES,
  writeIpv4Header,
  writeIpv6Header,
} from '../packet/ip-packet.ts';
import { BROADCAST_MAC, type MacAddress } from '../packet/mac-address.ts';
import { put16, put32, sameBytes } from '../packet/wire.ts';
import { CHECKSUM_BLANK, ETHERNET_HEADER_BYTES, MAX_FRAME_BYTES, NO_OFFLOAD, type Offload } from '../network-port.ts';
import type { GuestLink } from './guest-link.ts';
import type { Neighbours } from './neighbours.ts';

const DEFAULT_HOP_LIMIT = 64;
const FRAGMENT_HEADER_BYTES = 8;
const DONT_FRAGMENT = 0x4000;
const MORE_FRAGMENTS = 0x2000;
const MAX_IP_BYTES = 65_535;

export interface OutputOptions {
  /** Bytes of payload a TCP segment; makes the packet a long one. */
  readonly gsoSize?: number;
  readonly hopLimit?: number;
  /** In place of the neighbour's. */
  readonly mac?: MacAddress;
}

const NO_OPTIONS: OutputOptions = {};

export interface IpOutputPorts {
  readonly link: GuestLink;
  readonly neighbours: Neighbours;
  readonly nowMs: () => number;
  /** Asks on the wire who has the address. */
  readonly solicit: (address: IpAddress) => void;
}

export class IpOutput {
  /** Room for the longest IP packet, which leaves in fragments. */
  readonly frame = new Uint8Array(ETHERNET_HEADER_BYTES + IPV6_HEADER_BYTES + MAX_IP_BYTES);
  readonly mac: MacAddress;
  readonly mtu: number;
  readonly #ports: IpOutputPorts;
  readonly #fragment: Uint8Array;
  #identification = 1;

  constructor(mac: MacAddress, mtu: number, ports: IpOutputPorts) {
    this.mac = mac;
    this.mtu = mtu;
    this.#ports = ports;
    this.#fragment = new Uint8Array(mtu + ETHERNET_HEADER_BYTES);
  }

  /** Where the transport header begins in `frame`, for addresses of `addressBytes`. */
  begin(addressBytes: number): number {
    return ETHERNET_HEADER_BYTES + (addressBytes === 4 ? IPV4_HEADER_BYTES : IPV6_HEADER_BYTES);
  }

  /** The longest transport header plus payload of a packet that may be fragmented. */
  roomBytes(addressBytes: number): number {
    return addressBytes === 4 ? MAX_IP_BYTES - IPV4_HEADER_BYTES : MAX_IP_BYTES;
  }

  /** The longest transport header plus payload of a single frame. */
  frameRoomBytes(addressBytes: number): number {
    return MAX_FRAME_BYTES - this.begin(addressBytes);
  }

  /**
   * Sends the `length` bytes at `begin`. The checksum field of TCP, UDP and ICMP is filled in here; it must be 0 before.
   */
  finish(source: IpAddress, destination: IpAddress, protocol: number, length: number, options: OutputOptions = NO_OPTIONS): void {
    const { frame } = this;
    const isIpv4 = source.length === 4;
    const transport = this.begin(source.length);
    const gsoSize = options.gsoSize ?? 0;
    const fits = gsoSize > 0 || transport - ETHERNET_HEADER_BYTES + length <= this.mtu;
    const blank = fits && (protocol === IPPROTO_TCP || protocol === IPPROTO_UDP);
    this.#fillChecksum(source, destination, protocol, transport, length, blank);
    const hopLimit = options.hopLimit ?? DEFAULT_HOP_LIMIT;
    this.#identification = (this.#identification + 1) & 0xffff;
    const header = { source, destination, protocol, hopLimit, identification: this.#identification };
    if (!fits) {
      this.#sendFragments(header, transport, length, options.mac);
      return;
    }
    const whole = { ...header, payloadBytes: length, fragmentWord: DONT_FRAGMENT };
    if (isIpv4) writeIpv4Header(frame, ETHERNET_HEADER_BYTES, whole);
    else writeIpv6Header(frame, ETHERNET_HEADER_BYTES, whole);
    const offload = gsoSize > 0 ? { checksumBlank: true, gsoSize } : blank ? CHECKSUM_BLANK : NO_OFFLOAD;
    this.#send(frame.subarray(0, transport + length), destination, offload, options.mac);
  }

  #fillChecksum(source: IpAddress, destination: IpAddress, protocol: number, at: number, length: number, blank: boolean): void {
    const { frame } = this;
    if (protocol === IPPROTO_ICMP) {
      put16(frame, at + 2, complement(sum16(frame, at, at + length)));
      return;
    }
    const field = protocol === IPPROTO_TCP ? 16 : protocol === IPPROTO_UDP ? 6 : protocol === IPPROTO_ICMPV6 ? 2 : -1;
    if (field < 0) return;
    const pseudo = pseudoHeaderSum(source, destination, protocol, length);
    const value = blank ? pseudo : complement(sum16(frame, at, at + length, pseudo));
    put16(frame, at + field, value === 0 && !blank && protocol === IPPROTO_UDP ? 0xffff : value);
  }

  #sendFragments(
    header: { source: IpAddress; destination: IpAddress; protocol: number; hopLimit: number; identification: number },
    transport: number,
    length: number,
    mac: MacAddress | undefined,
  ): void {
    const isIpv4 = header.source.length === 4;
    const headerBytes = isIpv4 ? IPV4_HEADER_BYTES : IPV6_HEADER_BYTES + FRAGMENT_HEADER_BYTES;
    const step = (this.mtu - headerBytes) & ~7;
    const data = ETHERNET_HEADER_BYTES + headerBytes;
    for (let at = 0; at < length; at += step) {
      const size = Math.min(step, length - at);
      const more = at + size < length;
      const piece = this.#fragment;
      if (isIpv4) {
        const fragmentWord = (at >>> 3) | (more ? MORE_FRAGMENTS : 0);
        writeIpv4Header(piece, ETHERNET_HEADER_BYTES, { ...header, payloadBytes: size, fragmentWord });
      } else {
        const payloadBytes = FRAGMENT_HEADER_BYTES + size;
        writeIpv6Header(piece, ETHERNET_HEADER_BYTES, { ...header, protocol: IPPROTO_FRAGMENT, payloadBytes, fragmentWord: 0 });
        put16(piece, data - 8, header.protocol << 8);
        put16(piece, data - 6, at | (more ? 1 : 0));
        put32(piece, data - 4, header.identification);
      }
      piece.set(this.frame.subarray(transport + at, transport + at + size), data);
      this.#send(piece.subarray(0, data + size), header.destination, NO_OFFLOAD, mac);
    }
  }

  #send(frame: Uint8Array, destination: IpAddress, offload: Offload, mac: MacAddress | undefined): void {
    const { link, neighbours, nowMs, solicit } = this.#ports;
    const target = mac ?? groupMac(destination) ?? neighbours.lookup(destination);
    writeEthernetHeader(frame, target ?? BROADCAST_MAC, this.mac, destination.length === 4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6);
    if (target !== undefined) link.transmit(frame, offload);
    else if (neighbours.wait(destination, frame, offload, nowMs())) solicit(destination);
  }
}

/** The Ethernet group of a broadcast or multicast address (RFC 1112 §6.4, RFC 2464 §7). */
function groupMac(address: IpAddress): MacAddress | undefined {
  if (sameBytes(address, BROADCAST_IPV4)) return BROADCAST_MAC;
  if (!isMulticast(address)) return undefined;
  if (address.length === 4) return Uint8Array.of(0x01, 0x00, 0x5e, address[1] & 0x7f, address[2], address[3]);
  return Uint8Array.of(0x33, 0x33, address[12], address[13], address[14], address[15]);
}
