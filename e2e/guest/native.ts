// SPDX-License-Identifier: Apache-2.0
/**
 * The guest's programs on this computer: the same files of the same packages with the same C library, so that a guest's results can be
 * compared with a real processor's. x86-64 Linux only.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { GUEST_CACHE } from '../../app/tools/guests/prepare.ts';

/** Shell variables that name the programs, in the guest. */
export const GUEST_PROGRAMS =
  'MAWK=/usr/bin/mawk SEQ=/usr/bin/seq SORT=/usr/bin/sort XZ=/usr/bin/xz BB=busybox BB32=/usr/bin/busybox-i386 LC_ALL=C';

const MULTIARCH = 'lib/x86_64-linux-gnu';
/** The C library then takes the paths that it takes in a guest without AVX and FMA, whose results differ in the last digit. */
const TUNABLES = 'glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F';

function packageFolder(name: string, architecture: string): string {
  const folders = existsSync(join(GUEST_CACHE, 'packages')) ? readdirSync(join(GUEST_CACHE, 'packages')) : [];
  const found = folders.find((folder) => folder.startsWith(`${name}_`) && folder.endsWith(`_${architecture}`));
  if (found === undefined) throw new Error(`the package ${name} (${architecture}) is not unpacked here`);
  return join(GUEST_CACHE, 'packages', found);
}

/** Runs shell commands that use the variables of `GUEST_PROGRAMS`; what they print. */
export function runNatively(commands: string): string {
  const libc = join(packageFolder('libc6', 'amd64'), MULTIARCH);
  const libraries = [libc, join(packageFolder('liblzma5', 'amd64'), MULTIARCH)].join(':');
  const dynamic = (name: string, path: string): string =>
    `${join(libc, 'ld-linux-x86-64.so.2')} --library-path ${libraries} ${join(packageFolder(name, 'amd64'), path)}`;
  const env = {
    PATH: process.env.PATH ?? '',
    GLIBC_TUNABLES: TUNABLES,
    LC_ALL: 'C',
    MAWK: dynamic('mawk', 'usr/bin/mawk'),
    SEQ: dynamic('coreutils', 'usr/bin/seq'),
    SORT: dynamic('coreutils', 'usr/bin/sort'),
    XZ: dynamic('xz-utils', 'usr/bin/xz'),
    BB: join(packageFolder('busybox-static', 'amd64'), 'bin/busybox'),
    BB32: join(packageFolder('busybox-static', 'i386'), 'bin/busybox'),
  };
  return execFileSync('/bin/sh', ['-c', commands], { env, encoding: 'utf8' });
}

/** Whether this computer runs the guest's programs at all. */
export function canRunNatively(): boolean {
  if (process.platform !== 'linux' || process.arch !== 'x64') return false;
  try {
    return runNatively('$BB32 echo 32 bits; $SEQ 1') === '32 bits\n1\n';
  } catch {
    return false;
  }
}
