// SPDX-License-Identifier: Apache-2.0
/** The Internet checksum (RFC 1071) and the pseudo headers of IPv4 (RFC 9293 §3.1) and IPv6 (RFC 8200 §8.1). */

/** Words summed before the carries are folded: keeps the sum inside 31 bits, where the host's integers are fast. */
const BLOCK_BYTES = 32_768;

/** The one's complement sum of the 16-bit words of `bytes[start, end)`, folded, on top of `initial`. An odd last byte counts as high half. */
export function sum16(bytes: Uint8Array, start: number, end: number, initial = 0): number {
  let sum = initial;
  let at = start;
  while (at < end) {
    const stop = Math.min(end, at + BLOCK_BYTES);
    for (; at + 1 < stop; at += 2) sum += (bytes[at] << 8) | bytes[at + 1];
    if (at < stop) {
      sum += bytes[at] << 8;
      at++;
    }
    sum = fold(sum);
  }
  return fold(sum);
}

/** Brings a sum back to 16 bits. */
export function fold(sum: number): number {
  let folded = (sum & 0xffff) + (sum >>> 16);
  folded = (folded & 0xffff) + (folded >>> 16);
  return folded;
}

/** The checksum field's value for a sum. */
export function complement(sum: number): number {
  return ~fold(sum) & 0xffff;
}

/** The folded sum of the pseudo header; both addresses have 4 or both have 16 bytes. */
export function pseudoHeaderSum(source: Uint8Array, destination: Uint8Array, protocol: number, length: number): number {
  return fold(sum16(source, 0, source.length) + sum16(destination, 0, destination.length) + protocol + (length & 0xffff) + (length >>> 16));
}
