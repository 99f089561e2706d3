// SPDX-License-Identifier: Apache-2.0
/**
 * ELF executables of x86, 32 and 64 bit: header, program headers, section headers, notes.
 *
 * Follows the System V ABI (gABI) and its x86-64 supplement. Left out: everything that only linkers need (symbols, relocations), and
 * big-endian files. Virtual and physical addresses are signed numbers, so that the canonical 48-bit ones are exact; addresses beyond
 * 2^53 in size cannot be meant and are an error. Sizes and offsets are checked against the file when they are used.
 */
import { err, ok, type Result } from '../../base/result.ts';
import { type BootError, bootError } from './boot-error.ts';

export const PT_LOAD = 1;
export const PT_NOTE = 4;
export const SHT_NOTE = 7;
export const SHT_NOBITS = 8;
export const EM_386 = 3;
export const EM_X86_64 = 62;
const ET_EXEC = 2;
const ET_DYN = 3;
/** More than any kernel has; a header may claim 65,535. */
const MAX_PROGRAM_HEADERS = 256;
const MAX_SECTION_HEADERS = 4096;

export interface ElfSegment {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly vaddr: number;
  readonly paddr: number;
  readonly fileSize: number;
  readonly memSize: number;
  readonly align: number;
}

export interface ElfSection {
  readonly name: string;
  readonly type: number;
  readonly offset: number;
  readonly size: number;
}

export interface ElfNote {
  readonly owner: string;
  readonly type: number;
  readonly desc: Uint8Array;
}

export interface ElfImage {
  readonly bits: 32 | 64;
  readonly machine: number;
  readonly entry: number;
  readonly segments: readonly ElfSegment[];
  readonly sections: readonly ElfSection[];
  readonly bytes: Uint8Array;
}

export function isElf(bytes: Uint8Array): boolean {
  return bytes[0] === 0x7f && bytes[1] === 0x45 && bytes[2] === 0x4c && bytes[3] === 0x46;
}

const damaged = (what: string): { readonly ok: false; readonly error: BootError } =>
  err(bootError('damaged', `the ELF file is damaged (${what}); fetch it again`));

/** Reads fields of one class and fails softly: an out-of-range read or value sets `bad`. */
class FieldReader {
  readonly bits: 32 | 64;
  bad = false;
  readonly #view: DataView;

  constructor(bytes: Uint8Array, bits: 32 | 64) {
    this.bits = bits;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u16(at: number): number {
    return this.#fits(at, 2) ? this.#view.getUint16(at, true) : 0;
  }
  u32(at: number): number {
    return this.#fits(at, 4) ? this.#view.getUint32(at, true) : 0;
  }
  /** An unsigned size or file offset. */
  size(at: number): number {
    if (this.bits === 32) return this.u32(at);
    return this.#fits(at, 8) ? this.#exact(this.#view.getBigUint64(at, true)) : 0;
  }
  /** An address: signed in 64-bit files. */
  address(at: number): number {
    if (this.bits === 32) return this.u32(at);
    return this.#fits(at, 8) ? this.#exact(this.#view.getBigInt64(at, true)) : 0;
  }

  #fits(at: number, length: number): boolean {
    if (at >= 0 && at + length <= this.#view.byteLength) return true;
    this.bad = true;
    return false;
  }
  #exact(value: bigint): number {
    const number = Number(value);
    if (Number.isSafeInteger(number)) return number;
    this.bad = true;
    return 0;
  }
}

export function parseElf(bytes: Uint8Array): Result<ElfImage, BootError> {
  if (!isElf(bytes)) return err(bootError('not-a-kernel', 'this is not an ELF file'));
  if (bytes.length < 52) return damaged('its header is cut off');
  if ((bytes[4] !== 1 && bytes[4] !== 2) || bytes[5] !== 1) {
    return err(bootError('not-a-kernel', 'this ELF file is not for a little-endian machine; use a kernel built for x86-64'));
  }
  const bits = bytes[4] === 2 ? 64 : 32;
  const wide = bits === 64;
  const read = new FieldReader(bytes, bits);
  const type = read.u16(16);
  const machine = read.u16(18);
  if (machine !== EM_X86_64 && machine !== EM_386) {
    return err(bootError('not-a-kernel', `this ELF file is for another processor (machine ${machine}); use a kernel built for x86-64`));
  }
  if (type !== ET_EXEC && type !== ET_DYN) {
    return err(bootError('not-a-kernel', 'this ELF file is not an executable; use the linked kernel'));
  }
  const entry = read.address(24);
  const programHeaders = read.size(wide ? 32 : 28);
  const sectionHeaders = read.size(wide ? 40 : 32);
  const counts = wide ? 54 : 42;
  const segments = readSegments(read, programHeaders, read.u16(counts), read.u16(counts + 2), wide);
  if (segments === undefined || read.bad) return damaged('its program headers are out of range');
  const sections = readSections(bytes, bits, sectionHeaders, read.u16(counts + 4), read.u16(counts + 6), read.u16(counts + 8));
  return ok({ bits, machine, entry, segments, sections, bytes });
}

