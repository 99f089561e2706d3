// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import type { IpPacket } from '../packet/ip-packet.ts';
import { Reassembly } from './reassembly.ts';

function piece(identification: number, offset: number, bytes: number[], more: boolean): IpPacket {
  return {
    source: Uint8Array.of(10, 0, 2, 15),
    destination: Uint8Array.of(192, 0, 2, 1),
    protocol: 17,
    hopLimit: 64,
    payload: Uint8Array.from(bytes),
    fragment: { identification, offset, more },
    whole: new Uint8Array(0),
    checksumBlank: false,
  };
}

const EIGHT = [1, 2, 3, 4, 5, 6, 7, 8];

describe('reassembly', () => {
  it('takes pieces in any order, and repetitions', () => {
    const made = new Reassembly();
    expect(made.add(piece(1, 16, [9], false), 0)).toBeUndefined();
    expect(made.add(piece(1, 8, EIGHT, true), 0)).toBeUndefined();
    expect(made.add(piece(1, 8, EIGHT, true), 0)).toBeUndefined();
    const whole = made.add(piece(1, 0, EIGHT, true), 0);
    expect([...whole!.payload]).toEqual([...EIGHT, ...EIGHT, 9]);
    expect(made.heldBytes).toBe(0);
  });

  it('keeps packets apart by identification', () => {
    const made = new Reassembly();
    made.add(piece(1, 0, EIGHT, true), 0);
    expect(made.add(piece(2, 8, [9], false), 0)).toBeUndefined();
  });

  it.each([
    ['an overlap', 8, [...EIGHT, ...EIGHT]],
    ['an overlap behind', 4, EIGHT],
  ])('voids a packet with %s', (_what, offset, bytes) => {
    const made = new Reassembly();
    made.add(piece(1, 0, EIGHT, true), 0);
    made.add(piece(1, 16, EIGHT, true), 0);
    expect(made.add(piece(1, offset, bytes, true), 0)).toBeUndefined();
    expect(made.heldBytes).toBe(0);
    expect(made.add(piece(1, 24, [1], false), 0)).toBeUndefined();
  });

  it('refuses pieces past the end, two ends, and odd pieces in the middle', () => {
    const made = new Reassembly();
    made.add(piece(1, 8, EIGHT, false), 0);
    expect(made.add(piece(1, 16, EIGHT, true), 0)).toBeUndefined();
    expect(made.heldBytes).toBe(0);
    made.add(piece(2, 65_528, EIGHT, false), 0);
    made.add(piece(3, 0, [1, 2, 3], true), 0);
    expect(made.heldBytes).toBe(0);
  });

  it('is bounded in packets and in bytes, and forgets with time', () => {
    const made = new Reassembly();
    for (let id = 0; id < 100; id++) made.add(piece(id, 0, EIGHT, true), 0);
    expect(made.heldBytes).toBe(32 * 8);
    made.add(piece(1000, 0, EIGHT, true), 20_000);
    expect(made.heldBytes).toBe(8);
    const long = new Array<number>(60_000).fill(0);
    for (let id = 0; id < 30; id++) made.add(piece(id, 0, long, true), 20_000);
    expect(made.heldBytes).toBeLessThanOrEqual(1 << 20);
  });
});
