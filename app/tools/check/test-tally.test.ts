// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { sectionFault, tallyLine, tallyOf, type TestRecord, type TestState } from './test-tally.ts';

const records = (...states: TestState[]): TestRecord[] => states.map((state, index) => ({ name: `test ${index}`, state, note: '' }));

describe('test tally', () => {
  it('counts each state', () => {
    expect(tallyLine(tallyOf(records('passed', 'skipped', 'passed', 'failed')))).toBe('2 passed, 1 failed, 1 skipped');
  });

  it('finds no fault in a section that ran and passed', () => {
    expect(sectionFault(records('passed', 'skipped'), 0)).toBeNull();
  });

  it.each([
    [[], 0, 'ran nothing'],
    [records('skipped'), 0, 'ran nothing: every test was skipped'],
    [records('passed'), 1, 'ended with status 1 without naming a failed test'],
    [[], null, 'ended with status unknown without naming a failed test'],
  ] as const)('names the fault of %j with status %s', (found, status, fault) => {
    expect(sectionFault(found, status)).toBe(fault);
  });
});
