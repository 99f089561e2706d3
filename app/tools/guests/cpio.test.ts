// SPDX-License-Identifier: Apache-2.0
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { type CpioEntry, writeCpio } from './cpio.ts';

const file = (text: string, mode = 0o644): CpioEntry => ({ kind: 'file', mode, content: Buffer.from(text) });

/** Reads an archive back with a reader that shares nothing with the writer but the format: name, mode, device and content. */
function read(archive: Buffer): { name: string; mode: number; rdev: string; text: string }[] {
  const found = [];
  for (let at = 0; ; ) {
    expect(archive.toString('latin1', at, at + 6)).toBe('070701');
    const field = (index: number): number => Number.parseInt(archive.toString('latin1', at + 6 + index * 8, at + 14 + index * 8), 16);
    const [mode, size, nameSize] = [field(1), field(6), field(11)];
    const name = archive.toString('utf8', at + 110, at + 110 + nameSize - 1);
    const start = (at + 110 + nameSize + 3) & ~3;
    if (name === 'TRAILER!!!') return found;
    found.push({ name, mode, rdev: `${field(9)}:${field(10)}`, text: archive.toString('utf8', start, start + size) });
    at = (start + size + 3) & ~3;
  }
}

describe('writeCpio', () => {
  it('writes every kind of entry, with parents, sorted', () => {
    const archive = writeCpio(
      new Map<string, CpioEntry>([
        ['init', file('#!/bin/sh\n', 0o755)],
        ['bin/sh', { kind: 'symlink', target: 'busybox' }],
        ['dev/console', { kind: 'character', mode: 0o600, major: 5, minor: 1 }],
        ['proc', { kind: 'directory', mode: 0o555 }],
      ]),
    );
    expect(read(archive)).toEqual([
      { name: 'bin', mode: 0o040755, rdev: '0:0', text: '' },
      { name: 'bin/sh', mode: 0o120777, rdev: '0:0', text: 'busybox' },
      { name: 'dev', mode: 0o040755, rdev: '0:0', text: '' },
      { name: 'dev/console', mode: 0o020600, rdev: '5:1', text: '' },
      { name: 'init', mode: 0o100755, rdev: '0:0', text: '#!/bin/sh\n' },
      { name: 'proc', mode: 0o040555, rdev: '0:0', text: '' },
    ]);
  });

  it('gives the same bytes whatever the order of insertion', () => {
    const a = writeCpio(
      new Map([
        ['a', file('1')],
        ['b', file('22')],
      ]),
    );
    const b = writeCpio(
      new Map([
        ['b', file('22')],
        ['a', file('1')],
      ]),
    );
    expect(a.equals(b)).toBe(true);
    expect(a.length % 4).toBe(0);
  });

  it('refuses an absolute path', () => {
    expect(() => writeCpio(new Map([['/etc/passwd', file('')]]))).toThrow('not relative');
  });

  it('is read by cpio', (context) => {
    const archive = writeCpio(new Map([['etc/motd', file('hello\n')]]));
    const cpio = spawnSync('cpio', ['-it', '--quiet'], { input: archive, encoding: 'utf8' });
    if (cpio.error !== undefined) return context.skip('the program cpio is not installed');
    expect(cpio.stdout).toBe('etc\netc/motd\n');
  });
});
