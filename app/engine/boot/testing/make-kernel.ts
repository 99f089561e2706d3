// SPDX-License-Identifier: Apache-2.0
/** Writes small ELF kernels and bzImages for tests. */

export interface TestNote {
  readonly type: number;
  /** A string gets its zero byte; a number has 8 bytes (4 in 32-bit files). */
  readonly desc: string | number | Uint8Array;
  readonly owner?: string;
}

export interface TestSegment {
  readonly paddr: number;
  readonly vaddr?: number;
  readonly data: Uint8Array;
  readonly memSize?: number;
  readonly fileSize?: number;
  readonly flags?: number;
}

export interface TestElf {
  readonly bits?: 32 | 64;
  readonly machine?: number;
  readonly entry?: number;
  readonly segments: readonly TestSegment[];
  readonly notes?: readonly TestNote[];
  /** Where the notes are named: program headers (default) or section headers. */
  readonly notesIn?: 'segment' | 'section';
  /** Content of a section `__xen_guest`. */
  readonly guestSection?: string;
}

const align = (value: number, to: number): number => Math.ceil(value / to) * to;
export const text = (value: string): Uint8Array => Uint8Array.from(value, (character) => character.charCodeAt(0));

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

function noteBytes(note: TestNote, wide: boolean): Uint8Array {
  const owner = text(`${note.owner ?? 'Xen'}\0`);
  let desc: Uint8Array;
  if (typeof note.desc === 'string') desc = text(`${note.desc}\0`);
  else if (typeof note.desc === 'number') {
    desc = new Uint8Array(wide ? 8 : 4);
    const view = new DataView(desc.buffer);
    if (wide) view.setBigInt64(0, BigInt(note.desc), true);
    else view.setUint32(0, note.desc, true);
  } else desc = note.desc;
  const out = new Uint8Array(12 + align(owner.length, 4) + align(desc.length, 4));
  const view = new DataView(out.buffer);
  view.setUint32(0, owner.length, true);
  view.setUint32(4, desc.length, true);
  view.setUint32(8, note.type, true);
  out.set(owner, 12);
  out.set(desc, 12 + align(owner.length, 4));
  return out;
}

interface Section {
  readonly name: string;
  readonly type: number;
  readonly data: Uint8Array;
}

