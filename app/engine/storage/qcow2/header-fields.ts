// SPDX-License-Identifier: Apache-2.0
/**
 * The header's changing fields, written in place: a header update is one write of its fixed part, which lies in one sector.
 *
 * INVARIANT: whatever a field points to was flushed before; the update is durable when `write` settles.
 */
import type { HostFile } from '../../host/file.ts';
import { setU64, viewOf } from '../core/bytes.ts';
import { FIELD } from './format.ts';

export class HeaderFields {
  readonly #file: HostFile;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(file: HostFile, bytes: Uint8Array) {
    this.#file = file;
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
  }

  setSize(sizeBytes: number): void {
    setU64(this.#view, FIELD.size, sizeBytes);
  }

  setL1(offset: number, entries: number): void {
    setU64(this.#view, FIELD.l1TableOffset, offset);
    this.#view.setUint32(FIELD.l1Size, entries);
  }

  setRefcountTable(offset: number, clusters: number): void {
    setU64(this.#view, FIELD.refcountTableOffset, offset);
    this.#view.setUint32(FIELD.refcountTableClusters, clusters);
  }

  setSnapshots(offset: number, count: number): void {
    setU64(this.#view, FIELD.snapshotsOffset, offset);
    this.#view.setUint32(FIELD.snapshotCount, count);
  }

  /** Changes incompatible feature bits (of the low 32). Version 3 only. */
  setIncompatible(clear: number, set: number): void {
    const at = FIELD.incompatible + 4;
    this.#view.setUint32(at, (this.#view.getUint32(at) & ~clear) | set);
  }

  /** Clears every auto-clear feature except `keep`. Version 3 only. */
  keepAutoclear(keep: number): void {
    this.#view.setUint32(FIELD.autoclear, 0);
    this.#view.setUint32(FIELD.autoclear + 4, this.#view.getUint32(FIELD.autoclear + 4) & keep);
  }

  /** Flushes what the header will point to, writes the header, flushes it. */
  async write(): Promise<void> {
    await this.#file.flush();
    await this.#file.write(0, this.#bytes.slice());
    await this.#file.flush();
  }
}
