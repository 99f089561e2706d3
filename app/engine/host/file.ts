// SPDX-License-Identifier: Apache-2.0
/**
 * Files as the engine sees them: positional, asynchronous, many requests in flight; a port.
 *
 * Failures reject with `FileError`, whose message is one sentence that names the file and says what to do. Nothing here interprets
 * content. See ADR 0012 for locks and for what durable means.
 *
 * INVARIANT: a buffer that was handed over belongs to the file until the promise settles.
 */
import type { Result } from '../../base/result.ts';

export type FileErrorKind = 'not-found' | 'exists' | 'permission' | 'not-a-file' | 'no-space' | 'locked' | 'too-large' | 'io' | 'closed';

/** The host refused. `message` is a sentence with the file's name in it. */
export class FileError extends Error {
  readonly kind: FileErrorKind;

  constructor(kind: FileErrorKind, message: string) {
    super(message);
    this.name = 'FileError';
    this.kind = kind;
  }
}

/** An open file. Offsets and sizes are bytes below 2^53. */
export interface HostFile {
  /** As the user named it; for messages. */
  readonly name: string;
  /** Absolute, without symbolic links. */
  readonly path: string;
  /** Equal for two opens of one file, however it was named. */
  readonly identity: string;
  readonly writable: boolean;
  size(): Promise<number>;
  /** Bytes of storage that the file occupies, which is less than its size where it has holes. */
  allocatedBytes(): Promise<number>;
  /** Fills `into` from `offset`; gives the number of bytes, which is smaller than asked only at the end of the file. */
  read(offset: number, into: Uint8Array): Promise<number>;
  /** Writes all of `from`, extending the file (with a hole in between) where needed. */
  write(offset: number, from: Uint8Array): Promise<void>;
  /** Every write that completed before this call is durable when it settles. */
  flush(): Promise<void>;
  /** Cuts or extends the file; what is new reads as zeros. */
  truncate(sizeBytes: number): Promise<void>;
  /** Gives storage back: the range reads as zeros and the size stays. False: not possible here, nothing happened. */
  punchHole(offset: number, length: number): Promise<boolean>;
  /** Waits for what is in flight, releases the lock. */
  close(): Promise<void>;
}

export interface OpenFileOptions {
  readonly access: 'read' | 'write';
  /** `new`: the file must not exist yet. Only with access `write`. */
  readonly create?: 'new';
  /** `shared`: nobody may write meanwhile; `exclusive`: nobody else may have it open; `none`: the caller knows better. */
  readonly lock: 'none' | 'shared' | 'exclusive';
}

/** Names of files, and how they are opened. */
export interface FileStore {
  open(path: string, options: OpenFileOptions): Promise<Result<HostFile, FileError>>;
  /** What `reference`, found in the file `from` (an absolute path), means: absolute, dots and symbolic links resolved where it exists. */
  resolve(from: string, reference: string): Promise<string>;
  /** Whether `path` lies in the folder of `file` or below it; both absolute and resolved. */
  isBeside(file: string, path: string): boolean;
  /** The last part of a path. */
  baseName(path: string): string;
  rename(from: string, to: string): Promise<Result<void, FileError>>;
  remove(path: string): Promise<Result<void, FileError>>;
}
