// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { parseDepends, parseStanza } from './apt.ts';
import { modulesDep } from './initramfs.ts';
import { resolveModules } from './kernel.ts';

const MODULES: Record<string, string[]> = {
  '9pnet_xen': ['9pnet'],
  '9p': ['9pnet', 'netfs'],
  '9pnet': [],
  netfs: ['fscache'],
  fscache: [],
};
const load = async (name: string) => (MODULES[name] === undefined ? null : { name, depends: MODULES[name], path: `kernel/${name}.ko` });

describe('resolveModules', () => {
  it('orders modules after what they need, each once', async () => {
    const { ordered, missing } = await resolveModules(['9pnet_xen', '9p'], load);
    expect(ordered.map(({ name }) => name)).toEqual(['9pnet', '9pnet_xen', 'fscache', 'netfs', '9p']);
    expect(missing).toEqual([]);
  });

  it('names what does not exist', async () => {
    expect((await resolveModules(['9p', 'gone'], load)).missing).toEqual(['gone']);
  });
});

describe('modulesDep', () => {
  it('lists all of what a module needs, nearest first', async () => {
    const { ordered } = await resolveModules(['9p'], load);
    expect(modulesDep(ordered).split('\n').at(-2)).toBe('kernel/9p.ko: kernel/netfs.ko kernel/fscache.ko kernel/9pnet.ko');
  });
});

describe('package fields', () => {
  it('reads the first stanza and its dependencies', () => {
    const fields = parseStanza(
      'Package: linux-image-amd64\nVersion: 6.1.1-1\nDepends: linux-image-6.1.0-1-amd64 (= 6.1.1-1), a:any | b\n\nPackage: other\n',
    );
    expect(fields.get('Version')).toBe('6.1.1-1');
    expect(parseDepends(fields.get('Depends') ?? '')).toEqual(['linux-image-6.1.0-1-amd64', 'a']);
  });
});
