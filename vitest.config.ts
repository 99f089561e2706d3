// SPDX-License-Identifier: Apache-2.0
/**
 * Two projects: `unit` (beside the code: units, instruction vectors, goldens) and `guest` (whole boots through the command
 * line, one at a time, because they measure time and use a core each).
 */
import { defineConfig } from 'vitest/config';

const setupFiles = ['./app/tools/testing/setup.ts'];

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          environment: 'node',
          include: ['app/**/*.test.ts', 'main/**/*.test.ts', 'renderer/**/*.test.ts'],
          setupFiles,
          testTimeout: 30_000,
        },
      },
      {
        test: {
          name: 'guest',
          environment: 'node',
          include: ['e2e/guest/**/*.test.ts'],
          setupFiles,
          fileParallelism: false,
          sequence: { concurrent: false },
          testTimeout: 300_000,
          hookTimeout: 300_000,
        },
      },
    ],
  },
});
