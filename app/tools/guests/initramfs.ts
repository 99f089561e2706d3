// SPDX-License-Identifier: Apache-2.0
/**
 * The initial file systems of the ready-made Linux guests, as file trees.
 *
 * The base tree is a shell: busybox with a link for each applet, the kernel's PV modules with the tables modprobe reads, and the
 * init script. The test tree lies over it: dynamically linked, threaded and 32-bit programs from Debian's packages, and the
 * scripts under e2e/guests/initramfs/tests.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Apt } from './apt.ts';
import { PackageError } from './apt.ts';
import type { CpioEntry, CpioTree } from './cpio.ts';
import { readDynamicNeeds } from './elf.ts';
import type { DebianKernel, KernelModule } from './kernel.ts';

const SOURCES = new URL('../../../e2e/guests/initramfs/', import.meta.url);

const directory = (mode = 0o755): CpioEntry => ({ kind: 'directory', mode });
const executable = (content: Uint8Array): CpioEntry => ({ kind: 'file', mode: 0o755, content });
const data = (content: Uint8Array | string): CpioEntry => ({ kind: 'file', mode: 0o644, content: Buffer.from(content) });
const link = (target: string): CpioEntry => ({ kind: 'symlink', target });

/** modules.dep: a module's path, then what to load before it, last first. */
export function modulesDep(modules: readonly Pick<KernelModule, 'name' | 'path' | 'depends'>[]): string {
  const byName = new Map(modules.map((module) => [module.name, module]));
  const closure = (name: string, found: Set<string>): Set<string> => {
    for (const depend of byName.get(name)?.depends ?? []) {
      found.add(depend);
      closure(depend, found);
    }
    return found;
  };
  const lines = modules.map((module) => {
    const needed = closure(module.name, new Set());
    const loadOrder = modules.filter(({ name }) => needed.has(name)).map(({ path }) => path);
    return `${[`${module.path}:`, ...loadOrder.reverse()].join(' ')}\n`;
  });
  return lines.join('');
}

function modulesAlias(modules: readonly KernelModule[]): string {
  return modules.flatMap((module) => module.aliases.map((alias) => `alias ${alias} ${module.name}\n`)).join('');
}

/** The applets of a busybox, by asking it; null on a host that cannot run it (the init script then makes the links). */
function appletsOf(busybox: string): string[] | null {
  try {
    return execFileSync(busybox, ['--list'], { encoding: 'utf8' })
      .split('\n')
      .filter((name) => name !== '' && name !== 'busybox');
  } catch {
    return null;
  }
}

/** Where the applets that the kernel or scripts start by full path are expected. */
const SBIN = new Set([
  'init',
  'insmod',
  'modprobe',
  'poweroff',
  'reboot',
  'halt',
  'ifconfig',
  'ip',
  'route',
  'udhcpc',
  'mdev',
  'fdisk',
  'mke2fs',
]);

export async function baseTree(apt: Apt, kernel: DebianKernel): Promise<CpioTree> {
  const folder = await apt.unpacked(await apt.find('busybox-static', 'amd64'));
  const busybox = join(folder, 'bin/busybox');
  const tree = new Map<string, CpioEntry>([
    ['init', executable(readFileSync(new URL('init', SOURCES)))],
    ['bin/busybox', executable(readFileSync(busybox))],
    ['dev/console', { kind: 'character', mode: 0o600, major: 5, minor: 1 }],
    ['dev/null', { kind: 'character', mode: 0o666, major: 1, minor: 3 }],
    ['etc/passwd', data('root:x:0:0:root:/root:/bin/sh\n')],
    ['etc/group', data('root:x:0:\n')],
    ['etc/console', executable(readFileSync(new URL('console', SOURCES)))],
    ['etc/inittab', data(readFileSync(new URL('inittab', SOURCES)))],
    ['etc/hostname', data('paravane\n')],
    ['mnt', directory()],
    ['proc', directory(0o555)],
    ['root', directory(0o700)],
    ['run', directory()],
    ['sys', directory(0o555)],
    ['tmp', directory(0o1777)],
    ['var', directory()],
  ]);
  for (const name of appletsOf(busybox) ?? ['sh', 'mount', 'mkdir']) {
    tree.set(SBIN.has(name) ? `sbin/${name}` : `bin/${name}`, link(SBIN.has(name) ? '../bin/busybox' : 'busybox'));
  }
  const modules = `lib/modules/${kernel.release}`;
  for (const module of kernel.modules) tree.set(`${modules}/${module.path}`, data(module.content));
  tree.set(`${modules}/modules.dep`, data(modulesDep(kernel.modules)));
  tree.set(`${modules}/modules.alias`, data(modulesAlias(kernel.modules)));
  tree.set(`${modules}/modules.symbols`, data(''));
  tree.set(`${modules}/modules.order`, data(kernel.modules.map(({ path }) => `${path}\n`).join('')));
  return tree;
}

