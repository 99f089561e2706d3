// SPDX-License-Identifier: Apache-2.0
/** What a machine's owner asks of a running guest: memory, suspend, SysRq, power. */
import { afterEach, describe, expect, it } from 'vitest';
import type { MachineEnd } from '../../app/engine/index.ts';
import { complaints } from './boot-log.ts';
import { PROMPT } from './guest-console.ts';
import { MachineRun } from './machine-run.ts';
import { need } from './need.ts';

const BOOT_MS = 200_000;
const COMMAND_MS = 60_000;
const KIB_PER_MIB = 1024;

let run: MachineRun | null = null;
afterEach(async () => {
  await run?.stop();
  run = null;
});

const output = async (line: string): Promise<string> => (await run!.console.command(line, COMMAND_MS)).output;
const kib = async (name: string): Promise<number> => Number(/\d+/.exec(await output(`grep ${name}: /proc/meminfo`))![0]);

/** Asks again until it is so; the guest takes its time. */
async function eventually<T>(ask: () => Promise<T>, wanted: T): Promise<void> {
  const deadline = Date.now() + COMMAND_MS;
  let got = await ask();
  while (got !== wanted && Date.now() < deadline) got = await ask();
  expect(got).toBe(wanted);
}

/** Makes the request; resolves when the guest took it. */
async function request(reason: 'poweroff' | 'reboot' | 'suspend'): Promise<void> {
  await new Promise<void>((taken, refused) => {
    const asked = run!.machine.requestShutdown(reason, taken);
    if (!asked.ok) refused(new Error(asked.error.message));
  });
}

async function suspended(): Promise<void> {
  const { machine } = run!;
  const asleep = new Promise<void>((resolve) => machine.onSuspended(resolve));
  await request('suspend');
  await asleep;
}

describe('a running guest', () => {
  it('gives memory back and takes it again, suspends and goes on, answers SysRq, and powers off', async (context) => {
    const guest = need(context, 'debian-6.1-cloud');
    const mib = Number.parseInt(guest.memory, 10);
    run = await MachineRun.start(guest, 'quiet');
    const { machine, console } = run;
    await console.waitFor(PROMPT, BOOT_MS);

    // Balloon.
    const whole = await kib('MemTotal');
    expect(machine.setMemoryTarget(mib - 200).ok).toBe(true);
    await eventually(() => kib('MemTotal'), whole - 200 * KIB_PER_MIB);
    expect(await output('cat /sys/devices/system/xen_memory/xen_memory0/info/current_kb')).toBe(`${(mib - 200) * KIB_PER_MIB}\n`);
    expect(machine.setMemoryTarget(mib).ok).toBe(true);
    await eventually(() => kib('MemTotal'), whole);
    // What came back can be used.
    const used = `mount -o remount,size=90% /tmp; dd if=/dev/zero of=/tmp/x bs=1M count=${mib - 160} 2>/dev/null; echo $?; rm /tmp/x`;
    expect(await output(used)).toBe('0\n');
    expect(machine.setMemoryTarget(mib + 1).ok).toBe(false);

    // Suspend.
    expect(machine.resumeAfterSuspend()).toBe(false);
    for (let times = 0; times < 2; times++) {
      await suspended();
      const { instructions } = machine.stats();
      await new Promise((resolve) => setTimeout(resolve, 1000));
      expect(machine.stats().instructions).toBe(instructions);
      expect(machine.resumeAfterSuspend()).toBe(true);
      expect(await output('echo awake')).toBe('awake\n');
    }
    expect(Math.abs(Number(await output('date +%s')) - Date.now() / 1000)).toBeLessThan(5);

    // SysRq 9 raises the level of what the console shows, and says so.
    expect(machine.sendSysrq('9').ok).toBe(true);
    await console.waitFor('sysrq: Changing Loglevel', COMMAND_MS);
    await output('true');
    expect(complaints(await output('dmesg -r'))).toEqual([]);

    machine.setMemoryTarget(mib - 100);
    await eventually(() => kib('MemTotal'), whole - 100 * KIB_PER_MIB);
    await request('poweroff');
    expect(await machine.ended).toEqual({ kind: 'poweroff' });
    expect(machine.stats().memory).toMatchObject({ guestFramesOwned: (mib - 100) * 256 });
  });

  it('ends with a suspend that nobody listens for; another one reboots when asked to', async (context) => {
    const guest = need(context, 'debian-6.1-cloud');
    const ends: MachineEnd[] = [];
    for (const reason of ['suspend', 'reboot'] as const) {
      run = await MachineRun.start(guest, 'quiet');
      await run.console.waitFor(PROMPT, BOOT_MS);
      await request(reason);
      ends.push(await run.machine.ended);
      await run.machine.close();
    }
    expect(ends).toEqual([{ kind: 'suspend' }, { kind: 'reboot' }]);
  });
});
