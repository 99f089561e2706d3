// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { parseSelftest } from './selftest-report.ts';

describe('parseSelftest', () => {
  it('collects services and checks the summary', () => {
    const outcome = parseSelftest(
      'hello\nselftest: m2p ok\nselftest: iret FAIL line 3: a is 1\nselftest: fifo skipped (no)\nselftest: 1 passed, 1 failed, 1 skipped\n',
    );
    expect(outcome).toEqual({
      services: [
        { name: 'm2p', result: 'ok', detail: '' },
        { name: 'iret', result: 'FAIL', detail: 'line 3: a is 1' },
        { name: 'fifo', result: 'skipped', detail: '(no)' },
      ],
      passed: 1,
      failed: 1,
      skipped: 1,
      complete: true,
    });
  });

  it.each([
    ['selftest: m2p ok\n', 'no summary'],
    ['selftest: m2p ok\nselftest: 2 passed, 0 failed\n', 'a lost line'],
    ['selftest: 0 passed, 0 failed\n', 'nothing tested'],
    ['', 'silence'],
  ])('is not complete after %j (%s)', (text) => {
    expect(parseSelftest(text).complete).toBe(false);
  });
});
