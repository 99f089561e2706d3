// SPDX-License-Identifier: Apache-2.0
/** Whole commands, on files of their own and machines without guests. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, describe, expect, it } from 'vitest';
import { runCli, version } from './cli.ts';
import { selftest } from './selftest.ts';
import { FakeHost } from './testing/fake-host.ts';

const folder = mkdtempSync(join(tmpdir(), 'paravane-cli-'));
afterAll(() => rmSync(folder, { recursive: true }));
function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}
const KERNEL = file('kernel', 'any bytes');

async function cli(...args: string[]) {
  const host = new FakeHost();
  const status = await runCli(host, args);
  return { status, out: host.stdout.text, err: host.stderr.text };
}

describe('paravane', () => {
  it.each([
    [[], /a command is missing/],
    [['rum'], /there is no command "rum"; did you mean run\?/],
    [['frobnicate'], /there is no command "frobnicate"; "paravane --help"/],
    [['--frob'], /there is no option "--frob"/],
    [['help', 'frob'], /there is no command "frob"/],
    [['run', '--kernal', 'f'], /did you mean --kernel\?/],
    [['run', '--mode', 'pvh', '--kernel', 'f'], /not in this version/],
    [['inspect'], /inspect needs a file/],
    [['selftest', 'now'], /does not know what to do with "now"/],
    [['selftest', '--only', 'a b'], /names of services/],
  ])('%j is wrong usage: one sentence on stderr, status 1', async (args, message) => {
    const { status, out, err } = await cli(...args);
    expect(status).toBe(1);
    expect(out).toBe('');
    expect(err).toMatch(/^paravane: [^\n]*\n$/);
    expect(err).toMatch(message);
  });

  it('prints its version as package.json has it', async () => {
    expect(version()).toMatch(/^\d+\.\d+\.\d+/);
    expect(await cli('--version')).toEqual({ status: 0, out: `paravane ${version()}\n`, err: '' });
  });

  it('describes itself and each command, in lines that fit', async () => {
    const overview = await cli('--help');
    expect(overview).toMatchObject({ status: 0, err: '' });
    for (const name of ['run', 'inspect', 'selftest', 'help']) {
      expect(overview.out).toContain(`  ${name} `);
      const own = await cli(name, '--help');
      expect(own.status).toBe(0);
      expect(own.out).toMatch(new RegExp(`^usage: paravane ${name} `));
      expect(own.out.split('\n').every((line) => line.length <= 100)).toBe(true);
      expect(await cli('help', name)).toEqual(own);
    }
  });
});

describe('paravane run', () => {
  it.each([
    [['--kernel', join(folder, 'missing')], /^paravane: cannot read the kernel .*missing: there is no such file\n$/],
    [['--kernel', folder], /it is a directory/],
    [['--kernel', '/dev/zero'], /it is neither a file nor a pipe/],
    [['--kernel', KERNEL, '--initrd', join(folder, 'missing')], /cannot read the initrd .*: there is no such file/],
    [['--kernel', KERNEL, '--stats', join(folder, 'no/stats')], /cannot write the statistics to .*no\/stats: there is no such file/],
    [['--kernel', KERNEL, '--console', `file:${folder}`], /cannot write the console to .*: it is a directory/],
    [['nobody'], /there is no ready-made guest "nobody"/],
  ])('%j is bad input: one sentence on stderr, status 2', async (args, message) => {
    const { status, out, err } = await cli('run', ...args);
    expect(status).toBe(2);
    expect(out).toBe('');
    expect(err).toMatch(/^paravane: [^\n]*\n$/);
    expect(err).toMatch(message);
  });

  it('names the kernel when it is at fault, and nothing when memory is', async () => {
    const host = new FakeHost();
    host.refusal = { kind: 'image', message: 'not a kernel', cause: { kind: 'not-a-kernel', message: 'not a kernel' } };
    expect(await runCli(host, ['run', '--kernel', KERNEL])).toBe(2);
    host.refusal = { kind: 'image', message: 'too little memory', cause: { kind: 'memory', message: 'too little memory' } };
    expect(await runCli(host, ['run', '--kernel', KERNEL])).toBe(2);
    expect(host.stderr.text).toBe(`paravane: ${KERNEL}: not a kernel\nparavane: too little memory\n`);
  });

  it('makes the machine that the flags describe', async () => {
    const host = new FakeHost();
    const initrd = file('initrd', 'disk');
    const status = runCli(host, ['run', '--kernel', KERNEL, '--initrd', initrd, '--append', 'a b', '--memory', '1G', '--name', 'toy']);
    (await host.machine()).end({ kind: 'poweroff' });
    expect(await status).toBe(0);
    const { kernel, initrd: disk, ...rest } = host.configs[0];
    expect(rest).toEqual({ name: 'toy', mode: 'pv', commandLine: 'a b', memoryMib: 1024, vcpus: 1, accel: 'interp' });
    expect([kernel, disk].map((bytes) => new TextDecoder().decode(bytes))).toEqual(['any bytes', 'disk']);
  });

  it.each([
    [[], 'a paravane.rows=40 paravane.cols=100'],
    [['--no-size'], 'a'],
    [['--console', 'none'], 'a'],
  ])('tells the guest the size of a terminal (%j)', async (flags, commandLine) => {
    const host = new FakeHost(true);
    const status = runCli(host, ['run', '--kernel', KERNEL, '--append', 'a', ...flags]);
    (await host.machine()).end({ kind: 'poweroff' });
    await status;
    expect(host.configs[0].commandLine).toBe(commandLine);
  });

  it('writes statistics to a file, also of a guest that crashed', async () => {
    const host = new FakeHost();
    const path = join(folder, 'stats.json');
    const status = runCli(host, ['run', '--kernel', KERNEL, '--stats', path]);
    (await host.machine()).end({ kind: 'crashed', report: [] });
    expect(await status).toBe(3);
    expect(JSON.parse(readFileSync(path, 'utf8'))).toMatchObject({ status: 3, end: 'crashed', instructions: 150_000_000 });
  });

  it('writes statistics to standard output on a line of their own', async () => {
    const host = new FakeHost();
    const status = runCli(host, ['run', '--kernel', KERNEL, '--stats', '-', '--timeout', '0.02']);
    (await host.machine()).console.print('~ # ');
    expect(await status).toBe(4);
    const [console, json, end] = host.stdout.text.split('\n');
    expect([console, end]).toEqual(['~ # ', '']);
    expect(JSON.parse(json)).toMatchObject({ status: 4, end: 'timeout' });
  });

  it('writes the console to a file', async () => {
    const host = new FakeHost();
    const path = join(folder, 'console.txt');
    const status = runCli(host, ['run', '--kernel', KERNEL, '--console', `file:${path}`]);
    const machine = await host.machine();
    machine.console.print('hello\r\n');
    machine.end({ kind: 'poweroff' });
    expect(await status).toBe(0);
    expect(readFileSync(path, 'utf8')).toBe('hello\r\n');
    expect(host.stdout.text).toBe('');
  });
});

describe('paravane inspect', () => {
  it('says what a file is, with a reason for each mode', async () => {
    const initramfs = file('initramfs', gzipSync(`070701${'0'.repeat(104)}`));
    const { status, out, err } = await cli('inspect', initramfs);
    expect({ status, err }).toEqual({ status: 0, err: '' });
    expect(out).toContain(`${initramfs}: initramfs (gzip)\n`);
    expect(out).toMatch(/\n {2}pv {8}no {3}this is an initramfs/);
  });

  it('speaks JSON', async () => {
    const { status, out } = await cli('inspect', '--json', file('disk.qcow2', 'QFI\xfb'.padEnd(512, '\0')));
    expect(status).toBe(2);
    expect(JSON.parse(out)).toMatchObject({ kind: 'unknown' });
  });

  it('has status 2 for what nobody knows', async () => {
    const { status, err } = await cli('inspect', KERNEL);
    expect(status).toBe(2);
    expect(err).toMatch(/neither a kernel nor an image that is known here\n$/);
  });

  it('has status 2 for what cannot be read', async () => {
    expect((await cli('inspect', join(folder, 'missing'))).status).toBe(2);
  });
});

describe('paravane selftest', () => {
  const run = async (output: string, end: 'poweroff' | 'crashed', flags: string[] = []) => {
    const host = new FakeHost();
    const status = runCli(host, ['selftest', ...flags]);
    const machine = await host.machine();
    machine.console.print(output);
    machine.end(end === 'poweroff' ? { kind: end } : { kind: end, report: ['vCPU 0: it asked for it'] });
    return { status: await status, out: host.stdout.text, err: host.stderr.text, config: host.configs[0] };
  };

  it('has status 0 when every service works', async () => {
    const { status, out, err, config } = await run('selftest: m2p ok\nselftest: 1 passed, 0 failed\n', 'poweroff');
    expect({ status, err }).toEqual({ status: 0, err: '' });
    expect(out).toMatch(/^m2p {2}ok\n1 passed, 0 failed; 2.0 s, /);
    expect(config).toMatchObject({ memoryMib: 64, commandLine: '' });
  });

  it('has status 3 when one does not', async () => {
    const { status, out, err } = await run('selftest: m2p FAIL line 9\nselftest: 0 passed, 1 failed\n', 'crashed');
    expect({ status, err }).toEqual({ status: 3, err: 'paravane: not every service works on this host: 1 failed\n' });
    expect(out).toContain('m2p  FAIL  line 9\n');
  });

  it('has status 3 when the guest dies on the way, with its report', async () => {
    const { status, err } = await run('selftest: m2p ok\n', 'crashed');
    expect(status).toBe(3);
    expect(err).toContain('paravane: the test guest ended early (crashed)\n  vCPU 0: it asked for it\n');
  });

  it('does not believe a guest that powers off without a summary', async () => {
    expect((await run('selftest: m2p ok\n', 'poweroff')).status).toBe(3);
  });

  it('speaks JSON and runs chosen services', async () => {
    const { out, config } = await run('selftest: m2p ok\nselftest: 1 passed, 0 failed\n', 'poweroff', ['--json', '--only', 'm2p']);
    expect(config.commandLine).toBe('only=m2p');
    expect(JSON.parse(out)).toMatchObject({ ok: true, end: 'poweroff', passed: 1, services: [{ name: 'm2p', result: 'ok' }] });
  });

  it('says so when the test guest is missing', async () => {
    const host = new FakeHost();
    const none = { help: false, positionals: [], has: () => false, get: () => undefined };
    expect(await selftest(host, none, join(folder, 'missing.elf'))).toBe(2);
    expect(host.stderr.text).toMatch(/missing\.elf is missing/);
  });
});
