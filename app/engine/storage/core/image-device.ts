// SPDX-License-Identifier: Apache-2.0
/**
 * What all devices share: bounds, the closed and read-only states, and file errors turned into storage errors.
 *
 * GUEST: offsets and lengths come from rings; nothing below this class sees one that is outside the disk.
 */
import type { BlockDevice, Extent, WriteZeroesOptions } from '../block-device.ts';
import type { ImageFormat } from '../probe.ts';
import { asStorageError, StorageError, type StorageErrorKind } from '../storage-error.ts';
import { zeros } from './bytes.ts';

const ZERO_CHUNK = 1024 * 1024;

export abstract class ImageDevice implements BlockDevice {
  abstract readonly format: ImageFormat;
  abstract readonly clusterSize: number;
  readonly name: string;
  readonly readOnly: boolean;
  readonly sectorSize: number;
  #sizeBytes: number;
  #closing: Promise<void> | null = null;
  #inFlight = 0;
  #drained: (() => void) | null = null;

  constructor(name: string, sizeBytes: number, readOnly: boolean, sectorSize = 512) {
    this.name = name;
    this.readOnly = readOnly;
    this.sectorSize = sectorSize;
    this.#sizeBytes = sizeBytes;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  protected set sizeBytes(value: number) {
    this.#sizeBytes = value;
  }

  protected abstract doRead(offset: number, into: Uint8Array): Promise<void>;
  protected abstract doWrite(offset: number, from: Uint8Array): Promise<void>;
  protected abstract doFlush(): Promise<void>;
  protected abstract doDiscard(offset: number, length: number): Promise<void>;
  protected abstract doWriteZeroes(offset: number, length: number, mayUnmap: boolean): Promise<void>;
  protected abstract doResize(newSizeBytes: number): Promise<void>;
  protected abstract doMap(offset: number, length: number): AsyncIterable<Extent>;
  /** After everything in flight ended and was flushed. */
  protected abstract doClose(): Promise<void>;

  async read(offset: number, into: Uint8Array): Promise<void> {
    this.#check(offset, into.length, false);
    if (into.length > 0) await this.#tracked(() => this.doRead(offset, into));
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    this.#check(offset, from.length, true);
    if (from.length > 0) await this.#tracked(() => this.doWrite(offset, from));
  }

  async flush(): Promise<void> {
    this.#check(0, 0, false);
    if (!this.readOnly) await this.#tracked(() => this.doFlush());
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#check(offset, length, true);
    if (length > 0) await this.#tracked(() => this.doDiscard(offset, length));
  }

  async writeZeroes(offset: number, length: number, options: WriteZeroesOptions = {}): Promise<void> {
    this.#check(offset, length, true);
    if (length > 0) await this.#tracked(() => this.doWriteZeroes(offset, length, options.mayUnmap !== false));
  }

  async resize(newSizeBytes: number): Promise<void> {
    this.#check(0, 0, true);
    if (!Number.isSafeInteger(newSizeBytes) || newSizeBytes < 0) throw this.error('invalid', `${newSizeBytes} is not a size`);
    await this.#tracked(() => this.doResize(newSizeBytes));
  }

  async *map(offset: number, length: number): AsyncIterable<Extent> {
    this.#check(offset, length, false);
    if (length === 0) return;
    try {
      yield* this.doMap(offset, length);
    } catch (error) {
      throw asStorageError(this.name, error);
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    if (this.#inFlight > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
    let failure: unknown = null;
    try {
      if (!this.readOnly) await this.doFlush();
    } catch (error) {
      failure = error;
    }
    try {
      await this.doClose();
    } catch (error) {
      failure ??= error;
    }
    if (failure !== null) throw asStorageError(this.name, failure);
  }

  protected error(kind: StorageErrorKind, message: string): StorageError {
    return new StorageError(kind, this.name, message);
  }

  /** Writes zeros as data. */
  protected async writeZeroData(offset: number, length: number): Promise<void> {
    for (let at = 0; at < length; at += ZERO_CHUNK) await this.doWrite(offset + at, zeros(Math.min(ZERO_CHUNK, length - at)));
  }

  #check(offset: number, length: number, writes: boolean): void {
    if (this.#closing !== null) throw this.error('closed', 'the disk image is closed');
    if (writes && this.readOnly) throw this.error('read-only', 'the disk image is open for reading only');
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length < 0 || offset + length > this.#sizeBytes) {
      throw this.error('out-of-range', `the request for ${length} bytes at ${offset} reaches outside the disk of ${this.#sizeBytes} bytes`);
    }
  }

  /** Runs a request; file errors become storage errors, `close` waits for it. */
  protected async tracked<T>(work: () => Promise<T>): Promise<T> {
    return this.#tracked(work);
  }

  async #tracked<T>(work: () => Promise<T>): Promise<T> {
    this.#inFlight++;
    try {
      return await work();
    } catch (error) {
      throw asStorageError(this.name, error);
    } finally {
      if (--this.#inFlight === 0) this.#drained?.();
    }
  }
}
