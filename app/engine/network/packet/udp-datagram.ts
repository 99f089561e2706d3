// SPDX-License-Identifier: Apache-2.0
/** UDP headers (RFC 768). GUEST: the length field is bounded by the packet. */
import { get16, put16 } from './wire.ts';

export const UDP_HEADER_BYTES = 8;

export interface UdpDatagram {
  readonly sourcePort: number;
  readonly destinationPort: number;
  /** 0: the sender summed nothing (IPv4 only). */
  readonly checksum: number;
  readonly payload: Uint8Array;
}

export function parseUdp(bytes: Uint8Array): UdpDatagram | undefined {
  if (bytes.length < UDP_HEADER_BYTES) return undefined;
  const length = get16(bytes, 4);
  if (length < UDP_HEADER_BYTES || length > bytes.length) return undefined;
  return {
    sourcePort: get16(bytes, 0),
    destinationPort: get16(bytes, 2),
    checksum: get16(bytes, 6),
    payload: bytes.subarray(UDP_HEADER_BYTES, length),
  };
}

/** Writes a header whose checksum field is 0. */
export function writeUdpHeader(frame: Uint8Array, at: number, sourcePort: number, destinationPort: number, payloadBytes: number): void {
  put16(frame, at, sourcePort);
  put16(frame, at + 2, destinationPort);
  put16(frame, at + 4, UDP_HEADER_BYTES + payloadBytes);
  put16(frame, at + 6, 0);
}
