// SPDX-License-Identifier: Apache-2.0
/**
 * Copies and compares whole disks, several pieces in flight at a time, memory bounded.
 *
 * Zeros are found in the map and in the bytes; they are not written to a new image, which has them already.
 */
import type { AbortSignalLike } from '../host/decompress.ts';
import type { BlockDevice, Extent } from './block-device.ts';
import { equalBytes, isZero } from './core/bytes.ts';
import { Qcow2Device } from './qcow2/qcow2-device.ts';
import { StorageError } from './storage-error.ts';

export interface WorkOptions {
  readonly signal?: AbortSignalLike;
  /** 0 to 1, often. */
  readonly onProgress?: (fraction: number) => void;
}

export interface CopyOptions extends WorkOptions {
  /** The target is new: what is not written reads as zeros. */
  readonly targetIsEmpty: boolean;
  /** Write clusters compressed (QCOW2 only). */
  readonly compress?: boolean;
}

const PIECE = 1024 * 1024;
const IN_FLIGHT = 4;
/** Zeros are looked for in pieces of at least this size. */
const MIN_ZEROS = 4096;
const MAX_COMPRESSED_PIECES = 8;

/** Makes the beginning of `target` equal to `source`; a longer target's rest is left alone. */
export async function copyDisk(source: BlockDevice, target: BlockDevice, options: CopyOptions): Promise<void> {
  if (target.sizeBytes < source.sizeBytes) throw new StorageError('invalid', target.name, `the disk is smaller than ${source.name}`);
  const compressed = options.compress === true ? asCompressed(target) : null;
  const piece = compressed === null ? PIECE : compressed.clusterSize;
  const copy = (offset: number, length: number): Promise<void> =>
    copyPiece(source, target, compressed, offset, length, options.targetIsEmpty);
  const flight = new Flight(compressed === null ? IN_FLIGHT : MAX_COMPRESSED_PIECES);
  for await (const extent of aligned(source, piece)) {
    checkCancelled(target.name, options.signal);
    options.onProgress?.(extent.offset / Math.max(1, source.sizeBytes));
    if (extent.kind !== 'data') {
      if (!options.targetIsEmpty) await flight.add(() => target.writeZeroes(extent.offset, extent.length));
      continue;
    }
    for (let at = 0; at < extent.length; at += piece) {
      checkCancelled(target.name, options.signal);
      options.onProgress?.((extent.offset + at) / source.sizeBytes);
      await flight.add(() => copy(extent.offset + at, Math.min(piece, extent.length - at)));
    }
  }
  await flight.landed();
  options.onProgress?.(1);
}

function asCompressed(target: BlockDevice): Qcow2Device {
  if (target instanceof Qcow2Device) return target;
  throw new StorageError('unsupported', target.name, 'only QCOW2 images can be written compressed');
}

async function copyPiece(
  source: BlockDevice,
  target: BlockDevice,
  compressed: Qcow2Device | null,
  offset: number,
  length: number,
  targetIsEmpty: boolean,
): Promise<void> {
  const bytes = new Uint8Array(length);
  await source.read(offset, bytes);
  if (compressed !== null) {
    if (!(targetIsEmpty && isZero(bytes))) await compressed.writeCompressed(offset, bytes);
    return;
  }
  // Runs of data and of zeros, in the target's units where these are small.
  const unit = Math.max(MIN_ZEROS, Math.min(target.clusterSize, 64 * 1024));
  for (let at = 0; at < length; ) {
    const zero = isZero(bytes.subarray(at, at + unit));
    let end = at + unit;
    while (end < length && isZero(bytes.subarray(end, end + unit)) === zero) end += unit;
    end = Math.min(end, length);
    if (!zero) await target.write(offset + at, at === 0 && end === length ? bytes : bytes.subarray(at, end));
    else if (!targetIsEmpty) await target.writeZeroes(offset + at, end - at);
    at = end;
  }
}

