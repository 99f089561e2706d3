// SPDX-License-Identifier: Apache-2.0
/**
 * From the disk to the file: the active L1 table (in memory, at most 32 MiB) and the L2 tables (in a page cache).
 *
 * The cache is large enough for all L2 tables of the disk up to `L2_CACHE_BYTES`, which is 256 GiB with clusters of 64 KiB, so random I/O
 * on a 100 GB image finds its entries in memory.
 *
 * INVARIANT: entries are changed only in tables that nothing else points to (`writable`); changes reach the file in the order that
 * `Qcow2Device` keeps.
 */
import type { HostFile } from '../../host/file.ts';
import { alignDown, alignUp, viewOf } from '../core/bytes.ts';
import { readExactly } from '../core/file-reads.ts';
import { PageCache } from '../core/page-cache.ts';
import { Mutex } from '../core/range-lock.ts';
import { StorageError } from '../storage-error.ts';
import type { Qcow2Header } from './format.ts';
import {
  ABSENT_ENTRY,
  type ClusterEntry,
  decodeEntry,
  decodeTableEntry,
  encodeEntry,
  encodeTableEntry,
  type EntryFormat,
} from './l2-entry.ts';
import type { Refcounts } from './refcounts.ts';

const L2_CACHE_BYTES = 32 * 1024 * 1024;
const MAX_PAGE = 4096;
const L1_PAGE = 512;

/** Bytes of the L1 table as they were when a flush began. */
export interface L1Copy {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

export class Mapping {
  readonly format: EntryFormat;
  readonly clusterSize: number;
  /** Entries of one L2 table. */
  readonly perTable: number;
  readonly cache: PageCache;
  readonly #file: HostFile;
  readonly #refcounts: Refcounts;
  readonly #entrySize: number;
  readonly #release: (offset: number, length: number) => void;
  readonly #tables = new Mutex();
  #l1: Uint8Array;
  #l1View: DataView;
  #l1Offset: number;
  readonly #l1Dirty = new Set<number>();

  /** `release` takes what nothing in memory points to any more, to be freed once the file says so too. */
  constructor(
    file: HostFile,
    header: Qcow2Header,
    refcounts: Refcounts,
    l1: Uint8Array,
    release: (offset: number, length: number) => void,
  ) {
    this.#file = file;
    this.#refcounts = refcounts;
    this.#release = release;
    this.clusterSize = 2 ** header.clusterBits;
    this.#entrySize = header.extendedL2 ? 16 : 8;
    this.perTable = this.clusterSize / this.#entrySize;
    this.format = {
      clusterBits: header.clusterBits,
      extended: header.extendedL2,
      zeroFlag: header.version >= 3,
      dataFile: header.dataFileName !== null,
    };
    this.#l1 = l1;
    this.#l1View = viewOf(l1);
    this.#l1Offset = header.l1TableOffset;
    const pageSize = Math.min(MAX_PAGE, this.clusterSize);
    const needed = Math.ceil(header.sizeBytes / this.clusterSize) * this.#entrySize;
    this.cache = new PageCache(file, pageSize, Math.min(L2_CACHE_BYTES, Math.max(needed, 64 * pageSize)), (offset, into) =>
      readExactly(file, offset, into, 'an L2 table'),
    );
  }

  static async readL1(file: HostFile, offset: number, entries: number): Promise<Uint8Array> {
    const l1 = new Uint8Array(entries * 8);
    if (entries > 0) await readExactly(file, offset, l1, 'the L1 table');
    return l1;
  }

  get l1Offset(): number {
    return this.#l1Offset;
  }

  get l1Entries(): number {
    return this.#l1.length / 8;
  }

  /** The L1 table itself; only to be read. */
  get l1(): Uint8Array {
    return this.#l1;
  }

  get dirty(): boolean {
    return this.cache.hasDirty || this.#l1Dirty.size > 0;
  }

  /** An entry that is in memory; undefined: `load` it first. */
  peek(cluster: number): ClusterEntry | undefined {
    const index = Math.floor(cluster / this.perTable);
    const table = this.#table(index);
    if (table === 0) return ABSENT_ENTRY;
    const place = table + (cluster - index * this.perTable) * this.#entrySize;
    const at = place % this.cache.pageSize;
    const page = this.cache.peek(place - at);
    return page === undefined ? undefined : decodeEntry(this.format, page.view, at);
  }

