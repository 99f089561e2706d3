// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { err, ok } from '../base/result.ts';
import { parseArguments } from './arguments.ts';
import type { ReadyMade } from './ready-made.ts';
import { parseMemory, RUN, runRequest } from './run-options.ts';

const GUEST: ReadyMade = { name: 'toy', mode: 'pv', kernel: '/k', initrd: '/i', append: 'console=hvc0', memory: '256M' };

const request = (...args: string[]) => {
  const parsed = parseArguments(RUN, args);
  if (!parsed.ok) throw new Error(parsed.error);
  return runRequest(parsed.value, (name) => (name === 'toy' ? ok(GUEST) : err(`no ${name}`)));
};
const accepted = (...args: string[]) => {
  const result = request(...args);
  if (!result.ok) throw new Error(result.error.message);
  return result.value;
};

describe('runRequest', () => {
  it('has defaults for everything but the kernel', () => {
    expect(accepted('--kernel', 'vmlinuz')).toEqual({
      name: 'guest',
      kernel: 'vmlinuz',
      commandLine: '',
      memoryMib: 512,
      console: { kind: 'stdio' },
      timeoutMs: null,
      stats: null,
      reboot: true,
      windowSize: true,
      verbose: false,
    });
  });

  it('takes a ready-made guest and adds to its command line', () => {
    const run = accepted('toy', '--append', 'quiet', '--memory', '1G');
    expect(run).toMatchObject({ name: 'toy', kernel: '/k', initrd: '/i', commandLine: 'console=hvc0 quiet', memoryMib: 1024 });
  });

  it("leaves a ready-made guest's initrd out when the kernel is another", () => {
    expect(accepted('toy', '--kernel', '/other').initrd).toBeUndefined();
  });

  it('takes fractions of a second, console files and switches', () => {
    const run = accepted('toy', '--timeout', '1.5', '--console', 'file:a:b', '--no-reboot', '--no-size', '--stats=-');
    expect(run).toMatchObject({ timeoutMs: 1500, console: { kind: 'file', path: 'a:b' }, reboot: false, windowSize: false, stats: '-' });
  });

  it.each([
    [[], /needs a kernel/],
    [['./vmlinuz'], /a kernel file is given as --kernel F/],
    [['toy', '--mode', 'pvh'], /--mode pvh is not in this version/],
    [['toy', '--mode', 'hvm'], /--mode hvm is not in this version/],
    [['toy', '--mode', 'qemu'], /--mode "qemu" is unknown/],
    [['toy', '--accel', 'jit'], /--accel jit is not in this version/],
    [['toy', '--accel', 'fast'], /--accel "fast" is unknown/],
    [['toy', '--vcpus', '2'], /more than one processor is not in this version/],
    [['toy', '--vcpus', '0'], /not a number from 1 to 64/],
    [['toy', '--vcpus', 'two'], /not a number from 1 to 64/],
    [['toy', '--memory', '512'], /write a whole number and a unit/],
    [['toy', '--memory', '-1M'], /write a whole number and a unit/],
    [['toy', '--timeout', '0'], /not a number of seconds/],
    [['toy', '--timeout', 'soon'], /not a number of seconds/],
    [['toy', '--timeout', '9999999'], /not a number of seconds/],
    [['toy', '--console', 'pty'], /pty is not in this version/],
    [['toy', '--console', 'vga'], /--console: "vga" is unknown/],
    [['toy', '--console', 'file:'], /is unknown/],
    [['toy', '--kernel='], /--kernel needs the name of a file/],
    [['toy', '--name', ''], /a name has 1 to 64 characters/],
    [['toy', '--disk', 'a.img'], /disks are not in this version/],
    [['toy', '--nic', 'user'], /network cards are not in this version/],
    [['toy', '--share', '.,tag=t'], /shared folders are not in this version/],
  ])('refuses %j as usage', (args, message) => {
    const result = request(...args);
    expect(result.ok ? null : result.error).toMatchObject({ usage: true, message: expect.stringMatching(message) });
  });

  it('does not call a guest that is missing a mistake in the arguments', () => {
    const result = request('nobody');
    expect(result.ok ? null : result.error).toEqual({ usage: false, message: 'no nobody' });
  });
});

describe('parseMemory', () => {
  it.each([
    ['512M', 512],
    ['1G', 1024],
    ['2GiB', 2048],
    ['65536K', 64],
    ['64mb', 64],
  ])('reads %s', (text, mib) => expect(parseMemory(text)).toEqual(ok(mib)));

  it.each(['4M', '64G', '999999999999G', '65537K', '1.5G', '0M', ''])('refuses %j', (text) => {
    expect(parseMemory(text).ok).toBe(false);
  });
});
