// SPDX-License-Identifier: Apache-2.0
/**
 * Bundles the command line for installation as a package: `out/app/cli/main.js`, its worker threads in `out/app/workers`, shared
 * code in `out/app/chunks`. Needed because Node refuses to strip types from files under node_modules.
 *
 * Source code names its workers and resources as `new URL('./x.ts', import.meta.url)`, which is right when it runs from a
 * checkout. Here such a URL is rewritten to where the file ends up: a `.ts` file becomes an entry of its own, anything else stays
 * in its place under the package's root. INVARIANT: every output file is three levels below that root, so one relative path
 * is right from all of them.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Plugin, rolldown } from 'rolldown';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const OUT = join(ROOT, 'out');
const MAIN = 'app/cli/main.ts';
/** Workers that must come out of the bundle; a rename that loses one is noticed here, not by a user. */
const WORKERS = ['app/node/vcpu-worker.ts'];

const FILE_URL = /new URL\(\s*(['"])(\.{1,2}\/[^'"]+)\1\s*,\s*import\.meta\.url\s*,?\s*\)/g;

/** Rewrites file URLs; adds each worker it meets to `workers`, by path from the root. */
function fileUrls(workers: Set<string>): Plugin {
  return {
    name: 'paravane-file-urls',
    transform(code, id) {
      if (!id.startsWith(ROOT) || id.includes('node_modules') || !code.includes('import.meta.url')) return null;
      const rewritten = code.replace(FILE_URL, (_whole, _quote, path: string) => {
        const target = resolve(dirname(id), path);
        const fromRoot = relative(ROOT, target);
        if (!target.endsWith('.ts')) return `new URL('../../../${fromRoot}', import.meta.url)`;
        const name = `app/workers/${basename(target, '.ts')}`;
        if (!workers.has(fromRoot)) {
          workers.add(fromRoot);
          this.emitFile({ type: 'chunk', id: target, fileName: `${name}.js` });
        }
        return `new URL('../workers/${basename(target, '.ts')}.js', import.meta.url)`;
      });
      return rewritten === code ? null : { code: rewritten, map: null };
    },
  };
}

if (!existsSync(join(ROOT, MAIN))) {
  console.error(`build: this checkout has no ${MAIN}`);
  process.exit(1);
}
const dependencies = Object.keys(
  (JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { dependencies?: object }).dependencies ?? {},
);
const workers = new Set<string>();
rmSync(join(OUT, 'app'), { recursive: true, force: true });
const bundle = await rolldown({
  cwd: ROOT,
  input: { 'app/cli/main': MAIN },
  platform: 'node',
  external: [/^node:/, ...dependencies],
  plugins: [fileUrls(workers)],
});
const { output } = await bundle.write({
  dir: OUT,
  format: 'esm',
  entryFileNames: '[name].js',
  chunkFileNames: 'app/chunks/[name]-[hash].js',
  banner: (chunk) => (chunk.name === 'app/cli/main' ? '#!/usr/bin/env node' : ''),
  sourcemap: true,
});
await bundle.close();

const missing = WORKERS.filter((worker) => !workers.has(worker));
if (missing.length > 0) {
  console.error(`build: no module starts ${missing.join(', ')} as new URL(…, import.meta.url); the package would not run`);
  process.exit(1);
}
const program = join(OUT, 'app/cli/main.js');
chmodSync(program, 0o755);
const help = execFileSync(process.execPath, [program, '--help'], { encoding: 'utf8' });
if (!help.includes('paravane')) {
  console.error('build: the bundled program does not answer --help');
  process.exit(1);
}
for (const file of output)
  console.log(`out/${file.fileName}${file.type === 'chunk' ? ` ${(file.code.length / 1024).toFixed(0)} KiB` : ''}`);
