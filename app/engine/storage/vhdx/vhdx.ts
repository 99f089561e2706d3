// SPDX-License-Identifier: Apache-2.0
/**
 * VHDX images (Microsoft, MS-VHDX): dynamic and fixed, with their log.
 *
 * ORDER of a flush: data · log entry with the changed sectors of the table · the sectors in place. The header names a log from the first
 * change on and none after a clean close.
 * Left out: differencing images (refused).
 */
import type { Entropy } from '../../host/entropy.ts';
import type { HostFile } from '../../host/file.ts';
import { BLOCK_ABSENT, BlockTableDevice } from '../core/block-table-device.ts';
import { alignUp, crc32c, MIB, setU64, u64, viewOf } from '../core/bytes.ts';
import { readExactly, readPadded } from '../core/file-reads.ts';
import { PageCache, type PageCopy } from '../core/page-cache.ts';
import { StorageError } from '../storage-error.ts';
import {
  batEntries,
  chunkRatio,
  GUID_BAT,
  GUID_METADATA,
  HEADER_BYTES,
  HEADER_OFFSETS,
  isZeroGuid,
  ITEM_DISK_ID,
  ITEM_DISK_SIZE,
  ITEM_FILE_PARAMETERS,
  ITEM_IS_REQUIRED,
  ITEM_IS_VIRTUAL_DISK,
  ITEM_LOGICAL_SECTOR,
  ITEM_PHYSICAL_SECTOR,
  LOG_SECTOR,
  METADATA_ITEMS_AT,
  nextHeader,
  PARAMETER_LEAVE_ALLOCATED,
  randomGuid,
  readMetadata,
  readRegions,
  readVhdxHeader,
  REGION_OFFSETS,
  REGION_TABLE_BYTES,
  type VhdxHeader,
  type VhdxMetadata,
  type VhdxRegion,
} from './vhdx-format.ts';
import { applyLog, encodeEntry, MAX_ENTRY_SECTORS, readLog, ReplayedFile } from './vhdx-log.ts';

const BLOCK_FULLY_PRESENT = 6;
const BLOCK_PARTIALLY_PRESENT = 7;
const STATE_MASK = 7;
const CACHE_BYTES = 16 * MIB;
const NO_LOG = new Uint8Array(16);

export class VhdxDevice extends BlockTableDevice {
  readonly format = 'vhdx';
  readonly #entropy: Entropy;
  readonly #metadata: VhdxMetadata;
  readonly #bat: VhdxRegion;
  readonly #ratio: number;
  readonly #cache: PageCache;
  #header: VhdxHeader;
  #logSequence = 1;
  #logOpened: Promise<void> | null = null;

  constructor(
    file: HostFile,
    header: VhdxHeader,
    metadata: VhdxMetadata,
    bat: VhdxRegion,
    entropy: Entropy,
    readOnly: boolean,
    fileSize: number,
  ) {
    super(file, {
      sizeBytes: metadata.sizeBytes,
      readOnly,
      sectorSize: metadata.logicalSector,
      blockSize: metadata.blockSize,
      parent: null,
      fileEnd: fileSize,
    });
    this.#header = header;
    this.#metadata = metadata;
    this.#bat = bat;
    this.#entropy = entropy;
    this.#ratio = chunkRatio(metadata);
    this.#cache = new PageCache(file, LOG_SECTOR, CACHE_BYTES, (offset, into) => readPadded(file, offset, into));
  }

  protected override get crowded(): boolean {
    return this.#cache.crowded;
  }

  protected override lookup(block: number): number | Promise<number> {
    const entry = this.#entryPlace(block);
    const at = entry % LOG_SECTOR;
    const page = this.#cache.peek(entry - at);
    if (page === undefined) return this.#cache.load(entry - at).then(() => this.lookup(block));
    const state = page.view.getUint8(at) & STATE_MASK;
    if (state === BLOCK_PARTIALLY_PRESENT)
      throw this.error('corrupt', `block ${block} is marked as partly present, which only differencing images know`);
    if (state !== BLOCK_FULLY_PRESENT) return BLOCK_ABSENT;
    // Bits 20 to 63 are the offset in MiB.
    const value = u64(page.view, at, true);
    const place = value - (value % MIB);
    // GUEST: the table comes from the image.
    if (!(place < this.fileEnd) || place < MIB)
      throw this.error('corrupt', `block ${block} lies outside the file; it is cut off or damaged`);
    return place;
  }

