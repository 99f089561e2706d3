// SPDX-License-Identifier: Apache-2.0
import { expect, it } from 'vitest';
import { crc32, crc32BigEndianBits, crc64 } from './checksum.ts';

// The published check values of each CRC: that of the digits 1 to 9.
const digits = Uint8Array.from('123456789', (digit) => digit.charCodeAt(0));

it('CRC-32', () => {
  expect(crc32(digits)).toBe(0xcbf43926);
  expect(crc32(new Uint8Array(0))).toBe(0);
});

it('CRC-64 of XZ', () => {
  expect(crc64(digits)).toEqual([0xdf1939fa, 0x995dc9bb]);
});

it('CRC-32 of bzip2', () => {
  expect(crc32BigEndianBits(Uint8Array.from([7, ...digits, 7]), 1, 10)).toBe(0xfc891918);
});
