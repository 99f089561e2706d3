// SPDX-License-Identifier: Apache-2.0
/**
 * `npm run check` and `npm test`: runs the sections one after the other and ends with the sum of their tests on a line of its own.
 * Every section runs even when one before it failed. Exit status 1 when anything failed.
 */
import { fileURLToPath } from 'node:url';
import { assertNodeVersion } from '../node-version.mjs';
import { runSection } from './run-section.ts';
import { SECTIONS } from './sections.ts';
import { tallyLine, tallyOf, type TestRecord } from './test-tally.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));

function describe(record: TestRecord): string {
  return record.note === '' ? record.name : `${record.name}: ${record.note}`;
}

assertNodeVersion();
const [scope, ...only] = process.argv.slice(2);
const sections = SECTIONS.filter((section) => (scope === 'test' || section.quick) && (only.length === 0 || only.includes(section.name)));
if (sections.length === 0) {
  console.error(`No such section. Sections: ${SECTIONS.map((section) => section.name).join(', ')}`);
  process.exit(1);
}

const all: TestRecord[] = [];
for (const [index, section] of sections.entries()) {
  console.log(`\n── ${index + 1}/${sections.length} ${section.name}`);
  const startedMs = performance.now();
  const records = await runSection(section, ROOT);
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  console.log(`── ${section.name}: ${tallyLine(tallyOf(records))} (${seconds} s)`);
  all.push(...records);
}

const skipped = all.filter((record) => record.state === 'skipped');
const failed = all.filter((record) => record.state === 'failed');
if (skipped.length > 0) console.log('\nSkipped:');
for (const record of skipped) console.log(`  ${record.note === '' ? `${record.name}: no reason given` : describe(record)}`);
if (failed.length > 0) console.log('\nFailed:');
for (const record of failed) console.log(`  ${describe(record)}`);

console.log('');
console.log(tallyLine(tallyOf(all)));
process.exitCode = failed.length > 0 ? 1 : 0;
