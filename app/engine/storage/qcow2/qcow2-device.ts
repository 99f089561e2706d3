// SPDX-License-Identifier: Apache-2.0
/**
 * A QCOW2 disk: requests turned into transfers, allocation, copy on write, and the order in which things reach the file.
 *
 * A request locks its clusters' range: shared to read or to write into clusters that belong to it alone, exclusive to change what the
 * clusters are. The mapping is looked at under the lock only.
 *
 * ORDER of a flush (each line is durable before the next begins), so that a crash at any moment leaves at worst leaked clusters:
 *   data, reference counts (blocks, then their table) · L2 entries · L1 entries · counts of what was given up.
 * Everything is copied at the start of the flush: an entry that is made meanwhile, whose data may not be durable, waits for the next one.
 *
 * Lazy reference counts need no handling: counts are always kept, and an image that was left dirty is repaired before it is written.
 */
import type { BlockCodec } from '../../host/block-codec.ts';
import type { HostFile } from '../../host/file.ts';
import type { BlockDevice, Extent } from '../block-device.ts';
import { mapParent } from '../core/block-table-device.ts';
import { alignDown, alignUp, isZero } from '../core/bytes.ts';
import { readExactly, readPadded, readParent } from '../core/file-reads.ts';
import { ImageDevice } from '../core/image-device.ts';
import { JoinedRuns, Mutex, RangeLock } from '../core/range-lock.ts';
import { l1EntriesFor, MAX_DISK_BYTES, MAX_L1_BYTES, type Qcow2Header } from './format.ts';
import type { HeaderFields } from './header-fields.ts';
import { ABSENT_ENTRY, type ClusterEntry, type ClusterKind, kindOf, SUBCLUSTERS, subclusterBits } from './l2-entry.ts';
import { Mapping } from './mapping.ts';
import type { Refcounts } from './refcounts.ts';
import { zstdFrameLength } from './zstd-frame.ts';

/** A stretch of the disk that is kept in one way. */
interface Run {
  readonly offset: number;
  readonly length: number;
  readonly kind: ClusterKind;
  /** Of the first byte, in the file; for `compressed` of the packed cluster. */
  readonly host: number;
  readonly packedLength: number;
  /** Writes may go to `host` as they are. */
  readonly inPlace: boolean;
}

export interface Qcow2Parts {
  readonly file: HostFile;
  readonly dataFile: HostFile | null;
  readonly parent: BlockDevice | null;
  readonly header: Qcow2Header;
  readonly fields: HeaderFields;
  readonly refcounts: Refcounts;
  readonly l1: Uint8Array;
  readonly codec: BlockCodec;
  readonly readOnly: boolean;
}

/** How many clusters one step of an allocating write or a discard handles. */
const MAX_BATCH_BYTES = 16 * 1024 * 1024;
/** Edges of a cluster are joined with the bytes that are written into it up to this size. */
const JOIN_LIMIT = 256 * 1024;
/** Freed clusters are punched out of the file in pieces of at least this size. */
const MIN_HOLE = 1024 * 1024;
const SECTOR = 512;

export class Qcow2Device extends ImageDevice {
  readonly format = 'qcow2';
  readonly clusterSize: number;
  readonly header: Qcow2Header;
  readonly file: HostFile;
  readonly fields: HeaderFields;
  readonly refcounts: Refcounts;
  readonly mapping: Mapping;
  readonly parent: BlockDevice | null;
  /** Where guest data lies: the image itself or its external data file. */
  readonly dataFile: HostFile;
  readonly #codec: BlockCodec;
  readonly #subclusterSize: number;
  readonly #lock = new RangeLock();
  readonly #flushes = new JoinedRuns(() => this.#flushNow());
  /** The table of snapshots as the header has it now. */
  snapshotTable: { readonly offset: number; readonly count: number; readonly length: number };
  #released: { offset: number; length: number }[] = [];
  readonly #packTurn = new Mutex();
  /** Where the next compressed cluster may begin; -1: in a new cluster. */
  #packedEnd = -1;
  #lastUnpacked: { readonly host: number; readonly bytes: Uint8Array } | null = null;

