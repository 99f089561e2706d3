// SPDX-License-Identifier: Apache-2.0
/** Files that a user names: read whole and bounded, with a sentence for whatever is wrong. */
import { type FileHandle, open } from 'node:fs/promises';
import { err, ok, type Result } from '../base/result.ts';

const MIB = 1024 * 1024;
const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  EACCES: 'you may not read it',
  EPERM: 'you may not read it',
  EISDIR: 'it is a directory',
  ENOTDIR: 'a part of its path is not a directory',
  ELOOP: 'its symbolic links lead in a circle',
  ENAMETOOLONG: 'its name is too long',
};

/** Why the operating system refused, in words. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  return REASONS[code] ?? error.message;
}

export interface FileContents {
  readonly bytes: Uint8Array;
  /** The file is longer; `bytes` is its start, `tail` its last 512 bytes. */
  readonly tail?: Uint8Array;
}

/** `what` names the file's role: "the kernel". */
const failure = (what: string, path: string, reason: string): Result<never, string> => err(`cannot read ${what} ${path}: ${reason}`);

/** The whole of a file (or what a pipe delivers until its end). */
export async function readWhole(what: string, path: string, maxBytes: number): Promise<Result<Uint8Array, string>> {
  const tooLarge = `it is larger than ${maxBytes / MIB} MiB`;
  return withFile(what, path, async (file, size) => {
    if (size !== null && size > maxBytes) return failure(what, path, tooLarge);
    const bytes = await readUpTo(file, size, maxBytes + 1);
    return bytes.length > maxBytes ? failure(what, path, tooLarge) : ok(bytes);
  });
}

/** A file that may be a large disk image: the whole of it up to `maxBytes`, otherwise its first `headBytes` and its tail. */
export async function readHead(what: string, path: string, maxBytes: number, headBytes: number): Promise<Result<FileContents, string>> {
  return withFile(what, path, async (file, size): Promise<Result<FileContents, string>> => {
    if (size === null || size <= maxBytes) return ok({ bytes: await readUpTo(file, size, maxBytes) });
    const tail = Buffer.alloc(512);
    const { bytesRead } = await file.read(tail, 0, tail.length, size - tail.length);
    return ok({ bytes: await readUpTo(file, size, headBytes), tail: tail.subarray(0, bytesRead) });
  });
}

/** Opens a regular file (its size is given) or a pipe (null). Devices are refused: some never end. */
async function withFile<T>(
  what: string,
  path: string,
  read: (file: FileHandle, size: number | null) => Promise<Result<T, string>>,
): Promise<Result<T, string>> {
  let file: FileHandle | null = null;
  try {
    file = await open(path, 'r');
    const stat = await file.stat();
    if (stat.isDirectory()) return failure(what, path, 'it is a directory');
    if (!stat.isFile() && !stat.isFIFO()) return failure(what, path, 'it is neither a file nor a pipe');
    return await read(file, stat.isFile() ? stat.size : null);
  } catch (error) {
    return failure(what, path, reasonOf(error));
  } finally {
    await file?.close();
  }
}

async function readUpTo(file: FileHandle, size: number | null, limit: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let total = 0;
  while (total < limit) {
    const chunk = Buffer.allocUnsafeSlow(Math.min(limit - total, size === null ? MIB : Math.max(size - total, 1)));
    const { bytesRead } = await file.read(chunk, 0, chunk.length, null);
    if (bytesRead === 0) break;
    chunks.push(chunk.subarray(0, bytesRead));
    total += bytesRead;
  }
  return chunks.length === 1 ? chunks[0] : Buffer.concat(chunks, total);
}
