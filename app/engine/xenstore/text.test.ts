// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { utf8Decode, utf8Encode } from './text.ts';

describe('UTF-8', () => {
  it('agrees with the platform on whole text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const bytes = utf8Encode(text);
        expect([...bytes]).toEqual([...new TextEncoder().encode(text)]);
        expect(utf8Decode(bytes)).toBe(new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes));
      }),
    );
  });

  it('replaces what is not UTF-8, byte by byte', () => {
    expect(utf8Decode(Uint8Array.from([0x41, 0xff, 0xc3, 0x28, 0xed, 0xa0, 0x80]))).toBe('A\ufffd\ufffd(\ufffd\ufffd\ufffd');
  });
});
