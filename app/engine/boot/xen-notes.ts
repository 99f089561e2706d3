// SPDX-License-Identifier: Apache-2.0
/**
 * What a kernel says to Xen's domain builder: ELF notes with the owner "Xen", or the older `__xen_guest` section.
 *
 * Follows xen public/elfnote.h. Notes are looked for in PT_NOTE segments, then in SHT_NOTE sections; the `__xen_guest` string
 * ("GUEST_OS=linux,XEN_VER=xen-3.0,…") counts only when there are no notes. This file only reads; defaults and checks are in `pv-kernel.ts`.
 *
 * GUEST: every value comes from the file. Strings are bounded, numbers are whatever the file says.
 */
import { cString, type ElfImage, fileRange, PT_NOTE, readNotes, SHT_NOTE } from './elf.ts';
import { NO_FEATURES, parseFeatures, type XenFeatures } from './xen-features.ts';

export const XEN_ELFNOTE_INFO = 0;
export const XEN_ELFNOTE_ENTRY = 1;
export const XEN_ELFNOTE_HYPERCALL_PAGE = 2;
export const XEN_ELFNOTE_VIRT_BASE = 3;
export const XEN_ELFNOTE_PADDR_OFFSET = 4;
export const XEN_ELFNOTE_XEN_VERSION = 5;
export const XEN_ELFNOTE_GUEST_OS = 6;
export const XEN_ELFNOTE_GUEST_VERSION = 7;
export const XEN_ELFNOTE_LOADER = 8;
export const XEN_ELFNOTE_PAE_MODE = 9;
export const XEN_ELFNOTE_FEATURES = 10;
export const XEN_ELFNOTE_BSD_SYMTAB = 11;
export const XEN_ELFNOTE_HV_START_LOW = 12;
export const XEN_ELFNOTE_L1_MFN_VALID = 13;
export const XEN_ELFNOTE_SUSPEND_CANCEL = 14;
export const XEN_ELFNOTE_INIT_P2M = 15;
export const XEN_ELFNOTE_MOD_START_PFN = 16;
export const XEN_ELFNOTE_SUPPORTED_FEATURES = 17;
export const XEN_ELFNOTE_PHYS32_ENTRY = 18;
/** Not in headers before Xen 4.20: three 32-bit numbers. */
export const XEN_ELFNOTE_PHYS32_RELOC = 19;

const MAX_STRING = 256;
const GUEST_SECTION = '__xen_guest';
const MAX_GUEST_STRING = 4096;

/** Absent notes are absent fields. Addresses are signed numbers. */
export interface XenGuestNotes {
  readonly source: 'notes' | 'section';
  /** XEN_ELFNOTE_INFO: free NAME=VALUE pairs. */
  readonly info: readonly string[];
  readonly entry?: number;
  /** Virtual address; see `legacyHypercallPage` for the section's form. */
  readonly hypercallPage?: number;
  /** `HYPERCALL_PAGE` of the section: a page number counted from VIRT_BASE. */
  readonly legacyHypercallPage?: number;
  readonly virtBase?: number;
  readonly paddrOffset?: number;
  readonly xenVersion?: string;
  readonly guestOs?: string;
  readonly guestVersion?: string;
  readonly loader?: string;
  readonly paeMode?: string;
  readonly features: XenFeatures;
  readonly bsdSymtab: boolean;
  readonly hvStartLow?: number;
  readonly l1MfnValid: readonly { readonly mask: bigint; readonly value: bigint }[];
  readonly suspendCancel: boolean;
  readonly initP2m?: number;
  /** Can the guest take an initrd outside of its initial mapping? */
  readonly modStartPfn: boolean;
  readonly phys32Entry?: number;
  readonly phys32Reloc?: { readonly align: number; readonly min: number; readonly max: number };
}

type Draft = { -readonly [K in keyof XenGuestNotes]: XenGuestNotes[K] } & { info: string[]; l1MfnValid: { mask: bigint; value: bigint }[] };

