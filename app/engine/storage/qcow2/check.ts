// SPDX-License-Identifier: Apache-2.0
/**
 * Checks a QCOW2 image: follows every pointer, counts, and compares with the reference counts in the file.
 *
 * Repair writes a whole new set of reference counts behind the end of the file and switches to it in one header update, so it works even
 * when the old ones are rubble, and a crash in the middle changes nothing. Pointers that lead nowhere are reported, not invented anew.
 *
 * Bitmaps are not followed: an image that has valid ones is judged without leaks, and its repair drops them by the format's own rule.
 */
import type { AbortSignalLike } from '../../host/decompress.ts';
import { viewOf } from '../core/bytes.ts';
import { StorageError } from '../storage-error.ts';
import { INCOMPAT_CORRUPT, INCOMPAT_DIRTY, MAX_REFCOUNT_TABLE_BYTES } from './format.ts';
import { decodeEntry, decodeTableEntry } from './l2-entry.ts';
import { Mapping } from './mapping.ts';
import type { Qcow2Device } from './qcow2-device.ts';
import { encodeTable } from './refcounts.ts';
import { readSnapshotTable } from './snapshot-table.ts';
import { refreshCopied } from './snapshots.ts';

export interface CheckReport {
  /** Counts or pointers that would lose data sooner or later. */
  readonly errors: number;
  /** Clusters that are counted although nothing points to them: wasted room, no danger. */
  readonly leaks: number;
  /** Flags that contradict the counts without danger: interrupted work on snapshots leaves them. */
  readonly staleFlags: number;
  /** Errors that repair cannot undo: pointers out of the file. */
  readonly unrepairable: number;
  readonly repaired: boolean;
  readonly allocatedClusters: number;
  readonly compressedClusters: number;
  readonly totalClusters: number;
  /** The first few findings, as sentences. */
  readonly findings: readonly string[];
}

export interface CheckOptions {
  readonly repair?: boolean;
  readonly signal?: AbortSignalLike;
  readonly onProgress?: (fraction: number) => void;
}

const MAX_FINDINGS = 50;
const CHUNK = 64;

/** How often each cluster is pointed to; sparse, so that a hostile image cannot make it larger than a multiple of its own tables. */
class ClusterCounts {
  readonly #chunks = new Map<number, Uint32Array>();

  add(cluster: number): void {
    const index = Math.floor(cluster / CHUNK);
    let chunk = this.#chunks.get(index);
    if (chunk === undefined) {
      chunk = new Uint32Array(CHUNK);
      this.#chunks.set(index, chunk);
    }
    chunk[cluster - index * CHUNK]++;
  }

  get(cluster: number): number {
    return this.#chunks.get(Math.floor(cluster / CHUNK))?.[cluster % CHUNK] ?? 0;
  }

  clone(): ClusterCounts {
    const copy = new ClusterCounts();
    for (const [index, chunk] of this.#chunks) copy.#chunks.set(index, chunk.slice());
    return copy;
  }

  *used(): Iterable<readonly [cluster: number, count: number]> {
    for (const [index, chunk] of this.#chunks) {
      for (let i = 0; i < CHUNK; i++) if (chunk[i] > 0) yield [index * CHUNK + i, chunk[i]];
    }
  }
}

class Checker {
  readonly #device: Qcow2Device;
  readonly #options: CheckOptions;
  readonly counts = new ClusterCounts();
  readonly findings: string[] = [];
  errors = 0;
  leaks = 0;
  unrepairable = 0;
  staleFlags = 0;
  allocated = 0;
  compressed = 0;
  /** Flags of the active tables to be compared with counts later: cluster, flag. */
  readonly #flags: { readonly cluster: number; readonly copied: boolean; readonly what: string }[] = [];

  constructor(device: Qcow2Device, options: CheckOptions) {
    this.#device = device;
    this.#options = options;
  }

