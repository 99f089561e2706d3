// SPDX-License-Identifier: Apache-2.0
/** What an image is, said for people and programs; and the check that its format knows. */
import type { BlockDevice } from './block-device.ts';
import type { ImageFormat } from './probe.ts';
import { type CheckOptions, checkQcow2, type CheckReport } from './qcow2/check.ts';
import { Qcow2Device } from './qcow2/qcow2-device.ts';
import type { Qcow2Snapshot } from './qcow2/snapshot-table.ts';
import { applySnapshot, createSnapshot, deleteSnapshot, listSnapshots } from './qcow2/snapshots.ts';
import { StorageError } from './storage-error.ts';

export interface ImageInfo {
  readonly format: ImageFormat;
  readonly sizeBytes: number;
  readonly sectorSize: number;
  /** The unit of allocation; null where there is none. */
  readonly clusterSize: number | null;
  readonly backing: { readonly name: string; readonly format: string | null } | null;
  readonly dataFile: string | null;
  /** Names of what is special about it. */
  readonly features: readonly string[];
  readonly snapshots: readonly Pick<Qcow2Snapshot, 'id' | 'name' | 'dateSeconds' | 'vmStateBytes' | 'diskBytes'>[];
}

export async function imageInfo(device: BlockDevice): Promise<ImageInfo> {
  const common = {
    format: device.format,
    sizeBytes: device.sizeBytes,
    sectorSize: device.sectorSize,
    clusterSize: device.clusterSize > 1 ? device.clusterSize : null,
  };
  if (!(device instanceof Qcow2Device)) return { ...common, backing: null, dataFile: null, features: [], snapshots: [] };
  const { header } = device;
  const features = [
    `version ${header.version}`,
    `${header.refcountBits}-bit reference counts`,
    header.compression === 'zstd' ? 'zstd' : 'zlib',
  ];
  if (header.lazyRefcounts) features.push('lazy reference counts');
  if (header.extendedL2) features.push('extended L2 entries');
  if (header.dataFileName !== null) features.push(header.dataFileRaw ? 'raw external data file' : 'external data file');
  if ((header.incompatible & 1) !== 0) features.push('not closed cleanly');
  if ((header.incompatible & 2) !== 0) features.push('marked as damaged');
  return {
    ...common,
    backing: header.backingName === null ? null : { name: header.backingName, format: header.backingFormat },
    dataFile: header.dataFileName,
    features,
    snapshots: (await listSnapshots(device)).map(({ id, name, dateSeconds, vmStateBytes, diskBytes }) => ({
      id,
      name,
      dateSeconds,
      vmStateBytes,
      diskBytes,
    })),
  };
}

/** Follows the format's own tables; null: the format has nothing that could be checked beyond opening it and walking its map. */
export async function checkImage(device: BlockDevice, options: CheckOptions = {}): Promise<CheckReport | null> {
  if (device instanceof Qcow2Device) return checkQcow2(device, options);
  let done = 0;
  for await (const extent of device.map(0, device.sizeBytes)) {
    if (options.signal?.aborted === true) throw new StorageError('cancelled', device.name, 'the check was cancelled');
    done = extent.offset + extent.length;
    options.onProgress?.(done / device.sizeBytes);
  }
  return null;
}

/** Internal snapshots of images that have them. */
export interface SnapshotAccess {
  list(): Promise<Qcow2Snapshot[]>;
  create(name: string, date: { seconds: number; nanoseconds: number }): Promise<Qcow2Snapshot>;
  apply(nameOrId: string): Promise<void>;
  delete(nameOrId: string): Promise<void>;
}

export function snapshotsOf(device: BlockDevice): SnapshotAccess {
  if (!(device instanceof Qcow2Device))
    throw new StorageError('unsupported', device.name, `${device.format} images have no internal snapshots; convert it to qcow2`);
  return {
    list: () => listSnapshots(device),
    create: (name, date) => createSnapshot(device, name, date),
    apply: (nameOrId) => applySnapshot(device, nameOrId),
    delete: (nameOrId) => deleteSnapshot(device, nameOrId),
  };
}