/** The Xen notes of a kernel, or undefined when it has none. */
export function readXenNotes(image: ElfImage): XenGuestNotes | undefined {
  const fromSegments = image.segments.filter((segment) => segment.type === PT_NOTE);
  const notes =
    readFrom(
      image,
      fromSegments.map((segment) => ({ offset: segment.offset, size: segment.fileSize })),
    ) ??
    readFrom(
      image,
      image.sections.filter((section) => section.type === SHT_NOTE),
    );
  if (notes !== undefined) return notes;
  const section = image.sections.find((each) => each.name === GUEST_SECTION);
  if (section === undefined) return undefined;
  const data = fileRange(image, section.offset, Math.min(section.size, MAX_GUEST_STRING));
  return data === undefined ? undefined : parseGuestString(cString(data, 0, MAX_GUEST_STRING));
}

function newDraft(source: XenGuestNotes['source']): Draft {
  return { source, info: [], features: NO_FEATURES, bsdSymtab: false, l1MfnValid: [], suspendCancel: false, modStartPfn: false };
}

function readFrom(image: ElfImage, ranges: readonly { readonly offset: number; readonly size: number }[]): XenGuestNotes | undefined {
  const draft = newDraft('notes');
  let found = false;
  for (const range of ranges) {
    const data = fileRange(image, range.offset, range.size);
    if (data === undefined) continue;
    for (const note of readNotes(data)) {
      if (note.owner !== 'Xen') continue;
      found = applyNote(draft, note.type, note.desc) || found;
    }
  }
  return found ? draft : undefined;
}

/** A number of 1, 2, 4 or 8 bytes; undefined for other sizes and for numbers that no address can be. */
function numeric(desc: Uint8Array): number | undefined {
  const view = new DataView(desc.buffer, desc.byteOffset, desc.byteLength);
  switch (desc.length) {
    case 1:
      return view.getUint8(0);
    case 2:
      return view.getUint16(0, true);
    case 4:
      return view.getUint32(0, true);
    case 8: {
      const value = Number(view.getBigInt64(0, true));
      return Number.isSafeInteger(value) ? value : undefined;
    }
    default:
      return undefined;
  }
}

/** Returns false for types that are not about booting. */
function applyNote(draft: Draft, type: number, desc: Uint8Array): boolean {
  const text = (): string => cString(desc, 0, MAX_STRING);
  const value = numeric(desc);
  const number = <K extends keyof Draft>(key: K): void => {
    if (value !== undefined) Object.assign(draft, { [key]: value });
  };
  switch (type) {
    case XEN_ELFNOTE_INFO:
      draft.info.push(text());
      return true;
    case XEN_ELFNOTE_ENTRY:
      number('entry');
      return true;
    case XEN_ELFNOTE_HYPERCALL_PAGE:
      number('hypercallPage');
      return true;
    case XEN_ELFNOTE_VIRT_BASE:
      number('virtBase');
      return true;
    case XEN_ELFNOTE_PADDR_OFFSET:
      number('paddrOffset');
      return true;
    case XEN_ELFNOTE_XEN_VERSION:
      draft.xenVersion = text();
      return true;
    case XEN_ELFNOTE_GUEST_OS:
      draft.guestOs = text();
      return true;
    case XEN_ELFNOTE_GUEST_VERSION:
      draft.guestVersion = text();
      return true;
    case XEN_ELFNOTE_LOADER:
      draft.loader = text();
      return true;
    case XEN_ELFNOTE_PAE_MODE:
      draft.paeMode = text();
      return true;
    case XEN_ELFNOTE_FEATURES:
      draft.features = join(draft.features, parseFeatures(text()));
      return true;
    case XEN_ELFNOTE_BSD_SYMTAB:
      draft.bsdSymtab = text() === 'yes';
      return true;
    case XEN_ELFNOTE_HV_START_LOW:
      number('hvStartLow');
      return true;
    case XEN_ELFNOTE_L1_MFN_VALID:
      draft.l1MfnValid.push(...maskPairs(desc));
      return true;
    case XEN_ELFNOTE_SUSPEND_CANCEL:
      draft.suspendCancel = value !== undefined && value !== 0;
      return true;
    case XEN_ELFNOTE_INIT_P2M:
      number('initP2m');
      return true;
    case XEN_ELFNOTE_MOD_START_PFN:
      draft.modStartPfn = value !== undefined && value !== 0;
      return true;
    case XEN_ELFNOTE_SUPPORTED_FEATURES:
      if (value !== undefined) draft.features = join(draft.features, { supported: value & 0x7fffffff, required: 0, unknownRequired: [] });
      return true;
    case XEN_ELFNOTE_PHYS32_ENTRY:
      number('phys32Entry');
      return true;
    case XEN_ELFNOTE_PHYS32_RELOC: {
      if (desc.length < 12) return true;
      const view = new DataView(desc.buffer, desc.byteOffset, desc.byteLength);
      draft.phys32Reloc = { align: view.getUint32(0, true), min: view.getUint32(4, true), max: view.getUint32(8, true) };
      return true;
    }
    default:
      return false;
  }
}