  /** Follows everything except the reference counts themselves. */
  async follow(): Promise<void> {
    const { mapping, file, snapshotTable, header } = this.#device;
    this.#mark(0, header.headerLength, 'the header');
    this.#mark(mapping.l1Offset, mapping.l1Entries * 8, 'the L1 table');
    const table = await readSnapshotTable(file, snapshotTable.offset, snapshotTable.count);
    if (table.length > 0) this.#mark(snapshotTable.offset, table.length, 'the table of snapshots');
    await this.#followL1(mapping.l1, true, 1 / (table.snapshots.length + 1));
    for (const snapshot of table.snapshots) {
      if (!this.#mark(snapshot.l1Offset, snapshot.l1Entries * 8, `snapshot ${JSON.stringify(snapshot.name)}`)) continue;
      await this.#followL1(await Mapping.readL1(file, snapshot.l1Offset, snapshot.l1Entries), false, 1 / (table.snapshots.length + 1));
    }
  }

  /** Compares with the counts in the file; `judgeLeaks` false: clusters without known users may have unknown ones. */
  async compare(judgeLeaks: boolean): Promise<void> {
    const { device, perBlock } = this.#shape();
    const table = device.refcounts.tableCopy();
    this.#mark(device.refcounts.tableOffset, device.refcounts.tableBytes, 'the table of reference counts');
    const seen = new Set<number>();
    for (const [index, offset] of table.entries()) {
      if (offset === 0) continue;
      if (seen.has(offset) || !this.#mark(offset, device.clusterSize, `block ${index} of the reference counts`)) {
        if (seen.has(offset)) this.#error(`block ${index} of the reference counts is used twice`);
        table[index] = 0;
        continue;
      }
      seen.add(offset);
    }
    for (const [index, offset] of table.entries()) {
      this.#checkCancelled();
      if (offset === 0) continue;
      for (let i = 0; i < perBlock; i++) await this.#compareOne(index * perBlock + i, judgeLeaks);
    }
    for (const [cluster] of this.counts.used()) {
      const index = Math.floor(cluster / perBlock);
      if (index >= table.length || table[index] === 0) this.#error(`cluster ${cluster} is used but not counted`);
    }
    for (const { cluster, copied, what } of this.#flags) {
      const counted = await this.#counted(cluster);
      if (counted === null || copied === (counted === 1)) continue;
      const finding = `${what}: the flag of cluster ${cluster} contradicts its count of ${counted}`;
      // What is used once may be written in place, whatever its count is.
      if (copied && this.counts.get(cluster) > 1) this.#error(finding);
      else {
        this.staleFlags++;
        this.#find(finding);
      }
    }
  }

  #shape(): { device: Qcow2Device; perBlock: number } {
    return { device: this.#device, perBlock: (this.#device.clusterSize * 8) / this.#device.header.refcountBits };
  }

  async #compareOne(cluster: number, judgeLeaks: boolean): Promise<void> {
    const counted = await this.#counted(cluster);
    if (counted === null) {
      this.#error(`the reference count of cluster ${cluster} is unreadable`);
      return;
    }
    const used = this.counts.get(cluster);
    if (counted < used) this.#error(`cluster ${cluster} is used ${used} times but counted ${counted} times`);
    else if (counted > used && judgeLeaks) {
      this.leaks++;
      this.#find(`cluster ${cluster} is counted ${counted} times but used ${used} times`);
    }
  }

  /** What the file counts; null: that cannot be read. */
  async #counted(cluster: number): Promise<number | null> {
    try {
      return await this.#device.refcounts.get(cluster);
    } catch (error) {
      if (!(error instanceof StorageError) || error.kind !== 'corrupt') throw error;
      return null;
    }
  }

  async #followL1(l1: Uint8Array, active: boolean, share: number): Promise<void> {
    const view = viewOf(l1);
    const seen = new Set<number>();
    for (let at = 0; at < l1.length; at += 8) {
      this.#checkCancelled();
      if (active) this.#options.onProgress?.((at / l1.length) * share);
      const { offset, copied } = decodeTableEntry(view, at);
      if (offset === 0) continue;
      if (!this.#mark(offset, this.#device.clusterSize, `entry ${at / 8} of an L1 table`)) continue;
      if (active) this.#flags.push({ cluster: offset / this.#device.clusterSize, copied, what: `L1 entry ${at / 8}` });
      if (seen.has(offset)) {
        this.#error(`L2 table at ${offset} is used twice by one L1 table`);
        continue;
      }
      seen.add(offset);
      await this.#followL2(offset, at / 8, active);
    }
  }

  async #followL2(offset: number, index: number, active: boolean): Promise<void> {
    const device = this.#device;
    const { clusterSize, mapping } = device;
    const table = new Uint8Array(clusterSize);
    await device.file.read(offset, table);
    const view = viewOf(table);
    const entrySize = clusterSize / mapping.perTable;
    for (let at = 0; at < clusterSize; at += entrySize) {
      const entry = decodeEntry(mapping.format, view, at);
      const what = `entry ${at / entrySize} of L2 table ${index}`;
      if (entry.host < 0) continue;
      if (active) this.allocated++;
      if (entry.compressed) {
        if (active) this.compressed++;
        this.#mark(entry.host, Math.min(entry.packedLength, device.refcounts.fileEnd - entry.host), what, false);
      } else if (!mapping.format.dataFile && this.#mark(entry.host, clusterSize, what) && active) {
        this.#flags.push({ cluster: entry.host / clusterSize, copied: entry.copied, what });
      }
    }
  }

  /** Counts the clusters of a range once more; false (an error that cannot be repaired): the range is no place in the file. */
  #mark(offset: number, length: number, what: string, aligned = true): boolean {
    if (length === 0) return true;
    const { clusterSize, refcounts } = this.#device;
    if (!(offset >= 0) || !(length > 0) || (aligned && offset % clusterSize !== 0) || offset + length > refcounts.fileEnd) {
      this.unrepairable++;
      this.#error(`${what} points outside the file or between clusters`);
      return false;
    }
    const last = Math.floor((offset + length - 1) / clusterSize);
    for (let cluster = Math.floor(offset / clusterSize); cluster <= last; cluster++) this.counts.add(cluster);
    return true;
  }

  #error(finding: string): void {
    this.errors++;
    this.#find(finding);
  }

  #find(finding: string): void {
    if (this.findings.length < MAX_FINDINGS) this.findings.push(finding);
  }

  #checkCancelled(): void {
    if (this.#options.signal?.aborted === true) throw new StorageError('cancelled', this.#device.name, 'the check was cancelled');
  }
}

