// SPDX-License-Identifier: Apache-2.0
/**
 * `npm start`: makes the Debian guest ready, boots it, and hands the terminal to it. Where Debian's packages are out of reach it
 * says so and runs the self-test guest, which needs nothing.
 */
import { fileURLToPath } from 'node:url';
import { GUESTS } from './guests/catalog.ts';
import { GuestKitchen } from './guests/prepare.ts';

const NAME = 'debian-6.1';
const ROOT = fileURLToPath(new URL('../..', import.meta.url));

const recipe = GUESTS.find(({ name }) => name === NAME)!;
const guest = await new GuestKitchen((message) => console.error(`paravane: ${message}`), false).prepare(recipe);
if ('reason' in guest) {
  console.error(`paravane: the guest ${NAME} is unavailable here: ${guest.reason}`);
  console.error('paravane: running the self-test guest instead.');
  execute('selftest');
} else {
  console.error(`paravane: booting ${guest.origin} as a Xen PV guest. Ctrl-] then q leaves; "poweroff -f" in the guest ends it properly.`);
  const options = ['--mode', guest.mode, '--kernel', guest.kernel, `--append=${guest.append}`, '--memory', guest.memory];
  if (guest.initrd !== undefined) options.push('--initrd', guest.initrd);
  execute('run', '--name', guest.name, ...options, ...process.argv.slice(2));
}

/** Replaces this process, so that nothing stands between the terminal and the guest. */
function execute(...args: readonly string[]): void {
  process.execve!(process.execPath, [process.execPath, `${ROOT}app/cli/main.ts`, ...args], process.env);
}
