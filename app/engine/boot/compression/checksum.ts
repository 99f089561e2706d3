// SPDX-License-Identifier: Apache-2.0
/**
 * The checksums of compressed formats: CRC-32 (reflected, polynomial 0xEDB88320), CRC-64 (ECMA-182, reflected, as in XZ) and bzip2's
 * CRC-32 (not reflected, polynomial 0x04C11DB7). All three start from and end with all ones inverted.
 *
 * PERF: CRC-32 and CRC-64 take eight and four bytes a step; a kernel payload is 60 MB.
 */

const CRC32_STEPS = 8;
const CRC64_STEPS = 4;

/** Tables of 256 words: table k continues a byte's remainder over k further zero bytes. */
let crc32Tables: Uint32Array | undefined;
let crc64Low: Uint32Array | undefined;
let crc64High: Uint32Array | undefined;
let crc32BigEndian: Uint32Array | undefined;

function makeCrc32Tables(): Uint32Array {
  const tables = new Uint32Array(256 * CRC32_STEPS);
  for (let n = 0; n < 256; n++) {
    let value = n;
    for (let bit = 0; bit < 8; bit++) value = (value & 1) !== 0 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
    tables[n] = value;
  }
  for (let at = 256; at < tables.length; at++) {
    const before = tables[at - 256];
    tables[at] = (before >>> 8) ^ tables[before & 0xff];
  }
  return tables;
}

export function crc32(bytes: Uint8Array): number {
  crc32Tables ??= makeCrc32Tables();
  const t = crc32Tables;
  let crc = -1;
  let at = 0;
  for (const end = bytes.length - 7; at < end; at += 8) {
    crc ^= bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
    crc =
      t[1792 + (crc & 0xff)] ^
      t[1536 + ((crc >>> 8) & 0xff)] ^
      t[1280 + ((crc >>> 16) & 0xff)] ^
      t[1024 + (crc >>> 24)] ^
      t[768 + bytes[at + 4]] ^
      t[512 + bytes[at + 5]] ^
      t[256 + bytes[at + 6]] ^
      t[bytes[at + 7]];
  }
  for (; at < bytes.length; at++) crc = (crc >>> 8) ^ t[(crc ^ bytes[at]) & 0xff];
  return ~crc >>> 0;
}

function makeCrc64Tables(): readonly [Uint32Array, Uint32Array] {
  const low = new Uint32Array(256 * CRC64_STEPS);
  const high = new Uint32Array(256 * CRC64_STEPS);
  for (let n = 0; n < 256; n++) {
    let lo = n;
    let hi = 0;
    for (let bit = 0; bit < 8; bit++) {
      const carry = lo & 1;
      lo = (lo >>> 1) | (hi << 31);
      hi >>>= 1;
      if (carry !== 0) {
        lo ^= 0xd7870f42;
        hi ^= 0xc96c5795;
      }
    }
    low[n] = lo;
    high[n] = hi;
  }
  for (let at = 256; at < low.length; at++) {
    const lo = low[at - 256];
    const hi = high[at - 256];
    low[at] = ((lo >>> 8) | (hi << 24)) ^ low[lo & 0xff];
    high[at] = (hi >>> 8) ^ high[lo & 0xff];
  }
  return [low, high];
}

/** CRC-64 as [low, high] halves. */
export function crc64(bytes: Uint8Array): readonly [number, number] {
  if (crc64Low === undefined || crc64High === undefined) [crc64Low, crc64High] = makeCrc64Tables();
  const tl = crc64Low;
  const th = crc64High;
  let lo = -1;
  let hi = -1;
  let at = 0;
  for (const end = bytes.length - 3; at < end; at += 4) {
    const word = lo ^ (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24));
    const a = 768 + (word & 0xff);
    const b = 512 + ((word >>> 8) & 0xff);
    const c = 256 + ((word >>> 16) & 0xff);
    const d = word >>> 24;
    lo = hi ^ tl[a] ^ tl[b] ^ tl[c] ^ tl[d];
    hi = th[a] ^ th[b] ^ th[c] ^ th[d];
  }
  for (; at < bytes.length; at++) {
    const index = (lo ^ bytes[at]) & 0xff;
    lo = ((lo >>> 8) | (hi << 24)) ^ tl[index];
    hi = (hi >>> 8) ^ th[index];
  }
  return [~lo >>> 0, ~hi >>> 0];
}

/** bzip2's CRC over `bytes[from..to)`. */
export function crc32BigEndianBits(bytes: Uint8Array, from: number, to: number): number {
  if (crc32BigEndian === undefined) {
    const table = new Uint32Array(256);
    for (let n = 0; n < 256; n++) {
      let value = n << 24;
      for (let bit = 0; bit < 8; bit++) value = value < 0 ? (value << 1) ^ 0x04c11db7 : value << 1;
      table[n] = value;
    }
    crc32BigEndian = table;
  }
  const t = crc32BigEndian;
  let crc = -1;
  for (let at = from; at < to; at++) crc = (crc << 8) ^ t[(crc >>> 24) ^ bytes[at]];
  return ~crc >>> 0;
}
