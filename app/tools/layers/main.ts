// SPDX-License-Identifier: Apache-2.0
/** The layer check from the command line: prints each violation, ends with 1 if there is one or if too few modules were seen. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { checkLayers } from './check-layers.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
/** The share of the TypeScript files on disk that must have been scanned. */
const FLOOR = 0.9;

/** Counts the source files without the help of the tool that is being checked. */
function countSources(): number {
  let count = 0;
  for (const folder of ['app', 'main', 'renderer']) {
    if (!existsSync(join(ROOT, folder))) continue;
    for (const path of readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })) {
      if (/\.tsx?$/.test(path)) count += 1;
    }
  }
  return count;
}

const report = await checkLayers(ROOT);
for (const { rule, from, to } of report.violations) console.log(`${from} must not import ${to} (${rule})`);
console.log(`${report.modules.length} modules, ${report.edges} imports, ${report.violations.length} violations`);

const present = countSources();
if (report.modules.length < Math.max(1, present * FLOOR)) {
  console.log(`only ${report.modules.length} of ${present} source files were scanned; the check proves nothing`);
  process.exitCode = 1;
}
if (report.violations.length > 0) process.exitCode = 1;
