// SPDX-License-Identifier: Apache-2.0
/**
 * One sparse extent of a VMDK disk (VMware Virtual Disk Format 5.0, versions 1 to 3): a directory of tables of grains.
 *
 * Grains are 64 KiB as a rule. The directory is kept twice; both are written, the main one first. Stream-optimized extents (grains
 * compressed one behind the other, directory at the end) are read only. Version 2 tables can say "reads as zeros".
 */
import type { BlockCodec } from '../../host/block-codec.ts';
import type { HostFile } from '../../host/file.ts';
import type { BlockDevice } from '../block-device.ts';
import { BLOCK_ABSENT, BLOCK_ZERO, BlockTableDevice } from '../core/block-table-device.ts';
import { alignUp, isPowerOfTwo, setU64, startsWith, u64, viewOf } from '../core/bytes.ts';
import { readExactly, readPadded } from '../core/file-reads.ts';
import { PageCache } from '../core/page-cache.ts';
import { StorageError } from '../storage-error.ts';

const SECTOR = 512;
const PAGE = 512;
const CACHE_BYTES = 16 * 1024 * 1024;
const MAX_DIRECTORY_BYTES = 32 * 1024 * 1024;
const MAX_GRAIN = 2 * 1024 * 1024;
const GD_AT_END = 0xffff_ffff_ffff_ffffn;
const FLAG_REDUNDANT = 1 << 1;
const FLAG_ZERO_GRAIN = 1 << 2;
const FLAG_COMPRESSED = 1 << 16;
const FLAG_MARKERS = 1 << 17;
const GRAIN_ZERO = 1;
const ENTRIES_PER_TABLE = 512;

export interface VmdkSparseHeader {
  readonly version: number;
  readonly flags: number;
  readonly capacityBytes: number;
  readonly grainBytes: number;
  readonly descriptorOffset: number;
  readonly descriptorBytes: number;
  readonly entriesPerTable: number;
  readonly redundantDirectory: number;
  readonly directory: number;
  readonly compressed: boolean;
}

/** Reads the header; for a stream-optimized extent the one in its footer. */
export async function readSparseHeader(file: HostFile): Promise<VmdkSparseHeader> {
  const bytes = new Uint8Array(SECTOR);
  await readExactly(file, 0, bytes, 'the VMDK header');
  let header = decode(file, bytes);
  if (viewOf(bytes).getBigUint64(56, true) === GD_AT_END) {
    const size = await file.size();
    // Footer, then an end-of-stream marker of one sector.
    await readExactly(file, Math.floor(size / SECTOR) * SECTOR - 2 * SECTOR, bytes, 'the VMDK footer');
    header = { ...decode(file, bytes), descriptorOffset: header.descriptorOffset, descriptorBytes: header.descriptorBytes };
  }
  const size = await file.size();
  const fail = (message: string): StorageError => new StorageError('corrupt', file.name, message);
  if (header.version < 1 || header.version > 3)
    throw new StorageError('unsupported', file.name, `VMDK version ${header.version} is not supported, only 1 to 3`);
  if (!isPowerOfTwo(header.grainBytes) || header.grainBytes < 4096 || header.grainBytes > MAX_GRAIN)
    throw fail(`grains of ${header.grainBytes} bytes are impossible`);
  if (header.entriesPerTable !== ENTRIES_PER_TABLE) throw fail(`tables of ${header.entriesPerTable} grains are impossible`);
  if (!(header.capacityBytes <= 2 ** 51)) throw fail('the size of the disk is impossible');
  const directoryBytes = directoryEntries(header) * 4;
  if (directoryBytes > MAX_DIRECTORY_BYTES) throw fail('the directory of grain tables is too large');
  for (const offset of header.redundantDirectory > 0 ? [header.directory, header.redundantDirectory] : [header.directory]) {
    if (offset === 0 || !(offset + directoryBytes <= size)) throw fail('the directory of grain tables does not lie in the file');
  }
  if (header.descriptorOffset > 0 && (header.descriptorBytes > 1024 * 1024 || header.descriptorOffset + header.descriptorBytes > size)) {
    throw fail('the descriptor does not lie in the file');
  }
  return header;
}

