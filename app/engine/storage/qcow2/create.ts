// SPDX-License-Identifier: Apache-2.0
/** Makes empty QCOW2 images: the header, one L1 table, and the reference counts of just these. */
import type { HostFile } from '../../host/file.ts';
import { alignUp, encodeUtf8, isPowerOfTwo, setU64, viewOf } from '../core/bytes.ts';
import { StorageError } from '../storage-error.ts';
import {
  AUTOCLEAR_DATA_FILE_RAW,
  COMPAT_LAZY_REFCOUNTS,
  EXTENSION_BACKING_FORMAT,
  EXTENSION_DATA_FILE,
  EXTENSION_FEATURE_NAMES,
  FIELD,
  INCOMPAT_COMPRESSION,
  INCOMPAT_DATA_FILE,
  INCOMPAT_EXTENDED_L2,
  l1EntriesFor,
  MAX_BACKING_NAME,
  MAX_CLUSTER_BITS,
  MAX_DISK_BYTES,
  MAX_L1_BYTES,
  MAX_REFCOUNT_TABLE_BYTES,
  MIN_CLUSTER_BITS,
  QCOW2_MAGIC,
  V2_HEADER_LENGTH,
  V3_HEADER_LENGTH,
} from './format.ts';
import { encodeTable } from './refcounts.ts';

export interface CreateQcow2Options {
  readonly sizeBytes: number;
  readonly version?: 2 | 3;
  readonly clusterSize?: number;
  readonly refcountBits?: number;
  readonly compression?: 'deflate' | 'zstd';
  readonly lazyRefcounts?: boolean;
  readonly extendedL2?: boolean;
  readonly backing?: { readonly name: string; readonly format: string };
  readonly dataFile?: { readonly name: string; readonly raw: boolean };
}

const FEATURES: readonly (readonly [type: number, bit: number, name: string])[] = [
  [0, 0, 'dirty bit'],
  [0, 1, 'corrupt bit'],
  [0, 2, 'external data file'],
  [0, 3, 'compression type'],
  [0, 4, 'extended L2 entries'],
  [1, 0, 'lazy refcounts'],
  [2, 0, 'bitmaps'],
  [2, 1, 'raw external data'],
];

/** Writes an empty image into an empty file and makes it durable. Rejects with `invalid` when the options contradict each other. */
export async function createQcow2(file: HostFile, options: CreateQcow2Options): Promise<void> {
  const { sizeBytes, version = 3, clusterSize = 65_536, refcountBits = 16, compression = 'deflate', extendedL2 = false } = options;
  const invalid = (message: string): StorageError => new StorageError('invalid', file.name, message);
  const clusterBits = Math.round(Math.log2(clusterSize));
  if (!isPowerOfTwo(clusterSize) || clusterBits < MIN_CLUSTER_BITS || clusterBits > MAX_CLUSTER_BITS) {
    throw invalid('a cluster size is a power of two from 512 bytes to 2 MiB');
  }
  if (!isPowerOfTwo(refcountBits) || refcountBits > 64) throw invalid('reference counts have 1, 2, 4, 8, 16, 32 or 64 bits');
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0 || sizeBytes > MAX_DISK_BYTES)
    throw invalid(`${sizeBytes} bytes is no possible size`);
  const modern =
    refcountBits !== 16 || compression !== 'deflate' || extendedL2 || options.lazyRefcounts === true || options.dataFile !== undefined;
  if (version < 3 && modern) throw invalid('version 2 images have none of the newer features; leave out the version');
  if (extendedL2 && clusterBits < 14) throw invalid('extended L2 entries need clusters of at least 16 KiB');
  if (options.dataFile?.raw === true && options.backing !== undefined)
    throw invalid('a raw external data file and a backing file exclude each other');
  const l1Entries = l1EntriesFor({ clusterBits, extendedL2 }, sizeBytes);
  if (l1Entries * 8 > MAX_L1_BYTES) throw invalid(`clusters of ${clusterSize} bytes are too small for this size; use larger ones`);

  const l1Clusters = Math.max(1, Math.ceil((l1Entries * 8) / clusterSize));
  const perBlock = (clusterSize * 8) / refcountBits;
  // Header, then the table of counts, the blocks of counts, the L1 table: each must be counted too.
  let tableClusters = 1;
  let blocks = 1;
  for (;;) {
    const used = 1 + tableClusters + blocks + l1Clusters;
    const neededBlocks = Math.ceil(used / perBlock);
    const neededTable = Math.ceil((neededBlocks * 8) / clusterSize);
    if (neededBlocks <= blocks && neededTable <= tableClusters) break;
    blocks = neededBlocks;
    tableClusters = neededTable;
  }
  if (tableClusters * clusterSize > MAX_REFCOUNT_TABLE_BYTES) throw invalid('clusters this small do not suffice for this size');
  const used = 1 + tableClusters + blocks + l1Clusters;

  const header = encodeHeader(options, {
    clusterBits,
    version,
    l1Entries,
    l1Offset: (1 + tableClusters + blocks) * clusterSize,
    tableClusters,
  });
  if (header.length > clusterSize) throw invalid('the names do not fit into the header; use larger clusters or shorter names');
  const table = new Float64Array((tableClusters * clusterSize) / 8);
  for (let i = 0; i < blocks; i++) table[i] = (1 + tableClusters + i) * clusterSize;
  await file.truncate(used * clusterSize);
  for (let i = 0; i < blocks; i++)
    await file.write(table[i], countBlock(clusterSize, refcountBits, Math.min(perBlock, used - i * perBlock)));
  await file.write(clusterSize, encodeTable(table));
  // Last, so that a file that was not finished is no image.
  await file.write(0, header);
  await file.flush();
}

