// SPDX-License-Identifier: Apache-2.0
/**
 * The one interface through which everything above sees a disk, whatever format it is kept in.
 *
 * Contract:
 * - Offsets and lengths are bytes; a request may start and end anywhere inside the disk. Requests outside it reject with `out-of-range`
 *   and change nothing.
 * - Any number of requests may be in flight. Requests that overlap in time have no order among them; bytes that no concurrent write
 *   touches are never disturbed by one, even where both share an allocation unit of the image.
 * - `flush` makes every write, discard and write of zeros durable that had completed when it was called, together with all the metadata
 *   needed to find it. Nothing else promises durability.
 * - After a crash of the host a range that was written without a following flush holds its old or its new bytes; ranges that were not
 *   written hold what they held, and the image stays valid.
 * - Failed requests reject with `StorageError`; the device stays usable.
 * - A buffer belongs to the device until the request settles. Buffers over shared memory are allowed.
 */
import type { ImageFormat } from './probe.ts';

/** A stretch of a disk whose bytes are kept in one way. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
  /**
   * `data`: bytes are stored; `zero`: reads as zeros and the image says so; `absent`: nothing is stored anywhere in the chain, which
   * reads as zeros too.
   */
  readonly kind: 'data' | 'zero' | 'absent';
  /** 0: this image, 1: its backing file, and so on. For `absent` the last one asked. */
  readonly depth: number;
  /** Where the bytes lie in the file that holds them, when they lie there as they are. */
  readonly fileOffset?: number;
  readonly compressed?: true;
}

export interface WriteZeroesOptions {
  /** False: the storage must stay allocated, so that a later write cannot fail for want of space. */
  readonly mayUnmap?: boolean;
}

export interface BlockDevice {
  readonly format: ImageFormat;
  /** For messages. */
  readonly name: string;
  /** The unit in which the disk wants to be addressed by guests: 512 or 4096. */
  readonly sectorSize: number;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** The unit of allocation; writes of whole units at their boundaries are the cheap ones. 1 when there is none. */
  readonly clusterSize: number;

  read(offset: number, into: Uint8Array): Promise<void>;
  write(offset: number, from: Uint8Array): Promise<void>;
  flush(): Promise<void>;
  /** The content is no longer needed: afterwards a range reads as zeros or as before. Never fails for ranges that cannot be given back. */
  discard(offset: number, length: number): Promise<void>;
  writeZeroes(offset: number, length: number, options?: WriteZeroesOptions): Promise<void>;
  /** Waits for requests in flight. What is new reads as zeros; shrinking drops the end for good. */
  resize(newSizeBytes: number): Promise<void>;
  /** How the range is stored, without gaps and in order; neighbouring extents may be of the same kind. */
  map(offset: number, length: number): AsyncIterable<Extent>;
  /** Flushes, waits for requests in flight, closes the files. Later requests reject with `closed`. */
  close(): Promise<void>;
}
