// SPDX-License-Identifier: Apache-2.0
import { expect, it } from 'vitest';
import { FRAME_KINDS } from './frames.ts';
import { fuzzNetwork } from './fuzz-network.ts';

it.each(FRAME_KINDS)('stands 3,000 hostile frames: %s', async (kind) => {
  const report = await fuzzNetwork(kind, 3000, 42);
  expect(report.cases).toBe(3000);
  // Both sides of every check were seen.
  expect(report.dropped).toBeGreaterThan(0);
  if (kind !== 'random') expect(report.answers).toBeGreaterThan(10);
});
