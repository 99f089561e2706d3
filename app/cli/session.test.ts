// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { runSession, type SessionOptions } from './session.ts';
import { FakeHost, turn } from './testing/fake-host.ts';

const OPTIONS: SessionOptions = {
  config: { name: 'toy', mode: 'pv', kernel: new Uint8Array(0), commandLine: '', memoryMib: 64, vcpus: 1, accel: 'interp' },
  console: 'stdio',
  timeoutMs: null,
  reboot: true,
  verbose: false,
  describeError: (error) => `toy: ${error.message}`,
};

describe('how a run ends', () => {
  it('0 when the guest powers off, with its output untouched', async () => {
    const host = new FakeHost();
    const result = runSession(host, OPTIONS);
    const machine = await host.machine();
    machine.console.print(Uint8Array.of(0, 0xff, 0x1b, 0x5b, 0x4b, 0x0d));
    machine.end({ kind: 'poweroff' });
    expect(await result).toMatchObject({ status: 0, end: 'poweroff', stats: { wallSeconds: 2 } });
    expect(host.stdout.text).toBe('\x00\xff\x1b[K\r');
    expect(host.stderr.text).toBe('');
    expect(machine.calls).toEqual(['start', 'close']);
  });

  it('3 when it crashes, with registers and the last console lines on stderr', async () => {
    const host = new FakeHost();
    const result = runSession(host, OPTIONS);
    const machine = await host.machine();
    machine.console.print('Kernel panic - not syncing\n');
    machine.end({ kind: 'crashed', report: ['vCPU 0: the guest asked for it', 'RIP ffffffff81000000'] });
    expect((await result).status).toBe(3);
    expect(host.stderr.text).toBe(
      'paravane: the guest crashed\n  vCPU 0: the guest asked for it\n  RIP ffffffff81000000\nlast lines of its console:\n  Kernel panic - not syncing\n',
    );
  });

  it('5 when the engine fails', async () => {
    const host = new FakeHost();
    const result = runSession(host, OPTIONS);
    (await host.machine()).end({ kind: 'engine-fault', report: ['RangeError: offset'] });
    expect((await result).status).toBe(5);
    expect(host.stderr.text).toContain('  RangeError: offset\n');
  });

  it('2 when the machine cannot be made', async () => {
    const host = new FakeHost(true);
    host.refusal = { kind: 'image', message: 'this is not a kernel' };
    expect(await runSession(host, OPTIONS)).toMatchObject({ status: 2, stats: null });
    expect(host.stderr.text).toBe('paravane: toy: this is not a kernel\n');
    expect(host.stdin.raw).toBe(false);
  });

  it('4 when time is up, with statistics; also when the guest does not stop', async () => {
    for (const obedient of [true, false]) {
      const host = new FakeHost();
      const result = runSession(host, { ...OPTIONS, timeoutMs: 20 });
      const machine = await host.machine();
      machine.obedient = obedient;
      expect(await result).toMatchObject({ status: 4, end: 'timeout', stats: { wallSeconds: 2 } });
      expect(machine.calls).toEqual(['start', 'stop', 'close']);
      expect(host.stderr.text).toBe('paravane: time-out: the guest was still running after 0.02 s\n');
    }
  });

  it('4 in time although nobody reads the output', async () => {
    const host = new FakeHost();
    host.stdout.stuck = true;
    const result = runSession(host, { ...OPTIONS, timeoutMs: 20 });
    (await host.machine()).console.print('x'.repeat(4096));
    expect((await result).status).toBe(4);
  });

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ])('by %s with the terminal restored', async (signal, status) => {
    const host = new FakeHost(true);
    const result = runSession(host, OPTIONS);
    const machine = await host.machine();
    expect(host.stdin).toMatchObject({ raw: true, outputUnchanged: true });
    host.signals.emit(signal);
    expect(await result).toMatchObject({ status, end: 'signal' });
    expect(machine.calls).toEqual(['start', 'stop', 'close']);
    expect(host.stdin.raw).toBe(false);
    expect(host.signals.listenerCount(signal)).toBe(0);
  });

  it('at once by a second signal', async () => {
    const host = new FakeHost(true);
    const result = runSession(host, OPTIONS);
    (await host.machine()).obedient = false;
    host.signals.emit('SIGTERM');
    host.signals.emit('SIGTERM');
    expect(host.exits).toEqual([143]);
    expect(host.stdin.raw).toBe(false);
    await result;
  });

  it('by a signal while the machine is being made', async () => {
    const host = new FakeHost(true);
    const result = runSession(host, OPTIONS);
    host.signals.emit('SIGINT');
    expect(await result).toMatchObject({ status: 130, stats: null });
    await turn();
    expect(host.machines[0].calls).toEqual(['close']);
  });

  it('quietly, as by SIGPIPE, when the reader of its output is gone', async () => {
    const host = new FakeHost(true);
    const result = runSession(host, OPTIONS);
    const machine = await host.machine();
    host.stdout.destroy(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }));
    expect((await result).status).toBe(141);
    expect(machine.calls).toEqual(['start', 'stop', 'close']);
    expect(host.stderr.text).toBe('');
    expect(host.stdin.raw).toBe(false);
  });

  it('leaves the terminal sane when the process exits under it', async () => {
    const host = new FakeHost(true);
    const result = runSession(host, OPTIONS);
    const machine = await host.machine();
    host.exitSuddenly();
    expect(host.stdin.raw).toBe(false);
    machine.end({ kind: 'poweroff' });
    await result;
  });
});