  protected override async reserve(_block: number, count: number): Promise<{ place: number; count: number }> {
    await this.#openLog();
    const place = alignUp(this.fileEnd, MIB);
    const end = place + count * this.clusterSize;
    await this.file.truncate(end);
    this.fileEnd = end;
    return { place, count };
  }

  protected override async link(block: number, place: number): Promise<void> {
    const entry = this.#entryPlace(block);
    const at = entry % LOG_SECTOR;
    let page = this.#cache.peek(entry - at);
    while (page === undefined) {
      await this.#cache.load(entry - at);
      page = this.#cache.peek(entry - at);
    }
    setU64(page.view, at, place + BLOCK_FULLY_PRESENT, true);
    this.#cache.markDirty(page);
  }

  protected override markZero(): Promise<boolean> {
    return Promise.resolve(false);
  }

  protected override async flushTable(): Promise<void> {
    const pages = this.#cache.takeDirty();
    try {
      await this.file.flush();
      for (let i = 0; i < pages.length; i += MAX_ENTRY_SECTORS) await this.#writeLogged(pages.slice(i, i + MAX_ENTRY_SECTORS));
    } catch (error) {
      this.#cache.abandon(pages);
      throw error;
    }
  }

  protected override doResize(newSizeBytes: number): Promise<void> {
    return this.alone(async () => {
      const metadata = { ...this.#metadata, sizeBytes: newSizeBytes };
      if (newSizeBytes % this.sectorSize !== 0) throw this.error('invalid', `a disk's size is a multiple of ${this.sectorSize} bytes`);
      if (newSizeBytes < this.sizeBytes) throw this.error('unsupported', 'a VHDX image cannot become smaller; convert it to a new one');
      if (batEntries(metadata) * 8 > this.#bat.length)
        throw this.error('unsupported', 'the table of this VHDX image has no room for that size; convert it to a new one');
      await this.flushTable();
      await this.#openLog();
      const first = Math.ceil(this.sizeBytes / this.clusterSize);
      for (let block = first; block * this.clusterSize < newSizeBytes; block++) await this.#forget(block);
      await this.flushTable();
      const at = this.#metadata.sizeAt - (this.#metadata.sizeAt % LOG_SECTOR);
      const bytes = new Uint8Array(LOG_SECTOR);
      await readExactly(this.file, at, bytes, 'the metadata');
      setU64(viewOf(bytes), this.#metadata.sizeAt - at, newSizeBytes, true);
      await this.#log([{ offset: at, bytes }]);
      await this.file.write(at, bytes);
      await this.file.flush();
      this.sizeBytes = newSizeBytes;
    });
  }

  protected override async doClose(): Promise<void> {
    try {
      if (!this.readOnly && !isZeroGuid(this.#header.logGuid)) await this.#writeHeaders(NO_LOG, null);
    } finally {
      await super.doClose();
    }
  }

  /** Entries of the table behind the disk's end may hold anything; the disk grows over them. */
  async #forget(block: number): Promise<void> {
    if ((await this.lookup(block)) === BLOCK_ABSENT) return;
    const entry = this.#entryPlace(block);
    const page = this.#cache.peek(entry - (entry % LOG_SECTOR))!;
    setU64(page.view, entry % LOG_SECTOR, 0, true);
    this.#cache.markDirty(page);
  }

  #entryPlace(block: number): number {
    return this.#bat.offset + (block + Math.floor(block / this.#ratio)) * 8;
  }

  async #writeLogged(pages: readonly PageCopy[]): Promise<void> {
    await this.#openLog();
    await this.#log(pages.map(({ page, bytes }) => ({ offset: page.offset, bytes })));
    await this.#cache.writeOut(pages);
    await this.file.flush();
  }

  async #log(patches: readonly { offset: number; bytes: Uint8Array }[]): Promise<void> {
    await this.file.write(this.#header.logOffset, encodeEntry(patches, this.#logSequence++, this.#header.logGuid, this.fileEnd));
    await this.file.flush();
  }

  /** The header names a log before the log is used. */
  #openLog(): Promise<void> {
    this.#logOpened ??= this.#writeHeaders(randomGuid(this.#entropy), randomGuid(this.#entropy)).catch((error: unknown) => {
      this.#logOpened = null;
      throw error;
    });
    return this.#logOpened;
  }

  /** Twice, so that both headers say the same and each write leaves the other whole. */
  async #writeHeaders(logGuid: Uint8Array, writeGuid: Uint8Array | null): Promise<void> {
    for (let i = 0; i < 2; i++) {
      this.#header = nextHeader(this.#header, logGuid, writeGuid);
      await this.file.write(HEADER_OFFSETS[this.#header.slot], this.#header.bytes);
      await this.file.flush();
    }
  }
}