function readSegments(read: FieldReader, start: number, entrySize: number, count: number, wide: boolean): ElfSegment[] | undefined {
  const size = wide ? 56 : 32;
  if (count > MAX_PROGRAM_HEADERS || (count > 0 && entrySize < size)) return undefined;
  const segments: ElfSegment[] = [];
  for (let index = 0; index < count; index++) {
    const at = start + index * entrySize;
    segments.push({
      type: read.u32(at),
      flags: read.u32(at + (wide ? 4 : 24)),
      offset: read.size(at + (wide ? 8 : 4)),
      vaddr: read.address(at + (wide ? 16 : 8)),
      paddr: read.address(at + (wide ? 24 : 12)),
      fileSize: read.size(at + (wide ? 32 : 16)),
      memSize: read.size(at + (wide ? 40 : 20)),
      align: read.size(at + (wide ? 48 : 28)),
    });
    if (read.bad) return undefined;
  }
  return segments;
}

/** Sections only help to find notes of unusual files: what cannot be read is left out instead of failing. */
function readSections(bytes: Uint8Array, bits: 32 | 64, start: number, entrySize: number, count: number, nameIndex: number): ElfSection[] {
  const wide = bits === 64;
  const sections: ElfSection[] = [];
  if (start === 0 || count > MAX_SECTION_HEADERS || entrySize < (wide ? 64 : 40)) return sections;
  const read = new FieldReader(bytes, bits);
  const offsetAt = wide ? 24 : 16;
  const sizeAt = wide ? 32 : 20;
  const names = nameIndex < count ? read.size(start + nameIndex * entrySize + offsetAt) : -1;
  for (let index = 0; index < count; index++) {
    const at = start + index * entrySize;
    const section = {
      name: names < 0 ? '' : cString(bytes, names + read.u32(at), 64),
      type: read.u32(at + 4),
      offset: read.size(at + offsetAt),
      size: read.size(at + sizeAt),
    };
    if (read.bad) break;
    sections.push(section);
  }
  return sections;
}

/** A string of ASCII up to a zero byte, the end of the file or `max` characters. */
export function cString(bytes: Uint8Array, from: number, max: number): string {
  let text = '';
  for (let at = from; at >= 0 && at < bytes.length && at < from + max && bytes[at] !== 0; at++) text += String.fromCharCode(bytes[at]);
  return text;
}

/** The part of the file that `offset` and `size` name, or undefined when it is not all there. */
export function fileRange(image: ElfImage, offset: number, size: number): Uint8Array | undefined {
  return offset >= 0 && size >= 0 && offset + size <= image.bytes.length ? image.bytes.subarray(offset, offset + size) : undefined;
}

const align4 = (value: number): number => Math.ceil(value / 4) * 4;

/** The notes in one PT_NOTE segment or SHT_NOTE section; stops at the first that does not fit. */
export function readNotes(data: Uint8Array): ElfNote[] {
  const notes: ElfNote[] = [];
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  for (let at = 0; at + 12 <= data.length; ) {
    const nameSize = view.getUint32(at, true);
    const descSize = view.getUint32(at + 4, true);
    const name = at + 12;
    const desc = name + align4(nameSize);
    if (desc + descSize > data.length) break;
    notes.push({
      owner: cString(data, name, Math.min(nameSize, 32)),
      type: view.getUint32(at + 8, true),
      desc: data.subarray(desc, desc + descSize),
    });
    at = desc + align4(descSize);
  }
  return notes;
}
