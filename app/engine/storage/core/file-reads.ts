// SPDX-License-Identifier: Apache-2.0
/** Reads whose shortness means something, and reads of another device beyond its end. */
import type { HostFile } from '../../host/file.ts';
import type { BlockDevice } from '../block-device.ts';
import { StorageError } from '../storage-error.ts';

/** All of `into`, or `corrupt`: `what` ("the L1 table") does not lie in the file. */
export async function readExactly(file: HostFile, offset: number, into: Uint8Array, what: string): Promise<void> {
  if (!Number.isSafeInteger(offset) || offset < 0) throw new StorageError('corrupt', file.name, `${what} has an impossible address`);
  const count = await file.read(offset, into);
  if (count < into.length) throw new StorageError('corrupt', file.name, `${what} reaches behind the end of the file; the file is cut off`);
}

/**
 * All of `into`; what is behind the end of the file reads as zeros. The caller has made sure that the range belongs to the file as
 * the image's format counts it.
 */
export async function readPadded(file: HostFile, offset: number, into: Uint8Array): Promise<void> {
  const count = await file.read(offset, into);
  if (count < into.length) into.fill(0, count);
}

/** Bytes of `parent`, which may be shorter than the disk above it; without one, zeros. */
export async function readParent(parent: BlockDevice | null, offset: number, into: Uint8Array): Promise<void> {
  const available = parent === null ? 0 : Math.max(0, Math.min(into.length, parent.sizeBytes - offset));
  if (available < into.length) into.fill(0, available);
  if (available > 0) await parent!.read(offset, available === into.length ? into : into.subarray(0, available));
}
