// SPDX-License-Identifier: Apache-2.0
/**
 * The QCOW2 header, versions 2 and 3: parsed, bounded, and patched in place.
 *
 * Follows the format's public description (qemu docs/interop/qcow2). Left out: encryption (refused) and bitmaps (dropped by the format's own
 * rule: an unmaintained auto-clear feature is cleared before the first write).
 *
 * GUEST: an image is hostile; every table's size is checked against the limits here and against the file before it is read.
 */
import type { HostFile } from '../../host/file.ts';
import { decodeUtf8, MIB, text, u64, viewOf } from '../core/bytes.ts';
import { StorageError } from '../storage-error.ts';

export const QCOW2_MAGIC = 0x514649fb;
export const MIN_CLUSTER_BITS = 9;
export const MAX_CLUSTER_BITS = 21;
export const MAX_L1_BYTES = 32 * MIB;
export const MAX_REFCOUNT_TABLE_BYTES = 8 * MIB;
export const MAX_SNAPSHOTS = 65_536;
export const MAX_SNAPSHOT_TABLE_BYTES = 64 * MIB;
export const MAX_BACKING_NAME = 1023;
/** No disk is larger: sums of offsets stay exact. */
export const MAX_DISK_BYTES = 2 ** 51;

/** Incompatible features. */
export const INCOMPAT_DIRTY = 1 << 0;
export const INCOMPAT_CORRUPT = 1 << 1;
export const INCOMPAT_DATA_FILE = 1 << 2;
export const INCOMPAT_COMPRESSION = 1 << 3;
export const INCOMPAT_EXTENDED_L2 = 1 << 4;
const INCOMPAT_KNOWN = 0x1f;
export const COMPAT_LAZY_REFCOUNTS = 1 << 0;
export const AUTOCLEAR_BITMAPS = 1 << 0;
export const AUTOCLEAR_DATA_FILE_RAW = 1 << 1;

export const EXTENSION_END = 0;
export const EXTENSION_BACKING_FORMAT = 0xe2792aca;
export const EXTENSION_FEATURE_NAMES = 0x6803f857;
export const EXTENSION_DATA_FILE = 0x44415441;

/** Byte offsets of header fields. */
export const FIELD = {
  size: 24,
  l1Size: 36,
  l1TableOffset: 40,
  refcountTableOffset: 48,
  refcountTableClusters: 56,
  snapshotCount: 60,
  snapshotsOffset: 64,
  incompatible: 72,
  compatible: 80,
  autoclear: 88,
  refcountOrder: 96,
  headerLength: 100,
  compressionType: 104,
} as const;

export const V2_HEADER_LENGTH = 72;
export const V3_HEADER_LENGTH = 112;
const V3_MIN_HEADER_LENGTH = 104;
const FEATURE_NAME_ENTRY = 48;

export interface Qcow2Header {
  readonly version: 2 | 3;
  readonly backingName: string | null;
  readonly backingFormat: string | null;
  readonly clusterBits: number;
  readonly sizeBytes: number;
  readonly l1Size: number;
  readonly l1TableOffset: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly snapshotCount: number;
  readonly snapshotsOffset: number;
  /** Known bits only; unknown ones are refused. */
  readonly incompatible: number;
  readonly lazyRefcounts: boolean;
  readonly dataFileRaw: boolean;
  /** Auto-clear bits other than that of a raw external data file are set. */
  readonly staleAutoclear: boolean;
  readonly refcountBits: number;
  readonly headerLength: number;
  readonly compression: 'deflate' | 'zstd';
  readonly extendedL2: boolean;
  readonly dataFileName: string | null;
  /** The fixed part as it stands in the file, to be patched and written back. */
  readonly bytes: Uint8Array;
}

interface Extensions {
  backingFormat: string | null;
  dataFileName: string | null;
  featureNames: Uint8Array | null;
}

