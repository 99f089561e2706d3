// SPDX-License-Identifier: Apache-2.0
/**
 * The hostile guest, a little of it: it must reach its last line, the engine must not fault, and every reference must be accounted for.
 * Longer runs: `node app/fuzz/pv-guest.ts`.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { fileURLToPath } from 'node:url';
import { runFuzzGuest } from '../../app/fuzz/pv-guest.ts';
import { type CommandProcess, withPipes } from './command-process.ts';

const GUEST = fileURLToPath(new URL('../../resources/fuzz.elf', import.meta.url));
const OPERATIONS = 60_000;

let command: CommandProcess | null = null;
afterEach(() => command?.kill());

describe('the fuzz guest', () => {
  it.each([
    [1, 'interp'],
    [2, 'interp'],
    [3, 'jit'],
  ] as const)('seed %i under the memory audit, on %s', async (seed, accel) => {
    const result = await runFuzzGuest({ seed, count: OPERATIONS, accel });
    expect(result.report).toEqual([]);
    expect(result.complete, result.console.slice(-500)).toBe(true);
    expect(result.audits).toBeGreaterThan(1);
  });

  it('ends through the command', async () => {
    command = withPipes('run', '--kernel', GUEST, '--memory', '32M', '--append', `seed=4 count=${OPERATIONS}`, '--timeout', '60');
    expect(await command.end()).toBe(0);
    expect(command.output).toContain(`fuzz: ${OPERATIONS} operations done`);
    expect(command.output).not.toContain('FAIL');
    expect(command.errors).toBe('');
  });
});
