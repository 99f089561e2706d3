// SPDX-License-Identifier: Apache-2.0
/**
 * Runs the layer rules over the source folders of a checkout.
 *
 * INVARIANT: a check that saw too little is a failure. dependency-cruiser parses TypeScript through a parser it looks for at run
 * time, and without one it reports no module and no error; so the caller gets the modules it scanned and compares.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { cruise } from 'dependency-cruiser';
import { FORBIDDEN } from './rules.ts';

export interface LayerViolation {
  readonly rule: string;
  readonly from: string;
  readonly to: string;
}

export interface LayerReport {
  /** Source modules of the checkout that were parsed, by path from `root`. */
  readonly modules: readonly string[];
  /** Import edges seen; zero with more than a few modules means that nothing was understood. */
  readonly edges: number;
  readonly violations: readonly LayerViolation[];
}

const SOURCE_FOLDERS = ['app', 'main', 'renderer', 'e2e'];
const SOURCE_FILE = /^(app|main|renderer|e2e)\/.*\.(ts|tsx|mjs)$/;

export async function checkLayers(root: string): Promise<LayerReport> {
  const folders = SOURCE_FOLDERS.filter((folder) => existsSync(join(root, folder)));
  const { output } = await cruise(
    folders,
    {
      baseDir: root,
      validate: true,
      ruleSet: { forbidden: FORBIDDEN },
      parser: 'swc',
      tsPreCompilationDeps: true,
      doNotFollow: { path: 'node_modules' },
      exclude: { path: ['(^|/)vectors/data/'] },
    },
    {
      extensions: ['.ts', '.tsx', '.mjs', '.js', '.json'],
      exportsFields: ['exports'],
      conditionNames: ['types', 'import', 'node', 'default'],
      mainFields: ['types', 'module', 'main'],
    },
  );
  if (typeof output === 'string') throw new Error('dependency-cruiser answered with text instead of its result object');
  const sources = output.modules.filter((module) => SOURCE_FILE.test(module.source) && !module.couldNotResolve);
  return {
    modules: sources.map((module) => module.source),
    edges: sources.reduce((sum, module) => sum + module.dependencies.length, 0),
    violations: output.summary.violations
      .filter((violation) => violation.rule.severity === 'error')
      .map((violation) => ({ rule: violation.rule.name, from: violation.from, to: violation.to })),
  };
}