function decode(file: HostFile, bytes: Uint8Array): VmdkSparseHeader {
  if (!startsWith(bytes, 'KDMV')) {
    if (startsWith(bytes, 'COWD'))
      throw new StorageError(
        'unsupported',
        file.name,
        'VMDK images of old ESX hosts are not supported; convert it with "qemu-img convert"',
      );
    throw new StorageError('corrupt', file.name, 'the file has no VMDK header');
  }
  const view = viewOf(bytes);
  const flags = view.getUint32(8, true);
  const redundant = u64(view, 48, true) * SECTOR;
  return {
    version: view.getUint32(4, true),
    flags,
    capacityBytes: u64(view, 12, true) * SECTOR,
    grainBytes: u64(view, 20, true) * SECTOR,
    descriptorOffset: u64(view, 28, true) * SECTOR,
    descriptorBytes: u64(view, 36, true) * SECTOR,
    entriesPerTable: view.getUint32(44, true),
    redundantDirectory: (flags & FLAG_REDUNDANT) !== 0 && redundant > 0 ? redundant : 0,
    directory: u64(view, 56, true) * SECTOR,
    compressed: (flags & FLAG_COMPRESSED) !== 0,
  };
}

function directoryEntries(header: VmdkSparseHeader): number {
  return Math.ceil(header.capacityBytes / (header.grainBytes * ENTRIES_PER_TABLE));
}

export class VmdkSparseDevice extends BlockTableDevice {
  readonly format = 'vmdk';
  readonly #header: VmdkSparseHeader;
  readonly #codec: BlockCodec;
  /** Sector numbers of the grain tables; 0: there is none. The second directory is empty when the extent has only one. */
  readonly #directory: Uint32Array;
  readonly #redundant: Uint32Array;
  readonly #cache: PageCache;
  readonly #zeroGrains: boolean;
  protected override readonly joinsBlocks: boolean;
  #last: { readonly place: number; readonly bytes: Uint8Array } | null = null;

  constructor(
    file: HostFile,
    header: VmdkSparseHeader,
    directories: { main: Uint32Array; redundant: Uint32Array },
    parent: BlockDevice | null,
    codec: BlockCodec,
    readOnly: boolean,
    fileSize: number,
  ) {
    super(file, {
      sizeBytes: header.capacityBytes,
      readOnly: readOnly || header.compressed,
      blockSize: header.grainBytes,
      parent,
      fileEnd: fileSize,
    });
    this.#header = header;
    this.#codec = codec;
    this.joinsBlocks = !header.compressed;
    this.#directory = directories.main;
    this.#redundant = directories.redundant;
    this.#zeroGrains = (header.flags & FLAG_ZERO_GRAIN) !== 0 && header.version >= 2;
    this.#cache = new PageCache(file, PAGE, CACHE_BYTES, (offset, into) => readPadded(file, offset, into));
  }

  protected override get crowded(): boolean {
    return this.#cache.crowded;
  }

