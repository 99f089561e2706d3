// SPDX-License-Identifier: Apache-2.0
/**
 * Headers, region table and metadata of VHDX images (Microsoft, MS-VHDX), little-endian throughout.
 *
 * The first MiB: an identifier, two headers (the valid one with the higher sequence number counts), two equal region tables. The regions are
 * the table of blocks and the metadata.
 *
 * GUEST: an image is hostile; counts and lengths are bounded before anything is read.
 */
import type { Entropy } from '../../host/entropy.ts';
import type { HostFile } from '../../host/file.ts';
import { crc32c, MIB, setU64, startsWith, u64, viewOf } from '../core/bytes.ts';
import { readExactly } from '../core/file-reads.ts';
import { StorageError } from '../storage-error.ts';

export const HEADER_OFFSETS = [64 * 1024, 128 * 1024] as const;
export const REGION_OFFSETS = [192 * 1024, 256 * 1024] as const;
export const HEADER_BYTES = 4096;
export const REGION_TABLE_BYTES = 64 * 1024;
export const METADATA_ITEMS_AT = 64 * 1024;
export const LOG_SECTOR = 4096;
const MAX_REGIONS = 2047;
const MAX_METADATA_ITEMS = 2047;
const MAX_LOG_BYTES = 256 * MIB;
const MAX_DISK = 64 * 2 ** 40;

/** Sixteen bytes as files have them: the first three groups are little-endian. */
export function guid(text: string): Uint8Array {
  const hex = text.replaceAll('-', '');
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  return Uint8Array.from(order, (index) => Number.parseInt(hex.slice(index * 2, index * 2 + 2), 16));
}

export const GUID_BAT = guid('2dc27766-f623-4200-9d64-115e9bfd4a08');
export const GUID_METADATA = guid('8b7ca206-4790-4b9a-b8fe-575f050f886e');
export const ITEM_FILE_PARAMETERS = guid('caa16737-fa36-4d43-b3b6-33f0aa44e76b');
export const ITEM_DISK_SIZE = guid('2fa54224-cd1b-4876-b211-5dbed83bf4b8');
export const ITEM_LOGICAL_SECTOR = guid('8141bf1d-a96f-4709-ba47-f233a8faab5f');
export const ITEM_PHYSICAL_SECTOR = guid('cda348c7-445d-4471-9cc9-e9885251c556');
export const ITEM_DISK_ID = guid('beca12ab-b2e6-4523-93ef-c309e000c746');
export const ITEM_PARENT_LOCATOR = guid('a8d35f2d-b30b-454d-abf7-d3d84834ab0c');

export const ITEM_IS_VIRTUAL_DISK = 2;
export const ITEM_IS_REQUIRED = 4;
export const PARAMETER_LEAVE_ALLOCATED = 1;
export const PARAMETER_HAS_PARENT = 2;

const KNOWN_ITEMS = [ITEM_FILE_PARAMETERS, ITEM_DISK_SIZE, ITEM_LOGICAL_SECTOR, ITEM_PHYSICAL_SECTOR, ITEM_DISK_ID, ITEM_PARENT_LOCATOR];

export interface VhdxHeader {
  /** Which of the two it is. */
  readonly slot: 0 | 1;
  readonly sequence: number;
  readonly logGuid: Uint8Array;
  readonly logOffset: number;
  readonly logBytes: number;
  readonly bytes: Uint8Array;
}

export interface VhdxRegion {
  readonly offset: number;
  readonly length: number;
}

export interface VhdxMetadata {
  readonly blockSize: number;
  readonly sizeBytes: number;
  readonly logicalSector: number;
  /** Where the disk's size stands in the file. */
  readonly sizeAt: number;
}

export const sameGuid = (left: Uint8Array, right: Uint8Array): boolean => left.every((byte, index) => byte === right[index]);
export const isZeroGuid = (value: Uint8Array): boolean => value.every((byte) => byte === 0);

const damaged = (file: HostFile, what: string): StorageError => new StorageError('corrupt', file.name, what);

