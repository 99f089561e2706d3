// SPDX-License-Identifier: Apache-2.0
/** The engine's only door: whatever the application uses of the engine is exported here and nowhere else. */
export * from './boot/index.ts';
export type { AbortSignalLike, DecompressError, Decompressors, HostCompression } from './host/decompress.ts';
