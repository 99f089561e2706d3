// SPDX-License-Identifier: Apache-2.0
/**
 * Opens a disk image of any format with everything it stands on.
 *
 * INVARIANT: when opening fails, every file that was opened on the way is closed again, locks included.
 * Files below the image itself are opened for reading and locked shared; only the image, its external data file and its extents are written.
 */
import { err, ok, type Result } from '../../base/result.ts';
import type { BlockCodec } from '../host/block-codec.ts';
import type { Entropy } from '../host/entropy.ts';
import type { FileStore, HostFile } from '../host/file.ts';
import type { BlockDevice } from './block-device.ts';
import { type ImageFormat, IMAGE_FORMATS, probeFormat } from './probe.ts';
import { listSnapshots, findSnapshot } from './qcow2/snapshots.ts';
import { readHeader } from './qcow2/format.ts';
import { openQcow2 } from './qcow2/open.ts';
import { openRaw, RawDevice } from './raw/raw-device.ts';
import { followReference, MAX_CHAIN, type ReferencePolicy } from './references.ts';
import { asStorageError, StorageError } from './storage-error.ts';
import { openVdi } from './vdi/vdi.ts';
import { openVhd, readVhd } from './vhd/vhd.ts';
import { openVhdx } from './vhdx/vhdx.ts';
import { hasParent, MAX_DESCRIPTOR_BYTES, parseDescriptor, type VmdkDescriptor } from './vmdk/vmdk-descriptor.ts';
import { VmdkDisk, type VmdkPart } from './vmdk/vmdk-disk.ts';
import { openSparseExtent, readSparseHeader } from './vmdk/vmdk-sparse.ts';
import { startsWith } from './core/bytes.ts';

/** What storage needs of the world. */
export interface StorageHost {
  readonly files: FileStore;
  readonly codec: BlockCodec;
  readonly entropy: Entropy;
}

export interface OpenImageOptions {
  /** What the VM's configuration has stored; absent: the content is asked, which is for the first attachment only. */
  readonly format?: ImageFormat;
  readonly readOnly?: boolean;
  /** Which other files the image may name. `folder` unless said. */
  readonly references?: ReferencePolicy;
  /** Another moment of a QCOW2 image, read-only: a snapshot's name or number. */
  readonly snapshot?: string;
  /** Open even though it is marked damaged, for `checkImage` with repair. */
  readonly forRepair?: boolean;
}

interface Opening {
  readonly host: StorageHost;
  readonly references: ReferencePolicy;
  /** Every file of the chain that is open, to be closed if the rest fails. */
  readonly opened: HostFile[];
  readonly options: OpenImageOptions;
}

/** Opens the image at `path`; the caller closes the device. */
export async function openImage(
  host: StorageHost,
  path: string,
  options: OpenImageOptions = {},
): Promise<Result<BlockDevice, StorageError>> {
  const opening: Opening = { host, references: options.references ?? 'folder', opened: [], options };
  try {
    const readOnly = options.readOnly === true || options.snapshot !== undefined;
    return ok(await openLayer(opening, path, options.format, readOnly, 0));
  } catch (error) {
    for (const file of opening.opened) await file.close().catch(() => {});
    const known = asStorageError(path, error);
    if (known instanceof StorageError) return err(known);
    throw known;
  }
}

async function openFile(opening: Opening, path: string, readOnly: boolean): Promise<HostFile> {
  const opened = await opening.host.files.open(path, { access: readOnly ? 'read' : 'write', lock: readOnly ? 'shared' : 'exclusive' });
  if (!opened.ok) throw opened.error;
  const file = opened.value;
  if (opening.opened.some(({ identity }) => identity === file.identity)) {
    await file.close();
    throw new StorageError('corrupt', path, 'the image stands on itself: its files form a circle');
  }
  opening.opened.push(file);
  return file;
}

async function openLayer(
  opening: Opening,
  path: string,
  stored: ImageFormat | undefined,
  readOnly: boolean,
  depth: number,
): Promise<BlockDevice> {
  if (depth > MAX_CHAIN) throw new StorageError('unsupported', path, `a chain of more than ${MAX_CHAIN} backing files is not supported`);
  const file = await openFile(opening, path, readOnly);
  const format = stored ?? (await probeFormat(file));
  switch (format) {
    case 'raw':
    case 'iso':
      return openRaw(file, format, readOnly);
    case 'qcow2':
      return openQcow2Layer(opening, file, readOnly, depth);
    case 'vdi':
      return openVdi(file, readOnly);
    case 'vhd':
      return openVhdLayer(opening, file, readOnly, depth);
    case 'vhdx':
      return openVhdx(file, opening.host.entropy, readOnly);
    case 'vmdk':
      return openVmdkLayer(opening, file, readOnly, depth);
  }
}

async function openQcow2Layer(opening: Opening, file: HostFile, readOnly: boolean, depth: number): Promise<BlockDevice> {
  const { host, options } = opening;
  const header = await readHeader(file);
  let dataFile: HostFile | null = null;
  if ((header.incompatible & 4) !== 0) {
    if (header.dataFileName === null) throw new StorageError('corrupt', file.name, 'the header does not name its external data file');
    dataFile = await openFile(
      opening,
      await followReference(host.files, file, header.dataFileName, 'external data file', opening.references),
      readOnly,
    );
  }
  const parent =
    header.backingName === null
      ? null
      : await openParent(opening, file, header.backingName, storedFormat(file, header.backingFormat), 'backing file', depth);
  const forRepair = options.forRepair === true && depth === 0;
  const device = await openQcow2(file, header, dataFile, parent, host.codec, { readOnly, forRepair });
  if (depth > 0 || options.snapshot === undefined) return device;
  const snapshot = findSnapshot(await listSnapshots(device), options.snapshot);
  if (snapshot === undefined) throw new StorageError('not-found', file.name, `there is no snapshot ${JSON.stringify(options.snapshot)}`);
  return openQcow2(
    file,
    { ...header, l1TableOffset: snapshot.l1Offset, l1Size: snapshot.l1Entries, sizeBytes: snapshot.diskBytes ?? header.sizeBytes },
    dataFile,
    parent,
    host.codec,
    { readOnly: true },
  );
}

