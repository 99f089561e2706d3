// SPDX-License-Identifier: Apache-2.0
/**
 * A disposable layer over a disk: writes go to a scratch file (or memory), the disk below stays as it is until `commit`.
 *
 * The table is in memory only: nothing of the layer survives the device, and that is the point. So a flush has nothing to make durable.
 */
import type { HostFile } from '../../host/file.ts';
import type { AbortSignalLike } from '../../host/decompress.ts';
import type { BlockDevice } from '../block-device.ts';
import { BLOCK_ABSENT, BLOCK_ZERO, BlockTableDevice } from '../core/block-table-device.ts';
import { StorageError } from '../storage-error.ts';
import type { ImageFormat } from '../probe.ts';

const BLOCK = 64 * 1024;
const PER_PAGE = 512;

export interface CommitOptions {
  readonly signal?: AbortSignalLike;
  readonly onProgress?: (fraction: number) => void;
}

export class OverlayDevice extends BlockTableDevice {
  readonly format: ImageFormat;
  readonly #base: BlockDevice;
  /** Places of blocks in the scratch file, or one of the states. */
  readonly #pages = new Map<number, Float64Array>();

  /** Takes `base` and `scratch` (an empty file) over: closing the overlay closes both. */
  constructor(base: BlockDevice, scratch: HostFile) {
    super(scratch, { sizeBytes: base.sizeBytes, readOnly: false, sectorSize: base.sectorSize, blockSize: BLOCK, parent: base, fileEnd: 0 });
    this.#base = base;
    this.format = base.format;
  }

  /** Bytes of the scratch file. */
  get changedBytes(): number {
    return this.fileEnd;
  }

  /** Writes every change into the disk below, durably, and begins anew. When it fails or is cancelled, nothing is lost: call it again. */
  async commit(options: CommitOptions = {}): Promise<void> {
    if (this.#base.readOnly)
      throw new StorageError('read-only', this.#base.name, 'the changes cannot be kept because the image is open for reading only');
    await this.alone(async () => {
      const pages = [...this.#pages].sort(([a], [b]) => a - b);
      const buffer = new Uint8Array(BLOCK);
      for (const [done, [index, page]] of pages.entries()) {
        options.onProgress?.(done / pages.length);
        for (let i = 0; i < PER_PAGE; i++) {
          if (page[i] === BLOCK_ABSENT) continue;
          if (options.signal?.aborted === true)
            throw new StorageError('cancelled', this.#base.name, 'keeping the changes was cancelled; they are still there');
          await this.#commitBlock((index * PER_PAGE + i) * BLOCK, page[i], buffer);
        }
      }
      await this.#base.flush();
      await this.#empty();
    });
  }

  /** Drops every change: the disk is again what it is below. */
  discardChanges(): Promise<void> {
    return this.alone(() => this.#empty());
  }

  async #commitBlock(offset: number, place: number, buffer: Uint8Array): Promise<void> {
    const length = Math.min(BLOCK, this.sizeBytes - offset);
    if (place === BLOCK_ZERO) return this.#base.writeZeroes(offset, length);
    const bytes = buffer.subarray(0, length);
    await this.readPayload(place, bytes, offset);
    await this.#base.write(offset, bytes);
  }

  async #empty(): Promise<void> {
    this.#pages.clear();
    this.fileEnd = 0;
    this.forgetRoom();
    await this.file.truncate(0);
  }

  protected override get crowded(): boolean {
    return false;
  }

  protected override lookup(block: number): number {
    return this.#pages.get(Math.floor(block / PER_PAGE))?.[block % PER_PAGE] ?? BLOCK_ABSENT;
  }

  protected override async reserve(_block: number, count: number): Promise<{ place: number; count: number }> {
    const place = this.fileEnd;
    await this.file.truncate(place + count * BLOCK);
    this.fileEnd = place + count * BLOCK;
    return { place, count };
  }

  protected override async link(block: number, place: number): Promise<void> {
    this.#set(block, place);
  }

  protected override async markZero(block: number): Promise<boolean> {
    this.#set(block, BLOCK_ZERO);
    return true;
  }

  protected override flushTable(): Promise<void> {
    return Promise.resolve();
  }

  protected override doResize(_newSizeBytes: number): Promise<void> {
    return Promise.reject(this.error('unsupported', 'a disposable disk cannot change its size; resize the image itself'));
  }

  #set(block: number, place: number): void {
    const index = Math.floor(block / PER_PAGE);
    let page = this.#pages.get(index);
    if (page === undefined) {
      page = new Float64Array(PER_PAGE).fill(BLOCK_ABSENT);
      this.#pages.set(index, page);
    }
    page[block % PER_PAGE] = place;
  }
}
