// SPDX-License-Identifier: Apache-2.0
/**
 * Disks kept in blocks of one size that a table finds: VDI, dynamic VHD, VHDX, sparse VMDK, and the disposable overlay.
 *
 * The formats differ in the table; what is the same is here: requests cut into blocks, neighbouring blocks joined into one transfer,
 * allocation without losing concurrent writes, and the order of data before table.
 *
 * INVARIANTS:
 * - A block is linked in the table (`link`) only after its bytes were written, and the linked table reaches the file only after a flush of
 *   the file (see `doFlush` of the formats).
 * - A range is locked exclusively while its blocks are being allocated or emptied, shared while they are used.
 */
import type { HostFile } from '../../host/file.ts';
import type { BlockDevice, Extent } from '../block-device.ts';
import { alignDown, alignUp, zeros } from './bytes.ts';
import { readPadded, readParent } from './file-reads.ts';
import { ImageDevice } from './image-device.ts';
import { JoinedRuns, Mutex, RangeLock } from './range-lock.ts';

/** What a table says instead of a place. */
export const BLOCK_ZERO = -1;
export const BLOCK_ABSENT = -2;

interface Run {
  /** In the disk. */
  readonly offset: number;
  readonly length: number;
  /** In the file, or `BLOCK_ZERO`, or `BLOCK_ABSENT`. */
  readonly place: number;
}

/** Bytes around a small write into a new block that are worth joining with it into one transfer. */
const JOIN_LIMIT = 256 * 1024;
/** Smaller holes cost more than they give. */
const MIN_HOLE = 64 * 1024;
/** How much of the disk a discard holds locked at a time. */
const DROP_STEP = 64 * 1024 * 1024;
const ZERO_STEP = 1024 * 1024;

export abstract class BlockTableDevice extends ImageDevice {
  readonly clusterSize: number;
  protected readonly file: HostFile;
  protected readonly parent: BlockDevice | null;
  protected readonly lock = new RangeLock();
  /** False: blocks are transferred one by one even where they lie side by side. */
  protected readonly joinsBlocks: boolean = true;
  readonly #flushes = new JoinedRuns(() => this.flushTable());
  /** Room is given out, and tables are made, one at a time. */
  readonly #reserveTurn = new Mutex();
  /** Room that was given out for a block whose write then failed. */
  readonly #spare: number[] = [];
  /** Payload of the file: new blocks go here. */
  protected fileEnd: number;

  constructor(
    file: HostFile,
    options: { sizeBytes: number; readOnly: boolean; sectorSize?: number; blockSize: number; parent: BlockDevice | null; fileEnd: number },
  ) {
    super(file.name, options.sizeBytes, options.readOnly || !file.writable, options.sectorSize);
    this.file = file;
    this.clusterSize = options.blockSize;
    this.parent = options.parent;
    this.fileEnd = options.fileEnd;
  }

  /** The place of a block's payload in the file, `BLOCK_ZERO` or `BLOCK_ABSENT`. A place outside the file rejects with `corrupt`. */
  protected abstract lookup(block: number): number | Promise<number>;
  /** Finds room, which reads as zeros, for `count` blocks whose payloads follow each other from the result on (or for fewer). Never called twice at a time. */
  protected abstract reserve(block: number, count: number): Promise<{ place: number; count: number }>;
  /** Makes the table point to a place. */
  protected abstract link(block: number, place: number): Promise<void>;
  /** Makes an absent block hide the parent with zeros; false when the format cannot say so. */
  protected abstract markZero(block: number): Promise<boolean>;
  /** Data, then table, durably. */
  protected abstract flushTable(): Promise<void>;
  /** The table wants to be written out before more is changed. */
  protected abstract get crowded(): boolean;

  protected override doFlush(): Promise<void> {
    return this.#flushes.run();
  }

