// SPDX-License-Identifier: Apache-2.0
/** The Debian guest for benchmarks, on our engine and on QEMU: same kernel, same initramfs, same memory. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { GUESTS, type Guest } from '../tools/guests/catalog.ts';
import { GuestKitchen } from '../tools/guests/prepare.ts';
import { GuestProcess } from './guest-process.ts';

const NAME = 'debian-6.1';
const CLI = fileURLToPath(new URL('../cli/main.ts', import.meta.url));
const QEMU = 'qemu-system-x86_64';
export const MEMORY_MIB = 512;

/** Ready to boot, or why not. */
export async function debianGuest(say: (message: string) => void): Promise<Guest | string> {
  const recipe = GUESTS.find(({ name }) => name === NAME);
  if (recipe === undefined) return `there is no recipe for ${NAME}`;
  const guest = await new GuestKitchen(say, false).prepare(recipe);
  return 'reason' in guest ? guest.reason : guest;
}

/** Starts the guest with our engine; `words` are added to the kernel's command line. */
export function startOurs(guest: Guest, words: string): GuestProcess {
  const files = ['--kernel', guest.kernel, '--initrd', guest.initrd ?? ''];
  const append = `--append=${guest.append} ${words}`;
  return new GuestProcess(process.execPath, [CLI, 'run', '--mode', 'pv', ...files, append, '--memory', `${MEMORY_MIB}M`]);
}

/**
 * Starts the guest on QEMU's smallest machine. Without ACPI, because with it this machine has no clock that Debian's kernel can
 * calibrate the TSC against under TCG, and the boot stands still.
 */
export function startQemu(guest: Guest, words: string): GuestProcess {
  const machine = ['-M', 'microvm,acpi=off', '-accel', 'tcg', '-m', String(MEMORY_MIB)];
  const quiet = ['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio', '-no-reboot'];
  const files = ['-kernel', guest.kernel, '-initrd', guest.initrd ?? ''];
  return new GuestProcess(QEMU, [...machine, ...quiet, ...files, '-append', `console=ttyS0 ${words}`]);
}

/** QEMU's version, or null when it is not installed. */
export function qemuVersion(): string | null {
  const result = spawnSync(QEMU, ['--version'], { encoding: 'utf8' });
  return result.status === 0 ? (/version (\S+)/.exec(result.stdout)?.[1] ?? 'unknown') : null;
}
