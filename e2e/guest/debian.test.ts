// SPDX-License-Identifier: Apache-2.0
/** Debian's kernels from the first instruction to power-off, and programs of every kind in one of them. */
import { afterEach, describe, expect, it, type TestContext } from 'vitest';
import type { Guest } from '../../app/tools/guests/catalog.ts';
import { preparedGuest } from '../../app/tools/guests/prepare.ts';
import { GuestRun } from './guest-run.ts';

const BOOT_MS = 200_000;
const COMMAND_MS = 30_000;
const PROGRAM_TESTS = ['static', 'dynamic', 'float', 'signals', 'threads', 'i386', 'modules'];
/** Words that a healthy boot does not print. */
const COMPLAINTS = /\b(BUG|WARNING|Oops|panic|failed|Call Trace)\b/;

let run: GuestRun | null = null;
afterEach(async () => {
  await run?.stop();
  run = null;
});

function need(context: TestContext, name: string): Guest {
  const guest = preparedGuest(name);
  if (guest === null) context.skip(`the guest ${name} has not been made here (npm run guests -- ${name} says why)`);
  return guest!;
}

describe.each(['debian-6.1', 'debian-6.1-cloud', 'debian-6.12'])('%s', (name) => {
  it('boots without complaint, gives a shell, and powers off with status 0', async (context) => {
    run = new GuestRun(need(context, name));
    await run.waitFor('~ # ', BOOT_MS);
    run.type('echo sum $((6 * 7)); uname -m\n');
    await run.waitFor('sum 42', COMMAND_MS);
    await run.waitFor('x86_64', COMMAND_MS);
    run.type('poweroff -f\n');
    expect(await run.exit()).toBe(0);
    expect(run.console.split('\n').filter((line) => COMPLAINTS.test(line))).toEqual([]);
  });
});

describe('programs in debian-6.1', () => {
  it.each(PROGRAM_TESTS)('%s', async (test, context) => {
    run = new GuestRun(need(context, 'debian-6.1'), { testInitrd: true, append: `quiet paravane.test=${test}` });
    expect(await run.exit()).toBe(0);
    expect(run.console.split('\n').filter((line) => line.startsWith('not ok'))).toEqual([]);
    expect(run.console).toContain(`paravane.test ${test}: status 0\n`);
  });
});

describe('grub-pv', () => {
  it('reaches its prompt and takes typing', async (context) => {
    run = new GuestRun(need(context, 'grub-pv'));
    await run.waitFor('grub> ', BOOT_MS);
    run.type('echo typed $grub_cpu\r');
    await run.waitFor('typed x86_64', COMMAND_MS);
  });
});
