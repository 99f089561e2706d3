// SPDX-License-Identifier: Apache-2.0
/**
 * Storage's ports for tests: files in memory, with failures on demand.
 *
 * A test can look at every write and cut the power between two; `inFolder` puts the files into a real folder for the judge.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as zlib from 'node:zlib';
import { err, ok, type Result } from '../../../base/result.ts';
import type { BlockCodec } from '../../host/block-codec.ts';
import { FileError, type FileStore, type HostFile, type OpenFileOptions } from '../../host/file.ts';
import { MemoryFile } from '../core/memory-file.ts';
import type { StorageHost } from '../open-image.ts';

const LIMIT = 1 << 30;

/** What a test wants to happen at a call; a function that throws makes the call fail. */
export interface Faults {
  onRead?: (file: string, offset: number, length: number) => void;
  onWrite?: (file: string, offset: number, from: Uint8Array) => void;
  onFlush?: (file: string) => void;
}

class TestFile extends MemoryFile {
  override readonly writable: boolean;
  override readonly path: string;
  readonly #store: TestFiles;
  readonly #content: MemoryFile;
  #open = true;

  constructor(store: TestFiles, name: string, content: MemoryFile, writable: boolean) {
    super(name, LIMIT);
    this.path = `/images/${name}`;
    this.writable = writable;
    this.#store = store;
    this.#content = content;
  }

  override size(): Promise<number> {
    return this.#content.size();
  }

  override async read(offset: number, into: Uint8Array): Promise<number> {
    this.#store.faults.onRead?.(this.name, offset, into.length);
    this.#store.bytesRead += into.length;
    await Promise.resolve();
    return this.#content.read(offset, into);
  }

  override async write(offset: number, from: Uint8Array): Promise<void> {
    if (!this.writable || !this.#open) throw new FileError('permission', `${this.name}: a write through a handle for reading`);
    this.#store.faults.onWrite?.(this.name, offset, from);
    await Promise.resolve();
    await this.#content.write(offset, from);
  }

  override async flush(): Promise<void> {
    this.#store.faults.onFlush?.(this.name);
    await Promise.resolve();
  }

  override truncate(sizeBytes: number): Promise<void> {
    return this.#content.truncate(sizeBytes);
  }

  override punchHole(offset: number, length: number): Promise<boolean> {
    return this.#store.holes ? this.#content.punchHole(offset, length) : Promise.resolve(false);
  }

  override async close(): Promise<void> {
    if (this.#open) this.#store.openHandles--;
    this.#open = false;
  }
}

/** Paths are `/images/NAME`, or names alone. */
export class TestFiles implements FileStore {
  readonly faults: Faults = {};
  readonly contents = new Map<string, MemoryFile>();
  /** Whether the "file system" can make holes. */
  holes = false;
  bytesRead = 0;
  /** Handles that were not closed. */
  openHandles = 0;

  async open(path: string, options: OpenFileOptions): Promise<Result<HostFile, FileError>> {
    const name = this.baseName(path);
    let content = this.contents.get(name);
    if (options.create === 'new') {
      if (content !== undefined) return err(new FileError('exists', `${name}: it exists already`));
      content = new MemoryFile(name, LIMIT);
      this.contents.set(name, content);
    }
    if (content === undefined || !/^(\/images\/)?[^/]+$/.test(path))
      return err(new FileError('not-found', `${path}: there is no such file`));
    this.openHandles++;
    return ok(new TestFile(this, name, content, options.access === 'write'));
  }

  async resolve(_from: string, reference: string): Promise<string> {
    return new URL(reference, 'file:///images/x').pathname;
  }

  isBeside(_file: string, path: string): boolean {
    return path.startsWith('/images/');
  }

  baseName(path: string): string {
    return path.slice(path.lastIndexOf('/') + 1);
  }

  async rename(from: string, to: string): Promise<Result<void, FileError>> {
    this.contents.set(this.baseName(to), this.contents.get(this.baseName(from))!);
    this.contents.delete(this.baseName(from));
    return ok(undefined);
  }

  async remove(path: string): Promise<Result<void, FileError>> {
    this.contents.delete(this.baseName(path));
    return ok(undefined);
  }

  put(name: string, bytes: Uint8Array): void {
    this.contents.set(name, new MemoryFile(name, LIMIT, bytes));
  }

  async bytes(name: string): Promise<Uint8Array> {
    const content = this.contents.get(name)!;
    const bytes = new Uint8Array(await content.size());
    await content.read(0, bytes);
    return bytes;
  }

  /** A copy of every file as it is now: what a host that lost power would find, had it written everything so far. */
  async photograph(): Promise<TestFiles> {
    const copy = new TestFiles();
    for (const name of this.contents.keys()) copy.put(name, await this.bytes(name));
    return copy;
  }
}

/** Raw deflate, zlib and Zstandard from Node. */
export const testCodec: BlockCodec = {
  unpack: async (kind, packed, size) => {
    const options = { maxOutputLength: size };
    try {
      const bytes =
        kind === 'deflate'
          ? zlib.inflateRawSync(packed, options)
          : kind === 'zlib'
            ? zlib.inflateSync(packed, options)
            : zlib.zstdDecompressSync(packed, options);
      return bytes.length === size ? bytes : null;
    } catch {
      return null;
    }
  },
  pack: async (kind, block) => {
    const bytes =
      kind === 'deflate'
        ? zlib.deflateRawSync(block, { windowBits: 12 })
        : kind === 'zlib'
          ? zlib.deflateSync(block)
          : zlib.zstdCompressSync(block);
    return bytes.length < block.length ? bytes : null;
  },
};

export interface TestHost extends StorageHost {
  readonly files: TestFiles;
}

export function testHost(files = new TestFiles()): TestHost {
  let next = 1;
  return {
    files,
    codec: testCodec,
    entropy: {
      fill: (bytes) => {
        for (let index = 0; index < bytes.length; index++) {
          next = (next * 75 + 74) % 65_537;
          bytes[index] = next & 0xff;
        }
      },
    },
  };
}

/** The value, or the error thrown. */
export function unwrap<T>(result: Result<T, Error>): T {
  if (!result.ok) throw result.error;
  return result.value;
}

/** A real folder that holds a host's files while `work` runs, for programs that judge them. */
export async function withFolder<T>(files: TestFiles, work: (folder: string) => T): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'paravane-storage-'));
  try {
    for (const name of files.contents.keys()) writeFileSync(join(folder, name), await files.bytes(name));
    return work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The same for programs that make or change files: all of the folder comes back. */
export function changedInFolder<T>(files: TestFiles, work: (folder: string) => T): Promise<T> {
  return withFolder(files, (folder) => {
    const result = work(folder);
    files.contents.clear();
    for (const name of readdirSync(folder)) files.put(name, readFileSync(join(folder, name)));
    return result;
  });
}
