// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Actor, formatPermission, parsePermissions } from './permissions.ts';
import { Store } from './store.ts';
import type { TransactionView } from './store-view.ts';
import { childNames } from './tree.ts';
import type { XsPath } from './xs-path.ts';
import { latin1Decode, latin1Encode } from './xs-wire.ts';

const dom0: Actor = { domid: 0, privileged: true, target: null };
const guest: Actor = { domid: 1, privileged: false, target: null };
const other: Actor = { domid: 2, privileged: false, target: null };

function path(text: string): XsPath {
  return text as XsPath;
}

/** A store with /g, which belongs to domain 1 and nobody else may read. */
function withHome(quotas = {}): Store {
  const store = new Store(quotas);
  store.write(dom0, store.live, path('/g'), latin1Encode(''));
  store.setPermissions(dom0, store.live, path('/g'), parsePermissions(['n1'])!);
  store.live.takeEvents();
  return store;
}

function write(store: Store, actor: Actor, at: string, value: string, view: TransactionView | null = null): string {
  const result = store.write(actor, view ?? store.live, path(at), latin1Encode(value));
  return result.ok ? 'OK' : result.error;
}

function read(store: Store, actor: Actor, at: string, view: TransactionView | null = null): string {
  const result = store.read(actor, view ?? store.live, path(at));
  return result.ok ? latin1Decode(result.value.value) : result.error;
}

function errorOf(result: { ok: true } | { ok: false; error: string }): string {
  return result.ok ? 'OK' : result.error;
}

describe('the tree', () => {
  it('creates missing ancestors empty and lists children in order of creation', () => {
    const store = new Store();
    write(store, dom0, '/a/b/z', '1');
    write(store, dom0, '/a/b/c', '2');
    expect(read(store, dom0, '/a')).toBe('');
    const node = store.read(dom0, store.live, path('/a/b'));
    expect(node.ok && childNames(node.value)).toEqual(['z', 'c']);
  });

  it('removes subtrees, forgives a missing node and refuses the root', () => {
    const store = new Store();
    write(store, dom0, '/a/b/c', '1');
    expect(errorOf(store.rm(dom0, store.live, path('/a/b')))).toBe('OK');
    expect(read(store, dom0, '/a/b/c')).toBe('ENOENT');
    expect(errorOf(store.rm(dom0, store.live, path('/a/b')))).toBe('OK');
    expect(errorOf(store.rm(dom0, store.live, path('/a/b/c')))).toBe('ENOENT');
    expect(errorOf(store.rm(dom0, store.live, path('/')))).toBe('EINVAL');
  });

  it('makes directories without touching what is there', () => {
    const store = new Store();
    write(store, dom0, '/a', 'kept');
    expect(errorOf(store.mkdir(dom0, store.live, path('/a')))).toBe('OK');
    expect(read(store, dom0, '/a')).toBe('kept');
  });

  it('changes the generation of a node and of its parent when the set of children changes, not further up', () => {
    const store = new Store();
    write(store, dom0, '/a/b', '1');
    const generation = (at: string): number => store.live.get(path(at))!.generation;
    const before = [generation('/'), generation('/a'), generation('/a/b')];
    write(store, dom0, '/a/b', '2');
    expect([generation('/') === before[0], generation('/a') === before[1], generation('/a/b') === before[2]]).toEqual([true, true, false]);
    write(store, dom0, '/a/c', '');
    expect([generation('/') === before[0], generation('/a') === before[1]]).toEqual([true, false]);
  });
});

