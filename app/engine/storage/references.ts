// SPDX-License-Identifier: Apache-2.0
/**
 * Names of other files inside an image: backing files, external data files, extents, parents.
 *
 * SECURITY: whoever made the image chose these names, and a guest reads (and in part writes) what they lead to. So by default a name
 * must lead, links followed, to a plain file in the image's own folder or below it; a person who trusts the image can allow any.
 * Network names and descriptions in JSON are never followed. Circles are refused by the files' identities.
 */
import type { FileStore, HostFile } from '../host/file.ts';
import { StorageError } from './storage-error.ts';

export type ReferencePolicy = 'folder' | 'any';

/** Longer chains are an accident or an attack. */
export const MAX_CHAIN = 64;

/** The path that `reference`, found in `file`, may be opened at. `role` names it: "backing file". */
export async function followReference(
  files: FileStore,
  file: HostFile,
  reference: string,
  role: string,
  policy: ReferencePolicy,
): Promise<string> {
  const quoted = JSON.stringify(reference);
  if (reference === '' || reference.includes('\0'))
    throw new StorageError('corrupt', file.name, `the name of its ${role} is empty or damaged`);
  // A single letter is a drive.
  if (/^[A-Za-z][A-Za-z0-9+.-]+:/.test(reference)) {
    throw new StorageError('unsupported', file.name, `its ${role} ${quoted} is not a plain file; only files are supported`);
  }
  const path = await files.resolve(file.path, reference);
  if (policy === 'any' || files.isBeside(file.path, path)) return path;
  throw new StorageError(
    'forbidden-reference',
    file.name,
    `its ${role} ${quoted} is outside the image's own folder; if you trust the image, allow it with --references any`,
  );
}
