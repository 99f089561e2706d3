// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { XenstoreQuotas } from './quotas.ts';
import { XenstoreServer } from './server.ts';
import { GuestRing } from './testing/guest-ring.ts';
import * as wire from './xs-wire.ts';

/** A server with domain 1 connected; its home is /local/domain/1, where `data` is its own. */
function connected(quotas: Partial<XenstoreQuotas> = {}) {
  const server = new XenstoreServer({ quotas });
  const dom0 = server.client('test');
  dom0.write('/local/domain/1', '');
  dom0.setPermissions('/local/domain/1', ['n0', 'r1']);
  dom0.write('/local/domain/1/name', 'guest');
  dom0.write('/local/domain/1/data', '');
  dom0.setPermissions('/local/domain/1/data', ['n1']);
  dom0.write('/secret', 'x');
  const guest = new GuestRing();
  const connection = server.introduceDomain(1, guest);
  guest.pump = () => void connection.pump();
  return { server, dom0, guest, connection };
}

describe('requests', () => {
  it('echoes request and transaction number and answers in kind', () => {
    const { guest } = connected();
    expect(guest.request(wire.XS_READ, wire.encodeStrings(['name']))).toEqual({
      type: wire.XS_READ,
      requestId: 1,
      transactionId: 0,
      length: 5,
      payload: wire.latin1Encode('guest'),
    });
    const reply = guest.request(wire.XS_READ, wire.encodeStrings(['name']), 77);
    expect([reply.type, reply.transactionId, wire.latin1Decode(reply.payload)]).toEqual([wire.XS_ERROR, 77, 'ENOENT\0']);
  });

  it('reads, writes, lists and removes', () => {
    const { guest } = connected();
    expect(guest.write('data/a/b', 'v')).toBe('OK');
    expect(guest.read('/local/domain/1/data/a/b')).toBe('v');
    expect(guest.ask(wire.XS_MKDIR, ['data/c'])).toBe('OK');
    expect(guest.ask(wire.XS_DIRECTORY, ['data'])).toBe('a|c');
    expect(guest.ask(wire.XS_DIRECTORY, ['data/c'])).toBe('');
    expect(guest.ask(wire.XS_RM, ['data/a'])).toBe('OK');
    expect(guest.read('data/a/b')).toBe('ENOENT');
    expect(guest.read('/secret')).toBe('EACCES');
  });

  it('keeps values with NULs as they are', () => {
    const { guest } = connected();
    guest.write('data/a', 'x\0\0y');
    expect(wire.latin1Decode(guest.request(wire.XS_READ, wire.encodeStrings(['data/a'])).payload)).toBe('x\0\0y');
  });

  it('gets and sets permissions', () => {
    const { guest } = connected();
    expect(guest.ask(wire.XS_SET_PERMS, ['data', 'n1', 'r0', 'b7'])).toBe('OK');
    expect(guest.ask(wire.XS_GET_PERMS, ['data'])).toBe('n1|r0|b7');
    expect(guest.ask(wire.XS_SET_PERMS, ['data'])).toBe('EINVAL');
    expect(guest.ask(wire.XS_SET_PERMS, ['data', 'q1'])).toBe('EINVAL');
    expect(guest.ask(wire.XS_SET_PERMS, ['data', 'n2'])).toBe('EPERM');
    expect(guest.ask(wire.XS_SET_PERMS, ['name', 'n1'])).toBe('EACCES');
    expect(guest.ask(wire.XS_SET_PERMS, ['data', 'n1', 'r2', 'r3', 'r4', 'r5', 'r6'])).toBe('ENOSPC');
  });

  it.each([
    [wire.XS_CONTROL, ['help'], 'EACCES'],
    [wire.XS_INTRODUCE, ['2', '1', '1'], 'EACCES'],
    [wire.XS_RELEASE, ['1'], 'EACCES'],
    [wire.XS_RESUME, ['1'], 'EACCES'],
    [wire.XS_SET_TARGET, ['1', '0'], 'EACCES'],
    [wire.XS_IS_DOMAIN_INTRODUCED, ['1'], 'EACCES'],
    [wire.XS_WATCH_EVENT, ['a', 'b'], 'ENOSYS'],
    [wire.XS_ERROR, ['x'], 'ENOSYS'],
    [20, ['x'], 'ENOSYS'],
    [23, ['x'], 'ENOSYS'],
    [0xffffffff, ['x'], 'ENOSYS'],
    [wire.XS_GET_DOMAIN_PATH, ['5'], '/local/domain/5'],
    [wire.XS_GET_DOMAIN_PATH, [], 'EINVAL'],
    [wire.XS_TRANSACTION_END, ['T'], 'ENOENT'],
    [wire.XS_TRANSACTION_END, ['X'], 'EINVAL'],
    [wire.XS_READ, [], 'EINVAL'],
    [wire.XS_READ, ['name', 'name'], 'EINVAL'],
    [wire.XS_READ, ['@releaseDomain'], 'EINVAL'],
    [wire.XS_GET_PERMS, ['@releaseDomain'], 'EACCES'],
    [wire.XS_WATCH, ['name'], 'EINVAL'],
    [wire.XS_UNWATCH, ['name', 't'], 'ENOENT'],
    [wire.XS_RM, ['/'], 'EACCES'],
  ])('answers type %i with %j by %s', (type, strings, answer) => {
    expect(connected().guest.ask(type, strings)).toBe(answer);
  });

  it('refuses a string without its NUL', () => {
    const { guest } = connected();
    expect(wire.latin1Decode(guest.request(wire.XS_READ, wire.latin1Encode('name')).payload)).toBe('EINVAL\0');
  });

  it('serves a privileged domain: introduced, target, release, control', () => {
    const { server, guest: one } = connected();
    const guest = new GuestRing();
    const connection = server.introduceDomain(0, guest);
    guest.pump = () => void connection.pump();
    expect(guest.ask(wire.XS_IS_DOMAIN_INTRODUCED, ['1'])).toBe('T');
    expect(guest.ask(wire.XS_IS_DOMAIN_INTRODUCED, ['2'])).toBe('F');
    expect(guest.ask(wire.XS_INTRODUCE, ['2', '5', '6'])).toBe('ENOSYS');
    expect(guest.ask(wire.XS_SET_TARGET, ['1', '2'])).toBe('ENOENT');
    expect(guest.ask(wire.XS_RESUME, ['1'])).toBe('OK');
    expect(guest.ask(wire.XS_CONTROL, ['check'])).toBe('OK');
    expect(guest.ask(wire.XS_CONTROL, ['quota'])).toBe('EINVAL');
    expect(guest.read('/secret')).toBe('x');
    expect(guest.ask(wire.XS_RELEASE, ['1'])).toBe('OK');
    expect(guest.ask(wire.XS_RELEASE, ['1'])).toBe('ENOENT');
    expect(guest.ask(wire.XS_RELEASE, ['0'])).toBe('EINVAL');
    expect(() => one.read('name')).toThrow('no reply');
  });
});