  async load(cluster: number): Promise<void> {
    const index = Math.floor(cluster / this.perTable);
    const table = this.#table(index);
    if (table === 0) return;
    await this.cache.load(alignDown(table + (cluster - index * this.perTable) * this.#entrySize, this.cache.pageSize));
  }

  async entry(cluster: number): Promise<ClusterEntry> {
    let entry = this.peek(cluster);
    while (entry === undefined) {
      await this.load(cluster);
      entry = this.peek(cluster);
    }
    return entry;
  }

  /** The first cluster behind those that share `cluster`'s L2 table. */
  tableEnd(cluster: number): number {
    return (Math.floor(cluster / this.perTable) + 1) * this.perTable;
  }

  hasTable(cluster: number): boolean {
    return this.#table(Math.floor(cluster / this.perTable)) !== 0;
  }

  /** Changes an entry. The caller holds the cluster's range exclusively. */
  async set(cluster: number, entry: ClusterEntry): Promise<void> {
    for (;;) {
      await this.writable(cluster);
      const index = Math.floor(cluster / this.perTable);
      const place = this.#table(index) + (cluster - index * this.perTable) * this.#entrySize;
      const at = place % this.cache.pageSize;
      const page = this.cache.peek(place - at);
      if (page !== undefined) {
        encodeEntry(this.format, entry, page.view, at);
        this.cache.markDirty(page);
        return;
      }
      await this.load(cluster);
    }
  }

  /** Sees to it that the cluster's L2 table exists and belongs to the active disk alone. */
  async writable(cluster: number): Promise<void> {
    const index = Math.floor(cluster / this.perTable);
    if (this.#isWritable(index)) return;
    await this.#tables.run(async () => {
      if (this.#isWritable(index)) return;
      const old = this.#table(index);
      if (old === 0) {
        this.#setL1(index, await this.#newTable());
        return;
      }
      // Shared with a snapshot. Its pages in the cache are clean: nobody changes a shared table.
      const copy = new Uint8Array(this.clusterSize);
      await readExactly(this.#file, old, copy, 'an L2 table');
      const { offset } = await this.#refcounts.allocate(1);
      this.cache.drop(offset, this.clusterSize);
      await this.#file.write(offset, copy);
      this.#setL1(index, offset);
      this.#release(old, this.clusterSize);
    });
  }

  takeL1(): L1Copy[] {
    const pages = [...this.#l1Dirty].sort((a, b) => a - b);
    this.#l1Dirty.clear();
    return pages.map((page) => ({ offset: this.#l1Offset + page * L1_PAGE, bytes: this.#l1.slice(page * L1_PAGE, (page + 1) * L1_PAGE) }));
  }

  async writeL1(copies: readonly L1Copy[]): Promise<void> {
    for (const { offset, bytes } of copies) await this.#file.write(offset, bytes);
  }

  /** What was taken did not reach the file. */
  returnL1(copies: readonly L1Copy[]): void {
    for (const { offset } of copies) if (offset >= this.#l1Offset) this.#l1Dirty.add((offset - this.#l1Offset) / L1_PAGE);
  }

  /** Uses another L1 table, which is in the file already. */
  replaceL1(offset: number, l1: Uint8Array): void {
    this.#l1 = l1;
    this.#l1View = viewOf(l1);
    this.#l1Offset = offset;
    this.#l1Dirty.clear();
  }

  /** Writes `l1` into new clusters of the file; gives their place. */
  async storeL1(l1: Uint8Array): Promise<number> {
    const clusters = Math.max(1, Math.ceil(l1.length / this.clusterSize));
    const { offset } = await this.#refcounts.allocateTable(clusters);
    const padded = new Uint8Array(clusters * this.clusterSize);
    padded.set(l1);
    await this.#file.write(offset, padded);
    return offset;
  }

  async #newTable(): Promise<number> {
    const { offset } = await this.#refcounts.allocate(1);
    await this.#refcounts.writeZeros(offset, this.clusterSize);
    this.cache.putZeros(offset, this.clusterSize);
    return offset;
  }

  #isWritable(index: number): boolean {
    return (this.#l1View.getUint32(index * 8) & 0x8000_0000) !== 0 && this.#table(index) !== 0;
  }

  /** Where an L2 table is; 0: there is none. GUEST: the L1 table comes from the image. */
  #table(index: number): number {
    const { offset } = decodeTableEntry(this.#l1View, index * 8);
    if (offset !== 0 && (offset % this.clusterSize !== 0 || offset + this.clusterSize > this.#refcounts.fileEnd)) {
      throw new StorageError('corrupt', this.#file.name, 'the L1 table points outside the file; run "paravane image check --repair"');
    }
    return offset;
  }

  #setL1(index: number, offset: number): void {
    encodeTableEntry(this.#l1View, index * 8, offset, true);
    this.#l1Dirty.add(Math.floor((index * 8) / L1_PAGE));
  }
}

/** L1 tables are kept in whole clusters. */
export function l1Bytes(entries: number, clusterSize: number): number {
  return alignUp(Math.max(entries * 8, 1), clusterSize);
}
