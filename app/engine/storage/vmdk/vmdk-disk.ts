// SPDX-License-Identifier: Apache-2.0
/** A VMDK disk of several extents, each a device of its own, one behind the other. */
import type { HostFile } from '../../host/file.ts';
import type { BlockDevice, Extent } from '../block-device.ts';
import { ImageDevice } from '../core/image-device.ts';

/** A device, or null for an extent that is zeros and takes no writes. */
export interface VmdkPart {
  readonly device: BlockDevice | null;
  readonly sizeBytes: number;
}

interface Piece {
  readonly part: VmdkPart;
  /** In the part. */
  readonly offset: number;
  readonly length: number;
  /** From the request's beginning. */
  readonly at: number;
}

export class VmdkDisk extends ImageDevice {
  readonly format = 'vmdk';
  readonly clusterSize: number;
  readonly #parts: readonly VmdkPart[];
  readonly #starts: readonly number[];
  /** The descriptor's own file, kept open for its lock. */
  readonly #descriptor: HostFile | null;

  constructor(name: string, parts: readonly VmdkPart[], readOnly: boolean, descriptor: HostFile | null) {
    let size = 0;
    const starts: number[] = [];
    for (const part of parts) {
      starts.push(size);
      size += part.sizeBytes;
    }
    super(name, size, readOnly || parts.some(({ device }) => device === null || device.readOnly));
    this.#parts = parts;
    this.#starts = starts;
    this.#descriptor = descriptor;
    this.clusterSize = Math.max(1, ...parts.slice(0, 1).map(({ device }) => device?.clusterSize ?? 1));
  }

  protected override async doRead(offset: number, into: Uint8Array): Promise<void> {
    for (const { part, offset: inside, length, at } of this.#pieces(offset, into.length)) {
      const target = into.subarray(at, at + length);
      if (part.device === null) target.fill(0);
      else await part.device.read(inside, target);
    }
  }

  protected override async doWrite(offset: number, from: Uint8Array): Promise<void> {
    for (const { part, offset: inside, length, at } of this.#pieces(offset, from.length))
      await part.device!.write(inside, from.subarray(at, at + length));
  }

  protected override async doFlush(): Promise<void> {
    await Promise.all(this.#parts.map(async ({ device }) => device?.flush()));
  }

  protected override async doDiscard(offset: number, length: number): Promise<void> {
    for (const piece of this.#pieces(offset, length)) await piece.part.device!.discard(piece.offset, piece.length);
  }

  protected override async doWriteZeroes(offset: number, length: number, mayUnmap: boolean): Promise<void> {
    for (const piece of this.#pieces(offset, length)) await piece.part.device!.writeZeroes(piece.offset, piece.length, { mayUnmap });
  }

  protected override doResize(_newSizeBytes: number): Promise<void> {
    return Promise.reject(
      this.error('unsupported', 'VMDK images cannot change their size; convert it to a new one of the size that you want'),
    );
  }

  protected override async *doMap(offset: number, length: number): AsyncIterable<Extent> {
    for (const { part, offset: inside, length: size, at } of this.#pieces(offset, length)) {
      if (part.device === null) yield { offset: offset + at, length: size, kind: 'zero', depth: 0 };
      else for await (const extent of part.device.map(inside, size)) yield { ...extent, offset: extent.offset - inside + offset + at };
    }
  }

  protected override async doClose(): Promise<void> {
    const results = await Promise.allSettled([...this.#parts.map(({ device }) => device?.close()), this.#descriptor?.close()]);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  *#pieces(offset: number, length: number): Iterable<Piece> {
    let index = this.#indexOf(offset);
    for (let at = 0; at < length; index++) {
      const part = this.#parts[index];
      const inside = offset + at - this.#starts[index];
      const size = Math.min(length - at, part.sizeBytes - inside);
      if (size > 0) yield { part, offset: inside, length: size, at };
      at += Math.max(0, size);
    }
  }

  /** The last part that begins at or before `offset`. */
  #indexOf(offset: number): number {
    let low = 0;
    let high = this.#starts.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.#starts[middle] <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}
