// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { type Figure, median, passes, ratioOf } from './figure.ts';
import { formatTable } from './report.ts';

const boot: Figure = {
  suite: 'boot',
  name: 'kernel',
  unit: 's',
  values: { interp: 12, 'qemu-tcg': 4 },
  bar: { of: 'ratio', rule: 'at most', limit: 20 },
};

describe('figures', () => {
  it('take the median, also of an even number of runs', () => {
    expect(median([9, 1, 3])).toBe(3);
    expect(median([4, 1, 3, 2])).toBe(2.5);
    expect(() => median([])).toThrow(RangeError);
  });

  it('pass or fail by value and by ratio', () => {
    expect(ratioOf(boot)).toBe(3);
    expect(passes(boot)).toBe(true);
    expect(passes({ ...boot, values: { interp: 100, 'qemu-tcg': 4 } })).toBe(false);
    expect(passes({ ...boot, bar: { of: 'interp', rule: 'at least', limit: 13 } })).toBe(false);
  });

  it('do not pass a bar that was not measured', () => {
    expect(passes({ ...boot, values: { interp: 12 } })).toBeNull();
    expect(formatTable([{ ...boot, values: { interp: 12 } }], [])).toContain('not measured');
  });

  it('say what was left out', () => {
    expect(formatTable([boot], [{ suite: 'boot', name: 'qemu', reason: 'not installed' }])).toContain('Skipped: boot, qemu: not installed');
  });
});
