// SPDX-License-Identifier: Apache-2.0
/** The self-test guest through the command: every PV service, and the ways in which a guest can end. */
import { readFileSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { type CommandProcess, withPipes } from './command-process.ts';

/** Services that the guest tests; a new one raises this. */
const SERVICES = 62;

let command: CommandProcess | null = null;
afterEach(() => command?.kill());

const start = (...args: string[]): CommandProcess => {
  command = withPipes(...args);
  return command;
};
const mode = (name: string, ...args: string[]): CommandProcess =>
  start('run', 'selftest', '--append', `mode=${name}`, '--timeout', '60', ...args);

describe('paravane selftest', () => {
  it('passes every service, and skips none', async () => {
    const run = start('selftest', '--json');
    const status = await run.end();
    const result = JSON.parse(run.output) as {
      services: { name: string; result: string; detail: string }[];
      stats: { instructions: number };
    };
    expect(result.services.filter((service) => service.result !== 'ok')).toEqual([]);
    expect(result.services).toHaveLength(SERVICES);
    expect(result.stats.instructions).toBeGreaterThan(100_000);
    expect(status).toBe(0);
    expect(run.errors).toBe('');
  });

  it('runs chosen services only', async () => {
    const run = start('selftest', '--only', 'debugreg,grant_map');
    expect(await run.end()).toBe(0);
    expect(run.output).toMatch(/^debugreg +ok\ngrant_map +ok\n2 passed, 0 failed/);
  });
});

describe('the ends of a guest', () => {
  it('a crash that it declares: status 3, registers, its last lines', async () => {
    const run = mode('panic');
    expect(await run.end()).toBe(3);
    expect(run.errors).toMatch(
      /the guest declared a crash.*RIP [0-9a-f]{16}.*CR0 [0-9a-f]{16}.*stack:.*last lines of its console:\n +panic: on request/s,
    );
  });

  it('a fault without a handler: status 3, the address', async () => {
    const run = mode('triple');
    expect(await run.end()).toBe(3);
    expect(run.errors).toMatch(/exception 14 could not be delivered.*RIP ffffffffbfe00000.*CR2 ffffffffbfe00000/s);
  });

  it('a reboot: it comes up again, or ends when it may not', async () => {
    const again = mode('reboot');
    await again.waitFor(/reboot: on request.*reboot: on request/s);
    again.kill();
    await again.end();
    const once = mode('reboot', '--no-reboot');
    expect(await once.end()).toBe(0);
    expect(once.output.match(/reboot: on request/g)).toHaveLength(1);
  });

  it('typing comes back, and the guest powers off at q', async () => {
    const run = mode('echo');
    await run.waitFor('echo: ready');
    for (const word of ['one ', 'two ', 'three ']) {
      run.type(word);
      await run.waitFor(word);
    }
    run.type('q');
    expect(await run.end()).toBe(0);
    expect(run.output).toMatch(/ready\r?\none two three q\r?\necho: bye/);
  });
});

/** Processor time of a process in milliseconds (proc(5), fields 14 and 15 of stat, in ticks of 10 ms). */
function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

describe.runIf(process.platform === 'linux')('an idle guest', () => {
  it('takes less than 2 % of a processor', async () => {
    const run = mode('idle');
    await run.waitFor('idle: blocking');
    // What the start left behind (compilation in the background, garbage) is done after a moment.
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const pid = run.child.pid as number;
    const before = cpuMs(pid);
    const seconds = 4;
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    expect(cpuMs(pid) - before).toBeLessThan(seconds * 20);
  });
});
