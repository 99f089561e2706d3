// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import type { LogLevel } from '../host/log.ts';
import { XenstoreServer } from './server.ts';

/** Lets deferred callbacks run. */
async function turn(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 0));
}

describe('XenstoreClient', () => {
  it('reads and writes text as UTF-8 and bytes as they are', () => {
    const client = new XenstoreServer().client('test');
    client.write('/a', 'Zürich ☃');
    expect(client.read('/a')).toBe('Zürich ☃');
    client.write('/b', Uint8Array.from([0, 255]));
    expect(client.readBytes('/b')).toEqual(Uint8Array.from([0, 255]));
    expect(client.directory('/')).toEqual(['tool', 'a', 'b']);
  });

  it('answers null or an error for paths that are no paths, without throwing', () => {
    const client = new XenstoreServer().client('test');
    expect(client.read('/a//b')).toBeNull();
    expect(client.directory('')).toBeNull();
    expect(client.write('/a b', '')).toEqual({ ok: false, error: 'EINVAL' });
    expect(client.setPermissions('/', ['z1'])).toEqual({ ok: false, error: 'EINVAL' });
    expect(() => client.watch('/a b', () => {})).toThrow(RangeError);
  });

  it('takes relative paths as dom0 s', () => {
    const client = new XenstoreServer().client('test');
    client.write('backend/x', '1');
    expect(client.read('/local/domain/0/backend/x')).toBe('1');
  });

  it('calls watchers once at first and then for each change, later and in order', async () => {
    const client = new XenstoreServer().client('test');
    const seen: string[] = [];
    client.watch('/a', (path) => seen.push(`1 ${path}`));
    client.watch('/', (path) => seen.push(`2 ${path}`));
    expect(seen).toEqual([]);
    await turn();
    expect(seen.splice(0)).toEqual(['1 /a', '2 /']);
    client.write('/b', '');
    client.write('/a/x', '');
    expect(seen).toEqual([]);
    await turn();
    expect(seen).toEqual(['2 /b', '1 /a/x', '2 /a/x']);
  });

  it('calls nobody after the watch ended, even for what had happened before', async () => {
    const client = new XenstoreServer().client('test');
    let calls = 0;
    const unwatch = client.watch('/a', () => calls++);
    unwatch();
    client.write('/a', '');
    await turn();
    expect(calls).toBe(0);
  });

  it('survives a watcher that throws, and says so', async () => {
    const lines: [LogLevel, string][] = [];
    const client = new XenstoreServer({ log: { write: (level, message) => lines.push([level, message]) } }).client('disk');
    let calls = 0;
    client.watch('/a', () => {
      throw new Error('defect');
    });
    client.watch('/a', () => calls++);
    await turn();
    expect(calls).toBe(1);
    expect(lines).toEqual([['error', 'a xenstore watch of disk failed']]);
  });

  it('runs a transaction again after a conflict', () => {
    const client = new XenstoreServer().client('test');
    client.write('/n', '1');
    let runs = 0;
    const result = client.transaction((store) => {
      const value = Number(store.read('/n'));
      if (runs++ === 0) client.write('/n', '10');
      store.write('/n', String(value + 1));
      return value;
    });
    expect(result).toEqual({ ok: true, value: 10 });
    expect([client.read('/n'), runs]).toEqual(['11', 2]);
  });

  it('gives up on a transaction that conflicts with itself every time', () => {
    const client = new XenstoreServer().client('test');
    client.write('/n', '1');
    let i = 0;
    const result = client.transaction((store) => {
      store.read('/n');
      client.write('/n', String(i++));
    });
    expect(result).toEqual({ ok: false, error: 'EAGAIN' });
  });

  it('changes nothing when the work throws or the transaction is aborted', () => {
    const client = new XenstoreServer().client('test');
    expect(() =>
      client.transaction((store) => {
        store.write('/a', '');
        throw new Error('no');
      }),
    ).toThrow('no');
    const transaction = client.begin();
    transaction.write('/b', '');
    transaction.abort();
    expect(transaction.commit()).toEqual({ ok: false, error: 'ENOENT' });
    expect(client.directory('/')).toEqual(['tool']);
  });
});
