// SPDX-License-Identifier: Apache-2.0
/** Writes app/docs/support-matrix.md; with `--check` only says whether it is what would be written (status 1 when it is not). */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { collectTags, renderMatrix } from './collect.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const TARGET = join(ROOT, 'app/docs/support-matrix.md');

const paths = readdirSync(join(ROOT, 'app/engine'), { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.ts') && !path.endsWith('.test.ts'))
  .map((path) => `app/engine/${path}`)
  .sort();
const { tags, errors } = collectTags(paths.map((path) => ({ path, text: readFileSync(join(ROOT, path), 'utf8') })));
for (const error of errors) console.log(error);
const wanted = renderMatrix(tags);

if (!process.argv.includes('--check')) {
  writeFileSync(TARGET, wanted);
  console.log(`app/docs/support-matrix.md: ${tags.length} entries`);
} else if (!existsSync(TARGET) || readFileSync(TARGET, 'utf8') !== wanted) {
  console.log('app/docs/support-matrix.md is not up to date; run "npm run support-matrix"');
  process.exitCode = 1;
} else {
  console.log(`app/docs/support-matrix.md is up to date, ${tags.length} entries`);
}
if (errors.length > 0) process.exitCode = 1;