/** Requests wait meanwhile. `repair` needs a device that is open for writing. */
export function checkQcow2(device: Qcow2Device, options: CheckOptions = {}): Promise<CheckReport> {
  if (options.repair === true && device.readOnly) {
    return Promise.reject(new StorageError('read-only', device.name, 'the disk image is open for reading only and cannot be repaired'));
  }
  return device.alone(() => check(device, options));
}

async function check(device: Qcow2Device, options: CheckOptions): Promise<CheckReport> {
  const checker = new Checker(device, options);
  await checker.follow();
  const counts = checker.counts.clone();
  const bitmaps = device.header.staleAutoclear;
  await checker.compare(!bitmaps);
  const marked = (device.header.incompatible & (INCOMPAT_DIRTY | INCOMPAT_CORRUPT)) !== 0;
  const wanted = options.repair === true && (marked || checker.errors > 0 || checker.leaks > 0 || checker.staleFlags > 0);
  if (wanted) {
    await rebuildCounts(device, counts);
    await refreshCopied(device);
    await clearMarks(device, checker.unrepairable > 0);
  }
  const totalClusters = Math.ceil(device.sizeBytes / device.clusterSize);
  return {
    errors: checker.errors,
    leaks: checker.leaks,
    staleFlags: checker.staleFlags,
    unrepairable: checker.unrepairable,
    repaired: wanted,
    allocatedClusters: checker.allocated,
    compressedClusters: checker.compressed,
    totalClusters,
    findings: checker.findings,
  };
}

async function clearMarks(device: Qcow2Device, stillDamaged: boolean): Promise<void> {
  if (device.header.version < 3) return;
  device.fields.setIncompatible(INCOMPAT_DIRTY | (stillDamaged ? 0 : INCOMPAT_CORRUPT), 0);
  device.fields.keepAutoclear(2);
  await device.fields.write();
}

/** Writes new counts for what is used, and a table for them, behind everything, and switches to them. */
async function rebuildCounts(device: Qcow2Device, counts: ClusterCounts): Promise<void> {
  const { clusterSize, refcounts, file, header } = device;
  const perBlock = (clusterSize * 8) / header.refcountBits;
  const start = refcounts.fileEnd / clusterSize;
  const stretches = new Set<number>();
  for (const [cluster] of counts.used()) stretches.add(Math.floor(cluster / perBlock));
  let tableClusters = 1;
  for (;;) {
    const before = stretches.size + tableClusters;
    for (let cluster = start; cluster < start + before; cluster += 1) stretches.add(Math.floor(cluster / perBlock));
    let entries = 0;
    for (const index of stretches) entries = Math.max(entries, index + 1);
    tableClusters = Math.max(tableClusters, Math.ceil((entries * 8) / clusterSize));
    if (tableClusters * clusterSize > MAX_REFCOUNT_TABLE_BYTES) {
      throw new StorageError(
        'no-space',
        device.name,
        'the image is too large for its cluster size to be repaired; convert it to one with larger clusters',
      );
    }
    if (stretches.size + tableClusters === before) break;
  }
  const blocks = [...stretches].sort((a, b) => a - b);
  for (let i = 0; i < blocks.length + tableClusters; i++) counts.add(start + i);
  const table = new Float64Array((tableClusters * clusterSize) / 8);
  for (const [i, index] of blocks.entries()) {
    const offset = (start + i) * clusterSize;
    await file.write(offset, encodeBlock(device, counts, index * perBlock, perBlock));
    table[index] = offset;
  }
  const tableOffset = (start + blocks.length) * clusterSize;
  await file.write(tableOffset, encodeTable(table));
  device.fields.setRefcountTable(tableOffset, tableClusters);
  await device.fields.write();
  refcounts.replace(table, tableOffset, (start + blocks.length + tableClusters) * clusterSize);
}

function encodeBlock(device: Qcow2Device, counts: ClusterCounts, first: number, perBlock: number): Uint8Array {
  const bits = device.header.refcountBits;
  const bytes = new Uint8Array(device.clusterSize);
  const view = viewOf(bytes);
  for (let i = 0; i < perBlock; i++) {
    const count = counts.get(first + i);
    if (count === 0) continue;
    if (count > device.refcounts.maxCount)
      throw new StorageError('unsupported', device.name, `${count} uses of a cluster do not fit reference counts of ${bits} bits`);
    if (bits < 8) bytes[Math.floor((i * bits) / 8)] |= count << ((i * bits) % 8);
    else if (bits === 8) bytes[i] = count;
    else if (bits === 16) view.setUint16(i * 2, count);
    else if (bits === 32) view.setUint32(i * 4, count);
    else view.setUint32(i * 8 + 4, count);
  }
  return bytes;
}
