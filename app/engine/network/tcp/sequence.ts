// SPDX-License-Identifier: Apache-2.0
/** Sequence numbers: 32 bits that wrap (RFC 9293 §3.4). Kept as unsigned numbers; compared by their signed distance. */

/** How far `a` lies behind `b`: positive when `a` is later. Meaningful for distances below 2^31. */
export function distance(a: number, b: number): number {
  return (a - b) | 0;
}

export function advance(sequence: number, bytes: number): number {
  return (sequence + bytes) >>> 0;
}

export function later(a: number, b: number): number {
  return distance(a, b) >= 0 ? a : b;
}