/** A block of counts whose first `ones` are 1. */
function countBlock(clusterSize: number, bits: number, ones: number): Uint8Array {
  const block = new Uint8Array(clusterSize);
  for (let i = 0; i < ones; i++) {
    if (bits < 8) block[Math.floor((i * bits) / 8)] |= 1 << ((i * bits) % 8);
    else block[(i * bits) / 8 + bits / 8 - 1] = 1;
  }
  return block;
}

function encodeHeader(
  options: CreateQcow2Options,
  shape: { clusterBits: number; version: 2 | 3; l1Entries: number; l1Offset: number; tableClusters: number },
): Uint8Array {
  const { version } = shape;
  const clusterSize = 2 ** shape.clusterBits;
  const extensions: Uint8Array[] = [];
  if (options.backing !== undefined) extensions.push(extension(EXTENSION_BACKING_FORMAT, encodeUtf8(options.backing.format)));
  if (options.dataFile !== undefined) extensions.push(extension(EXTENSION_DATA_FILE, encodeUtf8(options.dataFile.name)));
  const backing = options.backing === undefined ? new Uint8Array(0) : encodeUtf8(options.backing.name);
  if (backing.length > MAX_BACKING_NAME)
    throw new StorageError('invalid', options.backing!.name, `the name is longer than ${MAX_BACKING_NAME} bytes`);
  const fixed = version === 2 ? V2_HEADER_LENGTH : V3_HEADER_LENGTH;
  const end = extension(0, new Uint8Array(0));
  const length = (parts: readonly Uint8Array[]): number => parts.reduce((sum, part) => sum + part.length, 0);
  const names = version === 3 ? extension(EXTENSION_FEATURE_NAMES, featureNames()) : new Uint8Array(0);
  // Names of features are a courtesy; small clusters have no room for it.
  if (fixed + length(extensions) + names.length + end.length + backing.length <= clusterSize) extensions.push(names);
  extensions.push(end);
  const bytes = new Uint8Array(fixed + length(extensions) + backing.length);
  const view = viewOf(bytes);
  const backingOffset = fixed + length(extensions);
  view.setUint32(0, QCOW2_MAGIC);
  view.setUint32(4, version);
  if (backing.length > 0) {
    setU64(view, 8, backingOffset);
    view.setUint32(16, backing.length);
    bytes.set(backing, backingOffset);
  }
  view.setUint32(20, shape.clusterBits);
  setU64(view, FIELD.size, options.sizeBytes);
  view.setUint32(FIELD.l1Size, shape.l1Entries);
  setU64(view, FIELD.l1TableOffset, shape.l1Offset);
  setU64(view, FIELD.refcountTableOffset, clusterSize);
  view.setUint32(FIELD.refcountTableClusters, shape.tableClusters);
  if (version === 3) encodeFeatures(view, options);
  let at = fixed;
  for (const part of extensions) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function encodeFeatures(view: DataView, options: CreateQcow2Options): void {
  let incompatible = 0;
  if (options.dataFile !== undefined) incompatible |= INCOMPAT_DATA_FILE;
  if (options.compression === 'zstd') incompatible |= INCOMPAT_COMPRESSION;
  if (options.extendedL2 === true) incompatible |= INCOMPAT_EXTENDED_L2;
  view.setUint32(FIELD.incompatible + 4, incompatible);
  view.setUint32(FIELD.compatible + 4, options.lazyRefcounts === true ? COMPAT_LAZY_REFCOUNTS : 0);
  view.setUint32(FIELD.autoclear + 4, options.dataFile?.raw === true ? AUTOCLEAR_DATA_FILE_RAW : 0);
  view.setUint32(FIELD.refcountOrder, Math.round(Math.log2(options.refcountBits ?? 16)));
  view.setUint32(FIELD.headerLength, V3_HEADER_LENGTH);
  view.setUint8(FIELD.compressionType, options.compression === 'zstd' ? 1 : 0);
}

function extension(type: number, data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(8 + alignUp(data.length, 8));
  const view = viewOf(bytes);
  view.setUint32(0, type);
  view.setUint32(4, data.length);
  bytes.set(data, 8);
  return bytes;
}

function featureNames(): Uint8Array {
  const bytes = new Uint8Array(FEATURES.length * 48);
  FEATURES.forEach(([type, bit, name], index) => {
    bytes[index * 48] = type;
    bytes[index * 48 + 1] = bit;
    bytes.set(encodeUtf8(name), index * 48 + 2);
  });
  return bytes;
}