export async function openVhdx(file: HostFile, entropy: Entropy, readOnly: boolean): Promise<VhdxDevice> {
  let header = await readVhdxHeader(file);
  let seen = file;
  if (!isZeroGuid(header.logGuid)) {
    const replay = await readLog(file, header);
    if (replay !== null && (readOnly || !file.writable)) seen = new ReplayedFile(file, replay);
    else if (!readOnly && file.writable) {
      if (replay !== null) await applyLog(file, replay);
      header = nextHeader(header, NO_LOG, null);
      await file.write(HEADER_OFFSETS[header.slot], header.bytes);
      await file.flush();
    }
  }
  const fileSize = await seen.size();
  const regions = await readRegions(seen, fileSize);
  const metadata = await readMetadata(seen, regions.metadata);
  if (batEntries(metadata) * 8 > regions.bat.length)
    throw new StorageError('corrupt', file.name, 'the table of blocks is too small for the disk');
  return new VhdxDevice(seen, header, metadata, regions.bat, entropy, readOnly, fileSize);
}

export interface CreateVhdxOptions {
  readonly sizeBytes: number;
  readonly fixed?: boolean;
  readonly blockSize?: number;
}

const LOG_BYTES = MIB;

export async function createVhdx(file: HostFile, options: CreateVhdxOptions, entropy: Entropy): Promise<void> {
  const { sizeBytes, blockSize = 32 * MIB } = options;
  const invalid = (message: string): StorageError => new StorageError('invalid', file.name, message);
  if (blockSize < MIB || blockSize > 256 * MIB || 2 ** Math.round(Math.log2(blockSize)) !== blockSize)
    throw invalid('the block size is a power of two from 1 to 256 MiB');
  if (sizeBytes % 512 !== 0 || sizeBytes > 64 * 2 ** 40) throw invalid('a VHDX disk has a multiple of 512 bytes and at most 64 TiB');
  const metadata = { blockSize, sizeBytes, logicalSector: 512 };
  const entries = batEntries(metadata);
  const bat = { offset: 3 * MIB, length: alignUp(Math.max(entries * 8, 1), MIB) };
  const metadataRegion = { offset: 2 * MIB, length: MIB };
  const dataStart = bat.offset + bat.length;
  const blocks = Math.ceil(sizeBytes / blockSize);
  await file.truncate(dataStart + (options.fixed === true ? blocks * blockSize : 0));
  if (options.fixed === true) await writeFixedTable(file, bat.offset, entries, chunkRatio(metadata), dataStart, blockSize);
  await file.write(metadataRegion.offset, encodeMetadataTable());
  await file.write(metadataRegion.offset + METADATA_ITEMS_AT, encodeMetadataItems(options, blockSize, entropy));
  const regions = encodeRegions(bat, metadataRegion);
  for (const offset of REGION_OFFSETS) await file.write(offset, regions);
  for (const slot of [0, 1] as const) await file.write(HEADER_OFFSETS[slot], encodeHeader(slot, entropy));
  const identifier = new Uint8Array(64 * 1024);
  identifier.set(Uint8Array.from('vhdxfile', (c) => c.charCodeAt(0)));
  const creator = 'Paravane';
  for (let i = 0; i < creator.length; i++) identifier[8 + i * 2] = creator.charCodeAt(i);
  await file.write(0, identifier);
  await file.flush();
}