async function openParent(
  opening: Opening,
  file: HostFile,
  name: string,
  format: ImageFormat | undefined,
  role: string,
  depth: number,
): Promise<BlockDevice> {
  const path = await followReference(opening.host.files, file, name, role, opening.references);
  return openLayer(opening, path, format, true, depth + 1);
}

/** The format that an image gives for its backing file, in the words of its tool. */
function storedFormat(file: HostFile, name: string | null): ImageFormat | undefined {
  if (name === null) return undefined;
  const known = name === 'vpc' ? 'vhd' : name === 'file' || name === 'host_device' ? 'raw' : name;
  if ((IMAGE_FORMATS as readonly string[]).includes(known)) return known as ImageFormat;
  throw new StorageError('unsupported', file.name, `its backing file has the format ${JSON.stringify(name)}, which is not supported`);
}

async function openVhdLayer(opening: Opening, file: HostFile, readOnly: boolean, depth: number): Promise<BlockDevice> {
  const image = await readVhd(file);
  if (image.header === null || image.footer.type !== 4) return openVhd(file, image, null, readOnly);
  // The name may be a whole path of the machine it was made on; the parent is looked for beside the image.
  const name = image.header.parentName.split(/[\\/]/).at(-1) ?? '';
  const parent = await openParent(opening, file, name, 'vhd', 'parent', depth);
  const parentFooter = await readFooterId(opening, parent.name);
  const wanted = image.header.bytes.subarray(40, 56);
  if (parentFooter !== null && wanted.some((byte, index) => byte !== parentFooter[index])) {
    throw new StorageError('corrupt', file.name, `${parent.name} is not the parent that the image was made on`);
  }
  return openVhd(file, image, parent, true);
}

/** The identifier of the VHD that was opened last under this name. */
async function readFooterId(opening: Opening, name: string): Promise<Uint8Array | null> {
  const file = opening.opened.find((candidate) => candidate.name === name);
  return file === undefined ? null : (await readVhd(file)).footer.bytes.subarray(68, 84);
}

async function openVmdkLayer(opening: Opening, file: HostFile, readOnly: boolean, depth: number): Promise<BlockDevice> {
  const head = new Uint8Array(4);
  await file.read(0, head);
  if (startsWith(head, 'KDMV') || startsWith(head, 'COWD')) return openMonolithic(opening, file, readOnly, depth);
  const descriptor = await readDescriptor(file, 0, Math.min(await file.size(), MAX_DESCRIPTOR_BYTES));
  const parts: VmdkPart[] = [];
  for (const extent of descriptor.extents) parts.push(await openExtent(opening, file, extent, readOnly));
  if (parts.length === 0) throw new StorageError('corrupt', file.name, 'the descriptor names no extents');
  if (hasParent(descriptor))
    throw new StorageError(
      'unsupported',
      file.name,
      'split VMDK images with a parent are not supported; convert it with "qemu-img convert"',
    );
  return new VmdkDisk(file.name, parts, readOnly, file);
}

async function openMonolithic(opening: Opening, file: HostFile, readOnly: boolean, depth: number): Promise<BlockDevice> {
  const header = await readSparseHeader(file);
  let parent: BlockDevice | null = null;
  if (header.descriptorOffset > 0) {
    const descriptor = await readDescriptor(file, header.descriptorOffset, Math.min(header.descriptorBytes, MAX_DESCRIPTOR_BYTES));
    if (hasParent(descriptor)) parent = await openParent(opening, file, descriptor.parentFile!, 'vmdk', 'parent', depth);
  }
  return openSparseExtent(file, header, parent, opening.host.codec, readOnly);
}

async function readDescriptor(file: HostFile, offset: number, length: number): Promise<VmdkDescriptor> {
  const bytes = new Uint8Array(length);
  const count = await file.read(offset, bytes);
  const descriptor = parseDescriptor(bytes.subarray(0, count));
  if (typeof descriptor === 'string') throw new StorageError('unsupported', file.name, descriptor);
  return descriptor;
}

async function openExtent(
  opening: Opening,
  descriptor: HostFile,
  extent: VmdkDescriptor['extents'][number],
  readOnly: boolean,
): Promise<VmdkPart> {
  const { sizeBytes } = extent;
  if (extent.kind === 'ZERO') return { device: null, sizeBytes };
  const readOnlyPart = readOnly || extent.readOnly;
  const path = await followReference(opening.host.files, descriptor, extent.file, 'extent', opening.references);
  const file = await openFile(opening, path, readOnlyPart);
  if (extent.kind !== 'SPARSE') {
    if (extent.startBytes + sizeBytes > (await file.size()))
      throw new StorageError('corrupt', file.name, 'the extent is shorter than the descriptor says; it is cut off');
    return { device: new RawDevice(file, { format: 'vmdk', start: extent.startBytes, sizeBytes, readOnly: readOnlyPart }), sizeBytes };
  }
  const header = await readSparseHeader(file);
  if (header.capacityBytes < sizeBytes) throw new StorageError('corrupt', file.name, 'the extent is smaller than the descriptor says');
  return { device: await openSparseExtent(file, header, null, opening.host.codec, readOnlyPart), sizeBytes };
}
