// SPDX-License-Identifier: Apache-2.0
/**
 * Makes a guest ready to boot, from packages to files in the cache.
 *
 * A finished guest is kept with a key of everything of ours that went into it (scripts, builder), so preparing it again costs no
 * package tool and no network until those change or `refresh` asks for new versions.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { Apt, type DebianPackage, PackageError } from './apt.ts';
import { GUESTS, type Guest, type GuestRecipe } from './catalog.ts';
import { type CpioTree, writeCpio } from './cpio.ts';
import { baseTree, testNames, testTree } from './initramfs.ts';
import { loadKernel } from './kernel.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
/** Where guests and the packages they are made from are kept. */
export const GUEST_CACHE = join(ROOT, '.cache/guests');

/** A guest that cannot be made here, and why. */
export interface Unavailable {
  readonly name: string;
  readonly reason: string;
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .map((path) => join(folder, path))
    .filter((path) => statSync(path).isFile())
    .sort();
}

/** Changes when the recipe or anything of this repository that shapes a guest changes. */
function sourceKey(recipe: GuestRecipe): string {
  const hash = createHash('sha256').update(JSON.stringify(recipe));
  const sources = [...filesBelow(join(ROOT, 'app/tools/guests')), ...filesBelow(join(ROOT, 'e2e/guests/initramfs'))];
  for (const path of sources.filter((file) => !file.endsWith('.test.ts')))
    hash.update(`${path.slice(ROOT.length)}\0`).update(readFileSync(path));
  return hash.digest('hex');
}

/** gzip bytes that depend on the content alone. */
function packed(tree: CpioTree): Buffer {
  const bytes = gzipSync(writeCpio(tree), { level: 9 });
  // Byte 9 names the operating system gzip ran on.
  bytes[9] = 255;
  return bytes;
}

/** Writes beside and renames, so that a file that exists is whole. */
function writeWhole(path: string, content: Uint8Array | string): void {
  const scratch = `${path}.${process.pid}.tmp`;
  writeFileSync(scratch, content);
  renameSync(scratch, path);
}

export class GuestKitchen {
  readonly #say: (message: string) => void;
  readonly #refresh: boolean;
  #apt: Apt | null = null;

  constructor(say: (message: string) => void, refresh: boolean) {
    this.#say = say;
    this.#refresh = refresh;
  }

  /** Makes one guest; a PackageError becomes `Unavailable`. */
  async prepare(recipe: GuestRecipe): Promise<Guest | Unavailable> {
    const folder = join(GUEST_CACHE, recipe.name);
    const key = sourceKey(recipe);
    const kept = this.#refresh ? null : readKept(join(folder, 'guest.json'), key);
    if (kept !== null) return kept;
    try {
      mkdirSync(folder, { recursive: true });
      const guest = await this.#cook(recipe, folder);
      if (recipe.source.kind !== 'resource') writeWhole(join(folder, 'guest.json'), JSON.stringify({ key, guest }));
      return guest;
    } catch (error) {
      if (error instanceof PackageError) return { name: recipe.name, reason: error.message };
      throw error;
    }
  }

  async #cook(recipe: GuestRecipe, folder: string): Promise<Guest> {
    const { name, source, append, memory } = recipe;
    if (source.kind === 'resource') {
      const kernel = join(ROOT, source.path);
      if (!existsSync(kernel)) throw new PackageError(`this checkout has no ${source.path}`);
      return { name, mode: 'pv', kernel, append, memory, origin: source.path };
    }
    this.#apt ??= new Apt(GUEST_CACHE, this.#say);
    if (source.kind === 'file') {
      const found = await this.#apt.find(source.package, 'amd64');
      const kernel = join(await this.#apt.unpacked(found), source.path);
      if (!existsSync(kernel)) throw new PackageError(`${found.name} ${found.version} has no ${source.path}`);
      return { name, mode: 'pv', kernel, append, memory, origin: originOf(found) };
    }

    const kernel = await loadKernel(this.#apt, source.package);
    if (kernel.missing.length > 0) this.#say(`${name}: this kernel has no ${kernel.missing.join(', ')}`);
    this.#say(`${name}: packing the initramfs`);
    const base = packed(await baseTree(this.#apt, kernel));
    const tests = packed(await testTree(this.#apt));
    const initrd = join(folder, 'initrd.gz');
    const testInitrd = join(folder, 'initrd-tests.gz');
    writeWhole(initrd, base);
    // Linux unpacks archives that follow one another, one over the other.
    writeWhole(testInitrd, Buffer.concat([base, Buffer.alloc((4 - (base.length % 4)) % 4), tests]));
    return {
      name,
      mode: 'pv',
      kernel: kernel.imagePath,
      initrd,
      testInitrd,
      tests: testNames(),
      append,
      memory,
      origin: originOf(kernel.package),
      missingModules: kernel.missing,
    };
  }
}

const originOf = ({ name, version }: DebianPackage): string => `${name} ${version}`;

/** A guest that `npm run guests` made earlier, or null. */
export function preparedGuest(name: string): Guest | null {
  const recipe = GUESTS.find((guest) => guest.name === name);
  return recipe === undefined ? null : readKept(join(GUEST_CACHE, name, 'guest.json'), sourceKey(recipe));
}

/** The guest as it was left by an earlier run, when the key still fits and its files are still there. */
function readKept(path: string, key: string): Guest | null {
  if (!existsSync(path)) return null;
  const kept = JSON.parse(readFileSync(path, 'utf8')) as { key: string; guest: Guest };
  const { kernel, initrd, testInitrd } = kept.guest;
  const complete = [kernel, initrd, testInitrd].every((file) => file === undefined || existsSync(file));
  return kept.key === key && complete ? kept.guest : null;
}