async function writeFixedTable(
  file: HostFile,
  offset: number,
  entries: number,
  ratio: number,
  dataStart: number,
  blockSize: number,
): Promise<void> {
  const step = 65_536;
  for (let first = 0; first < entries; first += step) {
    const part = new Uint8Array(Math.min(step, entries - first) * 8);
    const view = viewOf(part);
    for (let i = 0; i * 8 < part.length; i++) {
      const index = first + i;
      const chunk = Math.floor(index / (ratio + 1));
      // Every entry behind `ratio` blocks is for a sector bitmap, which this image does not have.
      if (index % (ratio + 1) !== ratio) setU64(view, i * 8, dataStart + (index - chunk) * blockSize + BLOCK_FULLY_PRESENT, true);
    }
    await file.write(offset + first * 8, part);
  }
}

const ITEM_LAYOUT = [
  { id: ITEM_FILE_PARAMETERS, at: 0, length: 8, flags: ITEM_IS_REQUIRED },
  { id: ITEM_DISK_SIZE, at: 8, length: 8, flags: ITEM_IS_REQUIRED | ITEM_IS_VIRTUAL_DISK },
  { id: ITEM_DISK_ID, at: 16, length: 16, flags: ITEM_IS_REQUIRED | ITEM_IS_VIRTUAL_DISK },
  { id: ITEM_LOGICAL_SECTOR, at: 32, length: 4, flags: ITEM_IS_REQUIRED | ITEM_IS_VIRTUAL_DISK },
  { id: ITEM_PHYSICAL_SECTOR, at: 36, length: 4, flags: ITEM_IS_REQUIRED | ITEM_IS_VIRTUAL_DISK },
] as const;

function encodeMetadataTable(): Uint8Array {
  const bytes = new Uint8Array(METADATA_ITEMS_AT);
  const view = viewOf(bytes);
  bytes.set(Uint8Array.from('metadata', (c) => c.charCodeAt(0)));
  view.setUint16(10, ITEM_LAYOUT.length, true);
  ITEM_LAYOUT.forEach(({ id, at, length, flags }, index) => {
    const place = 32 + index * 32;
    bytes.set(id, place);
    view.setUint32(place + 16, METADATA_ITEMS_AT + at, true);
    view.setUint32(place + 20, length, true);
    view.setUint32(place + 24, flags, true);
  });
  return bytes;
}

function encodeMetadataItems(options: CreateVhdxOptions, blockSize: number, entropy: Entropy): Uint8Array {
  const bytes = new Uint8Array(40);
  const view = viewOf(bytes);
  view.setUint32(0, blockSize, true);
  view.setUint32(4, options.fixed === true ? PARAMETER_LEAVE_ALLOCATED : 0, true);
  setU64(view, 8, options.sizeBytes, true);
  bytes.set(randomGuid(entropy), 16);
  view.setUint32(32, 512, true);
  view.setUint32(36, 4096, true);
  return bytes;
}

function encodeRegions(bat: VhdxRegion, metadata: VhdxRegion): Uint8Array {
  const bytes = new Uint8Array(REGION_TABLE_BYTES);
  const view = viewOf(bytes);
  bytes.set(Uint8Array.from('regi', (c) => c.charCodeAt(0)));
  view.setUint32(8, 2, true);
  for (const [i, [id, region]] of (
    [
      [GUID_BAT, bat],
      [GUID_METADATA, metadata],
    ] as const
  ).entries()) {
    const at = 16 + i * 32;
    bytes.set(id, at);
    setU64(view, at + 16, region.offset, true);
    view.setUint32(at + 24, region.length, true);
    view.setUint32(at + 28, 1, true);
  }
  view.setUint32(4, crc32c(bytes, 4), true);
  return bytes;
}

function encodeHeader(slot: number, entropy: Entropy): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = viewOf(bytes);
  bytes.set(Uint8Array.from('head', (c) => c.charCodeAt(0)));
  setU64(view, 8, slot + 1, true);
  bytes.set(randomGuid(entropy), 16);
  bytes.set(randomGuid(entropy), 32);
  view.setUint16(66, 1, true);
  view.setUint32(68, LOG_BYTES, true);
  setU64(view, 72, MIB, true);
  view.setUint32(4, crc32c(bytes, 4), true);
  return bytes;
}