/** The disk's map with data on one side and zeros on the other, borders rounded so that pieces are whole. */
async function* aligned(device: BlockDevice, unit: number): AsyncIterable<{ offset: number; length: number; kind: 'data' | 'zero' }> {
  let start = 0;
  let kind: 'data' | 'zero' = 'zero';
  for await (const extent of device.map(0, device.sizeBytes)) {
    const next: 'data' | 'zero' = extent.kind === 'data' ? 'data' : 'zero';
    if (next === kind) continue;
    // Data takes the whole unit that it touches.
    const border = next === 'data' ? extent.offset - (extent.offset % unit) : Math.ceil(extent.offset / unit) * unit;
    if (next === 'zero' && border >= extent.offset + extent.length) continue;
    if (border > start) yield { offset: start, length: border - start, kind };
    start = Math.max(start, border);
    kind = next;
  }
  if (device.sizeBytes > start) yield { offset: start, length: device.sizeBytes - start, kind };
}

export interface Comparison {
  readonly equal: boolean;
  /** The first byte that differs. */
  readonly firstDifference: number | null;
  readonly sizesDiffer: boolean;
}

/** Compares content; where one disk is longer, its rest has to be zeros. */
export async function compareDisks(left: BlockDevice, right: BlockDevice, options: WorkOptions = {}): Promise<Comparison> {
  const common = Math.min(left.sizeBytes, right.sizeBytes);
  const total = Math.max(left.sizeBytes, right.sizeBytes);
  const sizesDiffer = left.sizeBytes !== right.sizeBytes;
  const a = new Uint8Array(PIECE);
  const b = new Uint8Array(PIECE);
  for await (const { offset, length } of mapped(left, right)) {
    for (let at = offset; at < offset + length; ) {
      checkCancelled(left.name, options.signal);
      options.onProgress?.(at / Math.max(1, total));
      const size = Math.min(PIECE, offset + length - at, at < common ? common - at : PIECE);
      const [x, y] = [a.subarray(0, size), b.subarray(0, size)];
      await Promise.all([readOrZero(left, at, x), readOrZero(right, at, y)]);
      if (!equalBytes(x, y)) return { equal: false, firstDifference: at + x.findIndex((byte, index) => byte !== y[index]), sizesDiffer };
      at += size;
    }
  }
  options.onProgress?.(1);
  return { equal: true, firstDifference: null, sizesDiffer };
}

async function readOrZero(device: BlockDevice, offset: number, into: Uint8Array): Promise<void> {
  if (offset >= device.sizeBytes) into.fill(0);
  else await device.read(offset, into);
}

/** The ranges in which at least one of the two stores something. */
async function* mapped(left: BlockDevice, right: BlockDevice): AsyncIterable<{ offset: number; length: number }> {
  const walkers = [left, right].map((device) => ({
    device,
    extents: device.map(0, device.sizeBytes)[Symbol.asyncIterator](),
    current: null as Extent | null,
  }));
  const total = Math.max(left.sizeBytes, right.sizeBytes);
  for (let at = 0; at < total; ) {
    let data = false;
    let end = total;
    for (const walker of walkers) {
      while (at < walker.device.sizeBytes && (walker.current === null || walker.current.offset + walker.current.length <= at)) {
        const next = await walker.extents.next();
        if (next.done === true) break;
        walker.current = next.value;
      }
      if (at >= walker.device.sizeBytes || walker.current === null) continue;
      data ||= walker.current.kind === 'data';
      end = Math.min(end, walker.current.offset + walker.current.length);
    }
    if (data) yield { offset: at, length: end - at };
    at = end;
  }
}

function checkCancelled(name: string, signal: AbortSignalLike | undefined): void {
  if (signal?.aborted === true) throw new StorageError('cancelled', name, 'the work was cancelled');
}

/** At most `limit` tasks at a time; the first failure is the failure of all. */
class Flight {
  readonly #limit: number;
  readonly #running = new Set<Promise<void>>();
  #failure: unknown = null;

  constructor(limit: number) {
    this.#limit = limit;
  }

  async add(task: () => Promise<void>): Promise<void> {
    while (this.#running.size >= this.#limit) await Promise.race(this.#running);
    if (this.#failure !== null) throw this.#failure;
    const running: Promise<void> = task()
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  async landed(): Promise<void> {
    await Promise.all(this.#running);
    if (this.#failure !== null) throw this.#failure;
  }
}
