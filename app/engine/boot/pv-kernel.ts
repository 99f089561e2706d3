// SPDX-License-Identifier: Apache-2.0
/**
 * Is this kernel a PV kernel that can run here, and where does it want to be?
 *
 * Applies the defaults of xen public/elfnote.h and the checks that Xen's own ELF loader makes: VIRT_BASE defaults to 0; PADDR_OFFSET to
 * 0 with notes and to VIRT_BASE with the old section; ENTRY to the ELF entry point. A byte that the file puts at physical address `p`
 * is loaded at guest frame `(p - PADDR_OFFSET) / 4096` and seen at virtual address `p - PADDR_OFFSET + VIRT_BASE`.
 *
 * GUEST: program headers are bounded here against the file and against each other; against memory in `pv-layout.ts`.
 */
import { err, ok, type Result } from '../../base/result.ts';
import { HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START } from '../hypervisor/abi/xen.ts';
import { PAGE_SIZE } from '../memory/frames.ts';
import { type BootError, bootError } from './boot-error.ts';
import { EM_X86_64, type ElfSegment, PT_LOAD } from './elf.ts';
import type { KernelImage } from './kernel-image.ts';
import { missingFeatures } from './xen-features.ts';
import type { XenGuestNotes } from './xen-notes.ts';

/** A loadable segment, by guest physical address. */
export interface PvSegment {
  readonly start: number;
  readonly end: number;
  readonly bytes: Uint8Array;
}

export interface PvKernel {
  readonly notes: XenGuestNotes;
  readonly entry: number;
  readonly virtBase: number;
  readonly paddrOffset: number;
  readonly hypercallPage: number | undefined;
  readonly segments: readonly PvSegment[];
  /** Guest physical range of the whole image. */
  readonly start: number;
  readonly end: number;
}

const damaged = (what: string): { readonly ok: false; readonly error: BootError } =>
  err(bootError('damaged', `the kernel is damaged: ${what}; fetch it again`));

/** The verdict on PV, with everything the builder needs; the error's sentence says why not. */
export function pvKernel(image: KernelImage): Result<PvKernel, BootError> {
  const notes = image.notes;
  if (notes === undefined) {
    const other = image.bzImage === undefined ? 'no other mode is known for it' : 'it can boot in mode hvm';
    return err(bootError('not-pv', `this kernel has no Xen notes, so it was built without paravirtualization (CONFIG_XEN_PV); ${other}`));
  }
  const declared = declaresPv(notes);
  if (declared !== undefined) return err(declared);
  if (image.elf.bits === 32 || image.elf.machine !== EM_X86_64) {
    return err(bootError('unsupported-pv', 'this is a 32-bit PV kernel, and 32-bit PV is not supported; use the amd64 kernel'));
  }
  const missing = missingFeatures(notes.features);
  if (missing.length > 0) {
    return err(
      bootError('unsupported-pv', `this kernel requires what a PV guest does not have here: ${missing.join(', ')}; use another kernel`),
    );
  }
  return placed(image, notes);
}

/** Undefined when the notes describe a PV kernel for Xen 3.0's interface, which is the one that exists. */
function declaresPv(notes: XenGuestNotes): BootError | undefined {
  const onlyPvh = notes.phys32Entry !== undefined && notes.entry === undefined && notes.virtBase === undefined;
  if (onlyPvh) {
    return bootError(
      'not-pv',
      'this kernel was built without PV support (CONFIG_XEN_PV) and has the PVH entry point only; boot it in mode pvh',
    );
  }
  if (!(notes.loader ?? '').startsWith('generic')) {
    return bootError('unsupported-pv', `this kernel asks for the loader "${notes.loader ?? ''}"; only "generic" is supported`);
  }
  if (!(notes.xenVersion ?? '').startsWith('xen-3.0')) {
    return bootError('unsupported-pv', `this kernel is built for "${notes.xenVersion ?? ''}"; only "xen-3.0" is supported`);
  }
  return undefined;
}

function placed(image: KernelImage, notes: XenGuestNotes): Result<PvKernel, BootError> {
  if (notes.paddrOffset !== undefined && notes.virtBase === undefined) return damaged('it has PADDR_OFFSET but no VIRT_BASE');
  const virtBase = notes.virtBase ?? 0;
  const paddrOffset = notes.paddrOffset ?? (notes.source === 'notes' ? 0 : virtBase);
  const entry = notes.entry ?? image.elf.entry;
  if (virtBase % PAGE_SIZE !== 0) return damaged('VIRT_BASE is not page-aligned');
  const loaded = loadable(image, paddrOffset);
  if (!loaded.ok) return loaded;
  const segments = loaded.value;
  const start = segments[0].start;
  const end = segments.reduce((top, segment) => Math.max(top, segment.end), 0);
  if (!isGuestAddressRange(virtBase, virtBase + end)) return damaged('its virtual addresses are outside of what a guest may use');
  if (entry < virtBase + start || entry >= virtBase + end) return damaged('its entry point is outside of the image');
  const legacyPage = notes.legacyHypercallPage;
  const hypercallPage = notes.hypercallPage ?? (legacyPage === undefined ? undefined : virtBase + legacyPage * PAGE_SIZE);
  if (hypercallPage !== undefined) {
    const inside = hypercallPage >= virtBase + start && hypercallPage + PAGE_SIZE <= virtBase + Math.ceil(end / PAGE_SIZE) * PAGE_SIZE;
    if (!inside || (hypercallPage - virtBase) % PAGE_SIZE !== 0) return damaged('its hypercall page is outside of the image');
  }
  return ok({ notes, entry, virtBase, paddrOffset, hypercallPage, segments, start, end });
}

/** Canonical, in one half, and not in the range that belongs to the hypervisor. */
export function isGuestAddressRange(start: number, end: number): boolean {
  if (start >= 0) return end <= -HYPERVISOR_VIRT_START;
  return start >= HYPERVISOR_VIRT_END && end <= 0;
}

function loadable(image: KernelImage, paddrOffset: number): Result<readonly PvSegment[], BootError> {
  const segments: PvSegment[] = [];
  for (const header of image.elf.segments) {
    if (header.type !== PT_LOAD || (header.flags & 7) === 0 || header.memSize === 0) continue;
    const segment = oneSegment(image, header, paddrOffset);
    if (!segment.ok) return segment;
    segments.push(segment.value);
  }
  if (segments.length === 0) return damaged('it has nothing to load');
  segments.sort((a, b) => a.start - b.start);
  for (let index = 1; index < segments.length; index++) {
    if (segments[index].start < segments[index - 1].end) return damaged('its segments overlap');
  }
  return ok(segments);
}

function oneSegment(image: KernelImage, header: ElfSegment, paddrOffset: number): Result<PvSegment, BootError> {
  if (header.fileSize > header.memSize) return damaged('a segment is larger in the file than in memory');
  const fileEnd = header.offset + header.fileSize;
  if (fileEnd > image.elf.bytes.length)
    return damaged(`a segment ends ${fileEnd - image.elf.bytes.length} bytes behind the end of the file`);
  const start = header.paddr - paddrOffset;
  const end = start + header.memSize;
  if (start < 0 || !Number.isSafeInteger(end)) return damaged('a segment has an impossible physical address');
  return ok({ start, end, bytes: image.elf.bytes.subarray(header.offset, fileEnd) });
}
