// SPDX-License-Identifier: Apache-2.0
/**
 * What can go wrong with a disk image. Messages are sentences that name the image and say what to do where something can be done.
 *
 * Opening an image gives these as values; requests on an open device reject with them, because there the host or the image is at fault.
 */
import { FileError } from '../host/file.ts';

export type StorageErrorKind =
  /** The image contradicts its format. */
  | 'corrupt'
  /** Valid, but nothing that this version does. */
  | 'unsupported'
  | 'not-found'
  | 'permission'
  | 'exists'
  /** Somebody else has the image open. */
  | 'locked'
  | 'no-space'
  /** Reading or writing failed, or the file became shorter meanwhile. */
  | 'io'
  | 'read-only'
  /** The request reaches outside the disk. */
  | 'out-of-range'
  /** The caller asked for something that cannot be. */
  | 'invalid'
  /** The image names another file that it may not name. */
  | 'forbidden-reference'
  | 'cancelled'
  | 'closed';

export class StorageError extends Error {
  readonly kind: StorageErrorKind;
  /** The image's name as the user knows it. */
  readonly image: string;

  constructor(kind: StorageErrorKind, image: string, message: string) {
    super(`${image}: ${message}`);
    this.name = 'StorageError';
    this.kind = kind;
    this.image = image;
  }
}

const FILE_KINDS: Readonly<Record<FileError['kind'], StorageErrorKind>> = {
  'not-found': 'not-found',
  exists: 'exists',
  permission: 'permission',
  'not-a-file': 'invalid',
  'no-space': 'no-space',
  locked: 'locked',
  'too-large': 'no-space',
  io: 'io',
  closed: 'closed',
};

/** File errors in the words of storage; anything else is a defect and passes through. */
export function asStorageError(image: string, error: unknown): unknown {
  if (!(error instanceof FileError)) return error;
  return new StorageError(FILE_KINDS[error.kind], image, error.message);
}
