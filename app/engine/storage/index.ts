// SPDX-License-Identifier: Apache-2.0
/** Storage as the rest of the engine uses it. */
export type { BlockDevice, Extent, WriteZeroesOptions } from './block-device.ts';
export { StorageError, type StorageErrorKind } from './storage-error.ts';
export { IMAGE_FORMATS, type ImageFormat, probeFormat } from './probe.ts';
