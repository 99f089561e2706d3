// SPDX-License-Identifier: Apache-2.0
/**
 * What `npm run check` and `npm test` consist of, in order: cheap static checks first, whole boots last.
 *
 * A `static` section is one command and counts as one test. A `vitest` section is one project of vitest.config.ts; its tests are
 * counted one by one.
 */

export interface Section {
  readonly name: string;
  readonly kind: 'static' | 'vitest';
  /** Program under node_modules/.bin or a TypeScript file of this repository; both run under the Node that runs this. */
  readonly script: string;
  readonly args: readonly string[];
  /** The section is killed and has failed after this long. */
  readonly timeoutMs: number;
  /** Part of `npm run check` too; the others are only in `npm test`. */
  readonly quick: boolean;
}

const MINUTE = 60_000;

const staticCheck = (name: string, script: string, args: readonly string[] = [], quick = true, minutes = 5): Section => ({
  name,
  kind: 'static',
  script,
  args,
  timeoutMs: minutes * MINUTE,
  quick,
});

const vitestProject = (name: string, project: string, minutes: number, quick: boolean): Section => ({
  name,
  kind: 'vitest',
  script: 'node_modules/vitest/vitest.mjs',
  args: [
    'run',
    '--project',
    project,
    `--reporter=${project === 'guest' ? 'verbose' : 'default'}`,
    '--reporter=./app/tools/check/tally-reporter.ts',
  ],
  timeoutMs: minutes * MINUTE,
  quick,
});

export const SECTIONS: readonly Section[] = [
  staticCheck('types of the engine', 'node_modules/typescript/bin/tsc', ['-p', 'tsconfig.engine.json']),
  staticCheck('types', 'node_modules/typescript/bin/tsc', ['-p', 'tsconfig.json']),
  staticCheck('lint (biome)', 'node_modules/@biomejs/biome/bin/biome', ['lint', '--error-on-warnings', '.']),
  staticCheck('lint (oxlint)', 'node_modules/oxlint/bin/oxlint', ['--type-aware', '--deny-warnings']),
  staticCheck('format', 'node_modules/@biomejs/biome/bin/biome', ['format', '.']),
  staticCheck('layers', 'app/tools/layers/main.ts'),
  staticCheck('support matrix', 'app/tools/support-matrix/main.ts', ['--check']),
  // Before the unit tests, some of which look at Debian's kernels.
  staticCheck('guests', 'app/tools/guests/main.ts', [], false, 20),
  vitestProject('unit tests', 'unit', 20, true),
  staticCheck('build', 'app/tools/build.ts', [], false),
  vitestProject('guest boots', 'guest', 60, false),
];
