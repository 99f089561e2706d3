// SPDX-License-Identifier: Apache-2.0
/**
 * A vitest reporter that writes one record for each test to the file that PARAVANE_TEST_RECORDS names, as JSON.
 *
 * vitest's own JSON report leaves out why a test was skipped, and a run must say so by name. Errors outside of tests (a file that
 * does not load, an unhandled rejection) become failed records of their own.
 */
import { writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import type { Reporter, TestCase, TestModule } from 'vitest/node';
import type { TestRecord } from './test-tally.ts';

const firstLine = (text: string | undefined): string => (text ?? '').split('\n', 1)[0];

function recordOf(test: TestCase, file: string): TestRecord {
  const name = `${file} > ${test.fullName}`;
  const result = test.result();
  if (result.state === 'passed') return { name, state: 'passed', note: '' };
  if (result.state === 'skipped') return { name, state: 'skipped', note: result.note ?? '' };
  return { name, state: 'failed', note: firstLine(result.errors?.[0]?.message) || 'did not finish' };
}

export default class TallyReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly { readonly message: string }[]): void {
    const target = process.env.PARAVANE_TEST_RECORDS;
    if (target === undefined) return;
    const records: TestRecord[] = [];
    for (const module of modules) {
      const file = relative(process.cwd(), module.moduleId);
      for (const error of module.errors()) records.push({ name: file, state: 'failed', note: firstLine(error.message) });
      for (const test of module.children.allTests()) records.push(recordOf(test, file));
    }
    for (const error of unhandled) records.push({ name: 'unhandled error', state: 'failed', note: firstLine(error.message) });
    writeFileSync(target, JSON.stringify(records));
  }
}
