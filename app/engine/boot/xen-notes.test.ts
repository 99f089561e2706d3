// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { parseElf } from './elf.ts';
import { makeElf, type TestElf, type TestNote } from './testing/make-kernel.ts';
import { missingFeatures, parseFeatures } from './xen-features.ts';
import { parseGuestString, readXenNotes, type XenGuestNotes } from './xen-notes.ts';

const segment = { paddr: 0x1000, data: Uint8Array.from([0xc3]) };

function notesOf(elf: Omit<TestElf, 'segments'>): XenGuestNotes | undefined {
  const parsed = parseElf(makeElf({ segments: [segment], ...elf }));
  if (!parsed.ok) throw new Error(parsed.error.message);
  return readXenNotes(parsed.value);
}

describe('ELF notes', () => {
  const notes: readonly TestNote[] = [
    { type: 0, desc: 'KEY=value' },
    { type: 1, desc: -0x7cf86e40 },
    { type: 2, desc: -0x7f000000 },
    { type: 3, desc: -0x80000000 },
    { type: 4, desc: 0 },
    { type: 5, desc: 'xen-3.0' },
    { type: 6, desc: 'linux' },
    { type: 7, desc: '2.6' },
    { type: 8, desc: 'generic' },
    { type: 9, desc: 'yes' },
    { type: 10, desc: '!writable_page_tables|pae_pgdir_above_4gb' },
    { type: 11, desc: 'yes' },
    { type: 12, desc: -0x800000000000 },
    { type: 13, desc: Uint8Array.from([1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]) },
    { type: 14, desc: 1 },
    { type: 15, desc: 0x8000000000 },
    { type: 16, desc: 1 },
    { type: 17, desc: 0x8801 },
    { type: 18, desc: 0x1000850 },
    { type: 19, desc: Uint8Array.from([0, 0, 0x20, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0x3f]) },
  ];
  const expected = {
    source: 'notes',
    info: ['KEY=value'],
    entry: -0x7cf86e40,
    hypercallPage: -0x7f000000,
    virtBase: -0x80000000,
    paddrOffset: 0,
    xenVersion: 'xen-3.0',
    guestOs: 'linux',
    guestVersion: '2.6',
    loader: 'generic',
    paeMode: 'yes',
    features: { supported: 0x8811, required: 1, unknownRequired: [] },
    bsdSymtab: true,
    hvStartLow: -0x800000000000,
    l1MfnValid: [{ mask: 1n, value: 1n }],
    suspendCancel: true,
    initP2m: 0x8000000000,
    modStartPfn: true,
    phys32Entry: 0x1000850,
    phys32Reloc: { align: 0x200000, min: 0x1000000, max: 0x3fffffff },
  };

  it('reads every type from a PT_NOTE segment', () => {
    expect(notesOf({ notes })).toEqual(expected);
  });

  it('reads them from an SHT_NOTE section when no segment has them', () => {
    expect(notesOf({ notes, notesIn: 'section' })).toEqual(expected);
  });

  it('takes numbers of 4 bytes in 32-bit files', () => {
    const found = notesOf({
      bits: 32,
      notes: [
        { type: 3, desc: 0xc0000000 },
        { type: 18, desc: 0x10002e0 },
      ],
    });
    expect(found).toMatchObject({ virtBase: 0xc0000000, phys32Entry: 0x10002e0 });
  });

  it('ignores other owners and the types of crash dumps', () => {
    expect(
      notesOf({
        notes: [
          { type: 1, desc: 5, owner: 'GNU' },
          { type: 0x1000001, desc: 5 },
        ],
      }),
    ).toBeUndefined();
  });

  it('ignores numbers of impossible sizes and stops at a note that does not fit', () => {
    expect(
      notesOf({
        notes: [
          { type: 6, desc: 'x' },
          { type: 1, desc: Uint8Array.from([1, 2, 3]) },
        ],
      }),
    ).not.toHaveProperty('entry');
    const file = makeElf({
      segments: [segment],
      notes: [
        { type: 6, desc: 'x' },
        { type: 1, desc: 5 },
      ],
    });
    const at = file.findIndex((_, index) => file[index] === 8 && file[index + 4] === 1 && file[index + 8] === 0x58);
    new DataView(file.buffer).setUint32(at, 0xfffffff0, true);
    const parsed = parseElf(file);
    if (!parsed.ok) throw new Error(parsed.error.message);
    expect(readXenNotes(parsed.value)).toMatchObject({ guestOs: 'x' });
    expect(readXenNotes(parsed.value)).not.toHaveProperty('entry');
  });
});

describe('the __xen_guest section', () => {
  const text =
    'GUEST_OS=linux,GUEST_VER=2.6,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,ELF_PADDR_OFFSET=0xffffffff80000000,VIRT_ENTRY=0xffffffff80200000,HYPERCALL_PAGE=0x202,FEATURES=!writable_page_tables|auto_translated_physmap,LOADER=generic,PAE=yes[extended-cr3],BSD_SYMTAB';
  const expected = {
    source: 'section',
    guestOs: 'linux',
    guestVersion: '2.6',
    xenVersion: 'xen-3.0',
    virtBase: -0x80000000,
    paddrOffset: -0x80000000,
    entry: -0x7fe00000,
    legacyHypercallPage: 0x202,
    loader: 'generic',
    paeMode: 'yes[extended-cr3]',
    bsdSymtab: true,
    features: { supported: 5, required: 1, unknownRequired: [] },
  };

  it('is read when there are no notes', () => {
    expect(notesOf({ guestSection: text })).toMatchObject(expected);
  });

  it('does not count beside notes', () => {
    expect(notesOf({ guestSection: text, notes: [{ type: 6, desc: 'other' }] })).toMatchObject({ source: 'notes', guestOs: 'other' });
  });

  it('takes decimal numbers and ignores what is none', () => {
    expect(parseGuestString('VIRT_BASE=4096,VIRT_ENTRY=banana')).toMatchObject({ virtBase: 4096 });
    expect(parseGuestString('VIRT_ENTRY=banana')).not.toHaveProperty('entry');
  });
});

describe('features', () => {
  it('marks required ones and ignores unknown optional ones', () => {
    expect(parseFeatures('!dom0|gnttab_map_avail_bits|novelty|!other')).toEqual({
      supported: (1 << 11) | (1 << 7),
      required: 1 << 11,
      unknownRequired: ['other'],
    });
  });

  it('are missing when a PV guest never has them, not when Xen merely does not grant them', () => {
    expect(missingFeatures(parseFeatures('!dom0|!other'))).toEqual(['dom0', 'other']);
    expect(missingFeatures(parseFeatures('!writable_page_tables|auto_translated_physmap'))).toEqual([]);
  });
});