describe('permissions', () => {
  it('lets a guest do as it likes in its own and hides the rest', () => {
    const store = withHome();
    expect(write(store, guest, '/g/x', '1')).toBe('OK');
    expect(read(store, guest, '/g/x')).toBe('1');
    expect(read(store, other, '/g/x')).toBe('EACCES');
    expect(read(store, guest, '/g/none')).toBe('ENOENT');
    expect(read(store, guest, '/none')).toBe('EACCES');
    expect(write(store, guest, '/none', '')).toBe('EACCES');
  });

  it('inherits the list of the parent, with the creator as the owner', () => {
    const store = withHome();
    store.setPermissions(guest, store.live, path('/g'), parsePermissions(['n1', 'b2'])!);
    write(store, other, '/g/of2', '');
    write(store, dom0, '/g/of0', '');
    const list = (at: string): string[] => store.live.get(path(at))!.permissions.map(formatPermission);
    expect(list('/g/of2')).toEqual(['n2', 'b2']);
    expect(list('/g/of0')).toEqual(['n1', 'b2']);
  });

  it('distinguishes r, w, b and n', () => {
    const store = withHome();
    for (const [letter, canRead, canWrite] of [
      ['r', '', 'EACCES'],
      ['w', 'EACCES', 'OK'],
      ['b', '', 'OK'],
      ['n', 'EACCES', 'EACCES'],
    ] as const) {
      store.setPermissions(guest, store.live, path('/g'), parsePermissions(['n1', `${letter}2`])!);
      expect([read(store, other, '/g'), write(store, other, '/g', '')], letter).toEqual([canRead, canWrite]);
    }
  });

  it('lets only owners change the list, and only dom0 the owner', () => {
    const store = withHome();
    const set = (actor: Actor, ...list: string[]): string =>
      errorOf(store.setPermissions(actor, store.live, path('/g'), parsePermissions(list)!));
    expect(set(guest, 'n1', 'b2')).toBe('OK');
    expect(set(other, 'n1')).toBe('EACCES');
    expect(set(guest, 'n2')).toBe('EPERM');
    expect(set(dom0, 'n2')).toBe('OK');
    expect(store.countsAreRight()).toBe(true);
  });

  it('lets a device model act for its target', () => {
    const store = withHome();
    expect(read(store, { ...other, target: 1 }, '/g')).toBe('');
  });

  it.each(['', 'x1', 'n', 'n70000', 'n-1', 'n1 ', 'nn1'])('refuses the permission %j', (text) => {
    expect(parsePermissions([text])).toBeNull();
  });

  it('forgets a domain: its nodes and what was granted to it', () => {
    const store = withHome();
    write(store, dom0, '/shared', 'x');
    store.setPermissions(dom0, store.live, path('/shared'), parsePermissions(['n0', 'r1', 'r2'])!);
    write(store, guest, '/g/x/y', '1');
    store.forgetDomain(1);
    expect(read(store, dom0, '/g')).toBe('ENOENT');
    expect(store.live.get(path('/shared'))!.permissions.map(formatPermission)).toEqual(['n0', 'r2']);
    expect(store.live.owned(1)).toBe(0);
    expect(store.countsAreRight()).toBe(true);
  });
});

describe('quotas', () => {
  it('bounds the nodes of a guest, counting ancestors made on the way', () => {
    const store = withHome({ nodes: 4 });
    expect(write(store, guest, '/g/a/b', '')).toBe('OK');
    expect(write(store, guest, '/g/c/d', '')).toBe('ENOSPC');
    expect(write(store, guest, '/g/c', '')).toBe('OK');
    expect(write(store, guest, '/g/e', '')).toBe('ENOSPC');
    expect(write(store, dom0, '/g/e', '')).toBe('OK');
  });

  it('bounds the size of a node, names of children included', () => {
    const store = withHome({ nodeSize: 100 });
    expect(write(store, guest, '/g/x', 'v'.repeat(68))).toBe('OK');
    expect(write(store, guest, '/g/x', 'v'.repeat(69))).toBe('ENOSPC');
    expect(write(store, guest, '/g/y', 'v'.repeat(69))).toBe('ENOSPC');
    expect(write(store, guest, `/g/${'n'.repeat(70)}`, '')).toBe('ENOSPC');
    expect(write(store, dom0, '/g/x', 'v'.repeat(4000))).toBe('OK');
  });

  it('bounds the permissions of a node', () => {
    const store = withHome({ permissionsPerNode: 2 });
    const list = parsePermissions(['n1', 'r2', 'r3'])!;
    expect(errorOf(store.setPermissions(guest, store.live, path('/g'), list))).toBe('ENOSPC');
  });

  it('bounds what a transaction may touch and fails its commit', () => {
    const store = withHome({ transactionNodes: 3 });
    const transaction = store.beginTransaction(guest);
    for (const name of ['a', 'b']) read(store, guest, `/g/${name}`, transaction);
    expect(write(store, guest, '/g/c', '', transaction)).toBe('ENOSPC');
    expect(errorOf(store.commitTransaction(guest, transaction))).toBe('ENOMEM');
    expect(read(store, guest, '/g/c')).toBe('ENOENT');
  });

  it('bounds the bytes a transaction gathers', () => {
    const store = withHome({ transactionBytes: 1000 });
    const transaction = store.beginTransaction(guest);
    const results = Array.from({ length: 20 }, () => write(store, guest, '/g/a', 'v'.repeat(90), transaction));
    expect(results[0]).toBe('OK');
    expect(results.at(-1)).toBe('ENOSPC');
  });
});