/** Reads and checks the header; rejects with `corrupt` or `unsupported`. */
export async function readHeader(file: HostFile): Promise<Qcow2Header> {
  const first = new Uint8Array(V3_HEADER_LENGTH);
  const count = await file.read(0, first);
  const fail = (message: string): StorageError => new StorageError('corrupt', file.name, message);
  if (count < V2_HEADER_LENGTH || viewOf(first).getUint32(0) !== QCOW2_MAGIC) throw fail('the file has no QCOW2 header');
  const view = viewOf(first);
  const version = view.getUint32(4);
  if (version !== 2 && version !== 3) {
    throw new StorageError(
      'unsupported',
      file.name,
      `QCOW version ${version} is not supported, only 2 and 3; convert it with "qemu-img convert"`,
    );
  }
  const clusterBits = view.getUint32(20);
  if (clusterBits < MIN_CLUSTER_BITS || clusterBits > MAX_CLUSTER_BITS)
    throw fail(`a cluster size of 2^${clusterBits} bytes is impossible`);
  const clusterSize = 2 ** clusterBits;
  const headerLength = version === 2 ? V2_HEADER_LENGTH : view.getUint32(FIELD.headerLength);
  if (
    version === 3 &&
    (count < V3_MIN_HEADER_LENGTH || headerLength < V3_MIN_HEADER_LENGTH || headerLength > clusterSize || headerLength % 8 !== 0)
  ) {
    throw fail(`a header length of ${headerLength} bytes is impossible`);
  }
  if (view.getUint32(32) !== 0)
    throw new StorageError(
      'unsupported',
      file.name,
      'encrypted images are not supported; convert it to a plain one with "qemu-img convert"',
    );

  const backingOffset = u64(view, 8);
  const backingSize = view.getUint32(16);
  const areaEnd = backingOffset === 0 ? clusterSize : Math.min(clusterSize, backingOffset);
  if (
    backingOffset !== 0 &&
    (backingSize > MAX_BACKING_NAME || backingOffset < headerLength || backingOffset + backingSize > clusterSize)
  ) {
    throw fail("the backing file's name does not lie in the header's cluster");
  }
  const area = new Uint8Array(clusterSize);
  await file.read(0, area);
  const extensions = readExtensions(area.subarray(0, areaEnd), headerLength, fail);

  let incompatible = 0;
  let compatible = 0;
  let autoclear = 0;
  let refcountOrder = 4;
  let compressionType = 0;
  let autoclearHigh = 0;
  if (version === 3) {
    incompatible = view.getUint32(FIELD.incompatible + 4);
    refuseUnknown(file.name, view.getUint32(FIELD.incompatible), incompatible, extensions.featureNames);
    compatible = view.getUint32(FIELD.compatible + 4);
    autoclearHigh = view.getUint32(FIELD.autoclear);
    autoclear = view.getUint32(FIELD.autoclear + 4);
    refcountOrder = view.getUint32(FIELD.refcountOrder);
    if (headerLength > FIELD.compressionType) compressionType = area[FIELD.compressionType];
  }
  if (refcountOrder > 6) throw fail(`reference counts of 2^${refcountOrder} bits are impossible`);
  if (compressionType > 1) throw new StorageError('unsupported', file.name, `compression method ${compressionType} is not known here`);
  if ((compressionType !== 0) !== ((incompatible & INCOMPAT_COMPRESSION) !== 0))
    throw fail('the compression method and its feature bit contradict each other');
  const extendedL2 = (incompatible & INCOMPAT_EXTENDED_L2) !== 0;
  if (extendedL2 && clusterBits < 14) throw fail('extended L2 entries need clusters of at least 16 KiB');

  const header: Qcow2Header = {
    version,
    backingName: backingOffset === 0 || backingSize === 0 ? null : decodeUtf8(area.subarray(backingOffset, backingOffset + backingSize)),
    backingFormat: extensions.backingFormat,
    clusterBits,
    sizeBytes: u64(view, FIELD.size),
    l1Size: view.getUint32(FIELD.l1Size),
    l1TableOffset: u64(view, FIELD.l1TableOffset),
    refcountTableOffset: u64(view, FIELD.refcountTableOffset),
    refcountTableClusters: view.getUint32(FIELD.refcountTableClusters),
    snapshotCount: view.getUint32(FIELD.snapshotCount),
    snapshotsOffset: u64(view, FIELD.snapshotsOffset),
    incompatible,
    lazyRefcounts: (compatible & COMPAT_LAZY_REFCOUNTS) !== 0,
    dataFileRaw: (autoclear & AUTOCLEAR_DATA_FILE_RAW) !== 0,
    staleAutoclear: autoclearHigh !== 0 || (autoclear & ~AUTOCLEAR_DATA_FILE_RAW) !== 0,
    refcountBits: 2 ** refcountOrder,
    headerLength,
    compression: compressionType === 1 ? 'zstd' : 'deflate',
    extendedL2,
    dataFileName: extensions.dataFileName,
    bytes: area.slice(0, headerLength),
  };
  checkTables(header, await file.size(), fail);
  return header;
}

