// SPDX-License-Identifier: Apache-2.0
/** Bytes of image files: fixed-width numbers, text, zeros and checksums. */

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;
export const TIB = 1024 * GIB;

const TWO_32 = 2 ** 32;

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A 64-bit unsigned number as far as it fits 53 bits; larger ones become Infinity, which no bound lets pass. */
export function u64(view: DataView, at: number, littleEndian = false): number {
  const high = view.getUint32(littleEndian ? at + 4 : at, littleEndian);
  const low = view.getUint32(littleEndian ? at : at + 4, littleEndian);
  return high >= 0x20_0000 ? Number.POSITIVE_INFINITY : high * TWO_32 + low;
}

export function setU64(view: DataView, at: number, value: number, littleEndian = false): void {
  const high = Math.floor(value / TWO_32);
  view.setUint32(littleEndian ? at + 4 : at, high, littleEndian);
  view.setUint32(littleEndian ? at : at + 4, value - high * TWO_32, littleEndian);
}

export const alignDown = (value: number, unit: number): number => value - (value % unit);
export const alignUp = (value: number, unit: number): number => {
  const over = value % unit;
  return over === 0 ? value : value + unit - over;
};
export const isPowerOfTwo = (value: number): boolean =>
  value >= 1 && Number.isSafeInteger(value) && 2 ** Math.round(Math.log2(value)) === value;

/** Latin-1 text up to the first zero byte. */
export function text(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  let result = '';
  for (const byte of end < 0 ? bytes : bytes.subarray(0, end)) result += String.fromCharCode(byte);
  return result;
}

export function startsWith(bytes: Uint8Array, signature: string, at = 0): boolean {
  if (bytes.length < at + signature.length) return false;
  for (let i = 0; i < signature.length; i++) if (bytes[at + i] !== signature.charCodeAt(i)) return false;
  return true;
}

/** UTF-8 without `TextEncoder`: the engine has neither DOM nor Node. */
export function encodeUtf8(value: string): Uint8Array {
  const escaped = unescapePercent(encodeURIComponent(value));
  return Uint8Array.from(escaped, (character) => character.charCodeAt(0));
}

function unescapePercent(value: string): string {
  return value.replace(/%([0-9A-F]{2})/g, (_match, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}

/** Invalid UTF-8 is taken for Latin-1, so that every file name has some text. */
export function decodeUtf8(bytes: Uint8Array): string {
  let escaped = '';
  for (const byte of bytes) escaped += `%${byte.toString(16).padStart(2, '0')}`;
  try {
    return decodeURIComponent(escaped);
  } catch {
    return Array.from(bytes, (byte) => String.fromCharCode(byte)).join('');
  }
}

const ZEROS = new Uint8Array(MIB);

/** A view of `length` (at most 1 MiB) zero bytes that must not be written. */
export function zeros(length: number): Uint8Array {
  return length === ZEROS.length ? ZEROS : ZEROS.subarray(0, length);
}

/** Whether all bytes are zero. PERF: eight bytes at a time where the alignment allows; data is told from zeros at its first words. */
export function isZero(bytes: Uint8Array): boolean {
  let at = 0;
  const end = bytes.length;
  while (at < end && (bytes.byteOffset + at) % 8 !== 0) if (bytes[at++] !== 0) return false;
  const words = (end - at) >>> 3;
  if (words > 0) {
    const wide = new Float64Array(bytes.buffer, bytes.byteOffset + at, words);
    // A float equals 0 exactly when all bits but the sign are zero; the sign is looked at in the upper half (hosts are little-endian).
    const narrow = new Int32Array(bytes.buffer, bytes.byteOffset + at, words * 2);
    for (let i = 0; i < words; i++) if (wide[i] !== 0 || narrow[i * 2 + 1] !== 0) return false;
    at += words * 8;
  }
  while (at < end) if (bytes[at++] !== 0) return false;
  return true;
}

export function equalBytes(left: Uint8Array, right: Uint8Array): boolean {
  if (left.length !== right.length) return false;
  let at = 0;
  if (left.byteOffset % 4 === 0 && right.byteOffset % 4 === 0) {
    const words = left.length >>> 2;
    const a = new Int32Array(left.buffer, left.byteOffset, words);
    const b = new Int32Array(right.buffer, right.byteOffset, words);
    for (let i = 0; i < words; i++) if (a[i] !== b[i]) return false;
    at = words * 4;
  }
  for (; at < left.length; at++) if (left[at] !== right[at]) return false;
  return true;
}

const CRC32C_TABLE = makeCrcTable(0x82f63b78);

function makeCrcTable(polynomial: number): Int32Array {
  const table = new Int32Array(256);
  for (let i = 0; i < 256; i++) {
    let value = i;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ polynomial : value >>> 1;
    table[i] = value;
  }
  return table;
}

/** CRC-32C (Castagnoli), as VHDX uses it, over `bytes` with four bytes at `skipAt` taken for zero. */
export function crc32c(bytes: Uint8Array, skipAt = -1): number {
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) {
    const byte = i >= skipAt && i < skipAt + 4 && skipAt >= 0 ? 0 : bytes[i];
    crc = CRC32C_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  }
  return ~crc >>> 0;
}
