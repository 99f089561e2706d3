// SPDX-License-Identifier: Apache-2.0
/** `paravane selftest`: boots the built-in test guest, which uses every PV service once and says how each went. */
import { existsSync } from 'node:fs';
import type { MachineEnd, MachineStats } from '../engine/index.ts';
import type { CommandSpec, ParsedArguments } from './arguments.ts';
import { crashLines } from './crash-report.ts';
import { readWhole } from './files.ts';
import type { CliHost, CliMachine } from './host.ts';
import { SELFTEST_IMAGE } from './ready-made.ts';
import { type SelftestOutcome, parseSelftest } from './selftest-report.ts';
import { statisticsLine } from './menu.ts';
import { STATUS } from './status.ts';

export const SELFTEST: CommandSpec = {
  name: 'selftest',
  usage: '[--json] [--only A,B]',
  summary: 'boot the built-in test guest and check every PV service on this host',
  details: [
    'Exit status: 0 every service works, 1 usage, 2 the test guest is missing, 3 a service does not work, 4 no answer in time, 5 engine fault.',
  ],
  positionals: [],
  options: [
    { name: 'json', summary: 'print one JSON object' },
    { name: 'only', value: 'A,B', summary: 'run these services only' },
  ],
};

const MAX_IMAGE_BYTES = 64 * 1024 * 1024;
const MEMORY_MIB = 64;
const LIMIT_MS = 60_000;
/** Console output that is kept; the guest prints a few kilobytes. */
const MAX_CONSOLE_BYTES = 1024 * 1024;

export async function selftest(host: CliHost, args: ParsedArguments, image: string = SELFTEST_IMAGE): Promise<number> {
  const complain = (message: string, status: number): number => {
    host.stderr.write(`paravane: ${message}\n`);
    return status;
  };
  const only = args.get('only');
  if (only !== undefined && !/^[a-z0-9_]+(,[a-z0-9_]+)*$/.test(only))
    return complain('--only needs names of services, separated by commas', STATUS.usage);
  if (!existsSync(image))
    return complain(`the test guest ${image} is missing; in a checkout, "git checkout resources" brings it back`, STATUS.badInput);
  const kernel = await readWhole('the test guest', image, MAX_IMAGE_BYTES);
  if (!kernel.ok) return complain(kernel.error, STATUS.badInput);
  const made = await host.createMachine(
    {
      name: 'selftest',
      mode: 'pv',
      kernel: kernel.value,
      commandLine: only === undefined ? '' : `only=${only}`,
      memoryMib: MEMORY_MIB,
      vcpus: 1,
      accel: 'interp',
    },
    { write: (level, message) => void (level === 'error' && host.stderr.write(`paravane: ${message}\n`)) },
  );
  if (!made.ok) return complain(`${image}: ${made.error.message}`, STATUS.badInput);
  const { end, stats, console } = await runToEnd(made.value);
  const outcome = parseSelftest(new TextDecoder().decode(console));
  const passed = end?.kind === 'poweroff' && outcome.complete && outcome.failed === 0;
  host.stdout.write(
    args.has('json') ? `${JSON.stringify({ ok: passed, end: end?.kind ?? 'timeout', ...outcome, stats })}\n` : table(outcome, stats),
  );
  if (end === null) return complain(`the test guest did not end within ${LIMIT_MS / 1000} s`, STATUS.timeOut);
  if (end.kind === 'engine-fault') {
    complain('the engine failed; this is a defect of Paravane', STATUS.engineFault);
    host.stderr.write(end.report.map((line) => `  ${line}\n`).join(''));
    return STATUS.engineFault;
  }
  if (passed) return STATUS.ok;
  if (outcome.failed > 0 && outcome.complete)
    return complain(`not every service works on this host: ${outcome.failed} failed`, STATUS.guestCrashed);
  complain(`the test guest ended early (${end.kind})`, STATUS.guestCrashed);
  if (end.kind === 'crashed')
    host.stderr.write(
      crashLines(end.report, console)
        .map((line) => `${line}\n`)
        .join(''),
    );
  return STATUS.guestCrashed;
}

interface Finished {
  /** Null: the time limit came first. */
  readonly end: MachineEnd | null;
  readonly stats: MachineStats;
  readonly console: Uint8Array;
}

async function runToEnd(machine: CliMachine): Promise<Finished> {
  const chunks: Uint8Array[] = [];
  let total = 0;
  machine.console.attach({
    write: (bytes) => {
      if (total < MAX_CONSOLE_BYTES) chunks.push(bytes);
      total += bytes.length;
      return true;
    },
  });
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), LIMIT_MS);
  });
  machine.start();
  const end = await Promise.race([machine.ended, limit]);
  clearTimeout(timer);
  if (end === null) machine.stop();
  const stats = machine.stats();
  await machine.close();
  return { end, stats, console: Buffer.concat(chunks) };
}

function table(outcome: SelftestOutcome, stats: MachineStats): string {
  const width = Math.max(0, ...outcome.services.map(({ name }) => name.length));
  const rows = outcome.services.map(
    ({ name, result, detail }) => `${name.padEnd(width)}  ${result}${detail === '' ? '' : `  ${detail}`}\n`,
  );
  const skipped = outcome.skipped === 0 ? '' : `, ${outcome.skipped} skipped`;
  return `${rows.join('')}${outcome.passed} passed, ${outcome.failed} failed${skipped}; ${statisticsLine(stats)}\n`;
}
