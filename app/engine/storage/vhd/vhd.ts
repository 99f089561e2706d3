// SPDX-License-Identifier: Apache-2.0
/**
 * VHD images (Microsoft, Virtual Hard Disk Image Format Specification 1.0): fixed, dynamic, and differencing to read.
 *
 * A dynamic image ends with a footer, which moves when a block is added: the new footer is written first, behind the block's place, so
 * the copy at the file's beginning and one of the two are whole at any moment. In dynamic images a block's bitmap is written full, as
 * others do; in differencing images it decides, sector by sector, between the block and the parent.
 */
import type { Entropy } from '../../host/entropy.ts';
import type { HostFile } from '../../host/file.ts';
import type { BlockDevice, Extent } from '../block-device.ts';
import { BLOCK_ABSENT, BlockTableDevice, mapParent } from '../core/block-table-device.ts';
import { alignUp, isPowerOfTwo } from '../core/bytes.ts';
import { readExactly, readPadded, readParent } from '../core/file-reads.ts';
import { PageCache } from '../core/page-cache.ts';
import { RawDevice } from '../raw/raw-device.ts';
import { StorageError } from '../storage-error.ts';
import {
  bitmapBytes,
  decodeDynamicHeader,
  decodeFooter,
  DYNAMIC_HEADER_BYTES,
  encodeDynamicHeader,
  encodeFooter,
  FOOTER_BYTES,
  MAX_VHD_BYTES,
  VHD_DIFFERENCING,
  VHD_DYNAMIC,
  VHD_FIXED,
  VHD_SECTOR,
  type VhdDynamicHeader,
  type VhdFooter,
  withSize,
} from './vhd-footer.ts';

const DEFAULT_BLOCK = 2 * 1024 * 1024;
const MAX_BLOCK = 256 * 1024 * 1024;
const UNUSED = 0xffff_ffff;
/** Not larger: a page must not reach beyond the table, whose neighbours are written otherwise. */
const PAGE = 512;
const CACHE_BYTES = 16 * 1024 * 1024;

export class VhdDevice extends BlockTableDevice {
  readonly format = 'vhd';
  readonly #cache: PageCache;
  readonly #bitmaps: PageCache;
  readonly #tableOffset: number;
  readonly #entries: number;
  readonly #bitmapBytes: number;
  readonly #differencing: boolean;
  readonly #fullBitmap: Uint8Array;
  #footer: Uint8Array;

  constructor(file: HostFile, footer: VhdFooter, header: VhdDynamicHeader, parent: BlockDevice | null, readOnly: boolean, end: number) {
    const differencing = footer.type === VHD_DIFFERENCING;
    super(file, { sizeBytes: footer.sizeBytes, readOnly: readOnly || differencing, blockSize: header.blockSize, parent, fileEnd: end });
    this.#footer = footer.bytes;
    this.#tableOffset = header.tableOffset;
    this.#entries = header.entries;
    this.#bitmapBytes = bitmapBytes(header.blockSize);
    this.#differencing = differencing;
    this.#fullBitmap = new Uint8Array(this.#bitmapBytes).fill(0xff);
    const fill = (offset: number, into: Uint8Array): Promise<void> => readPadded(file, offset, into);
    this.#cache = new PageCache(file, PAGE, CACHE_BYTES, fill);
    this.#bitmaps = new PageCache(file, VHD_SECTOR, 1024 * 1024, fill);
  }

  protected override get crowded(): boolean {
    return this.#cache.crowded;
  }

  protected override lookup(block: number): number | Promise<number> {
    const place = this.#tableOffset + block * 4;
    const at = place % PAGE;
    const page = this.#cache.peek(place - at);
    if (page === undefined) return this.#cache.load(place - at).then(() => this.lookup(block));
    const sector = page.view.getUint32(at);
    if (sector === UNUSED) return BLOCK_ABSENT;
    const offset = sector * VHD_SECTOR + this.#bitmapBytes;
    // GUEST: the table comes from the image.
    if (sector * VHD_SECTOR < FOOTER_BYTES || offset >= this.fileEnd)
      throw this.error('corrupt', `block ${block} lies outside the file; it is cut off or damaged`);
    return offset;
  }

