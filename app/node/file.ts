// SPDX-License-Identifier: Apache-2.0
/**
 * The engine's file port over Node: positional reads and writes on libuv's threads, fdatasync, advisory locks, holes on Linux.
 *
 * PERF: calls `fs.read` and `fs.write` with callbacks on a bare descriptor, which costs a third less CPU time per small request than
 * `fs/promises` does. Holes come from the `fallocate` program, because Node has no call for them; where it is missing there are none.
 * Locks: see `file-lock.ts` and ADR 0012.
 */
import { spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { open, realpath, rename, stat, unlink } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { err, ok, type Result } from '../base/result.ts';
import { FileError, type FileErrorKind, type FileStore, type HostFile, type OpenFileOptions } from '../engine/index.ts';
import { type FileLock, takeFileLock } from './file-lock.ts';

/** Below 2^31, which is what one system call takes on every platform. */
const MAX_TRANSFER = 1 << 30;
/** A process has to be started for each hole: smaller ones are not worth it. */
const MIN_HOLE = 64 * 1024;

const FAILURES: Readonly<Record<string, readonly [FileErrorKind, string]>> = {
  ENOENT: ['not-found', 'there is no such file'],
  ENOTDIR: ['not-found', 'a part of its path is not a directory'],
  EEXIST: ['exists', 'it exists already; remove it or choose another name'],
  EACCES: ['permission', 'you may not open it; check its permissions'],
  EPERM: ['permission', 'the system does not permit this'],
  EROFS: ['permission', 'its file system is read-only'],
  EISDIR: ['not-a-file', 'it is a directory'],
  ELOOP: ['not-found', 'its symbolic links lead in a circle'],
  ENAMETOOLONG: ['not-found', 'its name is too long'],
  ENOSPC: ['no-space', 'the disk it is on is full; free some space'],
  EDQUOT: ['no-space', 'your disk quota is used up; free some space'],
  EFBIG: ['too-large', 'its file system does not take files of this size'],
  EIO: ['io', 'the disk it is on reports an error; copy what matters to another disk'],
  EBADF: ['closed', 'the file is closed'],
};

/** A system error as the port speaks of it. */
export function fileError(name: string, error: unknown): FileError {
  if (error instanceof FileError) return error;
  const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : '';
  const [kind, reason] = FAILURES[code] ?? ['io', error instanceof Error ? error.message : String(error)];
  return new FileError(kind, `${name}: ${reason}`);
}

class NodeFile implements HostFile {
  readonly name: string;
  readonly path: string;
  readonly identity: string;
  readonly writable: boolean;
  readonly #fd: number;
  readonly #lock: FileLock | null;
  #holes: boolean;
  #holeQueue: Promise<unknown> = Promise.resolve();
  #inFlight = 0;
  #drained: (() => void) | null = null;
  #closing: Promise<void> | null = null;

  constructor(name: string, path: string, identity: string, writable: boolean, fd: number, lock: FileLock | null) {
    this.name = name;
    this.path = path;
    this.identity = identity;
    this.writable = writable;
    this.#fd = fd;
    this.#lock = lock;
    this.#holes = process.platform === 'linux';
  }

  async size(): Promise<number> {
    const { size, blockDevice } = await this.#stat();
    return blockDevice ? deviceSize(this.#fd, this.name) : size;
  }

  async allocatedBytes(): Promise<number> {
    return (await this.#stat()).allocated;
  }

  read(offset: number, into: Uint8Array): Promise<number> {
    return this.#call((resolve, reject) => {
      let total = 0;
      const next = (): void => {
        fs.read(this.#fd, into, total, Math.min(into.length - total, MAX_TRANSFER), offset + total, (error, count) => {
          if (error !== null) return reject(error);
          total += count;
          if (count === 0 || total === into.length) resolve(total);
          else next();
        });
      };
      if (into.length === 0) resolve(0);
      else next();
    });
  }

  write(offset: number, from: Uint8Array): Promise<void> {
    return this.#call((resolve, reject) => {
      let total = 0;
      const next = (): void => {
        fs.write(this.#fd, from, total, Math.min(from.length - total, MAX_TRANSFER), offset + total, (error, count) => {
          if (error !== null) return reject(error);
          total += count;
          if (total === from.length) resolve();
          else next();
        });
      };
      if (from.length === 0) resolve();
      else next();
    });
  }

  flush(): Promise<void> {
    return this.#call((resolve, reject) => fs.fdatasync(this.#fd, (error) => (error === null ? resolve() : reject(error))));
  }

  truncate(sizeBytes: number): Promise<void> {
    return this.#call((resolve, reject) => fs.ftruncate(this.#fd, sizeBytes, (error) => (error === null ? resolve() : reject(error))));
  }

  punchHole(offset: number, length: number): Promise<boolean> {
    if (!this.#holes || length < MIN_HOLE) return Promise.resolve(false);
    return this.#call((resolve) => {
      // One at a time: a guest that trims a whole disk must not start hundreds of processes.
      this.#holeQueue = this.#holeQueue.then(async () => {
        const made = this.#holes && (await runFallocate(this.#fd, offset, length));
        if (!made) this.#holes = false;
        resolve(made);
      });
    });
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    if (this.#inFlight > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
    await new Promise<void>((resolve, reject) => {
      fs.close(this.#fd, (error) => (error === null || error === undefined ? resolve() : reject(fileError(this.name, error))));
    });
    await this.#lock?.release();
  }

  #stat(): Promise<{ size: number; allocated: number; blockDevice: boolean }> {
    return this.#call((resolve, reject) => {
      fs.fstat(this.#fd, (error, found) => {
        if (error !== null) reject(error);
        else resolve({ size: found.size, allocated: (found.blocks ?? 0) * 512, blockDevice: found.isBlockDevice() });
      });
    });
  }

  #call<T>(start: (resolve: (value: T) => void, reject: (error: unknown) => void) => void): Promise<T> {
    if (this.#closing !== null) return Promise.reject(new FileError('closed', `${this.name}: the file is closed`));
    this.#inFlight++;
    return new Promise<T>((resolve, reject) => {
      start(
        (value) => {
          this.#ended();
          resolve(value);
        },
        (error) => {
          this.#ended();
          reject(fileError(this.name, error));
        },
      );
    });
  }

  #ended(): void {
    if (--this.#inFlight === 0) this.#drained?.();
  }
}

