// SPDX-License-Identifier: Apache-2.0
/**
 * A file that exists in memory: for disposable overlays, and for tests, which also make it fail.
 *
 * Storage is sparse, in chunks, so that a hole costs nothing; it is bounded by `limitBytes`.
 */
import { FileError, type HostFile } from '../../host/file.ts';
import { zeros } from './bytes.ts';

const CHUNK = 64 * 1024;

export class MemoryFile implements HostFile {
  readonly name: string;
  readonly path: string;
  readonly identity: string;
  readonly writable: boolean = true;
  readonly #chunks = new Map<number, Uint8Array>();
  readonly #limitBytes: number;
  #size = 0;

  constructor(name: string, limitBytes: number, content?: Uint8Array) {
    this.name = name;
    this.path = `/${name}`;
    this.identity = `memory:${name}`;
    this.#limitBytes = limitBytes;
    if (content !== undefined) this.#put(0, content);
  }

  size(): Promise<number> {
    return Promise.resolve(this.#size);
  }

  allocatedBytes(): Promise<number> {
    return Promise.resolve(this.#chunks.size * CHUNK);
  }

  async read(offset: number, into: Uint8Array): Promise<number> {
    const length = Math.max(0, Math.min(into.length, this.#size - offset));
    for (let at = 0; at < length; ) {
      const inside = (offset + at) % CHUNK;
      const part = Math.min(length - at, CHUNK - inside);
      const chunk = this.#chunks.get((offset + at - inside) / CHUNK);
      if (chunk === undefined) into.fill(0, at, at + part);
      else into.set(chunk.subarray(inside, inside + part), at);
      at += part;
    }
    return length;
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    this.#put(offset, from);
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  async truncate(sizeBytes: number): Promise<void> {
    if (sizeBytes < this.#size) this.#clear(sizeBytes, this.#size - sizeBytes);
    this.#size = sizeBytes;
  }

  async punchHole(offset: number, length: number): Promise<boolean> {
    this.#clear(offset, Math.max(0, Math.min(length, this.#size - offset)));
    return true;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #put(offset: number, from: Uint8Array): void {
    for (let at = 0; at < from.length; ) {
      const inside = (offset + at) % CHUNK;
      const part = Math.min(from.length - at, CHUNK - inside);
      this.#chunk((offset + at - inside) / CHUNK).set(from.subarray(at, at + part), inside);
      at += part;
    }
    this.#size = Math.max(this.#size, offset + from.length);
  }

  #clear(offset: number, length: number): void {
    for (let at = 0; at < length; ) {
      const inside = (offset + at) % CHUNK;
      const part = Math.min(length - at, CHUNK - inside);
      const index = (offset + at - inside) / CHUNK;
      if (part === CHUNK) this.#chunks.delete(index);
      else this.#chunks.get(index)?.set(zeros(part), inside);
      at += part;
    }
  }

  #chunk(index: number): Uint8Array {
    let chunk = this.#chunks.get(index);
    if (chunk === undefined) {
      if ((this.#chunks.size + 1) * CHUNK > this.#limitBytes) {
        throw new FileError(
          'no-space',
          `${this.name} has reached its limit of ${this.#limitBytes} bytes of memory; raise the limit or keep it in a file`,
        );
      }
      chunk = new Uint8Array(CHUNK);
      this.#chunks.set(index, chunk);
    }
    return chunk;
  }
}
