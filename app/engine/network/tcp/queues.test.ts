// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { seeded } from '../testing/fake-time.ts';
import { pattern } from '../testing/test-network.ts';
import { FlowTable } from './flow-table.ts';
import { ReceiveQueue } from './receive-queue.ts';
import { Scoreboard } from './scoreboard.ts';
import { SendQueue } from './send-queue.ts';
import { advance, distance } from './sequence.ts';

describe('sequence numbers', () => {
  it('wrap', () => {
    expect(advance(0xffff_fff0, 0x20)).toBe(0x10);
    expect(distance(0x10, 0xffff_fff0)).toBe(0x20);
    expect(distance(0xffff_fff0, 0x10)).toBe(-0x20);
  });
});

describe('the send queue', () => {
  it('gives back what went in, from any place, whatever the pieces', () => {
    const random = seeded(5);
    const data = pattern(400_000);
    const queue = new SendQueue();
    let appended = 0;
    let discarded = 0;
    while (discarded < data.length) {
      const size = Math.min(data.length - appended, Math.floor(random() < 0.7 ? random() * 300 : random() * 9000));
      queue.append(data.slice(appended, appended + size));
      appended += size;
      expect(queue.length).toBe(appended - discarded);
      const offset = Math.floor(random() * queue.length);
      const count = Math.floor(random() * (queue.length - offset));
      const target = new Uint8Array(count + 2);
      queue.copy(offset, count, target, 1);
      expect(Buffer.compare(target.subarray(1, 1 + count), data.subarray(discarded + offset, discarded + offset + count))).toBe(0);
      const gone = Math.floor(random() * queue.length * 0.6) + (appended === data.length ? 1 : 0);
      queue.discard(Math.min(gone, queue.length));
      discarded += Math.min(gone, appended - discarded);
    }
    expect(queue.length).toBe(0);
  });
});

describe('the receive queue', () => {
  it('puts overlapping pieces in order across the wrap, and holds no byte twice', () => {
    const random = seeded(9);
    const data = pattern(20_000);
    const base = 0xffff_e000;
    const queue = new ReceiveQueue();
    for (let i = 0; i < 4000; i++) {
      const start = 1 + Math.floor(random() * (data.length - 1));
      queue.insert(advance(base, start), data.subarray(start, start + Math.floor(random() * 700)));
      expect(queue.heldBytes).toBeLessThan(data.length);
    }
    let next = base;
    let early = 0;
    while (distance(next, base) < data.length) {
      const at = distance(next, base);
      const bytes = queue.take(next);
      if (bytes !== undefined) {
        expect(Buffer.compare(bytes, data.subarray(at, at + bytes.length))).toBe(0);
        early += bytes.length;
      }
      // What is missing arrives in order, and may cover what was held.
      next = advance(next, bytes?.length ?? Math.min(data.length - at, 1 + Math.floor(random() * 40)));
    }
    expect(early).toBeGreaterThan(5000);
    queue.take(next);
    expect(distance(next, base)).toBe(data.length);
    expect(queue.heldBytes).toBe(0);
  });

  it('is bounded in pieces, and reports the newest range first', () => {
    const queue = new ReceiveQueue();
    for (let i = 0; i < 1000; i++) queue.insert(10 + i * 2, Uint8Array.of(i));
    expect(queue.heldBytes).toBe(256);
    const small = new ReceiveQueue();
    small.insert(100, new Uint8Array(10));
    small.insert(200, new Uint8Array(10));
    small.insert(300, new Uint8Array(10));
    small.insert(210, new Uint8Array(5));
    expect(small.sackRanges()).toEqual([
      { start: 200, end: 215 },
      { start: 100, end: 110 },
      { start: 300, end: 310 },
    ]);
  });
});

describe('the scoreboard', () => {
  it('merges ranges, finds holes, and ignores nonsense', () => {
    const board = new Scoreboard();
    expect(board.add([{ start: 200, end: 300 }], 100, 1000)).toBe(true);
    expect(board.add([{ start: 250, end: 280 }], 100, 1000)).toBe(false);
    board.add([{ start: 400, end: 500 }], 100, 1000);
    for (const range of [
      { start: 50, end: 90 },
      { start: 900, end: 1001 },
      { start: 600, end: 600 },
      { start: 700, end: 650 },
    ]) {
      expect(board.add([range], 100, 1000)).toBe(false);
    }
    expect(board.nextHole(100)).toEqual({ start: 100, end: 200 });
    expect(board.nextHole(200)).toEqual({ start: 300, end: 400 });
    expect(board.nextHole(400)).toBeUndefined();
    expect([board.bytes, board.missingBytes(100), board.missingBytes(350), board.highest]).toEqual([200, 200, 50, 500]);
    board.add([{ start: 300, end: 400 }], 100, 1000);
    expect([board.bytes, board.missingBytes(100)]).toEqual([300, 100]);
    board.acknowledge(450);
    expect([board.bytes, board.isEmpty]).toEqual([50, false]);
  });
});

describe('the flow table', () => {
  it('finds, and removes only what it was told to', () => {
    const table = new FlowTable<number>(1);
    const key = (port: number, last: number) => ({
      guestAddress: Uint8Array.of(10, 0, 2, 15),
      guestPort: port,
      localAddress: Uint8Array.of(192, 0, 2, last),
      localPort: 80,
    });
    for (let port = 1; port <= 5000; port++) table.add(key(port, 1), port);
    const get = (port: number, last: number) => table.get(key(port, last).guestAddress, port, key(port, last).localAddress, 80);
    expect([get(77, 1), get(77, 2), get(5001, 1), table.size]).toEqual([77, undefined, undefined, 5000]);
    table.delete(key(77, 1), 78);
    expect(get(77, 1)).toBe(77);
    table.delete(key(77, 1), 77);
    expect([get(77, 1), table.size, [...table.values()].length]).toEqual([undefined, 4999, 4999]);
  });
});
