// SPDX-License-Identifier: Apache-2.0
/**
 * Makes new, empty images. Nothing is ever overwritten, and a failed attempt leaves no file behind.
 */
import { err, ok, type Result } from '../../base/result.ts';
import type { FileError, HostFile } from '../host/file.ts';
import { alignUp, viewOf } from './core/bytes.ts';
import { type OpenImageOptions, openImage, type StorageHost } from './open-image.ts';
import type { ImageFormat } from './probe.ts';
import { createQcow2 } from './qcow2/create.ts';
import { asStorageError, StorageError } from './storage-error.ts';
import { createVdi } from './vdi/vdi.ts';
import { createVhd } from './vhd/vhd.ts';
import { createVhdx } from './vhdx/vhdx.ts';
import { formatDescriptor } from './vmdk/vmdk-descriptor.ts';
import { createSparseExtent } from './vmdk/vmdk-sparse.ts';

export interface CreateImageOptions {
  readonly format: Exclude<ImageFormat, 'iso'>;
  /** A multiple of 512; may be left out where there is a backing file, whose size it is then. */
  readonly sizeBytes?: number;
  /** VDI, VHD, VHDX: all blocks allocated; VMDK: a flat extent. */
  readonly fixed?: boolean;
  readonly clusterSize?: number;
  /** QCOW2. */
  readonly version?: 2 | 3;
  readonly refcountBits?: number;
  readonly compression?: 'deflate' | 'zstd';
  readonly lazyRefcounts?: boolean;
  readonly extendedL2?: boolean;
  readonly backing?: { readonly name: string; readonly format?: ImageFormat };
  readonly dataFile?: { readonly name: string; readonly raw: boolean };
  /** The name that the file will have in the end, for formats that write it down. */
  readonly finalPath?: string;
  readonly nowSeconds: number;
  readonly references?: OpenImageOptions['references'];
}

const OPTION_FORMATS: readonly (readonly [keyof CreateImageOptions, readonly ImageFormat[], string])[] = [
  ['fixed', ['vdi', 'vhd', 'vhdx', 'vmdk', 'raw'], 'fixed allocation'],
  ['clusterSize', ['qcow2', 'vhdx'], 'a cluster size'],
  ['version', ['qcow2'], 'a version'],
  ['refcountBits', ['qcow2'], 'a width of reference counts'],
  ['compression', ['qcow2'], 'a compression method'],
  ['lazyRefcounts', ['qcow2'], 'lazy reference counts'],
  ['extendedL2', ['qcow2'], 'extended L2 entries'],
  ['backing', ['qcow2'], 'a backing file'],
  ['dataFile', ['qcow2'], 'an external data file'],
];

/** Makes the image at `path`; gives the paths of all files that it consists of, the image's own first. */
export async function createImage(
  host: StorageHost,
  path: string,
  options: CreateImageOptions,
): Promise<Result<readonly string[], StorageError>> {
  const made: { readonly path: string; readonly file: HostFile }[] = [];
  const create = async (target: string): Promise<HostFile> => {
    const opened = await host.files.open(target, { access: 'write', create: 'new', lock: 'exclusive' });
    if (!opened.ok) throw opened.error;
    made.push({ path: target, file: opened.value });
    return opened.value;
  };
  try {
    refuseForeignOptions(path, options);
    const file = await create(path);
    const sizeBytes = await sizeOf(host, file, options);
    await write(host, file, { ...options, sizeBytes }, create);
    for (const { file: done } of made) await done.close();
    return ok(made.map((entry) => entry.path));
  } catch (error) {
    for (const { file, path: target } of made) {
      await file.close().catch(() => {});
      await host.files.remove(target);
    }
    const known = asStorageError(path, error);
    if (known instanceof StorageError) return err(known);
    throw known;
  }
}

function refuseForeignOptions(path: string, options: CreateImageOptions): void {
  for (const [option, formats, what] of OPTION_FORMATS) {
    const value = options[option];
    if (value === undefined || value === false || formats.includes(options.format)) continue;
    throw new StorageError('invalid', path, `${options.format} images have no such thing as ${what}`);
  }
}