describe('transactions', () => {
  it('sees its own changes, and others see them only after commit', () => {
    const store = withHome();
    const transaction = store.beginTransaction(guest);
    write(store, guest, '/g/a/b', '1', transaction);
    expect(read(store, guest, '/g/a/b', transaction)).toBe('1');
    expect(read(store, guest, '/g/a/b')).toBe('ENOENT');
    expect(store.live.takeEvents()).toEqual([]);
    expect(errorOf(store.commitTransaction(guest, transaction))).toBe('OK');
    expect(read(store, guest, '/g/a/b')).toBe('1');
    expect(store.live.takeEvents().map((event) => event.path)).toEqual(['/g/a/b']);
    expect(store.countsAreRight()).toBe(true);
  });

  it('keeps seeing the store as it was at the start', () => {
    const store = withHome();
    write(store, guest, '/g/a', 'old');
    const transaction = store.beginTransaction(guest);
    write(store, guest, '/g/a', 'new');
    expect(read(store, guest, '/g/a', transaction)).toBe('old');
  });

  it('commits beside unrelated changes, and keeps both', () => {
    const store = withHome();
    write(store, guest, '/g/d/a', '1');
    write(store, guest, '/g/e', '1');
    const transaction = store.beginTransaction(guest);
    write(store, guest, '/g/d/a', '2', transaction);
    write(store, guest, '/g/d/b', '3', transaction);
    write(store, guest, '/g/e', '2');
    expect(errorOf(store.commitTransaction(guest, transaction))).toBe('OK');
    expect(['/g/d/a', '/g/d/b', '/g/e'].map((at) => read(store, guest, at))).toEqual(['2', '3', '2']);
    expect(store.countsAreRight()).toBe(true);
  });

  it.each([
    ['what it read was written', (store: Store) => write(store, guest, '/g/a', 'x')],
    ['what it read was removed', (store: Store) => errorOf(store.rm(guest, store.live, path('/g/a')))],
    ['what it missed was made', (store: Store) => write(store, guest, '/g/none', 'x')],
    ['what it listed got a child', (store: Store) => write(store, guest, '/g/dir/y', 'x')],
    ['what it wrote was written', (store: Store) => write(store, guest, '/g/w', 'x')],
  ])('is refused with EAGAIN when %s', (_what, interfere) => {
    const store = withHome();
    for (const name of ['a', 'dir/x', 'w']) write(store, guest, `/g/${name}`, '');
    const transaction = store.beginTransaction(guest);
    for (const name of ['a', 'none', 'dir']) read(store, guest, `/g/${name}`, transaction);
    write(store, guest, '/g/w', 'mine', transaction);
    interfere(store);
    expect(errorOf(store.commitTransaction(guest, transaction))).toBe('EAGAIN');
    expect(read(store, guest, '/g/w')).not.toBe('mine');
    expect(store.countsAreRight()).toBe(true);
  });

  it('is refused when something far below what it removed came up meanwhile', () => {
    const store = withHome();
    write(store, guest, '/g/d/x', '1');
    const transaction = store.beginTransaction(guest);
    store.rm(guest, transaction, path('/g/d'));
    write(store, guest, '/g/d/x/y', '2');
    expect(errorOf(store.commitTransaction(guest, transaction))).toBe('EAGAIN');
    expect(read(store, guest, '/g/d/x/y')).toBe('2');
    expect(store.countsAreRight()).toBe(true);
  });

  it('replays a removal with everything below, and a node made anew in its place', () => {
    const store = withHome();
    write(store, guest, '/g/d/x', '1');
    write(store, guest, '/g/d/y', '2');
    const transaction = store.beginTransaction(guest);
    store.rm(guest, transaction, path('/g/d'));
    write(store, guest, '/g/d/z', '3', transaction);
    write(store, dom0, '/elsewhere', '');
    expect(errorOf(store.commitTransaction(guest, transaction))).toBe('OK');
    const node = store.live.get(path('/g/d'))!;
    expect(childNames(node)).toEqual(['z']);
    expect(store.countsAreRight()).toBe(true);
  });

  it('is held to the node quota at commit as well', () => {
    const store = withHome({ nodes: 3 });
    const transaction = store.beginTransaction(guest);
    write(store, guest, '/g/a', '', transaction);
    write(store, guest, '/g/b', '', transaction);
    store.write(dom0, store.live, path('/h'), latin1Encode(''));
    store.setPermissions(dom0, store.live, path('/h'), parsePermissions(['n1'])!);
    expect(errorOf(store.commitTransaction(guest, transaction))).toBe('ENOSPC');
  });

  /** A reference that copies the whole store at the start and compares everything it touched. */
  it('gives what running it alone at commit time would give (property)', () => {
    const paths = ['/g/a', '/g/a/x', '/g/a/x/z', '/g/a/y', '/g/b', '/g/b/x'];
    const operation = fc.record({
      kind: fc.constantFrom('write', 'rm', 'read'),
      at: fc.constantFrom(...paths),
      value: fc.constantFrom('1', '2', '3'),
      inside: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 14 }), (operations) => {
        const run = (store: Store, view: TransactionView | null, { kind, at, value }: (typeof operations)[number]): string => {
          if (kind === 'write') return write(store, guest, at, value, view);
          if (kind === 'rm') return errorOf(store.rm(guest, view ?? store.live, path(at)));
          return read(store, guest, at, view);
        };
        const dump = (store: Store): string[] => paths.map((at) => read(store, guest, at));
        const store = withHome();
        const transaction = store.beginTransaction(guest);
        const answers = operations.map((each) => run(store, each.inside ? transaction : null, each));
        const committed = store.commitTransaction(guest, transaction);
        expect(store.countsAreRight()).toBe(true);
        // Serial execution: first what ran outside, then the transaction as a whole.
        const serial = withHome();
        for (const each of operations) if (!each.inside) run(serial, null, each);
        if (committed.ok) {
          operations.forEach((each, i) => {
            if (each.inside) expect(run(serial, null, each)).toBe(answers[i]);
          });
        }
        expect(dump(store)).toEqual(dump(serial));
      }),
      { numRuns: 500 },
    );
  });
});
