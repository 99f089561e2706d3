// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { isWithin, parentOf, parsePath, type XsPath } from './xs-path.ts';

describe('parsePath', () => {
  it.each([
    ['/', '/'],
    ['/a', '/a'],
    ['/a/b-c_d@1', '/a/b-c_d@1'],
    ['x/y', '/local/domain/3/x/y'],
  ])('takes %s as %s', (text, path) => {
    expect(parsePath(text, 3)).toBe(path);
  });

  it.each(['', '//', '/a//b', '/a/', 'a/', '/a b', '/a.b', '/ä', '/a\0b', '@releaseDomain'])('refuses %j', (text) => {
    expect(parsePath(text, 3)).toBeNull();
  });

  it('takes special names only where they are meant', () => {
    expect(parsePath('@releaseDomain', 3, true)).toBe('@releaseDomain');
  });

  it('holds absolute paths to 3072 and relative ones to 2048 bytes', () => {
    expect(parsePath(`/${'a'.repeat(3071)}`, 0)).not.toBeNull();
    expect(parsePath(`/${'a'.repeat(3072)}`, 0)).toBeNull();
    expect(parsePath('a'.repeat(2048), 0)).not.toBeNull();
    expect(parsePath('a'.repeat(2049), 0)).toBeNull();
  });
});

describe('relations', () => {
  it('finds parents up to the root', () => {
    expect(parentOf('/a/b' as XsPath)).toBe('/a');
    expect(parentOf('/a' as XsPath)).toBe('/');
    expect(parentOf('/' as XsPath)).toBe('/');
  });

  it('does not mistake a prefix of a name for an ancestor', () => {
    expect(isWithin('/a/bc', '/a/b')).toBe(false);
    expect(isWithin('/a/b/c', '/a/b')).toBe(true);
    expect(isWithin('/a/b', '/a/b')).toBe(true);
    expect(isWithin('@releaseDomain', '/')).toBe(true);
  });
});
