// SPDX-License-Identifier: Apache-2.0
/**
 * VirtualBox disk images, version 1.1: dynamic and fixed.
 *
 * Facts from VirtualBox's public VDICore.h. A header, a table of block numbers, then blocks of (usually) 1 MiB. A new block takes the
 * number that the header gives as the count of allocated ones, so blocks never leave the table.
 *
 * The count in the header is written before the table: after a crash it may be too high (a lost block), never too low (a block twice).
 * So the table is read once before the first write, and numbers that nothing uses are given out again.
 * Left out: differencing images (their parent is named by identifier only) and blocks with extra data, both refused.
 */
import type { Entropy } from '../../host/entropy.ts';
import type { HostFile } from '../../host/file.ts';
import { BLOCK_ABSENT, BLOCK_ZERO, BlockTableDevice } from '../core/block-table-device.ts';
import { alignUp, isPowerOfTwo, setU64, u64, viewOf, zeros } from '../core/bytes.ts';
import { readExactly } from '../core/file-reads.ts';
import { PageCache } from '../core/page-cache.ts';
import { StorageError } from '../storage-error.ts';

const SIGNATURE = 0xbeda107f;
const VERSION_1_1 = 0x0001_0001;
const HEADER_BYTES = 512;
const TYPE_DYNAMIC = 1;
const TYPE_FIXED = 2;
const FREE = 0xffff_ffff;
const ZERO = 0xffff_fffe;
const DEFAULT_BLOCK = 1024 * 1024;
const SECTOR = 512;
/** Not larger: a page must not reach beyond the table, whose neighbours are written otherwise. */
const PAGE = 512;
const CACHE_BYTES = 16 * 1024 * 1024;
const USED_STEP = 65_536;
const ZERO_STEP = 1024 * 1024;
/** 64 TiB with blocks of 1 MiB; the map of used numbers has a byte for each. */
const MAX_BLOCKS = 64 * 1024 * 1024;
const MAX_DISK = 2 ** 51;

const FIELD = {
  signature: 0x40,
  version: 0x44,
  headerSize: 0x48,
  type: 0x4c,
  mapOffset: 0x154,
  dataOffset: 0x158,
  sectorSize: 0x168,
  diskSize: 0x170,
  blockSize: 0x178,
  blockExtra: 0x17c,
  blocks: 0x180,
  blocksAllocated: 0x184,
  uuidImage: 0x188,
  uuidSnapshot: 0x198,
  uuidLink: 0x1a8,
} as const;

export class VdiDevice extends BlockTableDevice {
  readonly format = 'vdi';
  readonly #header: Uint8Array;
  readonly #view: DataView;
  readonly #cache: PageCache;
  readonly #mapOffset: number;
  readonly #dataOffset: number;
  #blocks: number;
  #allocated: number;
  #writtenAllocated: number;
  /** Known from the first allocation on. */
  #used: Uint8Array | null = null;

