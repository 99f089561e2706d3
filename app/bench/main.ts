// SPDX-License-Identifier: Apache-2.0
/**
 * `npm run bench`: measures the engine, in one session, against its bars and against QEMU's TCG where that is installed.
 *
 * Ends with status 0 when every bar that was measured is passed, 1 for a mistake in the arguments, 3 when a bar is missed.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { cpuLoops } from './cpu-loops.ts';
import { debianBoot } from './debian-boot.ts';
import { debianLife } from './debian-life.ts';
import { type Figure, passes, type Skipped, type Suite } from './figure.ts';
import { hypercalls } from './hypercalls.ts';
import { machineShape } from './machine-shape.ts';
import { formatTable } from './report.ts';

const SUITES: readonly Suite[] = [cpuLoops, hypercalls, debianBoot, debianLife];
const USAGE = `npm run bench -- [--json FILE] [--runs N] [--only ${SUITES.map((suite) => suite.name).join(',')}]`;

function fail(message: string): never {
  console.error(`bench: ${message}\n${USAGE}`);
  process.exit(1);
}

interface Options {
  readonly json: string | undefined;
  readonly runs: number;
  readonly suites: readonly Suite[];
}

function options(): Options {
  try {
    const { values } = parseArgs({
      options: { json: { type: 'string' }, runs: { type: 'string', default: '3' }, only: { type: 'string' } },
    });
    const runs = Number(values.runs);
    if (!Number.isInteger(runs) || runs < 1) fail(`--runs needs a number from 1, not ${values.runs}`);
    const wanted = values.only?.split(',');
    const unknown = wanted?.find((name) => !SUITES.some((suite) => suite.name === name));
    if (unknown !== undefined) fail(`there is no suite ${unknown}`);
    return { json: values.json, runs, suites: SUITES.filter((suite) => wanted === undefined || wanted.includes(suite.name)) };
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error));
  }
}

const { json, runs, suites } = options();
const figures: Figure[] = [];
const skipped: Skipped[] = [];
const shape = machineShape();
const context = {
  runs,
  say: (message: string): void => console.error(`bench: ${message}`),
  add: (figure: Figure): void => void figures.push(figure),
  skip: (item: Skipped): void => void skipped.push(item),
};
for (const suite of suites) {
  context.say(suite.summary);
  await suite.run(context);
}
console.log(`${shape}; medians of ${runs} runs.\n\n${formatTable(figures, skipped)}`);
if (json !== undefined) writeFileSync(json, `${JSON.stringify({ machine: shape, runs, figures, skipped }, null, 2)}\n`);
process.exitCode = figures.some((figure) => passes(figure) === false) ? 3 : 0;
