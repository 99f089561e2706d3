// SPDX-License-Identifier: Apache-2.0
/**
 * What hardware would do for a driver that cannot take offloaded frames: cutting TCP segments to size and filling in checksums.
 *
 * Used where a frame meets a receiver without the feature (an emulated card, a frontend that set feature-no-csum-offload). Frames come
 * from the engine or from another guest: GUEST: headers are parsed again here, and a frame that is not what its offload claims is dropped.
 */
import { complement, pseudoHeaderSum, sum16 } from './packet/checksum.ts';
import { ETHERTYPE_IPV4, ETHERTYPE_IPV6 } from './packet/ethernet.ts';
import { IPPROTO_TCP, IPPROTO_UDP, type IpPacket, parseIpv4, parseIpv6 } from './packet/ip-packet.ts';
import { FIN, PSH, TCP_HEADER_BYTES } from './packet/tcp-segment.ts';
import { get16, get32, put16, put32 } from './packet/wire.ts';
import { CHECKSUM_BLANK, ETHERNET_HEADER_BYTES, NO_OFFLOAD, type Offload, type ReceiverFeatures } from './network-port.ts';

/** Below this a guest could turn one frame into tens of thousands. */
const MIN_GSO_BYTES = 64;

/** Whether `features` cover what `offload` leaves open. */
export function canTake(features: ReceiverFeatures, frame: Uint8Array, offload: Offload): boolean {
  if (offload.gsoSize > 0) return get16(frame, 12) === ETHERTYPE_IPV6 ? features.gsoTcp6 : features.gsoTcp4;
  return !offload.checksumBlank || features.checksumBlank;
}

/** The frames that `features` can take, in place of one that they cannot. Empty: the frame is malformed. */
export function completeFrame(features: ReceiverFeatures, frame: Uint8Array, offload: Offload): { frames: Uint8Array[]; offload: Offload } {
  const remaining = features.checksumBlank ? CHECKSUM_BLANK : NO_OFFLOAD;
  const pieces = offload.gsoSize > 0 ? segment(frame, offload.gsoSize) : [frame.slice()];
  const done = offload.checksumBlank && !features.checksumBlank ? pieces.filter(fillChecksum) : pieces;
  return { frames: done, offload: offload.checksumBlank ? remaining : NO_OFFLOAD };
}

function parse(frame: Uint8Array): IpPacket | undefined {
  const type = frame.length > ETHERNET_HEADER_BYTES ? get16(frame, 12) : 0;
  if (type === ETHERTYPE_IPV4) return parseIpv4(frame, ETHERNET_HEADER_BYTES, true);
  return type === ETHERTYPE_IPV6 ? parseIpv6(frame, ETHERNET_HEADER_BYTES, true) : undefined;
}

/** Replaces the pseudo header sum of a TCP or UDP packet by its checksum. False: it is neither. */
export function fillChecksum(frame: Uint8Array): boolean {
  const packet = parse(frame);
  if (packet === undefined || packet.fragment !== undefined) return false;
  const { payload, protocol } = packet;
  const field = protocol === IPPROTO_TCP ? 16 : protocol === IPPROTO_UDP ? 6 : -1;
  if (field < 0 || payload.length < field + 2) return false;
  put16(payload, field, 0);
  const sum = sum16(payload, 0, payload.length, pseudoHeaderSum(packet.source, packet.destination, protocol, payload.length));
  const value = complement(sum);
  put16(payload, field, protocol === IPPROTO_UDP && value === 0 ? 0xffff : value);
  return true;
}

/** Cuts a long TCP segment; the pieces' checksums are blank. */
function segment(frame: Uint8Array, gsoSize: number): Uint8Array[] {
  const packet = parse(frame);
  if (packet === undefined || packet.fragment !== undefined || packet.protocol !== IPPROTO_TCP || gsoSize < MIN_GSO_BYTES) return [];
  const { payload } = packet;
  const tcpBytes = payload.length < TCP_HEADER_BYTES ? 0 : (payload[12] >>> 4) * 4;
  if (tcpBytes < TCP_HEADER_BYTES || tcpBytes > payload.length) return [];
  const transport = payload.byteOffset - frame.byteOffset;
  const headerBytes = transport + tcpBytes;
  const dataBytes = payload.length - tcpBytes;
  const isIpv4 = packet.source.length === 4;
  const sequence = get32(payload, 4);
  const flags = payload[13];
  const identification = get16(frame, ETHERNET_HEADER_BYTES + 4);
  const pieces: Uint8Array[] = [];
  for (let at = 0, index = 0; at < dataBytes || index === 0; at += gsoSize, index++) {
    const length = Math.min(gsoSize, dataBytes - at);
    const piece = new Uint8Array(headerBytes + length);
    piece.set(frame.subarray(0, headerBytes));
    piece.set(payload.subarray(tcpBytes + at, tcpBytes + at + length), headerBytes);
    put32(piece, transport + 4, (sequence + at) >>> 0);
    if (at + length < dataBytes) piece[transport + 13] = flags & ~(FIN | PSH);
    put16(piece, transport + 16, pseudoHeaderSum(packet.source, packet.destination, IPPROTO_TCP, tcpBytes + length));
    if (isIpv4) {
      const ip = ETHERNET_HEADER_BYTES;
      put16(piece, ip + 2, headerBytes - ip + length);
      put16(piece, ip + 4, identification + index);
      put16(piece, ip + 10, 0);
      put16(piece, ip + 10, complement(sum16(piece, ip, transport)));
    } else put16(piece, ETHERNET_HEADER_BYTES + 4, headerBytes - ETHERNET_HEADER_BYTES - 40 + length);
    pieces.push(piece);
  }
  return pieces;
}
