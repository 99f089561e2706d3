// SPDX-License-Identifier: Apache-2.0
/**
 * Debian 12's kernel with programs of every kind, and a person at its console: one boot for all of it, in order.
 */
import { createHash } from 'node:crypto';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { complaints } from './boot-log.ts';
import { PROMPT } from './guest-console.ts';
import { GuestRun } from './guest-run.ts';
import { canRunNatively, GUEST_PROGRAMS, runNatively } from './native.ts';
import { need } from './need.ts';

const BOOT_MS = 200_000;
const COMMAND_MS = 120_000;

let run: GuestRun | null = null;
let booted = false;

/** Boots at the first test that runs. */
beforeEach(async (context) => {
  const guest = need(context, 'debian-6.1');
  if (run === null) {
    run = new GuestRun(guest, { testInitrd: true, append: 'earlyprintk=xen' });
    await run.console.waitFor(PROMPT, BOOT_MS);
    booted = true;
    // From here on the kernel's messages stay out of the programs' output.
    await run.console.command(`dmesg -n 1; export ${GUEST_PROGRAMS}`, COMMAND_MS);
  }
  if (!booted) throw new Error('the guest did not boot');
});
afterAll(() => run?.stop());

const command = (line: string) => run!.console.command(line, COMMAND_MS);

describe('debian-6.1', () => {
  it('boots without complaint', async () => {
    const log = await command('dmesg -r');
    expect(log.output).toContain('Hypervisor detected: Xen PV');
    expect(complaints(log.output)).toEqual([]);
  });
});

describe('programs', () => {
  it.each(['static', 'dynamic', 'float', 'signals', 'threads', 'i386', 'modules'])('%s', async (test) => {
    const { output, status } = await command(`/tests/${test} </dev/null`);
    expect(output.split('\n').filter((line) => line.startsWith('not ok'))).toEqual([]);
    expect(output).toMatch(/^ok /m);
    expect(status).toBe(0);
  });
});

describe.skipIf(!canRunNatively())('the same result as natively (x86-64 Linux hosts)', () => {
  it.each([
    [
      'double precision',
      `$MAWK 'BEGIN { for (i = 1; i <= 150; i++) printf "%.17g %.17g %.17g %.17g %.17g %.17g %.17g\\n", sin(i / 7), cos(i * 1.3e5), exp(i / 9), log(i / 64), sqrt(i), i ^ 0.37, atan2(i, 9) }' | $BB md5sum`,
    ],
    [
      'statically linked',
      `$BB awk 'BEGIN { for (i = 1; i <= 150; i++) printf "%.17g %.17e %d %x\\n", i / 7, i * 1e300 / 3, i * 1e15 / 7, i * 99991 }' | $BB md5sum`,
    ],
    ['long double', '$SEQ -f %.21Lg 0.1 0.1 60 | $BB md5sum; $SEQ -f %.5La 1 1e17 3e18; $SEQ 1e4000 3e4000 1e4001 | $BB md5sum'],
    [
      '32 bits, x87',
      `$BB32 awk 'BEGIN { for (i = 1; i <= 150; i++) printf "%.17g %.17e %.30g %d\\n", i / 7, i * 1e300 / 3, 1 / (i * 1e300), i * 1e9 / 7 }' | $BB32 md5sum`,
    ],
    ['sorting', '$SEQ 1 20000 | $SORT -k1r -S 1M | $BB md5sum'],
    [
      'compression',
      '$SEQ 1 20000 >/tmp/n; $XZ -3 </tmp/n | $BB md5sum; $BB gzip </tmp/n | $BB md5sum; $BB bzip2 </tmp/n | $BB md5sum; rm /tmp/n',
    ],
    [
      'checksums',
      '$SEQ 1 30000 >/tmp/n; for s in md5sum sha1sum sha256sum sha512sum sha3sum; do $BB $s </tmp/n; done; $BB32 sha512sum </tmp/n; rm /tmp/n',
    ],
    ['big numbers', `echo '3^900; scale=60; 4*a(1); e(1); sqrt(2)' | BC_LINE_LENGTH=0 $BB bc -l`],
    [
      'text',
      `$SEQ 1 3000 | $BB sed 's/1\\(.\\)/<\\1>/g; 5d' | $BB grep -v 77 | $BB tr 2 z | $BB rev | $BB uniq | $BB cut -c1-3 | $BB md5sum`,
    ],
  ])('%s', async (_what, line) => {
    const native = runNatively(line);
    expect(native).not.toBe('');
    expect((await command(line)).output).toBe(native);
  });
});

describe('the console', () => {
  it('tells the time, and sleeps as long as asked', async () => {
    const { output } = await command('date +%s');
    expect(Math.abs(Number(output) - Date.now() / 1000)).toBeLessThan(5);
    const before = performance.now();
    const slept = await command('time sleep 2');
    expect(Number(/real\t0m (\d\.\d\d)s/.exec(slept.output)![1])).toBeGreaterThanOrEqual(2);
    expect(Number(/real\t0m (\d\.\d\d)s/.exec(slept.output)![1])).toBeLessThan(3);
    expect(performance.now() - before).toBeGreaterThanOrEqual(2000);
    expect(performance.now() - before).toBeLessThan(5000);
  });

  it('echoes what is typed to a program, and Ctrl-C ends it', async () => {
    const { console } = run!;
    console.type('echo "<"ready; cat; echo "<"after $?\n');
    await console.waitFor('<ready\r\n', COMMAND_MS);
    console.type('typed\n');
    await console.waitFor('typed\r\ntyped\r\n', COMMAND_MS);
    console.type('\x03');
    await console.waitFor(`^C\r\n${PROMPT}`, COMMAND_MS);
    console.type('echo "<"asleep; sleep 1000\n');
    await console.waitFor('<asleep\r\n', COMMAND_MS);
    console.type('\x03');
    await console.waitFor(`^C\r\n${PROMPT}`, COMMAND_MS);
  });

  it('takes a paste of 64 KiB whole', async () => {
    const lines = Array.from({ length: 2000 }, (_, n) => `${n} ${'abcdefghijklmnopqrstuvwxyz '.repeat(3).slice(0, n % 60)}\n`).join('');
    const paste = `${lines.slice(0, 65_535)}\n`;
    expect(paste).toHaveLength(65_536);
    const { console } = run!;
    console.type('echo "<"ready; cat >/tmp/paste; md5sum </tmp/paste; wc -c </tmp/paste\n');
    await console.waitFor('<ready\r\n', COMMAND_MS);
    console.type(`${paste}\x04`);
    await console.waitFor(`${createHash('md5').update(paste).digest('hex')}  -\r\n65536\r\n`, COMMAND_MS);
    await console.waitFor(PROMPT, COMMAND_MS);
  });

  it('prints everything, in order', async () => {
    const many = await command('seq 1 20000');
    expect(many.output).toBe(Array.from({ length: 20_000 }, (_, n) => `${n + 1}\n`).join(''));
    const long = await command(`yes "$(seq -s , 1 250)" | head -c 2000000`);
    const line = `${Array.from({ length: 250 }, (_, n) => n + 1).join(',')}\n`;
    expect(long.output).toBe(line.repeat(Math.ceil(2_000_000 / line.length)).slice(0, 2_000_000));
  });

  it('"poweroff -f" ends the machine with status 0, and the log has no complaint still', async () => {
    const log = await command('dmesg -r');
    expect(complaints(log.output)).toEqual([]);
    run!.console.type('poweroff -f\n');
    expect(await run!.exit()).toBe(0);
    expect(run!.errors).toBe('');
  });
});