function join(a: XenFeatures, b: XenFeatures): XenFeatures {
  return {
    supported: a.supported | b.supported,
    required: a.required | b.required,
    unknownRequired: [...a.unknownRequired, ...b.unknownRequired],
  };
}

function maskPairs(desc: Uint8Array): { mask: bigint; value: bigint }[] {
  const view = new DataView(desc.buffer, desc.byteOffset, desc.byteLength);
  const pairs: { mask: bigint; value: bigint }[] = [];
  for (let at = 0; at + 16 <= desc.length; at += 16)
    pairs.push({ mask: view.getBigUint64(at, true), value: view.getBigUint64(at + 8, true) });
  return pairs;
}

/** Parses the `__xen_guest` string: NAME=VALUE or NAME, separated by commas. Exported for its test. */
export function parseGuestString(text: string): XenGuestNotes {
  const draft = newDraft('section');
  for (const item of text.split(',')) {
    const equals = item.indexOf('=');
    const name = equals < 0 ? item : item.slice(0, equals);
    const value = equals < 0 ? '' : item.slice(equals + 1);
    applyLegacy(draft, name.trim(), value);
  }
  return draft;
}

/** A C number: decimal or 0x hexadecimal, as a signed 64-bit value. */
function legacyNumber(text: string): number | undefined {
  if (!/^(0x[0-9a-f]{1,16}|[0-9]{1,20})$/i.test(text)) return undefined;
  const value = Number(BigInt.asIntN(64, BigInt(text)));
  return Number.isSafeInteger(value) ? value : undefined;
}

function applyLegacy(draft: Draft, name: string, value: string): void {
  const number = (key: 'entry' | 'virtBase' | 'paddrOffset' | 'legacyHypercallPage'): void => {
    const parsed = legacyNumber(value);
    if (parsed !== undefined) draft[key] = parsed;
  };
  switch (name) {
    case 'LOADER':
      draft.loader = value;
      break;
    case 'GUEST_OS':
      draft.guestOs = value;
      break;
    case 'GUEST_VER':
      draft.guestVersion = value;
      break;
    case 'XEN_VER':
      draft.xenVersion = value;
      break;
    case 'PAE':
      draft.paeMode = value;
      break;
    case 'BSD_SYMTAB':
      draft.bsdSymtab = true;
      break;
    case 'VIRT_BASE':
      number('virtBase');
      break;
    case 'VIRT_ENTRY':
      number('entry');
      break;
    case 'ELF_PADDR_OFFSET':
      number('paddrOffset');
      break;
    case 'HYPERCALL_PAGE':
      number('legacyHypercallPage');
      break;
    case 'FEATURES':
      draft.features = parseFeatures(value);
      break;
    default:
      break;
  }
}
