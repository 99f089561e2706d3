// SPDX-License-Identifier: Apache-2.0
//
// Builds the test guests into `resources/*.elf`. Only developers run it, with gcc and binutils from Debian 12; everyone else uses the stored files.
//
//   node e2e/guests/build.ts           build and replace the stored files
//   node e2e/guests/build.ts --check   build and compare: status 1 when a stored file is not what its source gives
//
// The output depends on the sources, the flags below and the compiler alone: no build id, no timestamps, no paths. Another compiler gives other
// bytes, so --check compares only under the compiler named here, and says so otherwise.

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const HERE = import.meta.dirname;
const RESOURCES = join(HERE, '../../resources');
const COMPILER = 'gcc (Debian 12.2.0-14+deb12u1) 12.2.0';
/** A stored guest larger than this is a mistake. */
const SIZE_LIMIT_BYTES = 96 * 1024;

const FLAGS = [
  ...['-std=gnu11', '-Os', '-Wall', '-Wextra', '-Werror', '-ffreestanding', '-nostdlib', '-static', '-fno-pic', '-fno-pie', '-no-pie'],
  // A bounce frame is pushed at the interrupted stack pointer, so nothing may live below it; the FPU belongs to the services that test it.
  ...['-m64', '-march=x86-64', '-mcmodel=kernel', '-mno-red-zone', '-mgeneral-regs-only', '-fno-stack-protector', '-fcf-protection=none'],
  ...['-fno-asynchronous-unwind-tables', '-fno-strict-aliasing', '-fno-ident'],
  ...['-Wl,--build-id=none', '-Wl,-z,noexecstack', '-Wl,-z,norelro', '-Wl,-n', '-Wl,--no-warn-rwx-segments', '-s'],
];

const GUESTS = [
  { name: 'selftest', defines: ['-DWITH_HYPERCALL_PAGE'] },
  { name: 'fuzz', defines: [] },
];

/** Sources of one folder in a fixed order, relative to this one: the link order is part of the output. */
function sourcesIn(folder: string): string[] {
  return readdirSync(join(HERE, folder))
    .filter((file) => file.endsWith('.c') || file.endsWith('.S'))
    .sort()
    .map((file) => `${folder}/${file}`);
}

function compile(guest: (typeof GUESTS)[number], workFolder: string): Buffer {
  const output = join(workFolder, `${guest.name}.elf`);
  const sources = [...sourcesIn('common'), ...sourcesIn(guest.name)];
  execFileSync('gcc', [...FLAGS, ...guest.defines, '-Wl,-T,common/guest.lds', ...sources, '-o', output], {
    cwd: HERE,
    env: { ...process.env, LC_ALL: 'C', SOURCE_DATE_EPOCH: '0' },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  return readFileSync(output);
}

function compilerVersion(): string | undefined {
  const found = spawnSync('gcc', ['--version'], { encoding: 'utf8' });
  return found.status === 0 ? found.stdout.split('\n')[0] : undefined;
}

function stored(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch {
    return undefined;
  }
}

function main(): number {
  const checking = process.argv.includes('--check');
  const compiler = compilerVersion();
  if (compiler === undefined || (checking && compiler !== COMPILER)) {
    const reason = compiler === undefined ? 'gcc is not installed' : `this is ${compiler}, the stored guests were built by ${COMPILER}`;
    console.log(`guests: ${checking ? 'check skipped' : 'cannot build'}: ${reason}`);
    return checking ? 0 : 1;
  }
  const workFolder = mkdtempSync(join(tmpdir(), 'guests-'));
  let status = 0;
  try {
    for (const guest of GUESTS) {
      const built = compile(guest, workFolder);
      const path = join(RESOURCES, `${guest.name}.elf`);
      const same = stored(path)?.equals(built) ?? false;
      if (built.length > SIZE_LIMIT_BYTES) {
        console.error(`guests: ${guest.name}.elf has ${built.length} bytes, more than ${SIZE_LIMIT_BYTES}`);
        status = 1;
      } else if (checking) {
        console.log(
          `guests: ${guest.name}.elf ${same ? 'is what its source gives' : 'DIFFERS from what its source gives: run e2e/guests/build.ts'}`,
        );
        if (!same) status = 1;
      } else {
        if (!same) writeFileSync(path, built);
        console.log(`guests: ${guest.name}.elf ${built.length} bytes${same ? ', unchanged' : ''}`);
      }
    }
  } finally {
    rmSync(workFolder, { recursive: true, force: true });
  }
  return status;
}

process.exitCode = main();