/** A block device's size is where reading stops; `stat` says 0. */
function deviceSize(fd: number, name: string): number {
  const probe = new Uint8Array(512);
  let low = 0;
  let high = 2 ** 50;
  while (low < high) {
    const middle = Math.floor((low + high) / 2 / 512) * 512;
    let count = 0;
    try {
      count = fs.readSync(fd, probe, 0, 512, middle);
    } catch (error) {
      if (middle === 0) throw fileError(name, error);
    }
    if (count > 0) low = middle + 512;
    else high = middle;
  }
  return low;
}

function runFallocate(fd: number, offset: number, length: number): Promise<boolean> {
  return new Promise((resolve) => {
    const child = spawn('fallocate', ['--punch-hole', '--offset', `${offset}`, '--length', `${length}`, '/proc/self/fd/3'], {
      stdio: ['ignore', 'ignore', 'ignore', fd],
    });
    child.on('error', () => resolve(false));
    child.on('exit', (status) => resolve(status === 0));
  });
}

async function openFile(path: string, options: OpenFileOptions): Promise<Result<HostFile, FileError>> {
  const write = options.access === 'write';
  const flags = write
    ? (options.create === 'new' ? fs.constants.O_CREAT | fs.constants.O_EXCL : 0) | fs.constants.O_RDWR
    : fs.constants.O_RDONLY;
  let fd = -1;
  let lock: FileLock | null = null;
  try {
    // Opening a pipe would wait for its other end.
    fd = await openDescriptor(path, flags | (fs.constants.O_NONBLOCK ?? 0));
    const found = fs.fstatSync(fd, { bigint: true });
    if (found.isDirectory()) throw new FileError('not-a-file', `${path}: it is a directory`);
    if (!found.isFile() && !found.isBlockDevice()) throw new FileError('not-a-file', `${path}: it is neither a file nor a block device`);
    const real = await realpath(path);
    const identity = `${found.dev}:${found.ino}`;
    if (options.lock !== 'none') lock = await takeFileLock(real, path, options.lock);
    return ok(new NodeFile(path, real, identity, write, fd, lock));
  } catch (error) {
    if (fd >= 0) fs.closeSync(fd);
    await lock?.release();
    return err(fileError(path, error));
  }
}

function openDescriptor(path: string, flags: number): Promise<number> {
  return new Promise((resolve, reject) => fs.open(path, flags, 0o644, (error, fd) => (error === null ? resolve(fd) : reject(error))));
}

async function resolveReference(from: string, reference: string): Promise<string> {
  const path = isAbsolute(reference) ? resolve(reference) : resolve(dirname(from), reference);
  try {
    return await realpath(path);
  } catch {
    // It may not exist (yet); its folder may.
    try {
      return join(await realpath(dirname(path)), basename(path));
    } catch {
      return path;
    }
  }
}

function isBeside(file: string, path: string): boolean {
  const way = relative(dirname(file), path);
  return way !== '' && way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way);
}

async function attempt(name: string, work: () => Promise<unknown>): Promise<Result<void, FileError>> {
  try {
    await work();
    return ok(undefined);
  } catch (error) {
    return err(fileError(name, error));
  }
}

/** Makes the entry itself durable, where the system can. */
async function syncFolder(path: string): Promise<void> {
  if (process.platform === 'win32') return;
  const folder = await open(dirname(path), 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

export const nodeFiles: FileStore = {
  open: openFile,
  resolve: resolveReference,
  isBeside,
  baseName: (path) => basename(path),
  rename: (from, to) =>
    attempt(to, async () => {
      await rename(from, to);
      await syncFolder(to);
    }),
  remove: (path) => attempt(path, () => unlink(path)),
};

/** Whether a file is there; for callers that must not overwrite one. */
export async function fileExists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
