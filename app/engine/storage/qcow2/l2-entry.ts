// SPDX-License-Identifier: Apache-2.0
/**
 * One entry of an L2 table, decoded: how one cluster of the disk is stored.
 *
 * An entry is 64 bits, or 128 with extended L2 entries, whose second half says for each of 32 subclusters whether it is allocated (low
 * word) or reads as zeros (high word). Without them a cluster is treated as if it had one subcluster.
 *
 * Numbers are two 32-bit halves: entries do not fit 53 bits.
 */

const HIGH_COPIED = 0x8000_0000;
const HIGH_COMPRESSED = 0x4000_0000;
const HIGH_OFFSET = 0x00ff_ffff;
const LOW_OFFSET = 0xffff_fe00;
const LOW_ZERO = 1;
const TWO_32 = 2 ** 32;
const SECTOR = 512;
export const SUBCLUSTERS = 32;

/** How a stretch of a cluster is kept. `none` is `absent` without a cluster reserved for it. */
export type ClusterKind = 'data' | 'zero' | 'absent' | 'compressed';

export interface ClusterEntry {
  /** Where the cluster's room in the file is; -1: it has none. For `compressed` the first byte. */
  readonly host: number;
  /** Bytes that a compressed cluster may occupy (its end rounded up to a sector); 0 otherwise. */
  readonly packedLength: number;
  /** Nothing else points to the cluster: it may be written in place. */
  readonly copied: boolean;
  readonly compressed: boolean;
  /** Bit n: subcluster n has its bytes in the cluster. All or none without extended entries. */
  readonly allocated: number;
  /** Bit n: subcluster n reads as zeros. */
  readonly zero: number;
}

export const ABSENT_ENTRY: ClusterEntry = { host: -1, packedLength: 0, copied: false, compressed: false, allocated: 0, zero: 0 };
const ALL = 0xffff_ffff;

export interface EntryFormat {
  readonly clusterBits: number;
  readonly extended: boolean;
  /** Version 3: entries can say "reads as zeros". */
  readonly zeroFlag: boolean;
  /** The data lies in another file, in which offset 0 is a cluster like others. */
  readonly dataFile: boolean;
}

export function decodeEntry(format: EntryFormat, view: DataView, at: number): ClusterEntry {
  const high = view.getUint32(at);
  const low = view.getUint32(at + 4);
  if ((high & HIGH_COMPRESSED) !== 0) return decodeCompressed(format, high, low);
  const offset = (high & HIGH_OFFSET) * TWO_32 + ((low & LOW_OFFSET) >>> 0);
  const copied = (high & HIGH_COPIED) !== 0;
  const host = offset === 0 && !(format.dataFile && copied) ? -1 : offset;
  if (format.extended) {
    const zero = view.getUint32(at + 8);
    const allocated = host < 0 ? 0 : view.getUint32(at + 12) & ~zero;
    return { host, packedLength: 0, copied, compressed: false, allocated: allocated >>> 0, zero };
  }
  if (format.zeroFlag && (low & LOW_ZERO) !== 0) return { host, packedLength: 0, copied, compressed: false, allocated: 0, zero: ALL };
  return { host, packedLength: 0, copied, compressed: false, allocated: host < 0 ? 0 : ALL, zero: 0 };
}

function decodeCompressed(format: EntryFormat, high: number, low: number): ClusterEntry {
  // The low part is the first byte, the next `clusterBits - 8` bits are the number of further sectors.
  const highOffsetBits = 62 - (format.clusterBits - 8) - 32;
  const host = ((high & 0x3fff_ffff) % 2 ** highOffsetBits) * TWO_32 + low;
  const sectors = (high & 0x3fff_ffff) >>> highOffsetBits;
  return { host, packedLength: (sectors + 1) * SECTOR - (low % SECTOR), copied: false, compressed: true, allocated: ALL, zero: 0 };
}

export function encodeEntry(format: EntryFormat, entry: ClusterEntry, view: DataView, at: number): void {
  let high = 0;
  let low = 0;
  if (entry.compressed) {
    const highOffsetBits = 62 - (format.clusterBits - 8) - 32;
    const sectors = Math.floor((entry.host + entry.packedLength - 1) / SECTOR) - Math.floor(entry.host / SECTOR);
    high = HIGH_COMPRESSED + sectors * 2 ** highOffsetBits + Math.floor(entry.host / TWO_32);
    low = entry.host % TWO_32;
  } else if (entry.host >= 0) {
    high = Math.floor(entry.host / TWO_32) + (entry.copied ? HIGH_COPIED : 0);
    low = entry.host % TWO_32;
  }
  if (!format.extended && entry.zero !== 0) low += LOW_ZERO;
  view.setUint32(at, high);
  view.setUint32(at + 4, low);
  if (!format.extended) return;
  view.setUint32(at + 8, entry.zero);
  view.setUint32(at + 12, entry.compressed ? 0 : entry.allocated);
}

/** How subcluster `index` is kept (0 without extended entries). */
export function kindOf(entry: ClusterEntry, index: number): ClusterKind {
  if (entry.compressed) return 'compressed';
  const bit = 1 << index;
  if ((entry.zero & bit) !== 0) return 'zero';
  return (entry.allocated & bit) !== 0 ? 'data' : 'absent';
}

/** Bits of the subclusters from `first` up to, not including, `end`. */
export function subclusterBits(first: number, end: number): number {
  const below = (count: number): number => (count >= SUBCLUSTERS ? ALL : 2 ** count - 1);
  return (below(end) - below(first)) >>> 0;
}

/** An entry of an L1 table or the table of reference counts: a cluster's offset, and (L1) whether nothing else points to it. */
export function decodeTableEntry(view: DataView, at: number): { readonly offset: number; readonly copied: boolean } {
  const high = view.getUint32(at);
  return { offset: (high & HIGH_OFFSET) * TWO_32 + ((view.getUint32(at + 4) & LOW_OFFSET) >>> 0), copied: (high & HIGH_COPIED) !== 0 };
}

export function encodeTableEntry(view: DataView, at: number, offset: number, copied: boolean): void {
  view.setUint32(at, Math.floor(offset / TWO_32) + (copied ? HIGH_COPIED : 0));
  view.setUint32(at + 4, offset % TWO_32);
}
