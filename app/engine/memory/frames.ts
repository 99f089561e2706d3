// SPDX-License-Identifier: Apache-2.0
/**
 * Page geometry and the branded frame numbers.
 *
 * A frame number counts 4 KiB pages. `Mfn` is a machine frame as the MMU sees it, `Pfn` a frame of the guest's
 * pseudo-physical memory, `Gfn` a frame of a translated (HVM) guest. A PV guest here has MFN = PFN for its own
 * memory (xen public/xen.h "startofday"); the types stay apart so that nothing relies on it by accident.
 */
import type { Brand } from '../../base/brand.ts';

export type Pfn = Brand<number, 'Pfn'>;
export type Gfn = Brand<number, 'Gfn'>;
export type Mfn = Brand<number, 'Mfn'>;

export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 4096;
export const PAGE_MASK = PAGE_SIZE - 1;

export const mfn = (value: number): Mfn => value as Mfn;
export const pfn = (value: number): Pfn => value as Pfn;
export const gfn = (value: number): Gfn => value as Gfn;
