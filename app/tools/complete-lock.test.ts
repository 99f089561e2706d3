// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { missingOptional, platformOf } from './complete-lock.mjs';

describe('the lock file', () => {
  it('has every optional package, or npm ci refuses it', () => {
    const lock = JSON.parse(readFileSync(new URL('../../package-lock.json', import.meta.url), 'utf8'));
    expect(Object.keys(lock.packages).length).toBeGreaterThan(50);
    expect(missingOptional(lock.packages)).toEqual([]);
  });

  it('names no registry', () => {
    const text = readFileSync(new URL('../../package-lock.json', import.meta.url), 'utf8');
    expect(text).not.toContain('"resolved"');
  });
});

describe('missingOptional', () => {
  it('finds what an entry asks for and the lock file lacks, and says where it belongs', () => {
    const packages = {
      'node_modules/a': { version: '1.0.0', dev: true, optionalDependencies: { 'a-linux-x64': '1.0.0', 'a-darwin-arm64': '1.0.0' } },
      'node_modules/a-linux-x64': { version: '1.0.0' },
      'node_modules/b/node_modules/a': { version: '2.0.0', optionalDependencies: { 'a-linux-x64': '2.0.0' } },
    };
    expect(missingOptional(packages)).toEqual([
      { path: 'node_modules/a-darwin-arm64', name: 'a-darwin-arm64', version: '1.0.0', dev: true },
      { path: 'node_modules/b/node_modules/a-linux-x64', name: 'a-linux-x64', version: '2.0.0', dev: false },
    ]);
  });
});

describe('platformOf', () => {
  it.each([
    ['@biomejs/cli-darwin-arm64', { os: ['darwin'], cpu: ['arm64'] }],
    ['@biomejs/cli-linux-x64-musl', { os: ['linux'], cpu: ['x64'], libc: ['musl'] }],
    ['@swc/core-linux-arm-gnueabihf', { os: ['linux'], cpu: ['arm'], libc: ['glibc'] }],
    ['@oxlint/binding-linux-arm-musleabihf', { os: ['linux'], cpu: ['arm'], libc: ['musl'] }],
    ['@rolldown/binding-wasm32-wasi', { cpu: ['wasm32'] }],
    ['left-pad', null],
  ])('%s', (name, platform) => {
    expect(platformOf(name)).toEqual(platform);
  });
});