describe('reboot and reset', () => {
  it('starts a guest that reboots again, on the same terminal', async () => {
    const host = new FakeHost(true);
    const result = runSession(host, OPTIONS);
    (await host.machine(0)).end({ kind: 'reboot' });
    const second = await host.machine(1);
    host.stdin.write('ls\r');
    await turn();
    expect(second.console.typed).toBe('ls\r');
    expect(host.machines[0].calls).toEqual(['start', 'close']);
    second.end({ kind: 'poweroff' });
    expect((await result).status).toBe(0);
    expect(host.stdin.modes).toEqual([true, false]);
  });

  it('ends with 0 instead when asked not to', async () => {
    const host = new FakeHost();
    const result = runSession(host, { ...OPTIONS, reboot: false });
    (await host.machine()).end({ kind: 'reboot' });
    expect(await result).toMatchObject({ status: 0, end: 'reboot' });
    expect(host.machines).toHaveLength(1);
  });

  it('resets from the menu', async () => {
    const host = new FakeHost(true);
    const result = runSession(host, OPTIONS);
    const first = await host.machine(0);
    host.stdin.write('\x1dr');
    const second = await host.machine(1);
    expect(first.calls).toEqual(['start', 'stop', 'close']);
    second.end({ kind: 'poweroff' });
    expect((await result).status).toBe(0);
  });

  it('obeys a signal that comes while a reset waits for the guest to stop', async () => {
    const host = new FakeHost(true);
    const result = runSession(host, OPTIONS);
    const machine = await host.machine();
    machine.obedient = false;
    host.stdin.write('\x1dr');
    await turn();
    host.signals.emit('SIGTERM');
    machine.end({ kind: 'stopped' });
    expect((await result).status).toBe(143);
  });
});

describe('the menu', () => {
  const open = async () => {
    const host = new FakeHost(true);
    const result = runSession(host, OPTIONS);
    const machine = await host.machine();
    const press = async (keys: string) => {
      host.stdin.write(keys);
      await turn();
    };
    const end = async () => {
      machine.end({ kind: 'poweroff' });
      await result;
    };
    return { host, machine, result, press, end };
  };

  it('fits on a line and holds the output while it is shown', async () => {
    const { host, machine, press, end } = await open();
    machine.console.print('~ # ');
    await press('\x1d');
    const [lineEnd, menu] = host.stderr.text.split('\r\n');
    expect(lineEnd).toBe('');
    expect(menu.length).toBeLessThan(80);
    machine.console.print('one\r\n');
    machine.console.print('two\r\n');
    expect(host.stdout.text).toBe('~ # ');
    await press('x');
    expect(host.stderr.text.endsWith('\r\x1b[K')).toBe(true);
    expect(host.stdout.text).toBe('~ # one\r\ntwo\r\n');
    expect(machine.console.typed).toBe('');
    await end();
  });

  it('quits with status 0', async () => {
    const { machine, result, press } = await open();
    await press('\x1dq');
    expect(await result).toMatchObject({ status: 0, end: 'quit' });
    expect(machine.calls).toEqual(['start', 'stop', 'close']);
  });

  it('types a literal Ctrl-] and the size of the window', async () => {
    const { machine, press, end } = await open();
    await press('\x1d]');
    await press('\x1dw');
    expect(machine.console.typed).toBe('\x1dstty rows 40 cols 100\r');
    await end();
  });

  it('sends SysRq after asking for its key', async () => {
    const { machine, press, end } = await open();
    await press('\x1db');
    await press('t');
    expect(machine.calls).toContain('sysrq t');
    await end();
  });

  it('asks for a shutdown, and says when the guest has taken it or that it cannot be asked', async () => {
    const { host, machine, press, end } = await open();
    await press('\x1dp');
    expect(machine.calls).toContain('shutdown poweroff');
    machine.console.print('half a li');
    machine.acknowledge();
    expect(host.stderr.text).not.toContain('taken');
    machine.console.print('ne\r\n');
    expect(host.stderr.text).toContain('paravane: the guest has taken the request\r\n');
    machine.listens = false;
    await press('\x1dp');
    expect(host.stderr.text).toContain('The guest has not answered an earlier request yet.\r\n');
    await end();
  });

  it('shows statistics', async () => {
    const { host, press, end } = await open();
    await press('\x1ds');
    expect(host.stderr.text).toContain('paravane: 2.0 s, 150 million instructions (75 million a second), 5 hypercalls, 7 exits');
    await end();
  });
});