describe('DIRECTORY and DIRECTORY_PART', () => {
  it('says E2BIG for a list that does not fit, and gives it in parts', () => {
    const { dom0, guest } = connected();
    const names = Array.from({ length: 500 }, (_, i) => `entry-number-${i}`);
    for (const name of names) dom0.write(`/local/domain/1/data/${name}`, '');
    expect(guest.ask(wire.XS_DIRECTORY, ['data'])).toBe('E2BIG');
    let list = '';
    const generations = new Set<string>();
    for (let rounds = 0; rounds < 10 && !list.endsWith('\0\0'); rounds++) {
      const { payload } = guest.request(wire.XS_DIRECTORY_PART, wire.encodeStrings(['data', String(list.length)]));
      expect(payload.length).toBeLessThanOrEqual(4096);
      const text = wire.latin1Decode(payload);
      generations.add(text.slice(0, text.indexOf('\0')));
      list += text.slice(text.indexOf('\0') + 1);
    }
    expect(list).toBe(`${names.join('\0')}\0\0`);
    expect(generations.size).toBe(1);
  });

  it('ends the list at once for an offset behind it', () => {
    const { guest } = connected();
    expect(guest.ask(wire.XS_DIRECTORY_PART, ['data', '99'])).toMatch(/^[0-9]+\|$/);
    expect(guest.ask(wire.XS_DIRECTORY_PART, ['data'])).toBe('EINVAL');
  });
});