async function sizeOf(host: StorageHost, file: HostFile, options: CreateImageOptions): Promise<number> {
  let size = options.sizeBytes;
  if (options.backing !== undefined) {
    const { name, format } = options.backing;
    const backing = await openImage(host, await host.files.resolve(file.path, name), {
      readOnly: true,
      ...(format === undefined ? {} : { format }),
      ...(options.references === undefined ? {} : { references: options.references }),
    });
    if (!backing.ok) throw backing.error;
    size ??= backing.value.sizeBytes;
    await backing.value.close();
  }
  if (size === undefined) throw new StorageError('invalid', file.name, 'a size is needed');
  if (!Number.isSafeInteger(size) || size < 0 || size % 512 !== 0)
    throw new StorageError('invalid', file.name, `a disk's size is a multiple of 512 bytes`);
  return size;
}

async function write(
  host: StorageHost,
  file: HostFile,
  options: CreateImageOptions & { readonly sizeBytes: number },
  create: (path: string) => Promise<HostFile>,
): Promise<void> {
  const { sizeBytes, fixed = false } = options;
  switch (options.format) {
    case 'raw':
      await file.truncate(sizeBytes);
      return file.flush();
    case 'qcow2':
      return writeQcow2(file, options, create);
    case 'vdi':
      return createVdi(file, { sizeBytes, fixed }, host.entropy);
    case 'vhd':
      return createVhd(file, { sizeBytes, fixed, nowSeconds: options.nowSeconds }, host.entropy);
    case 'vhdx':
      return createVhdx(
        file,
        { sizeBytes, fixed, ...(options.clusterSize === undefined ? {} : { blockSize: options.clusterSize }) },
        host.entropy,
      );
    case 'vmdk':
      return writeVmdk(host, file, options, create);
  }
}

async function writeQcow2(
  file: HostFile,
  options: CreateImageOptions & { readonly sizeBytes: number },
  create: (path: string) => Promise<HostFile>,
): Promise<void> {
  const { backing, dataFile, ...rest } = options;
  if (dataFile !== undefined) {
    if (/[\\/]/.test(dataFile.name))
      throw new StorageError('invalid', file.name, "the external data file lies in the image's own folder; give its name only");
    const data = await create(besides(file.path, dataFile.name));
    await data.truncate(alignUp(options.sizeBytes, 512));
    await data.flush();
  }
  await createQcow2(file, {
    ...rest,
    ...(backing === undefined
      ? {}
      : { backing: { name: backing.name, format: backing.format === 'vhd' ? 'vpc' : (backing.format ?? 'raw') } }),
    ...(dataFile === undefined ? {} : { dataFile }),
  });
}

async function writeVmdk(
  host: StorageHost,
  file: HostFile,
  options: CreateImageOptions & { readonly sizeBytes: number },
  create: (path: string) => Promise<HostFile>,
): Promise<void> {
  const { sizeBytes, fixed = false } = options;
  const id = new Uint8Array(4);
  host.entropy.fill(id);
  const contentId = Math.min(viewOf(id).getUint32(0), 0xffff_fffd);
  const name = host.files.baseName(options.finalPath ?? file.path);
  if (/["\n]/.test(name)) throw new StorageError('invalid', file.name, 'the name of a VMDK image has no quotation marks');
  if (!fixed) {
    const extents = [{ sizeBytes, kind: 'SPARSE', file: name }] as const;
    return createSparseExtent(file, sizeBytes, formatDescriptor({ createType: 'monolithicSparse', contentId, extents }));
  }
  const flatName = `${name.replace(/\.vmdk$/, '')}-flat.vmdk`;
  const flat = await create(besides(file.path, flatName));
  await flat.truncate(sizeBytes);
  await flat.flush();
  const extents = [{ sizeBytes, kind: 'FLAT', file: flatName }] as const;
  await file.write(0, formatDescriptor({ createType: 'monolithicFlat', contentId, extents }));
  await file.flush();
}

/** `name` in the folder of `path`. */
function besides(path: string, name: string): string {
  const separator = path.includes('/') ? '/' : '\\';
  return `${path.slice(0, path.lastIndexOf(separator) + 1)}${name}`;
}

/** The files of a failed creation are removed; for callers that fill an image afterwards and fail. */
export async function removeFiles(host: StorageHost, paths: readonly string[]): Promise<FileError | null> {
  let failure: FileError | null = null;
  for (const path of paths) {
    const removed = await host.files.remove(path);
    if (!removed.ok) failure ??= removed.error;
  }
  return failure;
}