export function makeElf(elf: TestElf): Uint8Array {
  const wide = (elf.bits ?? 64) === 64;
  const notes = concat((elf.notes ?? []).map((note) => noteBytes(note, wide)));
  const inSegment = notes.length > 0 && elf.notesIn !== 'section';
  const sections: Section[] = [{ name: '', type: 0, data: new Uint8Array(0) }];
  if (notes.length > 0 && !inSegment) sections.push({ name: '.notes', type: 7, data: notes });
  if (elf.guestSection !== undefined) sections.push({ name: '__xen_guest', type: 1, data: text(`${elf.guestSection}\0`) });
  const names = `${sections.map((section) => section.name).join('\0')}\0.shstrtab\0`;
  sections.push({ name: '.shstrtab', type: 3, data: text(names) });

  const headerSize = wide ? 64 : 52;
  const programSize = wide ? 56 : 32;
  const sectionSize = wide ? 64 : 40;
  const programs = elf.segments.length + (inSegment ? 1 : 0);
  let at = headerSize + programs * programSize;
  const place = (data: Uint8Array): number => {
    const start = align(at, 8);
    at = start + data.length;
    return start;
  };
  const segmentOffsets = elf.segments.map((segment) => place(segment.data));
  const notesOffset = inSegment ? place(notes) : 0;
  const sectionOffsets = sections.map((section) => place(section.data));
  const sectionHeaders = align(at, 8);
  const out = new Uint8Array(sectionHeaders + sections.length * sectionSize);
  const view = new DataView(out.buffer);
  const word = (offset: number, value: number): void =>
    wide ? view.setBigInt64(offset, BigInt(value), true) : view.setUint32(offset, value, true);

  out.set([0x7f, 0x45, 0x4c, 0x46, wide ? 2 : 1, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, elf.machine ?? (wide ? 62 : 3), true);
  view.setUint32(20, 1, true);
  word(24, elf.entry ?? 0);
  word(wide ? 32 : 28, headerSize);
  word(wide ? 40 : 32, sectionHeaders);
  const counts = wide ? 52 : 40;
  const shape = [headerSize, programSize, programs, sectionSize, sections.length, sections.length - 1];
  for (const [index, value] of shape.entries()) view.setUint16(counts + index * 2, value, true);

  const program = (index: number, type: number, flags: number, fields: readonly number[]): void => {
    const base = headerSize + index * programSize;
    view.setUint32(base, type, true);
    view.setUint32(base + (wide ? 4 : 24), flags, true);
    const offsets = wide ? [8, 16, 24, 32, 40, 48] : [4, 8, 12, 16, 20, 28];
    for (const [field, value] of fields.entries()) word(base + offsets[field], value);
  };
  elf.segments.forEach((segment, index) => {
    out.set(segment.data, segmentOffsets[index]);
    const fileSize = segment.fileSize ?? segment.data.length;
    const fields = [segmentOffsets[index], segment.vaddr ?? segment.paddr, segment.paddr, fileSize, segment.memSize ?? fileSize, 4096];
    program(index, 1, segment.flags ?? 7, fields);
  });
  if (inSegment) {
    out.set(notes, notesOffset);
    program(programs - 1, 4, 4, [notesOffset, 0, 0, notes.length, notes.length, 4]);
  }
  sections.forEach((section, index) => {
    out.set(section.data, sectionOffsets[index]);
    const base = sectionHeaders + index * sectionSize;
    view.setUint32(base, Math.max(names.indexOf(`${section.name}\0`), 0), true);
    view.setUint32(base + 4, section.type, true);
    word(base + (wide ? 24 : 16), sectionOffsets[index]);
    word(base + (wide ? 32 : 20), section.data.length);
  });
  return out;
}

/** Notes of a Linux-like PV kernel at the top of the address space. */
export const PV_NOTES: readonly TestNote[] = [
  { type: 6, desc: 'linux' },
  { type: 5, desc: 'xen-3.0' },
  { type: 8, desc: 'generic' },
  { type: 3, desc: -0x80000000 },
  { type: 4, desc: 0 },
  { type: 1, desc: -0x80000000 + 0x100000 },
];

/** A kernel of one segment at 1 MiB. */
export function pvKernelFile(notes: readonly TestNote[] = PV_NOTES, memSize = 0x2000): Uint8Array {
  return makeElf({ segments: [{ paddr: 0x100000, data: Uint8Array.from([0xf4, 0x90, 0xc3]), memSize }], notes });
}

export interface TestBzImage {
  readonly payload: Uint8Array;
  /** Appended to the payload, as the build does for everything but gzip. */
  readonly declaredSize?: number;
  readonly protocol?: number;
  readonly initSize?: number;
  readonly version?: string;
}

export function makeBzImage(image: TestBzImage): Uint8Array {
  const setup = 2 * 512;
  const tail = image.declaredSize === undefined ? 0 : 4;
  const out = new Uint8Array(setup + 64 + image.payload.length + tail);
  const view = new DataView(out.buffer);
  out[0x1f1] = 1;
  view.setUint16(0x1fe, 0xaa55, true);
  view.setUint32(0x202, 0x53726448, true);
  view.setUint16(0x206, image.protocol ?? 0x20f, true);
  out[0x211] = 1;
  view.setUint16(0x236, 1, true);
  view.setUint32(0x248, 64, true);
  view.setUint32(0x24c, image.payload.length + tail, true);
  view.setUint32(0x260, image.initSize ?? 0x1000000, true);
  if (image.version !== undefined) {
    view.setUint16(0x20e, 0x100, true);
    out.set(text(image.version), 0x300);
  }
  out.set(image.payload, setup + 64);
  if (image.declaredSize !== undefined) view.setUint32(out.length - 4, image.declaredSize, true);
  return out;
}
