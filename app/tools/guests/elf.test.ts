// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { readDynamicNeeds, readModuleInfo } from './elf.ts';

interface SectionSpec {
  name: string;
  type: number;
  content: Buffer;
  link?: number;
}

/** A 64-bit ELF file of nothing but sections (the first is the null section) and, on request, one PT_INTERP. */
function elf(sections: SectionSpec[], interpreter?: string): Buffer {
  const names = Buffer.from(`\0${[...sections.map(({ name }) => name), '.shstrtab'].join('\0')}\0`);
  const all = [{ name: '', type: 0, content: Buffer.alloc(0) }, ...sections, { name: '.shstrtab', type: 3, content: names }];
  const interp = Buffer.from(interpreter === undefined ? '' : `${interpreter}\0`);
  const programHeader = Buffer.alloc(interpreter === undefined ? 0 : 56);
  const head = Buffer.alloc(64);
  Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]).copy(head);
  let at = head.length + programHeader.length + interp.length;
  const table = all.map((section: SectionSpec) => {
    const entry = Buffer.alloc(64);
    entry.writeUInt32LE(section.name === '' ? 0 : names.indexOf(`\0${section.name}\0`) + 1, 0);
    entry.writeUInt32LE(section.type, 4);
    entry.writeBigUInt64LE(BigInt(at), 24);
    entry.writeBigUInt64LE(BigInt(section.content.length), 32);
    entry.writeUInt32LE(section.link ?? 0, 40);
    at += section.content.length;
    return entry;
  });
  if (interpreter !== undefined) {
    programHeader.writeUInt32LE(3, 0);
    programHeader.writeBigUInt64LE(BigInt(head.length + programHeader.length), 8);
    head.writeUInt16LE(1, 0x38);
  }
  head.writeBigUInt64LE(64n, 0x20);
  head.writeUInt16LE(56, 0x36);
  head.writeBigUInt64LE(BigInt(at), 0x28);
  head.writeUInt16LE(64, 0x3a);
  head.writeUInt16LE(all.length, 0x3c);
  head.writeUInt16LE(all.length - 1, 0x3e);
  return Buffer.concat([head, programHeader, interp, ...all.map(({ content }) => content), ...table]);
}

describe('readModuleInfo', () => {
  it('reads name, dependencies and aliases', () => {
    const content = Buffer.from('license=GPL\0alias=xen:vif\0alias=net-x\0depends=xen-core,netfs\0name=xen_netfront\0');
    expect(readModuleInfo(elf([{ name: '.modinfo', type: 1, content }]))).toEqual({
      name: 'xen_netfront',
      depends: ['xen_core', 'netfs'],
      aliases: ['xen:vif', 'net-x'],
    });
  });

  it('reads an empty dependency list as none', () => {
    expect(readModuleInfo(elf([{ name: '.modinfo', type: 1, content: Buffer.from('depends=\0name=a\0') }])).depends).toEqual([]);
  });

  it('refuses what is not a module', () => {
    expect(() => readModuleInfo(elf([]))).toThrow('no .modinfo section');
    expect(() => readModuleInfo(Buffer.from('#!/bin/sh'))).toThrow('not a 64-bit');
  });
});

describe('readDynamicNeeds', () => {
  it('reads libraries and the interpreter', () => {
    const strings = Buffer.from('\0libc.so.6\0libm.so.6\0');
    const dynamic = Buffer.alloc(64);
    for (const [index, [tag, value]] of [
      [1n, 1n],
      [5n, 0n],
      [1n, 11n],
      [0n, 0n],
    ].entries()) {
      dynamic.writeBigUInt64LE(tag, index * 16);
      dynamic.writeBigUInt64LE(value, index * 16 + 8);
    }
    const file = elf(
      [
        { name: '.dynstr', type: 3, content: strings },
        { name: '.dynamic', type: 6, content: dynamic, link: 1 },
      ],
      '/lib64/ld-linux-x86-64.so.2',
    );
    expect(readDynamicNeeds(file)).toEqual({ libraries: ['libc.so.6', 'libm.so.6'], interpreter: '/lib64/ld-linux-x86-64.so.2' });
  });

  it('finds nothing in a static program', () => {
    expect(readDynamicNeeds(elf([]))).toEqual({ libraries: [], interpreter: null });
  });
});