describe('input', () => {
  it('passes Ctrl-C, Ctrl-Z and Ctrl-] of a pipe to the guest, and survives its end', async () => {
    const host = new FakeHost();
    const result = runSession(host, OPTIONS);
    const machine = await host.machine();
    host.stdin.end('a\x03\x1a\x1dq');
    await turn();
    expect(machine.console.typed).toBe('a\x03\x1a\x1dq');
    await turn();
    machine.end({ kind: 'poweroff' });
    expect(await result).toMatchObject({ status: 0, end: 'poweroff' });
  });

  it('loses no byte of a pipe when the guest reads slowly', async () => {
    const host = new FakeHost();
    const result = runSession(host, OPTIONS);
    const machine = await host.machine();
    machine.console.room = 3;
    host.stdin.write('abcdef');
    await turn();
    host.stdin.write('ghi');
    await turn();
    expect(machine.console.typed).toBe('abc');
    machine.console.drainInput(2);
    machine.console.drainInput(100);
    await turn();
    expect(machine.console.typed).toBe('abcdefghi');
    machine.end({ kind: 'poweroff' });
    await result;
  });

  it('keeps the menu within reach when the guest reads nothing', async () => {
    const host = new FakeHost(true);
    const result = runSession(host, OPTIONS);
    (await host.machine()).console.room = 0;
    host.stdin.write('x'.repeat(100_000));
    host.stdin.write('\x1dq');
    expect(await result).toMatchObject({ end: 'quit' });
  });

  it('leaves the terminal alone without a console', async () => {
    const host = new FakeHost(true);
    const result = runSession(host, { ...OPTIONS, console: 'none' });
    const machine = await host.machine();
    machine.console.print('unseen');
    machine.end({ kind: 'poweroff' });
    await result;
    expect(host.stdin.modes).toEqual([]);
    expect(host.stdout.text).toBe('');
  });
});

describe('output', () => {
  it('holds up the guest while nobody reads, and loses nothing', async () => {
    const host = new FakeHost();
    host.stdout.stuck = true;
    const result = runSession(host, OPTIONS);
    const { console, end } = await host.machine().then((machine) => ({ console: machine.console, end: machine.end.bind(machine) }));
    for (let i = 0; i < 10; i++) console.print('x'.repeat(1000));
    expect(console.heldUpBytes).toBeGreaterThan(5000);
    end({ kind: 'poweroff' });
    host.stdout.unstick();
    expect((await result).status).toBe(0);
    expect(host.stdout.text).toBe('x'.repeat(10_000));
  });
});

describe('stopping and continuing', () => {
  it('gives the terminal back while stopped and takes it again', async () => {
    const host = new FakeHost(true);
    const result = runSession(host, OPTIONS);
    const machine = await host.machine();
    host.signals.emit('SIGTSTP');
    expect(host.suspended).toBe(1);
    expect(host.stdin.raw).toBe(false);
    host.signals.emit('SIGCONT');
    expect(host.stdin.raw).toBe(true);
    machine.end({ kind: 'poweroff' });
    await result;
    host.signals.emit('SIGCONT');
    expect(host.stdin.raw).toBe(false);
  });
});
