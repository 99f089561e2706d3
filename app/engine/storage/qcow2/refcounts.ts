// SPDX-License-Identifier: Apache-2.0
/**
 * Reference counts of a QCOW2 file's clusters, and the allocation of clusters by them.
 *
 * The table of blocks is in memory (at most 8 MiB), the blocks in a page cache. Counts are 1 to 64 bits wide; ones above 2^53 count as
 * damage.
 *
 * INVARIANTS:
 * - A cluster that something in the file may still point to has a count above zero, in memory and on the disk. So counts grow before
 *   anything points to a cluster, and shrink only after nothing does any more, durably (`Qcow2Device` keeps the list).
 * - A new block of counts lies in the stretch of file that it counts, at the first cluster found free there, and counts itself.
 * - Changes happen one at a time (`#turn`).
 */
import type { HostFile } from '../../host/file.ts';
import { u64, viewOf, zeros } from '../core/bytes.ts';
import { readExactly } from '../core/file-reads.ts';
import { PageCache } from '../core/page-cache.ts';
import { Mutex } from '../core/range-lock.ts';
import { StorageError } from '../storage-error.ts';
import { MAX_REFCOUNT_TABLE_BYTES, type Qcow2Header } from './format.ts';
import type { HeaderFields } from './header-fields.ts';

const MAX_PAGE = 4096;
const CACHE_BYTES = 8 * 1024 * 1024;
const ZERO_STEP = 1024 * 1024;

export interface ClusterRun {
  /** In the file. */
  readonly offset: number;
  readonly count: number;
  /** Nothing was ever written there: it reads as zeros. */
  readonly fresh: boolean;
}

export class Refcounts {
  readonly clusterSize: number;
  readonly maxCount: number;
  readonly #file: HostFile;
  readonly #fields: HeaderFields;
  readonly #bits: number;
  readonly #perBlock: number;
  readonly #cache: PageCache;
  readonly #turn = new Mutex();
  /** Offsets of blocks; 0: none. */
  #table: Float64Array;
  #tableOffset: number;
  #tableDirty = false;
  /** Everything at or behind it was never written. A multiple of the cluster size. */
  #fileEnd: number;
  /** No cluster below is free. */
  #firstFree = 0;

  constructor(file: HostFile, header: Qcow2Header, fields: HeaderFields, fileSize: number, table: Float64Array) {
    this.#file = file;
    this.#fields = fields;
    this.clusterSize = 2 ** header.clusterBits;
    this.#bits = header.refcountBits;
    this.maxCount = Math.min(2 ** this.#bits - 1, Number.MAX_SAFE_INTEGER);
    this.#perBlock = (this.clusterSize * 8) / this.#bits;
    this.#table = table;
    this.#tableOffset = header.refcountTableOffset;
    this.#fileEnd = Math.ceil(fileSize / this.clusterSize) * this.clusterSize;
    this.#cache = new PageCache(file, Math.min(MAX_PAGE, this.clusterSize), CACHE_BYTES, (offset, into) =>
      readExactly(file, offset, into, 'a block of reference counts'),
    );
  }

  static async open(file: HostFile, header: Qcow2Header, fields: HeaderFields): Promise<Refcounts> {
    const table = await readRefcountTable(file, header);
    return new Refcounts(file, header, fields, await file.size(), table);
  }

  /** Behind the last cluster that belongs to the file. */
  get fileEnd(): number {
    return this.#fileEnd;
  }

  get tableOffset(): number {
    return this.#tableOffset;
  }

  get tableBytes(): number {
    return this.#table.length * 8;
  }

  /** Where the blocks are, by their stretch; 0: there is none. */
  tableCopy(): Float64Array {
    return this.#table.slice();
  }

  get dirty(): boolean {
    return this.#tableDirty || this.#cache.hasDirty;
  }

  get crowded(): boolean {
    return this.#cache.crowded;
  }

