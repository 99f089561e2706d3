// SPDX-License-Identifier: Apache-2.0
/**
 * A host that loses power: every change of every file is recorded, and any moment can be played back the way a disk may have it then.
 *
 * What was flushed is there. Of what was not, each change is there or not, by chance, and a write may be cut off at a sector.
 */
import type { FileError, FileStore, HostFile, OpenFileOptions } from '../../host/file.ts';
import { ok, type Result } from '../../../base/result.ts';
import type { TestFiles } from './test-host.ts';
import type { Random } from './twin.ts';

const SECTOR = 512;

type Change =
  | { readonly kind: 'write'; readonly file: string; readonly offset: number; readonly bytes: Uint8Array }
  | { readonly kind: 'truncate'; readonly file: string; readonly sizeBytes: number }
  | { readonly kind: 'flush'; readonly file: string /** Changes before it are durable. */; readonly covers: number };

export class RecordingFiles implements FileStore {
  readonly #files: TestFiles;
  readonly #before: Promise<TestFiles>;
  readonly changes: Change[] = [];

  constructor(files: TestFiles) {
    this.#files = files;
    this.#before = files.photograph();
  }

  async open(path: string, options: OpenFileOptions): Promise<Result<HostFile, FileError>> {
    const opened = await this.#files.open(path, options);
    return opened.ok ? ok(this.#record(opened.value)) : opened;
  }

  /** The files as they may be when power fails after the first `count` changes. */
  async after(count: number, random: Random): Promise<TestFiles> {
    const files = await (await this.#before).photograph();
    const durable = new Map<string, number>();
    for (const change of this.changes.slice(0, count))
      if (change.kind === 'flush') durable.set(change.file, Math.max(durable.get(change.file) ?? 0, change.covers));
    for (const [index, change] of this.changes.slice(0, count).entries()) {
      if (change.kind === 'flush') continue;
      const content = files.contents.get(change.file)!;
      const kept = index < (durable.get(change.file) ?? 0);
      // A size is kept with the data behind it: file systems write it with the file's other facts.
      if (change.kind === 'truncate') {
        if (kept || random.next(2) === 0) await content.truncate(Math.max(change.sizeBytes, await content.size()));
      } else if (kept) {
        await content.write(change.offset, change.bytes);
      } else {
        await tear(content, change.offset, change.bytes, random);
      }
    }
    return files;
  }

  #record(file: HostFile): HostFile {
    const changes = this.changes;
    const name = file.name;
    return {
      name,
      path: file.path,
      identity: file.identity,
      writable: file.writable,
      size: () => file.size(),
      allocatedBytes: () => file.allocatedBytes(),
      read: (offset, into) => file.read(offset, into),
      write: (offset, from) => {
        changes.push({ kind: 'write', file: name, offset, bytes: from.slice() });
        return file.write(offset, from);
      },
      flush: async () => {
        const covers = changes.length;
        await file.flush();
        changes.push({ kind: 'flush', file: name, covers });
      },
      truncate: (sizeBytes) => {
        changes.push({ kind: 'truncate', file: name, sizeBytes });
        return file.truncate(sizeBytes);
      },
      punchHole: () => Promise.resolve(false),
      close: () => file.close(),
    };
  }

  resolve(from: string, reference: string): Promise<string> {
    return this.#files.resolve(from, reference);
  }

  isBeside(file: string, path: string): boolean {
    return this.#files.isBeside(file, path);
  }

  baseName(path: string): string {
    return this.#files.baseName(path);
  }

  rename(from: string, to: string): Promise<Result<void, FileError>> {
    return this.#files.rename(from, to);
  }

  remove(path: string): Promise<Result<void, FileError>> {
    return this.#files.remove(path);
  }
}

async function tear(content: HostFile, offset: number, bytes: Uint8Array, random: Random): Promise<void> {
  const fate = random.next(4);
  if (fate === 0) return;
  if (fate === 1 && bytes.length > SECTOR) {
    const start = random.next(Math.ceil(bytes.length / SECTOR)) * SECTOR;
    const part = random.next(2) === 0 ? [0, start] : [start, bytes.length];
    if (part[1] > part[0]) await content.write(offset + part[0], bytes.subarray(part[0], part[1]));
    return;
  }
  await content.write(offset, bytes);
}