export async function readVhdxHeader(file: HostFile): Promise<VhdxHeader> {
  const found: VhdxHeader[] = [];
  for (const slot of [0, 1] as const) {
    const bytes = new Uint8Array(HEADER_BYTES);
    const count = await file.read(HEADER_OFFSETS[slot], bytes);
    const view = viewOf(bytes);
    if (count < HEADER_BYTES || !startsWith(bytes, 'head') || view.getUint32(4, true) !== crc32c(bytes, 4)) continue;
    found.push({
      slot,
      sequence: u64(view, 8, true),
      logGuid: bytes.slice(48, 64),
      logBytes: view.getUint32(68, true),
      logOffset: u64(view, 72, true),
      bytes,
    });
  }
  const header = found.sort((a, b) => b.sequence - a.sequence)[0];
  if (header === undefined) throw damaged(file, 'neither of the two VHDX headers is valid');
  const view = viewOf(header.bytes);
  if (view.getUint16(66, true) !== 1 || view.getUint16(64, true) !== 0) {
    throw new StorageError('unsupported', file.name, `VHDX version ${view.getUint16(66, true)} is not supported, only 1`);
  }
  if (!Number.isSafeInteger(header.sequence)) throw damaged(file, 'the sequence number of the header is impossible');
  const { logOffset, logBytes } = header;
  if (logOffset < MIB || logOffset % MIB !== 0 || logBytes === 0 || logBytes % MIB !== 0 || logBytes > MAX_LOG_BYTES)
    throw damaged(file, 'the log has an impossible place');
  return header;
}

/** The header again, with another sequence number and log identifier, ready to be written into the other slot. */
export function nextHeader(header: VhdxHeader, logGuid: Uint8Array, writeGuid: Uint8Array | null): VhdxHeader {
  const bytes = header.bytes.slice();
  const view = viewOf(bytes);
  setU64(view, 8, header.sequence + 1, true);
  // New file-write and data-write identifiers tell others that what they know of the file is old.
  if (writeGuid !== null) {
    bytes.set(writeGuid, 16);
    bytes.set(writeGuid, 32);
  }
  bytes.set(logGuid, 48);
  view.setUint32(4, crc32c(bytes, 4), true);
  return { ...header, slot: header.slot === 0 ? 1 : 0, sequence: header.sequence + 1, logGuid: logGuid.slice(), bytes };
}

export async function readRegions(file: HostFile, fileSize: number): Promise<{ bat: VhdxRegion; metadata: VhdxRegion }> {
  for (const offset of REGION_OFFSETS) {
    const bytes = new Uint8Array(REGION_TABLE_BYTES);
    if ((await file.read(offset, bytes)) < REGION_TABLE_BYTES || !startsWith(bytes, 'regi')) continue;
    const view = viewOf(bytes);
    if (view.getUint32(4, true) !== crc32c(bytes, 4)) continue;
    return decodeRegions(file, bytes, fileSize);
  }
  throw damaged(file, 'neither of the two region tables is valid');
}

function decodeRegions(file: HostFile, bytes: Uint8Array, fileSize: number): { bat: VhdxRegion; metadata: VhdxRegion } {
  const view = viewOf(bytes);
  const count = view.getUint32(8, true);
  if (count > MAX_REGIONS) throw damaged(file, `${count} regions are too many`);
  let bat: VhdxRegion | null = null;
  let metadata: VhdxRegion | null = null;
  for (let i = 0; i < count; i++) {
    const at = 16 + i * 32;
    const id = bytes.subarray(at, at + 16);
    const region = { offset: u64(view, at + 16, true), length: view.getUint32(at + 24, true) };
    const required = (view.getUint32(at + 28, true) & 1) !== 0;
    const isBat = sameGuid(id, GUID_BAT);
    const isMetadata = sameGuid(id, GUID_METADATA);
    if (!isBat && !isMetadata) {
      if (required) throw new StorageError('unsupported', file.name, 'the image has a required region that is not known here');
      continue;
    }
    if (
      region.offset < MIB ||
      region.offset % MIB !== 0 ||
      region.length === 0 ||
      region.length % MIB !== 0 ||
      !(region.offset + region.length <= Math.ceil(fileSize / MIB) * MIB)
    ) {
      throw damaged(file, 'a region does not lie in the file');
    }
    if (isBat) bat = region;
    else metadata = region;
  }
  if (bat === null || metadata === null) throw damaged(file, 'the region table lacks the table of blocks or the metadata');
  return { bat, metadata };
}

