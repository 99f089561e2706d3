// SPDX-License-Identifier: Apache-2.0
/** Debian's kernels and GRUB from the first instruction to power-off. */
import { afterEach, describe, expect, it } from 'vitest';
import { complaints } from './boot-log.ts';
import { PROMPT } from './guest-console.ts';
import { GuestRun } from './guest-run.ts';
import { need } from './need.ts';

const BOOT_MS = 200_000;
const COMMAND_MS = 60_000;

let run: GuestRun | null = null;
afterEach(async () => {
  await run?.stop();
  run = null;
});

it('complaints are found', () => {
  const log = [
    '<6>[    0.1] all is well',
    '<4>[    1.0] odd',
    '<6>[   12.345678] i/o error',
    '<6>[    0.0] tsc: Fast TSC calibration failed',
  ];
  expect(complaints(log.join('\n'))).toEqual(log.slice(1, 3));
});

describe.each([
  // LZ4, zstd; the XZ kernel is booted in programs.test.ts.
  ['debian-6.1-cloud', 'earlyprintk=xen'],
  ['debian-6.12', ''],
])('%s', (name, append) => {
  it('boots without complaint, gives a shell, and powers off with status 0', async (context) => {
    run = new GuestRun(need(context, name), { append });
    const { console } = run;
    const printed = await console.waitFor(PROMPT, BOOT_MS);
    expect(printed.includes('bootconsole [xenboot0] enabled')).toBe(append !== '');
    expect(await console.command('echo sum $((6 * 7)); uname -m', COMMAND_MS)).toEqual({ output: 'sum 42\nx86_64\n', status: 0 });
    const log = await console.command('dmesg -r', COMMAND_MS);
    expect(log.output).toContain('Hypervisor detected: Xen PV');
    expect(complaints(log.output)).toEqual([]);
    console.type('poweroff -f\n');
    expect(await run.exit()).toBe(0);
    expect(run.errors).toBe('');
  });
});

describe('grub-pv', () => {
  it('reaches its prompt, takes typing, and halts with status 0', async (context) => {
    run = new GuestRun(need(context, 'grub-pv'));
    const { console } = run;
    await console.waitFor('grub> ', BOOT_MS);
    console.type('echo typed $grub_cpu\r');
    await console.waitFor('typed x86_64', COMMAND_MS);
    await console.waitFor('grub> ', COMMAND_MS);
    console.type('halt\r');
    expect(await run.exit()).toBe(0);
  });
});