  async get(cluster: number): Promise<number> {
    if (!this.#hasBlock(cluster)) return 0;
    await this.#load(cluster);
    let value = this.#peek(cluster);
    while (value < 0) {
      await this.#load(cluster);
      value = this.#peek(cluster);
    }
    return value;
  }

  /** One to `want` clusters that follow each other, their counts set to 1. */
  allocate(want: number): Promise<ClusterRun> {
    return this.#turn.run(() => this.#allocate(want, 1));
  }

  /** Exactly `count` clusters that follow each other. */
  allocateTable(count: number): Promise<ClusterRun> {
    // Stretches begin with their own block of counts: a table that is longer than what is left of one never fits between two.
    return this.#turn.run(() => (count * 2 <= this.#perBlock ? this.#allocate(count, count) : this.#append(count)));
  }

  /** A new metadata cluster, written with zeros. */
  async allocateZeroed(): Promise<number> {
    const { offset } = await this.allocate(1);
    await this.writeZeros(offset, this.clusterSize);
    return offset;
  }

  async writeZeros(offset: number, length: number): Promise<void> {
    for (let at = 0; at < length; at += ZERO_STEP) await this.#file.write(offset + at, zeros(Math.min(ZERO_STEP, length - at)));
  }

  /** Adds `delta` to the counts of all clusters that the bytes touch. Rejects when a count would leave its range; then none changed. */
  change(offset: number, length: number, delta: number): Promise<void> {
    const first = Math.floor(offset / this.clusterSize);
    const last = Math.floor((offset + length - 1) / this.clusterSize);
    return this.#turn.run(async () => {
      for (let cluster = first; cluster <= last; cluster++) {
        const value = (await this.get(cluster)) + delta;
        if (value < 0) throw this.#corrupt(`cluster ${cluster} is used but its reference count is 0; run "paravane image check --repair"`);
        if (value > this.maxCount)
          throw new StorageError(
            'unsupported',
            this.#file.name,
            `reference counts of ${this.#bits} bits do not reach ${value}; convert the image to one with wider counts`,
          );
      }
      for (let cluster = first; cluster <= last; cluster++) await this.#set(cluster, (await this.get(cluster)) + delta);
    });
  }

  /** Writes what changed: blocks, then the table that finds them. The caller flushes afterwards. */
  writeDirty(): Promise<void> {
    return this.#turn.run(() => this.#writeDirty());
  }

  /** Uses other counts from here on, which are in the file already; for `repair`. */
  replace(table: Float64Array, tableOffset: number, fileEnd: number): void {
    this.#cache.dropAll();
    this.#table = table;
    this.#tableOffset = tableOffset;
    this.#tableDirty = false;
    this.#fileEnd = fileEnd;
    this.#firstFree = 0;
  }

  async #writeDirty(): Promise<void> {
    await this.#cache.writeOut(this.#cache.takeDirty());
    if (!this.#tableDirty) return;
    await this.#file.flush();
    await this.#file.write(this.#tableOffset, encodeTable(this.#table));
    this.#tableDirty = false;
  }

  async #allocate(want: number, least: number): Promise<ClusterRun> {
    let start = this.#firstFree;
    let cluster = start;
    // Found nothing free so far: `#firstFree` may move along.
    let first = true;
    for (;;) {
      if (await this.#isFree(cluster)) {
        if (first) this.#firstFree = cluster;
        first = false;
        cluster++;
        if (cluster - start === want) break;
        continue;
      }
      if (cluster - start >= least) break;
      cluster++;
      start = cluster;
    }
    for (let at = start; at < cluster; at++) await this.#set(at, 1);
    if (start === this.#firstFree) this.#firstFree = cluster;
    const offset = start * this.clusterSize;
    const fresh = offset >= this.#fileEnd;
    this.#fileEnd = Math.max(this.#fileEnd, cluster * this.clusterSize);
    return { offset, count: cluster - start, fresh };
  }

  /** Room behind the end of the file, and behind it the blocks that count it. */
  async #append(count: number): Promise<ClusterRun> {
    for (;;) {
      const start = this.#fileEnd / this.clusterSize;
      const missing: number[] = [];
      for (let index = Math.floor(start / this.#perBlock); index * this.#perBlock < start + count + missing.length; index++) {
        if (index >= this.#table.length || this.#table[index] === 0) missing.push(index);
      }
      const last = missing.at(-1) ?? 0;
      if (last >= this.#table.length) {
        await this.#growTable(last);
        continue;
      }
      for (const [i, index] of missing.entries()) await this.#placeBlock(index, (start + count + i) * this.clusterSize);
      this.#fileEnd = Math.max(this.#fileEnd, (start + count) * this.clusterSize);
      for (let i = 0; i < count + missing.length; i++) await this.#set(start + i, 1);
      return { offset: start * this.clusterSize, count, fresh: true };
    }
  }

  /** Looks at one cluster; makes its block of counts when there is none. */
  async #isFree(cluster: number): Promise<boolean> {
    if (!this.#hasBlock(cluster)) await this.#addBlock(cluster);
    let value = this.#peek(cluster);
    while (value < 0) {
      await this.#load(cluster);
      value = this.#peek(cluster);
    }
    return value === 0;
  }

  async #addBlock(cluster: number): Promise<void> {
    const index = Math.floor(cluster / this.#perBlock);
    if (index >= this.#table.length) {
      await this.#growTable(index);
      if (this.#table[index] !== 0) return;
    }
    // Without a block every cluster of the stretch is free. The first one below the caller's cluster may be skipped by it: take that.
    const place = index * this.#perBlock;
    const offset = place * this.clusterSize;
    await this.#placeBlock(index, offset);
    await this.#set(place, 1);
  }

  async #placeBlock(index: number, offset: number): Promise<void> {
    await this.writeZeros(offset, this.clusterSize);
    this.#cache.drop(offset, this.clusterSize);
    this.#fileEnd = Math.max(this.#fileEnd, offset + this.clusterSize);
    this.#table[index] = offset;
    this.#tableDirty = true;
  }

  /**
   * A larger table, behind everything that the old one counts, with the blocks that count it. What the header points to changes at once, so
   * all of it is written and flushed here; the old table is free afterwards.
   */
  async #growTable(index: number): Promise<void> {
    const perCluster = this.clusterSize / 8;
    const old = { offset: this.#tableOffset, length: this.tableBytes };
    const start = this.#table.length * this.#perBlock;
    let blocks = 1;
    let clusters = 0;
    for (;;) {
      const entries = Math.max(index + 1 + blocks, Math.ceil(this.#table.length * 1.5), this.#table.length + blocks);
      clusters = Math.ceil(entries / perCluster);
      const needed = Math.ceil((clusters + blocks) / this.#perBlock);
      if (needed <= blocks) break;
      blocks = needed;
    }
    if (clusters * this.clusterSize > MAX_REFCOUNT_TABLE_BYTES) {
      throw new StorageError(
        'no-space',
        this.#file.name,
        'the image has reached the largest size that its cluster size allows; convert it to one with larger clusters',
      );
    }
    const table = new Float64Array(clusters * perCluster);
    table.set(this.#table);
    const firstBlock = this.#table.length;
    const tableOffset = start * this.clusterSize;
    const previous = this.#table;
    this.#table = table;
    try {
      for (let i = 0; i < blocks; i++) await this.#placeBlock(firstBlock + i, (start + clusters + i) * this.clusterSize);
      for (let i = 0; i < clusters + blocks; i++) await this.#set(start + i, 1);
      await this.#cache.writeOut(this.#cache.takeDirty());
      await this.#file.write(tableOffset, encodeTable(table));
      this.#fields.setRefcountTable(tableOffset, clusters);
      await this.#fields.write();
    } catch (error) {
      this.#table = previous;
      this.#fields.setRefcountTable(old.offset, old.length / this.clusterSize);
      throw error;
    }
    this.#tableOffset = tableOffset;
    this.#tableDirty = false;
    for (let at = 0; at < old.length; at += this.clusterSize) await this.#set((old.offset + at) / this.clusterSize, 0);
  }

  #hasBlock(cluster: number): boolean {
    const index = Math.floor(cluster / this.#perBlock);
    return index < this.#table.length && this.#table[index] !== 0;
  }

  /** Where a count stands: the offset of its byte in the file. */
  #place(cluster: number): number {
    const index = Math.floor(cluster / this.#perBlock);
    const block = this.#table[index];
    // GUEST: the table comes from the image.
    if (!(block > 0) || block % this.clusterSize !== 0 || block + this.clusterSize > this.#fileEnd) {
      throw this.#corrupt('the table of reference counts points outside the file; run "paravane image check --repair"');
    }
    return block + Math.floor(((cluster - index * this.#perBlock) * this.#bits) / 8);
  }

  async #load(cluster: number): Promise<void> {
    const place = this.#place(cluster);
    await this.#cache.load(place - (place % this.#cache.pageSize));
  }

  /** -1: its page is not here. */
  #peek(cluster: number): number {
    const place = this.#place(cluster);
    const at = place % this.#cache.pageSize;
    const page = this.#cache.peek(place - at);
    if (page === undefined) return -1;
    switch (this.#bits) {
      case 8:
        return page.bytes[at];
      case 16:
        return page.view.getUint16(at);
      case 32:
        return page.view.getUint32(at);
      case 64: {
        const value = u64(page.view, at);
        if (value > Number.MAX_SAFE_INTEGER)
          throw this.#corrupt('a reference count is impossibly large; run "paravane image check --repair"');
        return value;
      }
      default:
        return (page.bytes[at] >>> this.#shift(cluster)) & ((1 << this.#bits) - 1);
    }
  }

  #shift(cluster: number): number {
    return (cluster % (8 / this.#bits)) * this.#bits;
  }

  async #set(cluster: number, value: number): Promise<void> {
    if (!this.#hasBlock(cluster)) await this.#addBlock(cluster);
    const place = this.#place(cluster);
    const at = place % this.#cache.pageSize;
    let page = this.#cache.peek(place - at);
    while (page === undefined) {
      await this.#cache.load(place - at);
      page = this.#cache.peek(place - at);
    }
    const { bytes, view } = page;
    if (this.#bits === 8) bytes[at] = value;
    else if (this.#bits === 16) view.setUint16(at, value);
    else if (this.#bits === 32) view.setUint32(at, value);
    else if (this.#bits === 64) {
      view.setUint32(at, Math.floor(value / 2 ** 32));
      view.setUint32(at + 4, value % 2 ** 32);
    } else {
      const shift = this.#shift(cluster);
      bytes[at] = (bytes[at] & ~(((1 << this.#bits) - 1) << shift)) | (value << shift);
    }
    this.#cache.markDirty(page);
    if (value === 0 && cluster < this.#firstFree) this.#firstFree = cluster;
    // A growing crowd of dirty counts is harmless to write early: counts may always be too high on the disk, and frees are done last.
    if (this.#cache.crowded) await this.#cache.writeOut(this.#cache.takeDirty());
  }

  #corrupt(message: string): StorageError {
    return new StorageError('corrupt', this.#file.name, message);
  }
}

export async function readRefcountTable(file: HostFile, header: Qcow2Header): Promise<Float64Array> {
  const clusterSize = 2 ** header.clusterBits;
  const bytes = new Uint8Array(header.refcountTableClusters * clusterSize);
  // The table's last cluster may be cut off by the end of the file.
  await file.read(header.refcountTableOffset, bytes);
  const view = viewOf(bytes);
  const table = new Float64Array(bytes.length / 8);
  for (let i = 0; i < table.length; i++) table[i] = u64(view, i * 8);
  return table;
}

export function encodeTable(table: Float64Array): Uint8Array {
  const bytes = new Uint8Array(table.length * 8);
  const view = viewOf(bytes);
  for (let i = 0; i < table.length; i++) {
    view.setUint32(i * 8, Math.floor(table[i] / 2 ** 32));
    view.setUint32(i * 8 + 4, table[i] % 2 ** 32);
  }
  return bytes;
}