describe('watches', () => {
  it('fires once when set, after the acknowledgement, then for changes at and below', () => {
    const { dom0, guest } = connected();
    expect(guest.ask(wire.XS_WATCH, ['data', 'tok'])).toBe('OK');
    expect(guest.events.splice(0)).toEqual([['data', 'tok']]);
    dom0.write('/local/domain/1/data/x/y', '1');
    guest.write('data', '2');
    dom0.write('/local/domain/1/other', '1');
    expect(guest.events.splice(0)).toEqual([
      ['data/x/y', 'tok'],
      ['data', 'tok'],
    ]);
  });

  it('tells absolute watches absolute paths', () => {
    const { dom0, guest } = connected();
    guest.ask(wire.XS_WATCH, ['/local/domain/1/data', 'a']);
    dom0.write('/local/domain/1/data/x', '');
    guest.settle();
    expect(guest.events).toEqual([
      ['/local/domain/1/data', 'a'],
      ['/local/domain/1/data/x', 'a'],
    ]);
  });

  it('tells a watch below a removed node its own path', () => {
    const { dom0, guest } = connected();
    guest.write('data/d/x/y', '1');
    for (const [at, token] of [
      ['data/d/x', 'in'],
      ['data', 'above'],
    ]) {
      guest.ask(wire.XS_WATCH, [at, token]);
    }
    guest.events.length = 0;
    dom0.rm('/local/domain/1/data/d');
    guest.settle();
    expect(guest.events).toEqual([
      ['data/d/x', 'in'],
      ['data/d', 'above'],
    ]);
  });

  it('keeps equal watches apart by token, refuses doubles and ends on unwatch', () => {
    const { dom0, guest } = connected();
    expect(guest.ask(wire.XS_WATCH, ['data', 'a'])).toBe('OK');
    expect(guest.ask(wire.XS_WATCH, ['data', 'b'])).toBe('OK');
    expect(guest.ask(wire.XS_WATCH, ['data', 'b'])).toBe('EEXIST');
    expect(guest.ask(wire.XS_UNWATCH, ['data', 'a'])).toBe('OK');
    guest.events.length = 0;
    dom0.write('/local/domain/1/data', '');
    guest.settle();
    expect(guest.events).toEqual([['data', 'b']]);
  });

  it('does not tell of nodes that the guest may not read', () => {
    const { dom0, guest } = connected();
    guest.ask(wire.XS_WATCH, ['/secret', 's']);
    guest.ask(wire.XS_WATCH, ['@releaseDomain', 'r']);
    guest.events.length = 0;
    dom0.write('/secret', 'y');
    dom0.setPermissions('/secret', ['n0', 'r1']);
    guest.settle();
    expect(guest.events.splice(0)).toEqual([['/secret', 's']]);
    dom0.setPermissions('/secret', ['n0']);
    guest.settle();
    expect(guest.events, 'the loss itself is told').toEqual([['/secret', 's']]);
  });

  it('tells @introduceDomain and @releaseDomain to those who may know', () => {
    const { server, dom0, guest } = connected();
    dom0.setPermissions('@releaseDomain', ['n0', 'r1']);
    guest.ask(wire.XS_WATCH, ['@releaseDomain', 'r']);
    guest.ask(wire.XS_WATCH, ['@introduceDomain', 'i']);
    guest.events.length = 0;
    server.introduceDomain(2, new GuestRing());
    server.domainShutdown(2);
    server.domainShutdown(2);
    guest.settle();
    expect(guest.events.splice(0)).toEqual([['@releaseDomain', 'r']]);
    server.resume(2);
    server.domainShutdown(2);
    server.release(2);
    guest.settle();
    expect(guest.events).toHaveLength(2);
  });

  it('fires for a transaction at its commit only', () => {
    const { guest } = connected();
    guest.ask(wire.XS_WATCH, ['data', 't']);
    guest.events.length = 0;
    const id = Number(guest.ask(wire.XS_TRANSACTION_START, ['']));
    guest.write('data/a', '1', id);
    guest.write('data/a', '2', id);
    guest.settle();
    expect(guest.events).toEqual([]);
    expect(guest.ask(wire.XS_TRANSACTION_END, ['T'], id)).toBe('OK');
    expect(guest.events).toEqual([['data/a', 't']]);
  });

  it('tells of a node that a transaction removed with its parent and made again', () => {
    const { guest } = connected();
    guest.write('data/d/x', '1');
    guest.ask(wire.XS_WATCH, ['data/d', 't']);
    guest.events.length = 0;
    const id = Number(guest.ask(wire.XS_TRANSACTION_START, ['']));
    guest.ask(wire.XS_RM, ['data/d'], id);
    guest.write('data/d/x', '2', id);
    guest.ask(wire.XS_TRANSACTION_END, ['T'], id);
    expect(guest.events).toEqual([
      ['data/d/x', 't'],
      ['data/d', 't'],
    ]);
  });

  it('drops watches and transactions on RESET_WATCHES', () => {
    const { dom0, guest } = connected();
    guest.ask(wire.XS_WATCH, ['data', 't']);
    const id = Number(guest.ask(wire.XS_TRANSACTION_START, ['']));
    guest.events.length = 0;
    expect(guest.ask(wire.XS_RESET_WATCHES, [''])).toBe('OK');
    dom0.write('/local/domain/1/data', '');
    guest.settle();
    expect(guest.events).toEqual([]);
    expect(guest.ask(wire.XS_TRANSACTION_END, ['T'], id)).toBe('ENOENT');
  });

  it('bounds the number of watches and of transactions', () => {
    const { guest } = connected({ watches: 2, transactions: 2 });
    const watch = (token: string): string => guest.ask(wire.XS_WATCH, ['data', token]);
    expect([watch('1'), watch('2'), watch('3')]).toEqual(['OK', 'OK', 'E2BIG']);
    const start = (): string => guest.ask(wire.XS_TRANSACTION_START, ['']);
    expect([start(), start(), start()]).toEqual(['1', '2', 'ENOSPC']);
    expect(guest.ask(wire.XS_TRANSACTION_START, [''], 1)).toBe('EBUSY');
    expect(guest.ask(wire.XS_TRANSACTION_END, ['F'], 1)).toBe('OK');
    expect(start()).toBe('3');
  });
});

