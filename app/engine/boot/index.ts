// SPDX-License-Identifier: Apache-2.0
/** Kernel formats, inspection and the PV domain builder: what the machine and the engine's door take from this folder. */
export type { BootError, BootErrorKind } from './boot-error.ts';
export { type Compression, decompress, decompressStart, detectCompression } from './compression/decompress.ts';
export {
  BOOT_MODES,
  type BootMode,
  type ImageKind,
  type ImageReport,
  inspectImage,
  type InspectOptions,
  type ModeVerdict,
} from './inspect.ts';
export { type KernelImage, loadKernel, releaseKernel } from './kernel-image.ts';
export { buildPvDomain, type PageTableFrame, type PvDomainConfig, type PvStartRegisters, type StartState } from './pv-builder.ts';
export { type PvKernel, pvKernel } from './pv-kernel.ts';
export type { PageRange, PvLayout } from './pv-layout.ts';
export type { PageTableLevel } from './pv-page-table-plan.ts';
export { MAX_GUEST_CMDLINE, START_INFO } from './start-info.ts';
export { XENFEAT_NAMES, type XenFeatures } from './xen-features.ts';
export type { XenGuestNotes } from './xen-notes.ts';
