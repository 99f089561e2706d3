// SPDX-License-Identifier: Apache-2.0
/**
 * Writes the archive that Linux unpacks as its initial file system: cpio, "newc" variant, after the kernel's
 * Documentation/driver-api/early-userspace/buffer-format.
 *
 * The same entries give the same bytes on every machine: names are sorted, times and owners are zero, inode numbers count up.
 * Left out: hard links, checksums (the "crc" variant), files of 4 GiB and more.
 */

export type CpioEntry =
  | { readonly kind: 'directory'; readonly mode: number }
  | { readonly kind: 'file'; readonly mode: number; readonly content: Uint8Array }
  | { readonly kind: 'symlink'; readonly target: string }
  | { readonly kind: 'character'; readonly mode: number; readonly major: number; readonly minor: number };

/** A file tree by path, without a leading slash. */
export type CpioTree = ReadonlyMap<string, CpioEntry>;

const TYPE_BITS = { directory: 0o040000, file: 0o100000, symlink: 0o120000, character: 0o020000 } as const;
const TRAILER = 'TRAILER!!!';
const ALIGN = 4;

const hex = (value: number): string => value.toString(16).padStart(8, '0').toUpperCase();

function header(inode: number, mode: number, links: number, size: number, device: readonly [number, number], nameSize: number): Buffer {
  const fields = [inode, mode, 0, 0, links, 0, size, 0, 0, device[0], device[1], nameSize, 0];
  return Buffer.from(`070701${fields.map(hex).join('')}`, 'latin1');
}

const padding = (length: number): Buffer => Buffer.alloc((ALIGN - (length % ALIGN)) % ALIGN);

function contentOf(entry: CpioEntry): Uint8Array {
  if (entry.kind === 'file') return entry.content;
  return entry.kind === 'symlink' ? Buffer.from(entry.target) : Buffer.alloc(0);
}

/** Adds the directories that paths in `tree` need and that it does not name itself. */
function withParents(tree: CpioTree): Map<string, CpioEntry> {
  const full = new Map(tree);
  for (const path of tree.keys()) {
    for (let slash = path.indexOf('/'); slash > 0; slash = path.indexOf('/', slash + 1)) {
      const parent = path.slice(0, slash);
      if (!full.has(parent)) full.set(parent, { kind: 'directory', mode: 0o755 });
    }
  }
  return full;
}

/** The archive of `tree`, uncompressed. Missing parent directories are made with mode 0755. */
export function writeCpio(tree: CpioTree): Buffer {
  const full = withParents(tree);
  const parts: Buffer[] = [];
  const append = (
    path: string,
    inode: number,
    mode: number,
    links: number,
    device: readonly [number, number],
    content: Uint8Array,
  ): void => {
    const name = Buffer.from(`${path}\0`);
    const head = Buffer.concat([header(inode, mode, links, content.length, device, name.length), name]);
    parts.push(head, padding(head.length), Buffer.from(content), padding(content.length));
  };
  let inode = 1;
  // Sorted by code unit: a directory comes before what is in it, and no locale has a say.
  for (const path of [...full.keys()].sort((a, b) => (a < b ? -1 : 1))) {
    if (path === '' || path.startsWith('/')) throw new RangeError(`archive path ${JSON.stringify(path)} is not relative`);
    const entry = full.get(path)!;
    const permissions = entry.kind === 'symlink' ? 0o777 : entry.mode;
    const device: readonly [number, number] = entry.kind === 'character' ? [entry.major, entry.minor] : [0, 0];
    append(path, inode, TYPE_BITS[entry.kind] | permissions, entry.kind === 'directory' ? 2 : 1, device, contentOf(entry));
    inode += 1;
  }
  append(TRAILER, 0, 0, 1, [0, 0], Buffer.alloc(0));
  return Buffer.concat(parts);
}