  protected override lookup(block: number): number | Promise<number> {
    const entry = this.#entryPlace(this.#directory, block);
    if (entry === 0) return BLOCK_ABSENT;
    const at = entry % PAGE;
    const page = this.#cache.peek(entry - at);
    if (page === undefined) return this.#cache.load(entry - at).then(() => this.lookup(block));
    const sector = page.view.getUint32(at, true);
    if (sector === 0) return BLOCK_ABSENT;
    if (sector === GRAIN_ZERO && this.#zeroGrains) return BLOCK_ZERO;
    const place = sector * SECTOR;
    // GUEST: the table comes from the image. A grain cannot lie where the header is.
    if (place >= this.fileEnd || place < SECTOR)
      throw this.error('corrupt', `grain ${block} lies outside the file; it is cut off or damaged`);
    return place;
  }

  protected override async reserve(block: number, count: number): Promise<{ place: number; count: number }> {
    await this.#ensureTable(block);
    const inTable = Math.min(count, ENTRIES_PER_TABLE - (block % ENTRIES_PER_TABLE));
    const place = alignUp(this.fileEnd, SECTOR);
    const end = place + inTable * this.clusterSize;
    if (end / SECTOR > 0xffff_ffff) throw this.error('no-space', 'a VMDK extent cannot become larger than 2 TiB; convert the image');
    await this.file.truncate(end);
    this.fileEnd = end;
    return { place, count: inTable };
  }

  protected override link(block: number, place: number): Promise<void> {
    return this.#set(block, place / SECTOR);
  }

  protected override async markZero(block: number): Promise<boolean> {
    if (!this.#zeroGrains) return false;
    await this.#ensureTable(block);
    await this.#set(block, GRAIN_ZERO);
    return true;
  }

  protected override async flushTable(): Promise<void> {
    const pages = this.#cache.takeDirty();
    try {
      await this.file.flush();
    } catch (error) {
      this.#cache.abandon(pages);
      throw error;
    }
    if (pages.length === 0) return;
    await this.#cache.writeOut(pages);
    await this.file.flush();
  }

  protected override doResize(_newSizeBytes: number): Promise<void> {
    return Promise.reject(
      this.error('unsupported', 'VMDK images cannot change their size; convert it to a new one of the size that you want'),
    );
  }

  protected override async readPayload(place: number, into: Uint8Array, offset: number): Promise<void> {
    if (!this.#header.compressed) return readPadded(this.file, place, into);
    const inside = offset % this.clusterSize;
    const start = place - inside;
    if (this.#last?.place !== start) this.#last = { place: start, bytes: await this.#unpack(start, offset - inside) };
    into.set(this.#last.bytes.subarray(inside, inside + into.length));
  }

  async #unpack(place: number, offset: number): Promise<Uint8Array> {
    const head = new Uint8Array(12);
    const markers = (this.#header.flags & FLAG_MARKERS) !== 0;
    await readExactly(this.file, place, head, 'a compressed grain');
    const view = viewOf(head);
    const length = markers ? view.getUint32(8, true) : view.getUint32(0, true);
    // GUEST: compression makes a grain a little longer at worst.
    if (length > this.clusterSize * 2 || (markers && u64(view, 0, true) * SECTOR !== offset))
      throw this.error('corrupt', `the compressed grain for ${offset} is damaged`);
    const packed = new Uint8Array(length);
    await readExactly(this.file, place + (markers ? 12 : 4), packed, 'a compressed grain');
    const whole = Math.min(this.clusterSize, this.sizeBytes - offset);
    const bytes = (await this.#codec.unpack('zlib', packed, this.clusterSize)) ?? (await this.#codec.unpack('zlib', packed, whole));
    if (bytes === null) throw this.error('corrupt', `the compressed grain for ${offset} is damaged`);
    return bytes;
  }

  /** Where an entry stands in the file; 0: its table does not exist. */
  #entryPlace(directory: Uint32Array, block: number): number {
    const table = directory[Math.floor(block / ENTRIES_PER_TABLE)] * SECTOR;
    if (table === 0) return 0;
    const place = table + (block % ENTRIES_PER_TABLE) * 4;
    if (place + 4 > this.fileEnd) throw this.error('corrupt', 'a grain table lies outside the file; it is cut off or damaged');
    return place;
  }

  async #set(block: number, sector: number): Promise<void> {
    for (const directory of this.#redundant.length > 0 ? [this.#directory, this.#redundant] : [this.#directory]) {
      const entry = this.#entryPlace(directory, block);
      if (entry === 0) continue;
      const at = entry % PAGE;
      let page = this.#cache.peek(entry - at);
      while (page === undefined) {
        await this.#cache.load(entry - at);
        page = this.#cache.peek(entry - at);
      }
      page.view.setUint32(at, sector, true);
      this.#cache.markDirty(page);
    }
  }

  /** Most creators make all tables at once; where one is missing it is made, durably, before it is used. */
  async #ensureTable(block: number): Promise<void> {
    const index = Math.floor(block / ENTRIES_PER_TABLE);
    const bytes = ENTRIES_PER_TABLE * 4;
    for (const [directory, offset] of [
      [this.#directory, this.#header.directory],
      [this.#redundant, this.#header.redundantDirectory],
    ] as const) {
      if (directory.length === 0 || directory[index] !== 0) continue;
      const place = alignUp(this.fileEnd, SECTOR);
      this.fileEnd = place + bytes;
      await this.file.write(place, new Uint8Array(bytes));
      await this.file.flush();
      directory[index] = place / SECTOR;
      const entry = new Uint8Array(4);
      viewOf(entry).setUint32(0, place / SECTOR, true);
      await this.file.write(offset + index * 4, entry);
    }
  }
}

export async function openSparseExtent(
  file: HostFile,
  header: VmdkSparseHeader,
  parent: BlockDevice | null,
  codec: BlockCodec,
  readOnly: boolean,
): Promise<VmdkSparseDevice> {
  const entries = directoryEntries(header);
  const main = await readDirectory(file, header.directory, entries);
  const redundant = header.redundantDirectory > 0 ? await readDirectory(file, header.redundantDirectory, entries) : new Uint32Array(0);
  return new VmdkSparseDevice(file, header, { main, redundant }, parent, codec, readOnly, await file.size());
}

async function readDirectory(file: HostFile, offset: number, entries: number): Promise<Uint32Array> {
  const bytes = new Uint8Array(entries * 4);
  await readExactly(file, offset, bytes, 'the directory of grain tables');
  const view = viewOf(bytes);
  return Uint32Array.from({ length: entries }, (_, index) => view.getUint32(index * 4, true));
}

const DEFAULT_GRAIN = 64 * 1024;
const DESCRIPTOR_SECTORS = 20;

/** Writes an empty sparse extent with all its tables; `descriptor` (not for extents of a split disk) goes inside. */
export async function createSparseExtent(file: HostFile, sizeBytes: number, descriptor: Uint8Array | null): Promise<void> {
  const grains = Math.ceil(sizeBytes / DEFAULT_GRAIN);
  const tables = Math.ceil(grains / ENTRIES_PER_TABLE);
  const directorySectors = Math.ceil((tables * 4) / SECTOR);
  const tableSectors = (tables * ENTRIES_PER_TABLE * 4) / SECTOR;
  const descriptorSector = descriptor === null ? 0 : 1;
  const redundantAt = 1 + (descriptor === null ? 0 : DESCRIPTOR_SECTORS);
  const mainAt = redundantAt + directorySectors + tableSectors;
  const overhead = alignUp(mainAt + directorySectors + tableSectors, DEFAULT_GRAIN / SECTOR);
  const header = new Uint8Array(SECTOR);
  const view = viewOf(header);
  header.set([0x4b, 0x44, 0x4d, 0x56]);
  view.setUint32(4, 1, true);
  view.setUint32(8, 1 | FLAG_REDUNDANT, true);
  setU64(view, 12, Math.ceil(sizeBytes / SECTOR), true);
  setU64(view, 20, DEFAULT_GRAIN / SECTOR, true);
  setU64(view, 28, descriptorSector, true);
  setU64(view, 36, descriptor === null ? 0 : DESCRIPTOR_SECTORS, true);
  view.setUint32(44, ENTRIES_PER_TABLE, true);
  setU64(view, 48, redundantAt, true);
  setU64(view, 56, mainAt, true);
  setU64(view, 64, overhead, true);
  // Bytes that a transfer as text would change.
  header.set([0x0a, 0x20, 0x0d, 0x0a], 73);
  await file.truncate(overhead * SECTOR);
  for (const at of [redundantAt, mainAt]) {
    const directory = new Uint8Array(directorySectors * SECTOR);
    const directoryView = viewOf(directory);
    for (let i = 0; i < tables; i++) directoryView.setUint32(i * 4, at + directorySectors + i * ((ENTRIES_PER_TABLE * 4) / SECTOR), true);
    await file.write(at * SECTOR, directory);
  }
  if (descriptor !== null) {
    if (descriptor.length > DESCRIPTOR_SECTORS * SECTOR)
      throw new StorageError('invalid', file.name, 'the name is too long for the descriptor');
    await file.write(SECTOR, descriptor);
  }
  await file.write(0, header);
  await file.flush();
}
