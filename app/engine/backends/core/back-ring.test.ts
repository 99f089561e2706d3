// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BackRing, ringEntries } from './back-ring.ts';

/** The frontend's half, written as the macros of ring.h say. Entries are filled with one byte each. */
class FrontRing {
  readonly pages: Uint8Array[];
  readonly words: Int32Array;
  readonly memory: Uint8Array;
  readonly size: number;
  readonly entrySize: number;
  produced = 0;
  consumed = 0;

  constructor(pages: number, entrySize: number, pageSize = 4096) {
    this.memory = new Uint8Array(new SharedArrayBuffer(pages * pageSize));
    this.words = new Int32Array(this.memory.buffer, 0, 4);
    this.pages = Array.from({ length: pages }, (_, i) => this.memory.subarray(i * pageSize, (i + 1) * pageSize));
    this.entrySize = entrySize;
    this.size = ringEntries(pages * pageSize, entrySize);
    this.words[1] = 1;
    this.words[3] = 1;
  }

  put(byte: number): void {
    const at = 64 + (this.produced++ & (this.size - 1)) * this.entrySize;
    this.memory.fill(byte, at, at + this.entrySize);
  }

  /** RING_PUSH_REQUESTS_AND_CHECK_NOTIFY */
  push(): boolean {
    const before = this.words[0];
    this.words[0] = this.produced;
    return (this.produced - this.words[1]) >>> 0 < (this.produced - before) >>> 0;
  }

  take(): number | null {
    if (this.consumed === this.words[2]) return null;
    return this.memory[64 + (this.consumed++ & (this.size - 1)) * this.entrySize];
  }
}

describe('ringEntries', () => {
  it.each([
    [4096, 112, 32],
    [8192, 112, 64],
    [4096, 12, 256],
    [4096, 8, 256],
    [4096, 4033, 0],
  ])('fits %i bytes with entries of %i: %i', (bytes, entry, entries) => {
    expect(ringEntries(bytes, entry)).toBe(entries);
  });
});

describe('BackRing', () => {
  it('carries requests and responses, across pages as well', () => {
    const front = new FrontRing(2, 112);
    const back = new BackRing(front.pages, 112);
    expect(back.size).toBe(64);
    const request = new Uint8Array(112);
    for (let round = 0; round < 200; round++) {
      front.put(round);
      front.push();
      expect(back.takeRequest(request)).toBe(true);
      expect(request.every((byte) => byte === (round & 255))).toBe(true);
      expect(back.takeRequest(request)).toBe(false);
      back.putResponse(Uint8Array.of((round + 1) & 255));
      back.pushResponses();
      expect(front.take()).toBe((round + 1) & 255);
    }
  });

  it('asks for notifications only when idle, and gives them only when asked', () => {
    const front = new FrontRing(1, 112);
    const back = new BackRing(front.pages, 112);
    const request = new Uint8Array(112);
    front.put(1);
    expect(front.push()).toBe(true);
    back.takeRequest(request);
    front.put(2);
    expect(front.push(), 'busy: not asked').toBe(false);
    expect(back.finalCheckForRequests()).toBe(true);
    back.takeRequest(request);
    expect(back.finalCheckForRequests()).toBe(false);
    front.put(3);
    expect(front.push(), 'idle: asked').toBe(true);
    back.putResponse(request);
    expect(back.pushResponses(), 'rsp_event is 1').toBe(true);
    back.putResponse(request);
    expect(back.pushResponses(), 'not asked again').toBe(false);
    front.words[3] = 3;
    back.takeRequest(request);
    back.putResponse(request);
    expect(back.pushResponses()).toBe(true);
  });

  it('attaches to a ring that has been in use', () => {
    const front = new FrontRing(1, 112);
    front.words[0] = -3;
    front.words[2] = -3;
    front.produced = -3;
    const back = new BackRing(front.pages, 112);
    front.put(7);
    front.push();
    const request = new Uint8Array(112);
    expect(back.takeRequest(request)).toBe(true);
    expect(request[0]).toBe(7);
  });

  it('gives the ring up when the frontend claims too many requests', () => {
    const front = new FrontRing(1, 112);
    const back = new BackRing(front.pages, 112);
    front.words[0] = 33;
    expect(back.unconsumedRequests()).toBe(0);
    expect(back.overflowed).toBe(true);
    front.words[0] = 1;
    expect(back.takeRequest(new Uint8Array(112))).toBe(false);
    expect(back.finalCheckForRequests()).toBe(false);
  });

  it('does not take a request again when req_prod goes back', () => {
    const front = new FrontRing(1, 112);
    const back = new BackRing(front.pages, 112);
    front.words[0] = 4;
    const request = new Uint8Array(112);
    for (let i = 0; i < 4; i++) back.takeRequest(request);
    front.words[0] = 2;
    expect(back.takeRequest(request)).toBe(false);
    expect(back.inFlight).toBe(4);
  });

  it('takes no more requests than it has places, whatever the frontend writes (property)', () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constant('prod' as const), value: fc.oneof(fc.nat(80), fc.nat(0xffffffff)) }),
      fc.record({ kind: fc.constant('word' as const), index: fc.nat(3), value: fc.nat(0xffffffff) }),
      fc.record({ kind: fc.constant('take' as const), count: fc.nat(40) }),
      fc.record({ kind: fc.constant('respond' as const), count: fc.nat(40) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const front = new FrontRing(1, 112);
        const back = new BackRing(front.pages, 112);
        const request = new Uint8Array(112);
        for (const each of steps) {
          if (each.kind === 'prod') front.words[0] = each.value;
          else if (each.kind === 'word') front.words[each.index] = each.value;
          else if (each.kind === 'take') for (let i = 0; i < each.count; i++) back.takeRequest(request);
          else for (let i = 0; i < each.count && back.inFlight > 0; i++) back.putResponse(request);
          back.pushResponses();
          back.finalCheckForRequests();
          expect(back.inFlight).toBeLessThanOrEqual(32);
          expect(back.inFlight + back.unconsumedRequests()).toBeLessThanOrEqual(32);
        }
      }),
    );
  });
});
