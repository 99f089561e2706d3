// SPDX-License-Identifier: Apache-2.0
/**
 * The little of ELF that building an initramfs takes: a section by name (kernel modules keep their description in `.modinfo`) and
 * the shared libraries and the interpreter a program asks for. After the System V ABI, chapters 4 and 5; 64-bit little-endian only.
 */

const SHT_DYNAMIC = 6;
const DT_NEEDED = 1n;
const PT_INTERP = 3;

interface Section {
  readonly name: string;
  readonly type: number;
  readonly content: Buffer;
  readonly link: number;
}

const cString = (bytes: Buffer, at: number): string => bytes.toString('latin1', at, bytes.indexOf(0, at));

function sectionsOf(file: Buffer): Section[] {
  if (file.length < 64 || file.readUInt32BE(0) !== 0x7f454c46 || file[4] !== 2 || file[5] !== 1) {
    throw new RangeError('not a 64-bit little-endian ELF file');
  }
  const table = Number(file.readBigUInt64LE(0x28));
  const entrySize = file.readUInt16LE(0x3a);
  const count = file.readUInt16LE(0x3c);
  const raw = Array.from({ length: count }, (_, index) => {
    const at = table + index * entrySize;
    const start = Number(file.readBigUInt64LE(at + 24));
    const type = file.readUInt32LE(at + 4);
    const size = type === 8 ? 0 : Number(file.readBigUInt64LE(at + 32));
    return { nameAt: file.readUInt32LE(at), type, link: file.readUInt32LE(at + 40), content: file.subarray(start, start + size) };
  });
  const names = raw[file.readUInt16LE(0x3e)].content;
  return raw.map(({ nameAt, type, link, content }) => ({ name: cString(names, nameAt), type, link, content }));
}

/** What a kernel module says of itself. */
export interface ModuleInfo {
  readonly name: string;
  /** Modules that must be loaded before; names as in `name` (with underscores). */
  readonly depends: readonly string[];
  readonly aliases: readonly string[];
}

export function readModuleInfo(file: Buffer): ModuleInfo {
  const section = sectionsOf(file).find(({ name }) => name === '.modinfo');
  if (section === undefined) throw new RangeError('no .modinfo section: not a kernel module');
  const pairs = section.content
    .toString('latin1')
    .split('\0')
    .filter((item) => item.includes('='))
    .map((item) => [item.slice(0, item.indexOf('=')), item.slice(item.indexOf('=') + 1)] as const);
  const all = (key: string): string[] => pairs.filter(([name]) => name === key).map(([, value]) => value);
  return {
    name: all('name')[0] ?? '',
    depends: all('depends')
      .flatMap((list) => list.split(','))
      .filter((name) => name !== '')
      .map((name) => name.replaceAll('-', '_')),
    aliases: all('alias'),
  };
}

/** Shared libraries a program or library names (`DT_NEEDED`), and the path of its dynamic loader when it has one. */
export interface DynamicNeeds {
  readonly libraries: readonly string[];
  readonly interpreter: string | null;
}

export function readDynamicNeeds(file: Buffer): DynamicNeeds {
  const sections = sectionsOf(file);
  const libraries: string[] = [];
  for (const section of sections.filter(({ type }) => type === SHT_DYNAMIC)) {
    const strings = sections[section.link].content;
    for (let at = 0; at + 16 <= section.content.length; at += 16) {
      if (section.content.readBigInt64LE(at) === DT_NEEDED)
        libraries.push(cString(strings, Number(section.content.readBigUInt64LE(at + 8))));
    }
  }
  const table = Number(file.readBigUInt64LE(0x20));
  let interpreter: string | null = null;
  for (let index = 0; index < file.readUInt16LE(0x38); index++) {
    const at = table + index * file.readUInt16LE(0x36);
    if (file.readUInt32LE(at) === PT_INTERP) interpreter = cString(file, Number(file.readBigUInt64LE(at + 8)));
  }
  return { libraries, interpreter };
}