describe('the ring', () => {
  it('advertises reconnection and the error field', () => {
    expect(connected().guest.word(wire.XENSTORE_RING_SERVER_FEATURES)).toBe(3);
  });

  it('carries messages longer than the ring, wherever the indices stand', () => {
    fc.assert(
      fc.property(fc.nat(0xffffffff), fc.nat(0xffffffff), fc.integer({ min: 1000, max: 2000 }), (request, response, length) => {
        const { guest } = connected();
        for (const at of [wire.XENSTORE_RING_REQ_CONS, wire.XENSTORE_RING_REQ_PROD]) guest.setWord(at, request);
        for (const at of [wire.XENSTORE_RING_RSP_CONS, wire.XENSTORE_RING_RSP_PROD]) guest.setWord(at, response);
        const value = Array.from({ length }, (_, i) => String.fromCharCode(32 + ((i * 7) % 90))).join('');
        expect(guest.write('data/long', value)).toBe('OK');
        expect(guest.read('data/long')).toBe(value);
      }),
      { numRuns: 50 },
    );
  });

  it('takes a request byte by byte', () => {
    const { guest, connection } = connected();
    const message = wire.encodeMessage(wire.XS_READ, 9, 0, wire.encodeStrings(['name']));
    for (const byte of message) {
      const prod = guest.word(wire.XENSTORE_RING_REQ_PROD);
      guest.page[prod & 1023] = byte;
      guest.setWord(wire.XENSTORE_RING_REQ_PROD, prod + 1);
      connection.pump();
    }
    guest.receive();
    expect(guest.takeReplies().map((reply) => wire.latin1Decode(reply.payload))).toEqual(['guest']);
  });

  it('notifies when it took or gave something, and not otherwise', () => {
    const { guest, connection } = connected();
    connection.pump();
    expect(guest.notifications).toBe(0);
    guest.read('name');
    expect(guest.notifications).toBeGreaterThan(0);
  });

  it('stops reading when replies pile up, and goes on when they are taken', () => {
    const { guest, connection } = connected({ outstanding: 3 });
    guest.write('data/v', 'v'.repeat(900));
    const message = wire.encodeMessage(wire.XS_READ, 1, 0, wire.encodeStrings(['data/v']));
    const stuck: number[] = [];
    for (let i = 0; i < 40; i++) {
      const prod = guest.word(wire.XENSTORE_RING_REQ_PROD);
      const used = (prod - guest.word(wire.XENSTORE_RING_REQ_CONS)) >>> 0;
      if (used + message.length > 1024) break;
      message.forEach((byte, k) => {
        guest.page[(prod + k) & 1023] = byte;
      });
      guest.setWord(wire.XENSTORE_RING_REQ_PROD, prod + message.length);
      connection.pump();
      stuck.push(connection.queuedBytes);
    }
    expect(Math.max(...stuck)).toBeLessThanOrEqual(3 * 916);
    expect(stuck.length).toBeGreaterThan(10);
    guest.settle();
    expect(guest.takeReplies()).toHaveLength(stuck.length);
  });

  it('handles a bounded number of requests at a time and asks to be continued', () => {
    const later: (() => void)[] = [];
    const server = new XenstoreServer({ soon: (task) => later.push(task), quotas: { outstanding: 1000 } });
    const guest = new GuestRing();
    const connection = server.introduceDomain(1, guest);
    // 64 requests of 16 bytes fill the ring; an endless producer keeps it full.
    const refill = (): void => guest.setWord(wire.XENSTORE_RING_REQ_PROD, guest.word(wire.XENSTORE_RING_REQ_CONS) + 1024);
    refill();
    const empty = wire.encodeMessage(wire.XS_READ, 0, 0, new Uint8Array(0));
    for (let i = 0; i < 1024; i++) guest.page[i] = empty[i % 16];
    guest.notify = refill;
    expect(connection.pump()).toBe(false);
    expect(later).toHaveLength(1);
    guest.receive();
    expect(guest.takeReplies().length).toBeGreaterThan(0);
  });

  it.each([
    ['a request index too far ahead', wire.XENSTORE_RING_REQ_PROD, 1025],
    ['a request index behind', wire.XENSTORE_RING_REQ_PROD, -1],
    ['a response index too far behind', wire.XENSTORE_RING_RSP_CONS, -1025],
  ])('goes deaf with RINGIDX on %s, and wakes on reconnect', (_what, at, offset) => {
    const { dom0, guest, connection } = connected();
    guest.ask(wire.XS_WATCH, ['data', 't']);
    guest.setWord(at, guest.word(at) + offset);
    dom0.write('/local/domain/1/data', '1');
    connection.pump();
    expect(guest.word(wire.XENSTORE_RING_ERROR)).toBe(wire.XENSTORE_ERROR_RINGIDX);
    expect(connection.queuedBytes).toBe(0);
    guest.setWord(wire.XENSTORE_RING_CONNECTION, wire.XENSTORE_RECONNECT);
    connection.pump();
    expect(guest.word(wire.XENSTORE_RING_CONNECTION)).toBe(wire.XENSTORE_CONNECTED);
    expect(guest.word(wire.XENSTORE_RING_ERROR)).toBe(wire.XENSTORE_ERROR_NONE);
    expect(guest.read('name')).toBe('guest');
    expect(connection.watches.size).toBe(0);
  });

  it('goes deaf with PROTO on a payload that is too long', () => {
    const { guest, connection } = connected();
    const header = wire.encodeMessage(wire.XS_READ, 1, 0, new Uint8Array(0));
    new DataView(header.buffer).setUint32(12, 4097, true);
    guest.send(header);
    expect(guest.word(wire.XENSTORE_RING_ERROR)).toBe(wire.XENSTORE_ERROR_PROTO);
    expect(connection.error).toBe(wire.XENSTORE_ERROR_PROTO);
  });

  it('keeps waiting events within their limit, each once', () => {
    const { dom0, guest, connection } = connected({ eventBytes: 2000 });
    guest.ask(wire.XS_WATCH, ['data', 't']);
    guest.setWord(wire.XENSTORE_RING_RSP_CONS, guest.word(wire.XENSTORE_RING_RSP_PROD) - 1024);
    for (let i = 0; i < 1000; i++) dom0.write('/local/domain/1/data/same', String(i));
    expect(connection.queuedBytes).toBeLessThan(100);
    for (let i = 0; i < 1000; i++) dom0.write(`/local/domain/1/data/n${i}`, '');
    expect(connection.queuedBytes).toBeLessThanOrEqual(2000);
  });
});

