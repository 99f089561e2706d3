// SPDX-License-Identifier: Apache-2.0
/** Storage as the rest of the engine, and through the engine's door the application, uses it. */
export type { BlockDevice, Extent, WriteZeroesOptions } from './block-device.ts';
export { compareDisks, type Comparison, copyDisk, type CopyOptions, type WorkOptions } from './copy-image.ts';
export { MemoryFile } from './core/memory-file.ts';
export { createImage, type CreateImageOptions, removeFiles } from './create-image.ts';
export { checkImage, type ImageInfo, imageInfo, type SnapshotAccess, snapshotsOf } from './image-info.ts';
export { openImage, type OpenImageOptions, type StorageHost } from './open-image.ts';
export { type CommitOptions, OverlayDevice } from './overlay/overlay-device.ts';
export { IMAGE_FORMATS, type ImageFormat, probeFormat } from './probe.ts';
export type { CheckOptions, CheckReport } from './qcow2/check.ts';
export type { Qcow2Snapshot } from './qcow2/snapshot-table.ts';
export type { ReferencePolicy } from './references.ts';
export { StorageError, type StorageErrorKind } from './storage-error.ts';