  protected override doRead(offset: number, into: Uint8Array): Promise<void> {
    return this.#locked(offset, into.length, false, async () => {
      for (let at = 0; at < into.length; ) {
        const run = await this.#run(offset + at, into.length - at);
        await this.#readRun(run, into.subarray(at, at + run.length));
        at += run.length;
      }
    });
  }

  protected override async doWrite(offset: number, from: Uint8Array): Promise<void> {
    const inPlace = await this.#locked(offset, from.length, false, async () => {
      const runs: Run[] = [];
      for (let at = 0; at < from.length; ) {
        const run = await this.#run(offset + at, from.length - at);
        if (run.place < 0) return false;
        runs.push(run);
        at += run.length;
      }
      for (const run of runs)
        await this.writePayload(run.place, from.subarray(run.offset - offset, run.offset - offset + run.length), run.offset);
      return true;
    });
    if (inPlace) return;
    if (this.crowded) await this.#flushes.run();
    await this.#locked(offset, from.length, true, () => this.#writeAllocating(offset, from));
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    return this.#drop(offset, length, false);
  }

  protected override doWriteZeroes(offset: number, length: number, mayUnmap: boolean): Promise<void> {
    if (!mayUnmap) return this.writeZeroData(offset, length);
    return this.#drop(offset, length, true);
  }

  protected override async *doMap(offset: number, length: number): AsyncIterable<Extent> {
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const run = await this.#run(at, end - at);
      at += run.length;
      if (run.place >= 0) yield { offset: run.offset, length: run.length, kind: 'data', depth: 0, fileOffset: run.place };
      else if (run.place === BLOCK_ZERO) yield { offset: run.offset, length: run.length, kind: 'zero', depth: 0 };
      else yield* mapParent(this.parent, run.offset, run.length);
    }
  }

  protected override async doClose(): Promise<void> {
    try {
      await this.file.close();
    } finally {
      await this.parent?.close();
    }
  }

  /** Bytes of a block that is there. Formats with maps inside a block replace it. */
  protected async readPayload(place: number, into: Uint8Array, _offset: number): Promise<void> {
    await readPadded(this.file, place, into);
  }

  protected async writePayload(place: number, from: Uint8Array, _offset: number): Promise<void> {
    await this.file.write(place, from);
  }

  /** Drops or changes what no request is using. */
  protected alone<T>(work: () => Promise<T>): Promise<T> {
    return this.lock.with(0, Number.POSITIVE_INFINITY, true, work);
  }

  #locked<T>(offset: number, length: number, exclusive: boolean, work: () => Promise<T>): Promise<T> {
    return this.lock.with(alignDown(offset, this.clusterSize), alignUp(offset + length, this.clusterSize), exclusive, work);
  }

  /** The longest stretch from `offset` on that is kept in one way and, if stored, in one piece. */
  async #run(offset: number, limit: number): Promise<Run> {
    const size = this.clusterSize;
    let block = Math.floor(offset / size);
    const inside = offset - block * size;
    let place = this.lookup(block);
    if (typeof place !== 'number') place = await place;
    let length = size - inside;
    while (length < limit) {
      block++;
      let next = this.lookup(block);
      if (typeof next !== 'number') next = await next;
      if (place < 0 ? next !== place : !this.joinsBlocks || next !== place + inside + length) break;
      length += size;
    }
    return { offset, length: Math.min(length, limit), place: place < 0 ? place : place + inside };
  }

  async #readRun(run: Run, into: Uint8Array): Promise<void> {
    if (run.place >= 0) await this.readPayload(run.place, into, run.offset);
    else if (run.place === BLOCK_ZERO) into.fill(0);
    else await readParent(this.parent, run.offset, into);
  }

  async #writeAllocating(offset: number, from: Uint8Array): Promise<void> {
    for (let at = 0; at < from.length; ) {
      const run = await this.#run(offset + at, from.length - at);
      const part = from.subarray(at, at + run.length);
      at += run.length;
      if (run.place >= 0) await this.writePayload(run.place, part, run.offset);
      else await this.#writeNew(run, part);
    }
  }

  async #writeNew(run: Run, from: Uint8Array): Promise<void> {
    const size = this.clusterSize;
    const first = Math.floor(run.offset / size);
    const last = Math.floor((run.offset + run.length - 1) / size);
    for (let block = first; block <= last; ) {
      const { place, count } = await this.#room(block, last - block + 1);
      const start = Math.max(run.offset, block * size);
      const end = Math.min(run.offset + run.length, (block + count) * size);
      let linked = 0;
      try {
        await this.#fillNew(block, count, place, start, from.subarray(start - run.offset, end - run.offset), run.place === BLOCK_ABSENT);
        for (; linked < count; linked++) await this.link(block + linked, place + linked * size);
      } catch (error) {
        // Whoever writes again and again to a full disk must not make the file longer each time.
        for (; linked < count; linked++) this.#spare.push(place + linked * size);
        throw error;
      }
      block += count;
    }
  }

  /** All room was given back. */
  protected forgetRoom(): void {
    this.#spare.length = 0;
  }

  async #room(block: number, count: number): Promise<{ place: number; count: number }> {
    const place = this.#spare.pop();
    if (place === undefined) return this.#reserveTurn.run(() => this.reserve(block, count));
    try {
      await this.#zeroPlaces({ offset: block * this.clusterSize, length: this.clusterSize, place });
    } catch (error) {
      this.#spare.push(place);
      throw error;
    }
    return { place, count: 1 };
  }

  /** Writes new blocks: `from` where it belongs, around it what the disk showed there before. New room in the file reads as zeros. */
  async #fillNew(block: number, count: number, place: number, start: number, from: Uint8Array, fromParent: boolean): Promise<void> {
    const blockStart = block * this.clusterSize;
    // The last block may reach behind the disk's end, but not behind the file's.
    const blockEnd = Math.min((block + count) * this.clusterSize, Math.max(this.sizeBytes, start + from.length));
    const head = start - blockStart;
    const tail = blockEnd - start - from.length;
    if (!fromParent || this.parent === null || (head === 0 && tail === 0)) {
      await this.writePayload(place + head, from, start);
      return;
    }
    if (blockEnd - blockStart <= JOIN_LIMIT) {
      const whole = new Uint8Array(blockEnd - blockStart);
      await readParent(this.parent, blockStart, whole.subarray(0, head));
      whole.set(from, head);
      await readParent(this.parent, start + from.length, whole.subarray(head + from.length));
      await this.writePayload(place, whole, blockStart);
      return;
    }
    await this.writePayload(place + head, from, start);
    await this.#copyParent(blockStart, place, head);
    await this.#copyParent(start + from.length, place + head + from.length, tail);
  }

  async #copyParent(offset: number, place: number, length: number): Promise<void> {
    const buffer = new Uint8Array(Math.min(length, 1 << 20));
    for (let at = 0; at < length; at += buffer.length) {
      const part = buffer.subarray(0, Math.min(buffer.length, length - at));
      await readParent(this.parent, offset + at, part);
      await this.writePayload(place + at, part, offset + at);
    }
  }

  /**
   * Makes holes where there are blocks. Blocks never leave the table: their room could only be used again after bookkeeping that these
   * formats do not have, and a guest that writes and discards in turn would make the file grow for ever.
   */
  async #drop(offset: number, length: number, exact: boolean): Promise<void> {
    const step = Math.max(this.clusterSize, alignDown(DROP_STEP, this.clusterSize));
    for (let at = 0; at < length; ) {
      const part = Math.min(length - at, step - ((offset + at) % step));
      if (this.crowded) await this.#flushes.run();
      await this.#locked(offset + at, part, true, () => this.#dropPart(offset + at, part, exact));
      at += part;
    }
  }

  async #dropPart(offset: number, length: number, exact: boolean): Promise<void> {
    for (let at = 0; at < length; ) {
      const run = await this.#run(offset + at, length - at);
      at += run.length;
      if (run.place >= 0) {
        if (run.length >= MIN_HOLE && (await this.file.punchHole(run.place, run.length))) continue;
        if (exact) await this.#zeroPlaces(run);
      } else if (exact && run.place === BLOCK_ABSENT && this.parent !== null) {
        await this.#hideParent(run);
      }
    }
  }

  async #zeroPlaces(run: Run): Promise<void> {
    for (let at = 0; at < run.length; at += ZERO_STEP) {
      await this.writePayload(run.place + at, zeros(Math.min(ZERO_STEP, run.length - at)), run.offset + at);
    }
  }

  async #hideParent(run: Run): Promise<void> {
    const size = this.clusterSize;
    const end = run.offset + run.length;
    for (let at = run.offset; at < end; ) {
      const next = Math.min(end, alignDown(at, size) + size);
      const block = Math.floor(at / size);
      const whole = at % size === 0 && (next % size === 0 || next === this.sizeBytes);
      if (!whole || !(await this.#reserveTurn.run(() => this.markZero(block)))) {
        for (let from = at; from < next; from += ZERO_STEP) await this.#writeAllocating(from, zeros(Math.min(ZERO_STEP, next - from)));
      }
      at = next;
    }
  }
}

/** What lies under a hole of an image: its parent's extents one level deeper, then nothing. */
export async function* mapParent(parent: BlockDevice | null, offset: number, length: number): AsyncIterable<Extent> {
  const available = parent === null ? 0 : Math.max(0, Math.min(length, parent.sizeBytes - offset));
  if (available > 0) {
    for await (const extent of parent!.map(offset, available)) yield { ...extent, depth: extent.depth + 1 };
  }
  if (available < length) yield { offset: offset + available, length: length - available, kind: 'absent', depth: 0 };
}