  protected override async reserve(_block: number, _count: number): Promise<{ place: number; count: number }> {
    const start = alignUp(this.fileEnd, VHD_SECTOR);
    const end = start + this.#bitmapBytes + this.clusterSize;
    await this.file.write(end, this.#footer);
    // Where the old footer stood is the new block's bitmap, which is at least as long.
    await this.file.write(start, this.#fullBitmap);
    this.fileEnd = end;
    return { place: start + this.#bitmapBytes, count: 1 };
  }

  protected override async link(block: number, place: number): Promise<void> {
    const entry = this.#tableOffset + block * 4;
    const at = entry % PAGE;
    let page = this.#cache.peek(entry - at);
    while (page === undefined) {
      await this.#cache.load(entry - at);
      page = this.#cache.peek(entry - at);
    }
    page.view.setUint32(at, (place - this.#bitmapBytes) / VHD_SECTOR);
    this.#cache.markDirty(page);
  }

  protected override markZero(): Promise<boolean> {
    return Promise.resolve(false);
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

  protected override doResize(newSizeBytes: number): Promise<void> {
    return this.alone(async () => {
      if (newSizeBytes % VHD_SECTOR !== 0) throw this.error('invalid', `a disk's size is a multiple of ${VHD_SECTOR} bytes`);
      if (newSizeBytes < this.sizeBytes)
        throw this.error('unsupported', 'a dynamic VHD image cannot become smaller; convert it to a new one');
      if (newSizeBytes > this.#entries * this.clusterSize || newSizeBytes > MAX_VHD_BYTES) {
        throw this.error('unsupported', 'the table of this VHD image has no room for that size; convert it to a new one');
      }
      await this.flushTable();
      this.#footer = withSize(this.#footer, newSizeBytes);
      await this.file.write(this.fileEnd, this.#footer);
      await this.file.flush();
      await this.file.write(0, this.#footer);
      await this.file.flush();
      this.sizeBytes = newSizeBytes;
    });
  }

  protected override async readPayload(place: number, into: Uint8Array, offset: number): Promise<void> {
    if (!this.#differencing) return readPadded(this.file, place, into);
    for (let at = 0; at < into.length; ) {
      const inside = (offset + at) % this.clusterSize;
      const { own, length } = await this.#sectors(place + at - inside, inside, Math.min(into.length - at, this.clusterSize - inside));
      const part = into.subarray(at, at + length);
      if (own) await readPadded(this.file, place + at, part);
      else await readParent(this.parent, offset + at, part);
      at += length;
    }
  }

  protected override async *doMap(offset: number, length: number): AsyncIterable<Extent> {
    for await (const extent of super.doMap(offset, length)) {
      if (!this.#differencing || extent.depth > 0 || extent.kind !== 'data' || extent.fileOffset === undefined) {
        yield extent;
        continue;
      }
      for (let at = 0; at < extent.length; ) {
        const inside = (extent.offset + at) % this.clusterSize;
        const run = await this.#sectors(extent.fileOffset + at - inside, inside, Math.min(extent.length - at, this.clusterSize - inside));
        if (run.own) yield { ...extent, offset: extent.offset + at, length: run.length, fileOffset: extent.fileOffset + at };
        else yield* mapParent(this.parent, extent.offset + at, run.length);
        at += run.length;
      }
    }
  }

  /** How many bytes from `inside` the block on come from one place: the block itself or the parent. */
  async #sectors(payload: number, inside: number, limit: number): Promise<{ own: boolean; length: number }> {
    const first = Math.floor(inside / VHD_SECTOR);
    const own = await this.#bit(payload, first);
    let sector = first + 1;
    while (sector * VHD_SECTOR - inside < limit && (await this.#bit(payload, sector)) === own) sector++;
    return { own, length: Math.min(limit, sector * VHD_SECTOR - inside) };
  }

  async #bit(payload: number, sector: number): Promise<boolean> {
    const at = payload - this.#bitmapBytes + Math.floor(sector / 8);
    const start = at - (at % VHD_SECTOR);
    let page = this.#bitmaps.peek(start);
    while (page === undefined) {
      await this.#bitmaps.load(start);
      page = this.#bitmaps.peek(start);
    }
    return (page.bytes[at - start] & (0x80 >> (sector % 8))) !== 0;
  }
}

/** What a VHD is before its parent is known. */
export interface VhdImage {
  readonly footer: VhdFooter;
  readonly header: VhdDynamicHeader | null;
  readonly fileSize: number;
  /** Behind the last block: where the footer stands. */
  readonly end: number;
}

export async function readVhd(file: HostFile): Promise<VhdImage> {
  const fail = (message: string): StorageError => new StorageError('corrupt', file.name, message);
  const fileSize = await file.size();
  const footer = await findFooter(file, fileSize);
  if (footer === null) throw fail('the file has no valid VHD footer');
  if (!(footer.found.sizeBytes <= MAX_VHD_BYTES + VHD_SECTOR) || footer.found.sizeBytes % VHD_SECTOR !== 0)
    throw fail('the size of the disk is impossible');
  if (footer.found.type === VHD_FIXED) {
    if (!footer.atEnd || footer.found.sizeBytes > footer.end) throw fail('the file is shorter than the disk');
    return { footer: footer.found, header: null, fileSize, end: footer.end };
  }
  if (footer.found.type !== VHD_DYNAMIC && footer.found.type !== VHD_DIFFERENCING) {
    throw new StorageError('unsupported', file.name, `VHD images of type ${footer.found.type} are not supported`);
  }
  const bytes = new Uint8Array(DYNAMIC_HEADER_BYTES);
  await readExactly(file, footer.found.dynamicHeaderOffset, bytes, 'the dynamic header');
  const header = decodeDynamicHeader(bytes);
  if (header === null) throw fail('the dynamic header is damaged');
  if (!isPowerOfTwo(header.blockSize) || header.blockSize < 4096 || header.blockSize > MAX_BLOCK)
    throw fail(`blocks of ${header.blockSize} bytes are impossible`);
  if (header.entries * header.blockSize < footer.found.sizeBytes) throw fail('the table of blocks is too small for the disk');
  const needed = Math.ceil(footer.found.sizeBytes / header.blockSize) * 4;
  if (header.tableOffset < FOOTER_BYTES || header.tableOffset % VHD_SECTOR !== 0 || header.tableOffset + needed > fileSize) {
    throw fail('the table of blocks does not lie in the file');
  }
  // Entries that the table does not have room for are not there.
  const entries = Math.min(header.entries, Math.floor((fileSize - header.tableOffset) / 4));
  return { footer: footer.found, header: { ...header, entries }, fileSize, end: footer.end };
}

/** At the end of the file; in damaged dynamic images the copy at its beginning. */
async function findFooter(file: HostFile, fileSize: number): Promise<{ found: VhdFooter; end: number; atEnd: boolean } | null> {
  const bytes = new Uint8Array(FOOTER_BYTES);
  if (fileSize >= FOOTER_BYTES) {
    await readExactly(file, fileSize - FOOTER_BYTES, bytes, 'the footer');
    const found = decodeFooter(bytes);
    if (found !== null) return { found, end: fileSize - FOOTER_BYTES, atEnd: true };
  }
  await readPadded(file, 0, bytes);
  const copy = decodeFooter(bytes);
  return copy === null ? null : { found: copy, end: alignUp(fileSize, VHD_SECTOR), atEnd: false };
}

export function openVhd(file: HostFile, image: VhdImage, parent: BlockDevice | null, readOnly: boolean): BlockDevice {
  const { footer, header } = image;
  let size = footer.sizeBytes;
  let end = image.end;
  if (header !== null) return new VhdDevice(file, footer, header, parent, readOnly, image.end);
  return new RawDevice(file, {
    format: 'vhd',
    start: 0,
    sizeBytes: footer.sizeBytes,
    readOnly,
    resize: async (newSizeBytes) => {
      if (newSizeBytes > MAX_VHD_BYTES) throw new StorageError('invalid', file.name, 'a VHD image cannot be that large');
      const bytes = withSize(footer.bytes, newSizeBytes);
      await file.write(newSizeBytes, bytes);
      await file.flush();
      // The old footer's place becomes part of the disk.
      if (newSizeBytes > end) await file.write(end, new Uint8Array(Math.min(FOOTER_BYTES, newSizeBytes - end)));
      else if (newSizeBytes < size) await file.truncate(newSizeBytes + FOOTER_BYTES);
      size = newSizeBytes;
      end = newSizeBytes;
      await file.flush();
    },
  });
}

export interface CreateVhdOptions {
  readonly sizeBytes: number;
  readonly fixed?: boolean;
  readonly nowSeconds: number;
}

export async function createVhd(file: HostFile, options: CreateVhdOptions, entropy: Entropy): Promise<void> {
  const { sizeBytes, nowSeconds } = options;
  if (sizeBytes > MAX_VHD_BYTES || sizeBytes % VHD_SECTOR !== 0) {
    throw new StorageError('invalid', file.name, 'a VHD disk has a multiple of 512 bytes and at most 2040 GiB; use VHDX for more');
  }
  const type = options.fixed === true ? VHD_FIXED : VHD_DYNAMIC;
  const footer = encodeFooter({ sizeBytes, type, nowSeconds }, entropy);
  if (options.fixed === true) {
    await file.truncate(sizeBytes);
    await file.write(sizeBytes, footer);
    await file.flush();
    return;
  }
  const entries = Math.max(1, Math.ceil(sizeBytes / DEFAULT_BLOCK));
  const tableOffset = FOOTER_BYTES + DYNAMIC_HEADER_BYTES;
  const table = new Uint8Array(alignUp(entries * 4, VHD_SECTOR)).fill(0xff);
  await file.write(FOOTER_BYTES, encodeDynamicHeader(tableOffset, entries, DEFAULT_BLOCK));
  await file.write(tableOffset, table);
  await file.write(tableOffset + table.length, footer);
  await file.write(0, footer);
  await file.flush();
}
