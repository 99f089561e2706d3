// SPDX-License-Identifier: Apache-2.0
/**
 * A disk whose bytes stand in a file as they are: raw images, ISO images, and the fixed forms of VHD and VMDK, whose data is a window
 * of a file.
 *
 * A raw image whose size is no multiple of 512 is a disk with one more sector, whose end reads as zeros until it is written.
 * Holes are made where the host can; they are not looked for (the file port has no way), so `map` reports data.
 */
import type { HostFile } from '../../host/file.ts';
import type { Extent } from '../block-device.ts';
import { alignUp } from '../core/bytes.ts';
import { ImageDevice } from '../core/image-device.ts';
import type { ImageFormat } from '../probe.ts';

const SECTOR = 512;
/** Smaller holes cost more than they give. */
const MIN_HOLE = 64 * 1024;

export interface RawWindow {
  readonly format: ImageFormat;
  /** Where the disk begins in the file. */
  readonly start: number;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly sectorSize?: number;
  /** Changes the disk's size in the file and whatever describes it; absent: the file is the disk. */
  readonly resize?: (newSizeBytes: number) => Promise<void>;
}

export class RawDevice extends ImageDevice {
  readonly format: ImageFormat;
  readonly clusterSize = 1;
  readonly #file: HostFile;
  readonly #start: number;
  readonly #resize: ((newSizeBytes: number) => Promise<void>) | undefined;

  constructor(file: HostFile, window: RawWindow) {
    super(file.name, window.sizeBytes, window.readOnly || !file.writable, window.sectorSize);
    this.format = window.format;
    this.#file = file;
    this.#start = window.start;
    this.#resize = window.resize;
  }

  protected override async doRead(offset: number, into: Uint8Array): Promise<void> {
    const count = await this.#file.read(this.#start + offset, into);
    if (count === into.length) return;
    if (alignUp(this.#start + offset + count, SECTOR) < this.#start + offset + into.length) {
      throw this.error('io', 'the file has become shorter than the disk; restore it or stop using it');
    }
    into.fill(0, count);
  }

  protected override doWrite(offset: number, from: Uint8Array): Promise<void> {
    return this.#file.write(this.#start + offset, from);
  }

  protected override doFlush(): Promise<void> {
    return this.#file.flush();
  }

  protected override async doDiscard(offset: number, length: number): Promise<void> {
    if (length >= MIN_HOLE) await this.#file.punchHole(this.#start + offset, length);
  }

  protected override async doWriteZeroes(offset: number, length: number, mayUnmap: boolean): Promise<void> {
    if (mayUnmap && length >= MIN_HOLE && (await this.#file.punchHole(this.#start + offset, length))) return;
    await this.writeZeroData(offset, length);
  }

  protected override async doResize(newSizeBytes: number): Promise<void> {
    if (newSizeBytes % SECTOR !== 0) throw this.error('invalid', `a disk's size is a multiple of ${SECTOR} bytes`);
    if (this.#resize === undefined) await this.#file.truncate(newSizeBytes);
    else await this.#resize(newSizeBytes);
    this.sizeBytes = newSizeBytes;
  }

  protected override async *doMap(offset: number, length: number): AsyncIterable<Extent> {
    yield { offset, length, kind: 'data', depth: 0, fileOffset: this.#start + offset };
  }

  protected override doClose(): Promise<void> {
    return this.#file.close();
  }
}

/** The raw disk that `file` is. */
export async function openRaw(file: HostFile, format: 'raw' | 'iso', readOnly: boolean): Promise<RawDevice> {
  const iso = format === 'iso';
  return new RawDevice(file, {
    format,
    start: 0,
    sizeBytes: alignUp(await file.size(), SECTOR),
    readOnly: readOnly || iso,
    ...(iso ? { sectorSize: 2048 } : {}),
  });
}