  constructor(file: HostFile, header: Uint8Array, readOnly: boolean, fileSize: number) {
    const view = viewOf(header);
    const blockSize = view.getUint32(FIELD.blockSize, true);
    super(file, { sizeBytes: u64(view, FIELD.diskSize, true), readOnly, blockSize, parent: null, fileEnd: fileSize });
    this.#header = header;
    this.#view = view;
    this.#mapOffset = view.getUint32(FIELD.mapOffset, true);
    this.#dataOffset = view.getUint32(FIELD.dataOffset, true);
    this.#blocks = view.getUint32(FIELD.blocks, true);
    this.#allocated = view.getUint32(FIELD.blocksAllocated, true);
    this.#writtenAllocated = this.#allocated;
    this.#cache = new PageCache(file, PAGE, CACHE_BYTES, async (offset, into) => {
      const count = await file.read(offset, into);
      if (count < into.length) into.fill(0, count);
    });
  }

  protected override get crowded(): boolean {
    return this.#cache.crowded;
  }

  protected override lookup(block: number): number | Promise<number> {
    const place = this.#mapOffset + block * 4;
    const at = place % PAGE;
    const page = this.#cache.peek(place - at);
    if (page === undefined) return this.#cache.load(place - at).then(() => this.lookup(block));
    const value = page.view.getUint32(at, true);
    if (value === FREE) return BLOCK_ABSENT;
    if (value === ZERO) return BLOCK_ZERO;
    const offset = this.#dataOffset + value * this.clusterSize;
    // GUEST: the table comes from the image.
    if (value >= this.#blocks || offset >= this.fileEnd)
      throw this.error('corrupt', `block ${block} lies outside the file; it is cut off or damaged`);
    return offset;
  }

  protected override async reserve(_block: number, count: number): Promise<{ place: number; count: number }> {
    this.#used ??= await this.#readUsed();
    let first = this.#allocated;
    let free = Math.min(count, this.#blocks - first);
    if (free <= 0) {
      first = this.#used.indexOf(0);
      free = 1;
      if (first < 0) throw this.error('corrupt', 'every block of the image is in use, and some by several parts of the disk');
    }
    const place = this.#dataOffset + first * this.clusterSize;
    const end = place + free * this.clusterSize;
    // What an interrupted session left there is not zero.
    const old = Math.min(end, this.fileEnd);
    for (let at = place; at < old; at += ZERO_STEP) await this.file.write(at, zeros(Math.min(ZERO_STEP, old - at)));
    if (end > this.fileEnd) await this.file.truncate(end);
    this.#used.fill(1, first, first + free);
    this.#allocated = Math.max(this.#allocated, first + free);
    this.fileEnd = Math.max(this.fileEnd, end);
    return { place, count: free };
  }

  /** One byte for each block number: whether the table has it. Numbers behind the last one that is used are all free. */
  async #readUsed(): Promise<Uint8Array> {
    const used = new Uint8Array(this.#blocks);
    let end = 0;
    for (let first = 0; first < this.#blocks; first += USED_STEP) {
      const part = new Uint8Array(Math.min(USED_STEP, this.#blocks - first) * 4);
      await readExactly(this.file, this.#mapOffset + first * 4, part, 'the table of blocks');
      const view = viewOf(part);
      for (let at = 0; at < part.length; at += 4) {
        const value = view.getUint32(at, true);
        if (value >= this.#blocks) continue;
        used[value] = 1;
        end = Math.max(end, value + 1);
      }
    }
    this.#allocated = end;
    return used;
  }

  protected override async link(block: number, place: number): Promise<void> {
    await this.#set(block, (place - this.#dataOffset) / this.clusterSize);
  }

  protected override async markZero(block: number): Promise<boolean> {
    await this.#set(block, ZERO);
    return true;
  }

  protected override async flushTable(): Promise<void> {
    const pages = this.#cache.takeDirty();
    try {
      if (this.#writtenAllocated !== this.#allocated) await this.#writeHeader();
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
      if (newSizeBytes % SECTOR !== 0) throw this.error('invalid', `a disk's size is a multiple of ${SECTOR} bytes`);
      if (newSizeBytes < this.sizeBytes) throw this.error('unsupported', 'a VDI image cannot become smaller; convert it to a new one');
      const blocks = Math.ceil(newSizeBytes / this.clusterSize);
      if (this.#mapOffset + blocks * 4 > this.#dataOffset) {
        throw this.error('unsupported', 'the table of this VDI image has no room for that size; convert it to a new one');
      }
      await this.flushTable();
      for (let block = this.#blocks; block < blocks; block++) await this.#set(block, FREE);
      this.#blocks = blocks;
      this.#used = null;
      const wasFixed = this.#view.getUint32(FIELD.type, true) === TYPE_FIXED;
      // New blocks are allocated when they are written.
      if (wasFixed) this.#view.setUint32(FIELD.type, TYPE_DYNAMIC, true);
      await this.flushTable();
      this.#view.setUint32(FIELD.blocks, blocks, true);
      setU64(this.#view, FIELD.diskSize, newSizeBytes, true);
      await this.#writeHeader();
      await this.file.flush();
      this.sizeBytes = newSizeBytes;
    });
  }

  async #set(block: number, value: number): Promise<void> {
    const place = this.#mapOffset + block * 4;
    const at = place % PAGE;
    let page = this.#cache.peek(place - at);
    while (page === undefined) {
      await this.#cache.load(place - at);
      page = this.#cache.peek(place - at);
    }
    page.view.setUint32(at, value, true);
    this.#cache.markDirty(page);
  }

  async #writeHeader(): Promise<void> {
    const allocated = this.#allocated;
    this.#view.setUint32(FIELD.blocksAllocated, allocated, true);
    await this.file.write(0, this.#header.slice());
    this.#writtenAllocated = allocated;
  }
}

export async function openVdi(file: HostFile, readOnly: boolean): Promise<VdiDevice> {
  const fail = (message: string): StorageError => new StorageError('corrupt', file.name, message);
  const header = new Uint8Array(HEADER_BYTES);
  await readExactly(file, 0, header, 'the VDI header');
  const view = viewOf(header);
  if (view.getUint32(FIELD.signature, true) !== SIGNATURE) throw fail('the file has no VDI header');
  const version = view.getUint32(FIELD.version, true);
  if (version !== VERSION_1_1)
    throw new StorageError('unsupported', file.name, `VDI version ${version >>> 16}.${version & 0xffff} is not supported, only 1.1`);
  const type = view.getUint32(FIELD.type, true);
  const linked = header.subarray(FIELD.uuidLink, FIELD.uuidLink + 16).some((byte) => byte !== 0);
  if ((type !== TYPE_DYNAMIC && type !== TYPE_FIXED) || linked) {
    throw new StorageError(
      'unsupported',
      file.name,
      'differencing VDI images are not supported; merge it with its parent in VirtualBox first',
    );
  }
  const fileSize = await file.size();
  const blockSize = view.getUint32(FIELD.blockSize, true);
  const blocks = view.getUint32(FIELD.blocks, true);
  const diskSize = u64(view, FIELD.diskSize, true);
  const mapOffset = view.getUint32(FIELD.mapOffset, true);
  const dataOffset = view.getUint32(FIELD.dataOffset, true);
  if (view.getUint32(FIELD.blockExtra, true) !== 0)
    throw new StorageError('unsupported', file.name, 'blocks with extra data are not supported');
  if (view.getUint32(FIELD.sectorSize, true) !== SECTOR) throw fail('sectors of another size than 512 bytes are impossible');
  if (!isPowerOfTwo(blockSize) || blockSize < 4096 || blockSize > 256 * 1024 * 1024)
    throw fail(`blocks of ${blockSize} bytes are impossible`);
  if (!(diskSize <= MAX_DISK) || blocks > MAX_BLOCKS || blocks * blockSize < diskSize)
    throw fail('the size of the disk and the number of its blocks contradict each other');
  if (
    mapOffset < FIELD.uuidLink + 16 ||
    mapOffset % SECTOR !== 0 ||
    mapOffset + blocks * 4 > dataOffset ||
    (blocks > 0 && mapOffset + blocks * 4 > fileSize)
  ) {
    throw fail('the table of blocks does not lie in the file');
  }
  if (dataOffset % SECTOR !== 0) throw fail('the data begins at an impossible place');
  if (view.getUint32(FIELD.blocksAllocated, true) > blocks) throw fail('the header counts more blocks than the disk has');
  return new VdiDevice(file, header, readOnly, fileSize);
}

export interface CreateVdiOptions {
  readonly sizeBytes: number;
  readonly fixed?: boolean;
}

export async function createVdi(file: HostFile, options: CreateVdiOptions, entropy: Entropy): Promise<void> {
  const blocks = Math.ceil(options.sizeBytes / DEFAULT_BLOCK);
  if (blocks > MAX_BLOCKS) throw new StorageError('invalid', file.name, 'a VDI image cannot be that large');
  const mapOffset = HEADER_BYTES;
  const dataOffset = alignUp(mapOffset + blocks * 4, DEFAULT_BLOCK);
  const header = new Uint8Array(HEADER_BYTES);
  const view = viewOf(header);
  header.set(Uint8Array.from('<<< Paravane VM Disk Image >>>\n', (c) => c.charCodeAt(0)));
  view.setUint32(FIELD.signature, SIGNATURE, true);
  view.setUint32(FIELD.version, VERSION_1_1, true);
  view.setUint32(FIELD.headerSize, 0x190, true);
  view.setUint32(FIELD.type, options.fixed === true ? TYPE_FIXED : TYPE_DYNAMIC, true);
  view.setUint32(FIELD.mapOffset, mapOffset, true);
  view.setUint32(FIELD.dataOffset, dataOffset, true);
  view.setUint32(FIELD.sectorSize, SECTOR, true);
  setU64(view, FIELD.diskSize, options.sizeBytes, true);
  view.setUint32(FIELD.blockSize, DEFAULT_BLOCK, true);
  view.setUint32(FIELD.blocks, blocks, true);
  view.setUint32(FIELD.blocksAllocated, options.fixed === true ? blocks : 0, true);
  entropy.fill(header.subarray(FIELD.uuidImage, FIELD.uuidImage + 16));
  entropy.fill(header.subarray(FIELD.uuidSnapshot, FIELD.uuidSnapshot + 16));
  for (let first = 0; first < blocks; first += 65_536) {
    const part = new Uint8Array(Math.min(65_536, blocks - first) * 4);
    const partView = viewOf(part);
    for (let i = 0; i * 4 < part.length; i++) partView.setUint32(i * 4, options.fixed === true ? first + i : FREE, true);
    await file.write(mapOffset + first * 4, part);
  }
  await file.truncate(dataOffset + (options.fixed === true ? blocks * DEFAULT_BLOCK : 0));
  await file.write(0, header);
  await file.flush();
}
