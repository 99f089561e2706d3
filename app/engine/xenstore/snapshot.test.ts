// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { XenstoreServer } from './server.ts';
import { restoreXenstore, saveXenstore } from './snapshot.ts';
import { GuestRing } from './testing/guest-ring.ts';
import * as wire from './xs-wire.ts';

describe('save and restore', () => {
  it('continues a conversation in the middle of a request, a reply and a transaction', () => {
    const server = new XenstoreServer();
    const dom0 = server.client('test');
    dom0.write('/local/domain/1/z', 'first');
    dom0.write('/local/domain/1/a', 'v'.repeat(1500));
    dom0.setPermissions('/local/domain/1/a', ['n0', 'b1']);
    dom0.setPermissions('/local/domain/1', ['n0', 'r1']);
    const guest = new GuestRing();
    const before = server.introduceDomain(1, guest);
    guest.pump = () => void before.pump();
    guest.ask(wire.XS_WATCH, ['a', 'token']);
    const transaction = Number(guest.ask(wire.XS_TRANSACTION_START, ['']));
    guest.events.length = 0;
    // A reply that is longer than the ring, not taken yet; then half a request.
    const request = wire.encodeMessage(wire.XS_READ, 50, 0, wire.encodeStrings(['a']));
    const push = (bytes: Uint8Array): void => {
      const prod = guest.word(wire.XENSTORE_RING_REQ_PROD);
      bytes.forEach((byte, i) => {
        guest.page[(prod + i) & 1023] = byte;
      });
      guest.setWord(wire.XENSTORE_RING_REQ_PROD, prod + bytes.length);
    };
    push(request);
    push(request.subarray(0, 17));
    before.pump();

    const saved = structuredClone(saveXenstore(server));
    before.close();
    const restored = restoreXenstore(saved, () => guest);
    const after = restored.connectionOf(1)!;
    guest.pump = () => void after.pump();
    expect(restored.store.countsAreRight()).toBe(true);

    push(request.subarray(17));
    guest.settle();
    const replies = guest.takeReplies();
    expect(replies.map((reply) => [reply.requestId, reply.payload.length])).toEqual([
      [50, 1500],
      [50, 1500],
    ]);
    expect(guest.ask(wire.XS_DIRECTORY, ['/local/domain/1'])).toBe('z|a');
    expect(guest.ask(wire.XS_TRANSACTION_END, ['T'], transaction)).toBe('EAGAIN');
    restored.client('test').write('/local/domain/1/a', 'new');
    guest.settle();
    expect(guest.events).toEqual([['a', 'token']]);
    expect(guest.ask(wire.XS_TRANSACTION_START, [''])).toBe(String(transaction + 1));
  });

  it('keeps values, permissions and order', () => {
    const server = new XenstoreServer();
    const client = server.client('test');
    for (const name of ['b', 'a', 'b/y', 'b/x']) client.write(`/${name}`, name);
    client.setPermissions('/b/y', ['n3', 'r4']);
    client.setPermissions('@releaseDomain', ['n0', 'r1']);
    const restored = restoreXenstore(saveXenstore(server), () => null);
    const copy = restored.client('test');
    expect(copy.directory('/')).toEqual(['tool', 'b', 'a']);
    expect(copy.directory('/b')).toEqual(['y', 'x']);
    expect(copy.read('/b/x')).toBe('b/x');
    expect(copy.getPermissions('/b/y')).toEqual([
      { domid: 3, access: 0 },
      { domid: 4, access: 1 },
    ]);
    expect(copy.getPermissions('@releaseDomain')).toHaveLength(2);
    expect(restored.store.countsAreRight()).toBe(true);
  });
});