export async function readMetadata(file: HostFile, region: VhdxRegion): Promise<VhdxMetadata> {
  const table = new Uint8Array(METADATA_ITEMS_AT);
  await readExactly(file, region.offset, table, 'the metadata');
  const view = viewOf(table);
  if (!startsWith(table, 'metadata')) throw damaged(file, 'the metadata table is damaged');
  const count = view.getUint16(10, true);
  if (count > MAX_METADATA_ITEMS) throw damaged(file, `${count} metadata items are too many`);
  const items = new Map<Uint8Array, { place: number; bytes: Uint8Array }>();
  for (let i = 0; i < count; i++) {
    const at = 32 + i * 32;
    const id = KNOWN_ITEMS.find((known) => sameGuid(known, table.subarray(at, at + 16)));
    if (id === undefined) {
      if ((view.getUint32(at + 24, true) & ITEM_IS_REQUIRED) !== 0)
        throw new StorageError('unsupported', file.name, 'the image has a required metadata item that is not known here');
      continue;
    }
    const offset = view.getUint32(at + 16, true);
    const length = view.getUint32(at + 20, true);
    if (offset < METADATA_ITEMS_AT || offset + length > region.length) throw damaged(file, 'a metadata item does not lie in its region');
    const bytes = new Uint8Array(16);
    await readExactly(file, region.offset + offset, bytes.subarray(0, Math.min(16, length)), 'a metadata item');
    items.set(id, { place: region.offset + offset, bytes });
  }
  const item = (id: Uint8Array): { place: number; view: DataView } => {
    const found = items.get(id);
    if (found === undefined) throw damaged(file, 'a required metadata item is missing');
    return { place: found.place, view: viewOf(found.bytes) };
  };
  const parameters = item(ITEM_FILE_PARAMETERS).view;
  const blockSize = parameters.getUint32(0, true);
  if ((parameters.getUint32(4, true) & PARAMETER_HAS_PARENT) !== 0) {
    throw new StorageError('unsupported', file.name, 'differencing VHDX images are not supported; merge it with its parent first');
  }
  const size = item(ITEM_DISK_SIZE);
  const sizeBytes = u64(size.view, 0, true);
  const logicalSector = item(ITEM_LOGICAL_SECTOR).view.getUint32(0, true);
  if (blockSize < MIB || blockSize > 256 * MIB || 2 ** Math.round(Math.log2(blockSize)) !== blockSize)
    throw damaged(file, `blocks of ${blockSize} bytes are impossible`);
  if (logicalSector !== 512 && logicalSector !== 4096) throw damaged(file, `sectors of ${logicalSector} bytes are impossible`);
  if (!(sizeBytes <= MAX_DISK) || sizeBytes % logicalSector !== 0) throw damaged(file, 'the size of the disk is impossible');
  return { blockSize, sizeBytes, logicalSector, sizeAt: size.place };
}

/** How many block entries precede each entry for sector bitmaps. */
export function chunkRatio(metadata: Pick<VhdxMetadata, 'blockSize' | 'logicalSector'>): number {
  return (2 ** 23 * metadata.logicalSector) / metadata.blockSize;
}

export function batEntries(metadata: Pick<VhdxMetadata, 'blockSize' | 'logicalSector' | 'sizeBytes'>): number {
  const blocks = Math.ceil(metadata.sizeBytes / metadata.blockSize);
  return blocks + Math.floor(Math.max(0, blocks - 1) / chunkRatio(metadata));
}

export function randomGuid(entropy: Entropy): Uint8Array {
  const bytes = new Uint8Array(16);
  entropy.fill(bytes);
  bytes[7] = (bytes[7] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return bytes;
}
