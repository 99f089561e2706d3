// SPDX-License-Identifier: Apache-2.0
/**
 * The lines of the self-test guest (e2e/guests/selftest): `selftest: SERVICE ok`, `… FAIL DETAIL`, `… skipped (REASON)`, and at last
 * `selftest: N passed, N failed[, N skipped]`. Other lines are passed over.
 */

export interface SelftestService {
  readonly name: string;
  readonly result: 'ok' | 'FAIL' | 'skipped';
  /** Why it failed or was skipped. */
  readonly detail: string;
}

export interface SelftestOutcome {
  readonly services: readonly SelftestService[];
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  /** The guest came to its summary, and the summary agrees with its lines. */
  readonly complete: boolean;
}

const SERVICE = /^selftest: ([a-z0-9_]+) (ok|FAIL|skipped)(?: (.*))?$/;
const SUMMARY = /^selftest: (\d+) passed, (\d+) failed(?:, (\d+) skipped)?$/;

export function parseSelftest(console: string): SelftestOutcome {
  const services: SelftestService[] = [];
  let summary: string | null = null;
  for (const line of console.split(/\r*\n\r*/)) {
    const service = SERVICE.exec(line);
    if (service !== null) services.push({ name: service[1], result: service[2] as SelftestService['result'], detail: service[3] ?? '' });
    else if (SUMMARY.test(line)) summary = line;
  }
  const count = (result: SelftestService['result']): number => services.filter((service) => service.result === result).length;
  const counts = { passed: count('ok'), failed: count('FAIL'), skipped: count('skipped') };
  const [, passed, failed, skipped = '0'] = (summary === null ? null : SUMMARY.exec(summary)) ?? [];
  const complete =
    counts.passed + counts.failed > 0 &&
    Number(passed) === counts.passed &&
    Number(failed) === counts.failed &&
    Number(skipped) === counts.skipped;
  return { services, ...counts, complete };
}
