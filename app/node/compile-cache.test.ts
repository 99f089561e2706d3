// SPDX-License-Identifier: Apache-2.0
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { userCacheFolder } from './compile-cache.ts';

const MODULE = new URL('./compile-cache.ts', import.meta.url).href;
const folder = mkdtempSync(join(tmpdir(), 'compile-cache-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.runIf(process.platform !== 'win32')('the folder for caches', () => {
  it.each([
    ['linux', {}, '/home/me/.cache'],
    ['linux', { XDG_CACHE_HOME: '/var/me' }, '/var/me'],
    ['linux', { XDG_CACHE_HOME: 'relative' }, '/home/me/.cache'],
    ['darwin', { XDG_CACHE_HOME: '/var/me' }, '/home/me/Library/Caches'],
  ] as const)('on %s with %j', (platform, env, expected) => expect(userCacheFolder(platform, env, '/home/me')).toBe(expected));

  it('is none without a home', () => expect(userCacheFolder('linux', {}, '')).toBeNull());
});

describe.runIf(process.platform === 'linux')('kept code', () => {
  it('is written under the cache folder, for this user only, by workers too', () => {
    const worker = join(folder, 'worker.mjs');
    const main = join(folder, 'main.mjs');
    writeFileSync(worker, 'export const seen = 1;');
    writeFileSync(
      main,
      `import { Worker } from 'node:worker_threads';
       const { keepCompiledCode } = await import(${JSON.stringify(MODULE)});
       keepCompiledCode();
       new Worker(${JSON.stringify(worker)});`,
    );
    const env: NodeJS.ProcessEnv = { ...process.env, XDG_CACHE_HOME: folder };
    delete env.NODE_COMPILE_CACHE;
    delete env.NODE_DISABLE_COMPILE_CACHE;
    expect(spawnSync(process.execPath, [main], { env, encoding: 'utf8' }).stderr).toBe('');
    const ours = join(folder, 'paravane', 'code');
    expect(statSync(ours).mode & 0o77).toBe(0);
    const [version] = readdirSync(ours);
    expect(readdirSync(join(ours, version)).length).toBeGreaterThan(0);
  });
});