/** Programs of the test tree: package, path in it, path in the guest. */
const TEST_PROGRAMS = [
  { package: 'coreutils', path: 'usr/bin/md5sum', target: 'usr/bin/md5sum' },
  { package: 'coreutils', path: 'usr/bin/seq', target: 'usr/bin/seq' },
  { package: 'coreutils', path: 'usr/bin/sort', target: 'usr/bin/sort' },
  { package: 'mawk', path: 'usr/bin/mawk', target: 'usr/bin/mawk' },
  { package: 'xz-utils', path: 'usr/bin/xz', target: 'usr/bin/xz' },
] as const;

/** Packages whose libraries the programs may ask for. */
const LIBRARY_PACKAGES = ['libc6', 'liblzma5', 'zlib1g', 'libselinux1', 'libpcre2-8-0', 'libssl3', 'libgcc-s1'];
const LIBRARY_FOLDERS = ['lib/x86_64-linux-gnu', 'usr/lib/x86_64-linux-gnu', 'lib64'];
const GUEST_LIBRARIES = 'lib/x86_64-linux-gnu';

/** Finds libraries in packages, fetching one more package only while something is still missing. */
class LibraryFinder {
  readonly #apt: Apt;
  readonly #folders: string[] = [];
  #next = 0;

  constructor(apt: Apt) {
    this.#apt = apt;
  }

  async find(library: string): Promise<Buffer> {
    for (;;) {
      for (const folder of this.#folders) {
        const path = LIBRARY_FOLDERS.map((sub) => join(folder, sub, library)).find((candidate) => existsSync(candidate));
        if (path !== undefined) return readFileSync(realpathSync(path));
      }
      const name = LIBRARY_PACKAGES[this.#next];
      if (name === undefined) throw new PackageError(`no package of ${LIBRARY_PACKAGES.join(', ')} has the library ${library}`);
      this.#next += 1;
      this.#folders.push(await this.#apt.unpacked(await this.#apt.find(name, 'amd64'), ['*/share/*', '*/gconv/*']));
    }
  }
}

async function addWithLibraries(tree: Map<string, CpioEntry>, target: string, content: Buffer, finder: LibraryFinder): Promise<void> {
  tree.set(target, executable(content));
  const { libraries, interpreter } = readDynamicNeeds(content);
  if (interpreter !== null && !tree.has(interpreter.slice(1)))
    tree.set(interpreter.slice(1), executable(await finder.find(basename(interpreter))));
  for (const library of libraries) {
    const path = `${GUEST_LIBRARIES}/${library}`;
    if (!tree.has(path)) await addWithLibraries(tree, path, await finder.find(library), finder);
  }
}

/** The tests that `paravane.test=NAME` can run. */
export function testNames(): string[] {
  return readdirSync(new URL('tests/', SOURCES)).sort();
}

export async function testTree(apt: Apt): Promise<CpioTree> {
  const tree = new Map<string, CpioEntry>();
  const finder = new LibraryFinder(apt);
  for (const program of TEST_PROGRAMS) {
    const folder = await apt.unpacked(await apt.find(program.package, 'amd64'), ['*/share/*']);
    await addWithLibraries(tree, program.target, readFileSync(join(folder, program.path)), finder);
  }
  const busybox32 = await apt.unpacked(await apt.find('busybox-static', 'i386'), ['*/share/*']);
  tree.set('usr/bin/busybox-i386', executable(readFileSync(join(busybox32, 'bin/busybox'))));
  tree.set('tests/check.sh', data(readFileSync(new URL('check.sh', SOURCES))));
  for (const name of testNames()) tree.set(`tests/${name}`, executable(readFileSync(new URL(`tests/${name}`, SOURCES))));
  return tree;
}