  constructor(parts: Qcow2Parts) {
    super(parts.file.name, alignUp(parts.header.sizeBytes, SECTOR), parts.readOnly || !parts.file.writable);
    this.header = parts.header;
    this.file = parts.file;
    this.dataFile = parts.dataFile ?? parts.file;
    this.parent = parts.parent;
    this.fields = parts.fields;
    this.refcounts = parts.refcounts;
    this.snapshotTable = { offset: parts.header.snapshotsOffset, count: parts.header.snapshotCount, length: 0 };
    this.clusterSize = 2 ** parts.header.clusterBits;
    this.#codec = parts.codec;
    this.#subclusterSize = parts.header.extendedL2 ? this.clusterSize / SUBCLUSTERS : this.clusterSize;
    this.mapping = new Mapping(parts.file, parts.header, parts.refcounts, parts.l1, (offset, length) => this.release(offset, length));
  }

  get #external(): boolean {
    return this.dataFile !== this.file;
  }

  /** Nothing points to these bytes any more: their clusters are freed after the next flush. */
  release(offset: number, length: number): void {
    this.#released.push({ offset, length });
  }

  /** Runs `work` while no request is under way and nothing is left to flush. */
  alone<T>(work: () => Promise<T>): Promise<T> {
    return this.tracked(() =>
      this.#lock.with(0, Number.POSITIVE_INFINITY, true, async () => {
        await this.#flushes.run();
        const result = await work();
        this.#packedEnd = -1;
        this.#lastUnpacked = null;
        await this.#flushes.run();
        return result;
      }),
    );
  }

  protected override doRead(offset: number, into: Uint8Array): Promise<void> {
    return this.#locked(offset, into.length, false, () => this.#readUnlocked(offset, into));
  }

  protected override async doWrite(offset: number, from: Uint8Array): Promise<void> {
    const done = await this.#locked(offset, from.length, false, () => this.#writeInPlace(offset, from));
    if (done) return;
    if (this.#crowded) await this.#flushes.run();
    await this.#locked(offset, from.length, true, () => this.#writeUnlocked(offset, from));
  }

  protected override doFlush(): Promise<void> {
    return this.#flushes.run();
  }

  protected override async doDiscard(offset: number, length: number): Promise<void> {
    if (this.#external) return;
    // The rest of a cluster may be in use; the disk's last cluster has no rest.
    const start = alignUp(offset, this.clusterSize);
    const end = offset + length === this.sizeBytes ? offset + length : alignDown(offset + length, this.clusterSize);
    if (start < end) await this.#clear(start, end, 'discard');
  }

  protected override async doWriteZeroes(offset: number, length: number, mayUnmap: boolean): Promise<void> {
    const end = offset + length;
    const start = alignUp(offset, this.clusterSize);
    const stop = end === this.sizeBytes ? end : alignDown(end, this.clusterSize);
    if (this.#external || start >= stop) return this.#zeroEdge(offset, end);
    await this.#zeroEdge(offset, start);
    await this.#clear(start, stop, mayUnmap ? 'unmap' : 'zero');
    await this.#zeroEdge(stop, end);
  }

  protected override async *doMap(offset: number, length: number): AsyncIterable<Extent> {
    for (let at = offset; at < offset + length; ) {
      const run = await this.#run(at, offset + length - at);
      at += run.length;
      if (run.kind === 'absent') yield* mapParent(this.parent, run.offset, run.length);
      else if (run.kind === 'zero') yield { offset: run.offset, length: run.length, kind: 'zero', depth: 0 };
      else if (run.kind === 'compressed') yield { offset: run.offset, length: run.length, kind: 'data', depth: 0, compressed: true };
      else yield { offset: run.offset, length: run.length, kind: 'data', depth: 0, fileOffset: run.host };
    }
  }

  protected override doResize(newSizeBytes: number): Promise<void> {
    return this.#resize(newSizeBytes);
  }

  protected override async doClose(): Promise<void> {
    const files = this.#external ? [this.dataFile, this.file] : [this.file];
    const results = await Promise.allSettled([...files.map((file) => file.close()), this.parent?.close()]);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  /**
   * Writes one whole cluster (or the disk's last piece) compressed if that saves room; for conversion. The cluster must not be in use
   * otherwise.
   */
  async writeCompressed(offset: number, from: Uint8Array): Promise<void> {
    if (this.#external || offset % this.clusterSize !== 0 || from.length > this.clusterSize) {
      throw this.error('invalid', 'only whole clusters inside the image can be compressed');
    }
    const old = await this.#run(offset, 1);
    if (old.kind === 'absent' && this.parent === null && isZero(from)) return;
    let whole = from;
    if (from.length < this.clusterSize) {
      whole = new Uint8Array(this.clusterSize);
      whole.set(from);
    }
    const packed = await this.#codec.pack(this.header.compression, whole);
    if (packed === null) return this.write(offset, from);
    await this.tracked(() =>
      this.#locked(offset, this.clusterSize, true, async () => {
        if (this.#crowded) await this.#flushes.run();
        const host = await this.#placePacked(packed);
        await this.#replaceEntry(offset / this.clusterSize, { ...ABSENT_ENTRY, host, packedLength: packed.length, compressed: true });
      }),
    );
  }

  get #crowded(): boolean {
    return this.mapping.cache.crowded || this.refcounts.crowded;
  }

  #locked<T>(offset: number, length: number, exclusive: boolean, work: () => Promise<T>): Promise<T> {
    return this.#lock.with(alignDown(offset, this.clusterSize), alignUp(offset + length, this.clusterSize), exclusive, work);
  }

  // --- Looking up ---

  /** The longest stretch from `offset` on that is kept in one way, as far as the entries at hand tell. */
  async #run(offset: number, limit: number): Promise<Run> {
    const { mapping, clusterSize } = this;
    let cluster = Math.floor(offset / clusterSize);
    if (!mapping.hasTable(cluster)) {
      const length = Math.min(limit, mapping.tableEnd(cluster) * clusterSize - offset);
      return { offset, length, kind: 'absent', host: -1, packedLength: 0, inPlace: false };
    }
    let entry = mapping.peek(cluster) ?? (await mapping.entry(cluster));
    const inside = offset - cluster * clusterSize;
    let sub = Math.floor(inside / this.#subclusterSize);
    const kind = kindOf(entry, sub);
    const { host, copied, packedLength } = entry;
    const place = kind === 'data' ? this.#checkedHost(host, cluster) + inside : host;
    if (kind === 'compressed') return { offset, length: Math.min(limit, clusterSize - inside), kind, host, packedLength, inPlace: false };
    let end = cluster * clusterSize;
    const subclusters = clusterSize / this.#subclusterSize;
    for (;;) {
      while (sub < subclusters && kindOf(entry, sub) === kind) sub++;
      end = cluster * clusterSize + sub * this.#subclusterSize;
      if (sub < subclusters || end - offset >= limit) break;
      cluster++;
      sub = 0;
      if (!mapping.hasTable(cluster)) break;
      const next = mapping.peek(cluster);
      if (next === undefined || next.compressed) break;
      if (kind === 'data' && (next.host !== place + cluster * clusterSize - offset || next.copied !== copied)) break;
      entry = next;
    }
    return { offset, length: Math.min(limit, end - offset), kind, host: place, packedLength: 0, inPlace: kind === 'data' && copied };
  }

  /** GUEST: an entry's address comes from the image. */
  #checkedHost(host: number, cluster: number): number {
    if (this.#external) {
      if (host === cluster * this.clusterSize) return host;
      throw this.error('corrupt', 'an L2 table puts a cluster to a place of the external data file that is not its own');
    }
    if (host % this.clusterSize !== 0 || host < this.clusterSize || host + this.clusterSize > this.refcounts.fileEnd) {
      throw this.error('corrupt', 'an L2 table points outside the file; run "paravane image check --repair"');
    }
    return host;
  }

  /** Data must not be written over the tables that find it. */
  #checkTarget(host: number, length: number): void {
    if (this.#external) return;
    const { mapping, refcounts } = this;
    const hits = (start: number, size: number): boolean => host < start + size && start < host + length;
    if (hits(0, this.clusterSize) || hits(mapping.l1Offset, mapping.l1Entries * 8) || hits(refcounts.tableOffset, refcounts.tableBytes)) {
      throw this.error('corrupt', 'an L2 table points into the image\'s own tables; run "paravane image check --repair"');
    }
  }

  // --- Reading ---

  async #readUnlocked(offset: number, into: Uint8Array): Promise<void> {
    for (let at = 0; at < into.length; ) {
      const run = await this.#run(offset + at, into.length - at);
      const part = run.length === into.length ? into : into.subarray(at, at + run.length);
      at += run.length;
      if (run.kind === 'data') await readPadded(this.dataFile, run.host, part);
      else if (run.kind === 'zero') part.fill(0);
      else if (run.kind === 'absent') await readParent(this.parent, run.offset, part);
      else await this.#readPacked(run, part);
    }
  }

  async #readPacked(run: Run, into: Uint8Array): Promise<void> {
    const { clusterSize } = this;
    const inside = run.offset % clusterSize;
    if (this.#lastUnpacked?.host !== run.host) {
      // GUEST: the length is bounded by the entry's own bits to two clusters; the address by the file.
      const available = Math.min(run.packedLength, this.refcounts.fileEnd - run.host);
      if (run.host < clusterSize || available <= 0) throw this.error('corrupt', 'a compressed cluster lies outside the file');
      const packed = new Uint8Array(available);
      await readPadded(this.file, run.host, packed);
      const end = this.header.compression === 'zstd' ? zstdFrameLength(packed) : packed.length;
      const bytes = end === null ? null : await this.#codec.unpack(this.header.compression, packed.subarray(0, end), clusterSize);
      if (bytes === null) throw this.error('corrupt', `the compressed cluster at ${alignDown(run.offset, clusterSize)} is damaged`);
      this.#lastUnpacked = { host: run.host, bytes };
      into.set(bytes.subarray(inside, inside + into.length));
      return;
    }
    into.set(this.#lastUnpacked.bytes.subarray(inside, inside + into.length));
  }

  // --- Writing ---

  /** False: something has to be allocated first; then nothing was written. */
  async #writeInPlace(offset: number, from: Uint8Array): Promise<boolean> {
    const first = await this.#run(offset, from.length);
    if (!first.inPlace) return false;
    if (first.length === from.length) {
      this.#checkTarget(first.host, from.length);
      await this.dataFile.write(first.host, from);
      return true;
    }
    const runs = [first];
    for (let at = first.length; at < from.length; ) {
      const run = await this.#run(offset + at, from.length - at);
      if (!run.inPlace) return false;
      runs.push(run);
      at += run.length;
    }
    for (const run of runs) {
      this.#checkTarget(run.host, run.length);
      await this.dataFile.write(run.host, from.subarray(run.offset - offset, run.offset - offset + run.length));
    }
    return true;
  }

  async #writeUnlocked(offset: number, from: Uint8Array): Promise<void> {
    for (let at = 0; at < from.length; ) {
      const run = await this.#run(offset + at, from.length - at);
      const rest = from.subarray(at);
      if (run.inPlace) {
        this.#checkTarget(run.host, run.length);
        await this.dataFile.write(run.host, rest.subarray(0, run.length));
        at += run.length;
      } else {
        at += await this.#writeClusters(offset + at, rest);
      }
    }
  }

  /** Writes the beginning of `from` into clusters that have to be changed for it; gives how much. */
  async #writeClusters(offset: number, from: Uint8Array): Promise<number> {
    const { clusterSize, mapping } = this;
    const first = Math.floor(offset / clusterSize);
    await mapping.writable(first);
    const entry = await mapping.entry(first);
    if (this.#external) return this.#writeExternal(offset, from, entry);
    if (!entry.compressed && entry.host >= 0 && entry.copied) {
      this.#checkedHost(entry.host, first);
      const length = Math.min(from.length, (first + 1) * clusterSize - offset);
      this.#checkTarget(entry.host, clusterSize);
      await this.#fillCluster(offset, from.subarray(0, length), entry, entry.host, false);
      await mapping.set(first, this.#withData(entry, offset, length, entry.host, false));
      return length;
    }
    const entries = [entry];
    const last = Math.min(
      Math.floor((offset + from.length - 1) / clusterSize),
      mapping.tableEnd(first) - 1,
      first + Math.max(1, MAX_BATCH_BYTES / clusterSize) - 1,
    );
    for (let cluster = first + 1; cluster <= last; cluster++) {
      const next = await mapping.entry(cluster);
      if (!next.compressed && next.host >= 0 && next.copied) break;
      entries.push(next);
    }
    const room = await this.refcounts.allocate(entries.length);
    const length = Math.min(from.length, (first + room.count) * clusterSize - offset);
    try {
      await this.#fillNew(offset, from.subarray(0, length), entries, room);
    } catch (error) {
      await this.refcounts.change(room.offset, room.count * clusterSize, -1);
      throw error;
    }
    for (let i = 0; i < room.count; i++) {
      const start = Math.max(offset, (first + i) * clusterSize);
      const end = Math.min(offset + length, (first + i + 1) * clusterSize);
      await this.#replaceEntry(first + i, this.#withData(entries[i], start, end - start, room.offset + i * clusterSize, true));
    }
    return length;
  }

  /** In an external data file every cluster has its own place: that of the disk. */
  async #writeExternal(offset: number, from: Uint8Array, entry: ClusterEntry): Promise<number> {
    const { clusterSize, mapping } = this;
    const cluster = Math.floor(offset / clusterSize);
    const length = Math.min(from.length, (cluster + 1) * clusterSize - offset);
    const host = cluster * clusterSize;
    await this.#fillCluster(offset, from.subarray(0, length), entry, host, false);
    await mapping.set(cluster, this.#withData(entry, offset, length, host, false));
    return length;
  }

  /** Several new clusters: only the first and the last have bytes that are not written. */
  async #fillNew(
    offset: number,
    from: Uint8Array,
    entries: readonly ClusterEntry[],
    room: { offset: number; count: number; fresh: boolean },
  ): Promise<void> {
    const { clusterSize } = this;
    const first = Math.floor(offset / clusterSize);
    const end = offset + from.length;
    if (room.count === 1) {
      await this.#fillCluster(offset, from, entries[0], room.offset, room.fresh, true);
      return;
    }
    let start = offset;
    let stop = end;
    if (offset % clusterSize !== 0) {
      start = (first + 1) * clusterSize;
      await this.#fillCluster(offset, from.subarray(0, start - offset), entries[0], room.offset, room.fresh, true);
    }
    if (end % clusterSize !== 0) {
      stop = alignDown(end, clusterSize);
      await this.#fillCluster(
        stop,
        from.subarray(stop - offset),
        entries[room.count - 1],
        room.offset + stop - first * clusterSize,
        room.fresh,
        true,
      );
    }
    if (start < stop) await this.file.write(room.offset + start - first * clusterSize, from.subarray(start - offset, stop - offset));
  }

  /**
   * Writes into one cluster at `host`, and around it what the disk showed there: up to the borders of the subclusters, or of the cluster
   * when its old bytes stay behind (`moved` and there are any).
   */
  async #fillCluster(offset: number, from: Uint8Array, entry: ClusterEntry, host: number, fresh: boolean, moved = false): Promise<void> {
    const { clusterSize } = this;
    const base = alignDown(offset, clusterSize);
    const unit = moved && entry.allocated !== 0 ? clusterSize : this.#subclusterSize;
    let start = alignDown(offset, unit);
    let end = Math.min(alignUp(offset + from.length, unit), base + clusterSize);
    if (!moved) {
      // What is in the cluster already stays as it is.
      if (kindOf(entry, Math.floor((start - base) / this.#subclusterSize)) === 'data') start = offset;
      if (kindOf(entry, Math.floor((end - 1 - base) / this.#subclusterSize)) === 'data') end = offset + from.length;
    }
    const zeroAround = fresh && this.parent === null && entry.allocated === 0;
    if (zeroAround || (start === offset && end === offset + from.length)) {
      await this.dataFile.write(host + offset - base, from);
      return;
    }
    if (end - start <= JOIN_LIMIT) {
      const whole = new Uint8Array(end - start);
      await this.#readDisk(start, whole.subarray(0, offset - start));
      whole.set(from, offset - start);
      await this.#readDisk(offset + from.length, whole.subarray(offset + from.length - start));
      await this.dataFile.write(host + start - base, whole);
      return;
    }
    await this.dataFile.write(host + offset - base, from);
    await this.#copyDisk(start, host + start - base, offset - start);
    await this.#copyDisk(offset + from.length, host + offset + from.length - base, end - offset - from.length);
  }

  async #copyDisk(offset: number, host: number, length: number): Promise<void> {
    if (length === 0) return;
    const bytes = new Uint8Array(length);
    await this.#readDisk(offset, bytes);
    await this.dataFile.write(host, bytes);
  }

  /** Reads under the caller's lock; behind the disk's end, in its last cluster, are zeros. */
  async #readDisk(offset: number, into: Uint8Array): Promise<void> {
    const available = Math.max(0, Math.min(into.length, this.sizeBytes - offset));
    if (available < into.length) into.fill(0, available);
    if (available > 0) await this.#readUnlocked(offset, into.subarray(0, available));
  }

  /** `entry` after a write; `moved`: into a new cluster, to which all old bytes went along if there were any. */
  #withData(entry: ClusterEntry, offset: number, length: number, host: number, moved: boolean): ClusterEntry {
    const all = 0xffff_ffff;
    let written = all;
    if (this.header.extendedL2 && !(moved && entry.allocated !== 0)) {
      const inside = offset % this.clusterSize;
      written = subclusterBits(Math.floor(inside / this.#subclusterSize), Math.ceil((inside + length) / this.#subclusterSize));
    }
    return {
      host,
      packedLength: 0,
      copied: true,
      compressed: false,
      allocated: ((moved ? 0 : entry.allocated) | written) >>> 0,
      zero: (entry.zero & ~written) >>> 0,
    };
  }

  /** Sets an entry and gives up what the old one pointed to. */
  async #replaceEntry(cluster: number, entry: ClusterEntry): Promise<void> {
    const old = await this.mapping.entry(cluster);
    await this.mapping.set(cluster, entry);
    if (this.#external || old.host < 0 || old.host === entry.host) return;
    if (old.compressed) this.#lastUnpacked = null;
    this.release(old.host, old.compressed ? old.packedLength : this.clusterSize);
  }

  /** Finds room for a packed cluster right behind the last one and writes it. */
  #placePacked(packed: Uint8Array): Promise<number> {
    return this.#packTurn.run(async () => {
      const { clusterSize, refcounts } = this;
      let host = this.#packedEnd;
      const border = alignUp(host, clusterSize);
      // The cluster that the last one ended in counts once more; a new cluster has its first count already.
      let behind = host >= 0 && (await refcounts.get(Math.floor(host / clusterSize))) < refcounts.maxCount;
      if (!behind || border - host < packed.length) {
        const room = await refcounts.allocate(1);
        behind &&= room.offset === border;
        if (!behind) host = room.offset;
      }
      if (behind) await refcounts.change(host, 1, 1);
      const padded = new Uint8Array(alignUp(host + packed.length, SECTOR) - host);
      padded.set(packed);
      await this.file.write(host, padded);
      this.#packedEnd = host + packed.length;
      if (this.#packedEnd % clusterSize === 0) this.#packedEnd = -1;
      return host;
    });
  }

  // --- Discarding, zeroing ---

  async #clear(start: number, end: number, how: 'discard' | 'unmap' | 'zero'): Promise<void> {
    const step = alignDown(MAX_BATCH_BYTES * 16, this.clusterSize);
    for (let at = start; at < end; ) {
      const stop = Math.min(end, alignDown(at, step) + step);
      if (this.#crowded) await this.#flushes.run();
      const left = await this.#locked(at, stop - at, true, () => this.#clearClusters(at, stop, how));
      for (const { offset, length } of left) await this.#zeroEdge(offset, offset + length);
      at = stop;
    }
  }

  /** Gives the stretches that cannot be cleared in the table. */
  async #clearClusters(start: number, end: number, how: 'discard' | 'unmap' | 'zero'): Promise<{ offset: number; length: number }[]> {
    const { clusterSize, mapping } = this;
    const left: { offset: number; length: number }[] = [];
    const hidden = this.parent !== null;
    for (let at = start; at < end; ) {
      const cluster = at / clusterSize;
      if (!mapping.hasTable(cluster) && (!hidden || how === 'discard')) {
        at = mapping.tableEnd(cluster) * clusterSize;
        continue;
      }
      at += clusterSize;
      const entry = await mapping.entry(cluster);
      const nothing = entry.host < 0 && entry.zero === 0 && !entry.compressed;
      if (nothing && (!hidden || how === 'discard')) continue;
      if (entry.host < 0 && entry.zero === 0xffff_ffff) continue;
      if (!mapping.format.zeroFlag && (hidden || how === 'zero')) {
        if (how !== 'discard') left.push({ offset: cluster * clusterSize, length: Math.min(clusterSize, end - cluster * clusterSize) });
        continue;
      }
      if (how === 'zero' && entry.host >= 0 && entry.copied && !entry.compressed) {
        await mapping.set(cluster, { ...entry, allocated: 0, zero: 0xffff_ffff });
      } else if (how === 'zero') {
        left.push({ offset: cluster * clusterSize, length: Math.min(clusterSize, end - cluster * clusterSize) });
      } else {
        await this.#replaceEntry(cluster, hidden ? { ...ABSENT_ENTRY, zero: 0xffff_ffff } : ABSENT_ENTRY);
      }
    }
    return left;
  }

  /** Zeros as data, but not where the disk shows zeros already. */
  async #zeroEdge(start: number, end: number): Promise<void> {
    for (let at = start; at < end; ) {
      const run = await this.#run(at, end - at);
      const zero = run.kind === 'zero' || (run.kind === 'absent' && (this.parent === null || run.offset >= this.parent.sizeBytes));
      if (!zero || (this.#external && this.header.dataFileRaw)) await this.writeZeroData(run.offset, run.length);
      at += run.length;
    }
  }

  // --- Flushing ---

  async #flushNow(): Promise<void> {
    const { mapping, refcounts } = this;
    const released = this.#released;
    if (!mapping.dirty && !refcounts.dirty && released.length === 0) {
      await this.#syncData();
      return;
    }
    this.#released = [];
    const l2 = mapping.cache.takeDirty();
    const l1 = mapping.takeL1();
    try {
      await refcounts.writeDirty();
      await this.#syncData();
    } catch (error) {
      mapping.cache.abandon(l2);
      mapping.returnL1(l1);
      this.#released.push(...released);
      throw error;
    }
    try {
      await mapping.cache.writeOut(l2);
      if (l1.length > 0) {
        if (l2.length > 0) await this.file.flush();
        await mapping.writeL1(l1);
      }
      if (l2.length > 0 || l1.length > 0) await this.file.flush();
    } catch (error) {
      mapping.cache.abandon(l2);
      mapping.returnL1(l1);
      this.#released.push(...released);
      throw error;
    }
    if (released.length > 0) await this.#free(released);
  }

  async #syncData(): Promise<void> {
    if (this.#external) await Promise.all([this.dataFile.flush(), this.file.flush()]);
    else await this.file.flush();
  }

  async #free(released: readonly { offset: number; length: number }[]): Promise<void> {
    const { clusterSize } = this;
    const sorted = [...released].sort((a, b) => a.offset - b.offset);
    let hole = { start: 0, end: 0 };
    const punch = async (): Promise<void> => {
      if (hole.end - hole.start >= MIN_HOLE) await this.file.punchHole(hole.start, hole.end - hole.start);
    };
    for (const { offset, length } of sorted) {
      // Compressed clusters share clusters of the file; nothing is known to be unused around them.
      if (offset % clusterSize !== 0 || length % clusterSize !== 0) continue;
      for (let at = offset; at < offset + length; at += clusterSize) {
        if ((await this.refcounts.get(at / clusterSize)) !== 1) continue;
        if (at !== hole.end) {
          await punch();
          hole = { start: at, end: at };
        }
        hole.end += clusterSize;
      }
    }
    await punch();
    for (const { offset, length } of sorted) {
      if (offset < this.refcounts.fileEnd) await this.refcounts.change(offset, Math.min(length, this.refcounts.fileEnd - offset), -1);
    }
    await this.refcounts.writeDirty();
  }

  // --- Size ---

  async #resize(newSizeBytes: number): Promise<void> {
    if (newSizeBytes % SECTOR !== 0) throw this.error('invalid', `a disk's size is a multiple of ${SECTOR} bytes`);
    if (newSizeBytes > MAX_DISK_BYTES) throw this.error('invalid', `a disk of ${newSizeBytes} bytes is larger than is supported`);
    if (this.header.version < 3 && this.snapshotTable.count > 0) {
      throw this.error('unsupported', 'a version 2 image with snapshots cannot change its size; convert it to version 3');
    }
    const entries = l1EntriesFor(this.header, newSizeBytes);
    if (entries * 8 > MAX_L1_BYTES)
      throw this.error('invalid', 'the image cannot become that large; convert it to one with larger clusters');
    const old = this.sizeBytes;
    if (newSizeBytes < old) await this.doWriteZeroes(newSizeBytes, old - newSizeBytes, true);
    await this.alone(async () => {
      if (entries > this.mapping.l1Entries) await this.#growL1(entries, newSizeBytes);
      else {
        this.fields.setSize(newSizeBytes);
        await this.fields.write();
      }
      if (this.#external && this.header.dataFileRaw) await this.dataFile.truncate(newSizeBytes);
      this.sizeBytes = newSizeBytes;
    });
    // The rest of what was the last cluster, and whatever a longer parent shows there.
    const shown = this.parent === null ? alignUp(old, this.clusterSize) : Math.max(alignUp(old, this.clusterSize), this.parent.sizeBytes);
    if (newSizeBytes > old) await this.doWriteZeroes(old, Math.min(newSizeBytes, shown) - old, true);
  }

  async #growL1(entries: number, newSizeBytes: number): Promise<void> {
    const old = { offset: this.mapping.l1Offset, length: this.mapping.l1Entries * 8 };
    const l1 = new Uint8Array(entries * 8);
    l1.set(this.mapping.l1);
    const offset = await this.mapping.storeL1(l1);
    await this.refcounts.writeDirty();
    this.fields.setL1(offset, entries);
    this.fields.setSize(newSizeBytes);
    await this.fields.write();
    this.mapping.replaceL1(offset, l1);
    if (old.length > 0) await this.refcounts.change(old.offset, old.length, -1);
  }

  /** The disk has another size because it is at another snapshot. Only under `alone`. */
  becomeSize(sizeBytes: number): void {
    this.sizeBytes = alignUp(sizeBytes, SECTOR);
  }

  /** An L2 table as it is in the file; nothing may be waiting to be written. */
  async readTable(offset: number): Promise<Uint8Array> {
    const table = new Uint8Array(this.clusterSize);
    await readExactly(this.file, offset, table, 'an L2 table');
    return table;
  }
}
