// SPDX-License-Identifier: Apache-2.0
/** How tests are counted: one record for each, and sums over them. */

export type TestState = 'passed' | 'failed' | 'skipped';

export interface TestRecord {
  readonly name: string;
  readonly state: TestState;
  /** Why it was skipped, or the first line of its error; empty when nothing is known. */
  readonly note: string;
}

export interface Tally {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

export function tallyOf(records: readonly TestRecord[]): Tally {
  const count = (state: TestState): number => records.filter((record) => record.state === state).length;
  return { passed: count('passed'), failed: count('failed'), skipped: count('skipped') };
}

/** The line that ends `npm test`. */
export function tallyLine({ passed, failed, skipped }: Tally): string {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`;
}

/**
 * What is wrong with a section that ended with `status`, or null. A section that failed no test can still have failed: it died,
 * or it ran nothing.
 */
export function sectionFault(records: readonly TestRecord[], status: number | null): string | null {
  const { passed, failed, skipped } = tallyOf(records);
  if (failed > 0) return null;
  if (status !== 0) return `ended with status ${status ?? 'unknown'} without naming a failed test`;
  if (passed === 0) return skipped > 0 ? 'ran nothing: every test was skipped' : 'ran nothing';
  return null;
}