function refuseUnknown(image: string, high: number, low: number, names: Uint8Array | null): void {
  const unknown: string[] = [];
  for (let bit = 0; bit < 64; bit++) {
    const set = bit < 32 ? (low >>> bit) & 1 : (high >>> (bit - 32)) & 1;
    if (set === 1 && (bit >= 32 || ((INCOMPAT_KNOWN >>> bit) & 1) === 0)) unknown.push(featureName(names, bit));
  }
  if (unknown.length === 0) return;
  throw new StorageError('unsupported', image, `the image uses what this version does not know: ${unknown.join(', ')}`);
}

function featureName(names: Uint8Array | null, bit: number): string {
  for (let at = 0; names !== null && at + FEATURE_NAME_ENTRY <= names.length; at += FEATURE_NAME_ENTRY) {
    if (names[at] === 0 && names[at + 1] === bit) return JSON.stringify(text(names.subarray(at + 2, at + FEATURE_NAME_ENTRY)));
  }
  return `incompatible feature ${bit}`;
}

function readExtensions(area: Uint8Array, start: number, fail: (message: string) => StorageError): Extensions {
  const found: Extensions = { backingFormat: null, dataFileName: null, featureNames: null };
  const view = viewOf(area);
  for (let at = start; at + 8 <= area.length; ) {
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    if (type === EXTENSION_END) break;
    if (length > area.length - at - 8) throw fail('a header extension reaches outside the header');
    const data = area.subarray(at + 8, at + 8 + length);
    if (type === EXTENSION_BACKING_FORMAT) found.backingFormat = text(data);
    else if (type === EXTENSION_DATA_FILE) found.dataFileName = decodeUtf8(data);
    else if (type === EXTENSION_FEATURE_NAMES) found.featureNames = data;
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return found;
}

function checkTables(header: Qcow2Header, fileSize: number, fail: (message: string) => StorageError): void {
  const clusterSize = 2 ** header.clusterBits;
  const end = Math.ceil(fileSize / clusterSize) * clusterSize;
  const inFile = (offset: number, length: number): boolean => offset % clusterSize === 0 && offset >= clusterSize && offset + length <= end;
  if (header.sizeBytes > MAX_DISK_BYTES) throw fail(`a disk of more than ${MAX_DISK_BYTES} bytes is not supported`);
  if (header.l1Size * 8 > MAX_L1_BYTES) throw fail(`an L1 table of ${header.l1Size} entries is too large`);
  if (header.l1Size < l1EntriesFor(header, header.sizeBytes)) throw fail('the L1 table is too small for the disk');
  if (header.l1Size > 0 && !inFile(header.l1TableOffset, header.l1Size * 8)) throw fail('the L1 table does not lie in the file');
  const refcountTableBytes = header.refcountTableClusters * clusterSize;
  if (refcountTableBytes === 0 || refcountTableBytes > MAX_REFCOUNT_TABLE_BYTES)
    throw fail(`a table of reference counts of ${refcountTableBytes} bytes is impossible`);
  if (!inFile(header.refcountTableOffset, refcountTableBytes)) throw fail('the table of reference counts does not lie in the file');
  if (header.snapshotCount > MAX_SNAPSHOTS) throw fail(`${header.snapshotCount} snapshots are too many`);
  if (header.snapshotCount > 0 && !inFile(header.snapshotsOffset, 1)) throw fail('the table of snapshots does not lie in the file');
  const dataFile = (header.incompatible & INCOMPAT_DATA_FILE) !== 0;
  if (dataFile && header.backingName !== null && header.dataFileRaw)
    throw fail('a raw external data file and a backing file exclude each other');
}

/** Entries of an L1 table for a disk of `sizeBytes`. */
export function l1EntriesFor(header: Pick<Qcow2Header, 'clusterBits' | 'extendedL2'>, sizeBytes: number): number {
  const clusterSize = 2 ** header.clusterBits;
  return Math.ceil(sizeBytes / ((clusterSize * clusterSize) / (header.extendedL2 ? 16 : 8)));
}