describe('hostile rings', () => {
  it('never throws and stays within bounds, whatever is in the page (fuzz)', () => {
    const word = fc.oneof(fc.nat(1), fc.nat(3000), fc.nat(0xffffffff));
    const header = fc.tuple(fc.nat(24), fc.nat(4), fc.nat(3), fc.oneof(fc.nat(64), fc.nat(4200)));
    const request = fc.record({
      kind: fc.constant('request' as const),
      type: fc.nat(24),
      transaction: fc.nat(3),
      strings: fc.array(fc.constantFrom('data', 'data/a', 'data/a/b', '/', 'name', 'T', 'F', 'n1', 'r2', '@releaseDomain', '', '0'), {
        maxLength: 4,
      }),
    });
    const piece = fc.oneof(
      { weight: 8, arbitrary: request },
      fc.record({ kind: fc.constant('bytes' as const), bytes: fc.uint8Array({ maxLength: 600 }) }),
      fc.record({ kind: fc.constant('message' as const), header, bytes: fc.uint8Array({ maxLength: 200 }) }),
      fc.record({ kind: fc.constant('index' as const), at: fc.constantFrom(2048, 2052, 2056, 2060, 2068, 2072), value: word }),
      fc.record({ kind: fc.constant('take' as const) }),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 60 }), (pieces) => {
        const { server, guest, connection } = connected({ eventBytes: 8000, nodes: 30 });
        const push = (bytes: Uint8Array): void => {
          const prod = guest.word(wire.XENSTORE_RING_REQ_PROD);
          bytes.forEach((byte, i) => {
            guest.page[(prod + i) & 1023] = byte;
          });
          guest.setWord(wire.XENSTORE_RING_REQ_PROD, prod + bytes.length);
        };
        for (const each of pieces) {
          if (each.kind === 'bytes') {
            push(each.bytes);
          } else if (each.kind === 'message') {
            const message = new Uint8Array(16 + each.bytes.length);
            new Uint32Array(message.buffer, 0, 4).set(each.header);
            message.set(each.bytes, 16);
            push(message);
          } else if (each.kind === 'request') {
            push(wire.encodeMessage(each.type, 1, each.transaction, wire.encodeStrings(each.strings)));
          } else if (each.kind === 'index') {
            guest.setWord(each.at, each.value);
          } else {
            guest.setWord(wire.XENSTORE_RING_RSP_CONS, guest.word(wire.XENSTORE_RING_RSP_PROD));
          }
          connection.pump();
          expect(connection.queuedBytes).toBeLessThan(20 * 4112 + 8000 + 4112);
          expect(connection.watches.size).toBeLessThanOrEqual(128);
        }
        expect(server.store.countsAreRight()).toBe(true);
        expect(server.store.live.owned(1)).toBeLessThanOrEqual(30);
        // Whatever happened: asked to reconnect, the connection works again.
        guest.setWord(wire.XENSTORE_RING_CONNECTION, wire.XENSTORE_RECONNECT);
        connection.pump();
        expect(guest.read('name')).toBe('guest');
      }),
      { numRuns: 400 },
    );
  });
});
