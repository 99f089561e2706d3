// SPDX-License-Identifier: Apache-2.0
/**
 * The XZ container: streams of blocks, each LZMA2 behind an optional x86 branch filter, with checks, index and footer verified.
 *
 * Follows "The .xz File Format" (version 1.2.1). Checks: none, CRC32, CRC64. Left out: SHA-256 checks and filters other than x86 and
 * LZMA2; both are reported as unsupported.
 */
import type { Result } from '../../../base/result.ts';
import type { DecompressError } from '../../host/decompress.ts';
import { undoBcjX86 } from './bcj-x86.ts';
import { crc32, crc64 } from './checksum.ts';
import { LzmaDecoder } from './lzma-decoder.ts';
import { corrupt, type Output, runDecoder, truncated, unsupported } from './output.ts';

const FORMAT = 'XZ';
const HEADER_MAGIC = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00] as const;
const HEADER_BYTES = 12;
const FOOTER_BYTES = 12;
const CHECK_NONE = 0;
const CHECK_CRC32 = 1;
const CHECK_CRC64 = 4;
const FILTER_X86 = 0x04;
const FILTER_LZMA2 = 0x21;

export function isXz(bytes: Uint8Array): boolean {
  return HEADER_MAGIC.every((value, index) => bytes[index] === value);
}

/** Decodes every stream in `bytes`. `expected` is the size that the caller knows of, allocated at once. */
export function decodeXz(
  bytes: Uint8Array,
  maxOutput: number,
  options: { readonly prefix?: boolean; readonly expected?: number } = {},
): Result<Uint8Array, DecompressError> {
  return runDecoder((output) => decodeStreams(new Reader(bytes), output, options.prefix === true), maxOutput, options);
}

/** A cursor that fails as "truncated" at the end. */
class Reader {
  readonly bytes: Uint8Array;
  at = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  get left(): number {
    return this.bytes.length - this.at;
  }

  byte(): number {
    if (this.at >= this.bytes.length) throw truncated(FORMAT);
    return this.bytes[this.at++];
  }

  take(count: number): Uint8Array {
    if (this.left < count) throw truncated(FORMAT);
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }

  u32(): number {
    const [a, b, c, d] = this.take(4);
    return (a | (b << 8) | (c << 16) | (d << 24)) >>> 0;
  }

  /** A variable-length integer; values past 2^53 cannot be sizes of anything and are refused. */
  vli(): number {
    let value = 0;
    for (let shift = 0; shift < 63; shift += 7) {
      const byte = this.byte();
      value += (byte & 0x7f) * 2 ** shift;
      if ((byte & 0x80) === 0) {
        if ((byte === 0 && shift > 0) || value > Number.MAX_SAFE_INTEGER) break;
        return value;
      }
    }
    throw corrupt(FORMAT, 'an impossible integer');
  }

  zeros(from: number, alignment: number): void {
    while ((this.at - from) % alignment !== 0) {
      if (this.byte() !== 0) throw corrupt(FORMAT, 'padding is not zero');
    }
  }
}

interface BlockRecord {
  readonly unpadded: number;
  readonly uncompressed: number;
}

function decodeStreams(reader: Reader, output: Output, prefix: boolean): void {
  for (;;) {
    decodeStream(reader, output, prefix);
    // Streams may follow each other, with padding in whole words between them.
    while (reader.left >= 4 && reader.bytes.subarray(reader.at, reader.at + 4).every((byte) => byte === 0)) reader.at += 4;
    if (reader.left < HEADER_MAGIC.length || !isXz(reader.bytes.subarray(reader.at))) {
      if (reader.left > 0 && !prefix) throw corrupt(FORMAT, 'something else follows the stream');
      return;
    }
  }
}

function decodeStream(reader: Reader, output: Output, prefix: boolean): void {
  const header = reader.take(HEADER_BYTES);
  if (!isXz(header)) throw corrupt(FORMAT, 'no stream header');
  const check = checkedFlags(header.subarray(6, 8), u32At(header, 8));
  const records: BlockRecord[] = [];
  for (;;) {
    const indexStart = reader.at;
    const sizeByte = reader.byte();
    if (sizeByte !== 0) {
      records.push(decodeBlock(reader, sizeByte, check, output, prefix));
      continue;
    }
    verifyIndex(reader, indexStart, records);
    const footer = reader.take(FOOTER_BYTES);
    if (footer[10] !== 0x59 || footer[11] !== 0x5a) throw corrupt(FORMAT, 'no stream footer');
    if (crc32(footer.subarray(4, 10)) !== u32At(footer, 0)) throw corrupt(FORMAT, 'the footer does not match its checksum');
    if (footer[8] !== header[6] || footer[9] !== header[7]) throw corrupt(FORMAT, 'header and footer disagree');
    if ((u32At(footer, 4) + 1) * 4 !== reader.at - FOOTER_BYTES - indexStart) throw corrupt(FORMAT, 'the index has another size');
    return;
  }
}

function u32At(bytes: Uint8Array, at: number): number {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
}

function checkedFlags(flags: Uint8Array, checksum: number): number {
  if (crc32(flags) !== checksum) throw corrupt(FORMAT, 'the header does not match its checksum');
  if (flags[0] !== 0 || (flags[1] & 0xf0) !== 0) throw unsupported(FORMAT, 'unknown stream flags');
  const check = flags[1] & 0x0f;
  if (check !== CHECK_NONE && check !== CHECK_CRC32 && check !== CHECK_CRC64) {
    throw unsupported(FORMAT, `check type ${check}; only none, CRC32 and CRC64 are supported`);
  }
  return check;
}

interface BlockHeader {
  readonly compressed: number | undefined;
  readonly uncompressed: number | undefined;
  readonly dictionarySize: number;
  readonly x86: { readonly startOffset: number } | undefined;
}

function readBlockHeader(bytes: Uint8Array): BlockHeader {
  if (crc32(bytes.subarray(0, bytes.length - 4)) !== u32At(bytes, bytes.length - 4)) {
    throw corrupt(FORMAT, 'a block header does not match its checksum');
  }
  const reader = new Reader(bytes.subarray(0, bytes.length - 4));
  reader.at = 1;
  const flags = reader.byte();
  if ((flags & 0x3c) !== 0) throw unsupported(FORMAT, 'unknown block flags');
  const compressed = (flags & 0x40) !== 0 ? reader.vli() : undefined;
  const uncompressed = (flags & 0x80) !== 0 ? reader.vli() : undefined;
  const filters = (flags & 3) + 1;
  let x86: BlockHeader['x86'];
  let dictionarySize: number | undefined;
  for (let index = 0; index < filters; index++) {
    const id = reader.vli();
    const properties = reader.take(reader.vli());
    const last = index === filters - 1;
    if (last && id === FILTER_LZMA2 && properties.length === 1 && properties[0] <= 40) {
      const code = properties[0];
      dictionarySize = code === 40 ? 0xffffffff : (2 | (code & 1)) * 2 ** ((code >> 1) + 11);
    } else if (!last && id === FILTER_X86 && x86 === undefined && (properties.length === 0 || properties.length === 4)) {
      x86 = { startOffset: properties.length === 4 ? u32At(properties, 0) : 0 };
    } else {
      throw unsupported(FORMAT, `filter 0x${id.toString(16)}; only LZMA2 with or without the x86 filter is supported`);
    }
  }
  if (dictionarySize === undefined) throw corrupt(FORMAT, 'a block without a last filter');
  while (reader.left > 0) {
    if (reader.byte() !== 0) throw corrupt(FORMAT, 'padding is not zero');
  }
  return { compressed, uncompressed, dictionarySize, x86 };
}

function decodeBlock(reader: Reader, sizeByte: number, check: number, output: Output, prefix: boolean): BlockRecord {
  const start = reader.at - 1;
  reader.at = start;
  const header = readBlockHeader(reader.take((sizeByte + 1) * 4));
  const dataStart = reader.at;
  const outputStart = output.length;
  // A prefix ends by an exception in the middle of a block; undo the filter over what is there in either case.
  let completed = false;
  try {
    decodeLzma2(reader, output, header.dictionarySize);
    completed = true;
  } finally {
    if (header.x86 !== undefined && (completed || prefix)) {
      undoBcjX86(output.buffer, outputStart, output.length, header.x86.startOffset);
    }
  }
  const compressed = reader.at - dataStart;
  const uncompressed = output.length - outputStart;
  if (header.compressed !== undefined && header.compressed !== compressed) throw corrupt(FORMAT, 'a block has another compressed size');
  if (header.uncompressed !== undefined && header.uncompressed !== uncompressed) throw corrupt(FORMAT, 'a block has another size');
  const unpaddedBeforeCheck = reader.at - start;
  reader.zeros(dataStart, 4);
  return { unpadded: unpaddedBeforeCheck + verifyCheck(reader, check, output.buffer.subarray(outputStart, output.length)), uncompressed };
}

/** Verifies the block's check and returns its size. */
function verifyCheck(reader: Reader, check: number, data: Uint8Array): number {
  if (check === CHECK_NONE) return 0;
  if (check === CHECK_CRC32) {
    if (reader.u32() !== crc32(data)) throw corrupt(FORMAT, 'the content does not match its checksum');
    return 4;
  }
  const [low, high] = crc64(data);
  if (reader.u32() !== low || reader.u32() !== high) throw corrupt(FORMAT, 'the content does not match its checksum');
  return 8;
}

function decodeLzma2(reader: Reader, output: Output, dictionarySize: number): void {
  const decoder = new LzmaDecoder(FORMAT, output);
  let needDictionary = true;
  let needProperties = true;
  for (;;) {
    const control = reader.byte();
    if (control === 0) return;
    if (control === 1 || control >= 0xe0) {
      decoder.resetDictionary(dictionarySize);
      needDictionary = false;
      needProperties = true;
    } else if (needDictionary) {
      throw corrupt(FORMAT, 'the first chunk does not reset the dictionary');
    }
    if (control < 0x80) {
      if (control > 2) throw corrupt(FORMAT, 'an unknown chunk type');
      const size = ((reader.byte() << 8) | reader.byte()) + 1;
      const chunk = reader.take(size);
      output.append(chunk, 0, size);
      continue;
    }
    const size = (((control & 0x1f) << 16) | (reader.byte() << 8) | reader.byte()) + 1;
    const packed = ((reader.byte() << 8) | reader.byte()) + 1;
    if (control >= 0xc0) {
      decoder.setProperties(lzma2Properties(reader.byte()));
      needProperties = false;
    } else if (needProperties) {
      throw corrupt(FORMAT, 'a chunk without properties');
    } else if (control >= 0xa0) {
      decoder.resetState();
    }
    const chunkStart = reader.at;
    const chunkEnd = chunkStart + packed;
    if (chunkEnd > reader.bytes.length) throw truncated(FORMAT);
    decoder.startInput(reader.bytes, chunkStart, chunkEnd);
    const granted = output.reserve(size);
    if (decoder.decode(granted) !== 'full') throw corrupt(FORMAT, 'an end marker inside a chunk');
    output.advance(granted);
    decoder.normalise();
    if (granted < size || decoder.matchIsPending || decoder.inputPosition !== chunkEnd || !decoder.codeIsZero) {
      throw corrupt(FORMAT, 'a chunk does not end where it should');
    }
    reader.at = chunkEnd;
  }
}

/** LZMA2 allows fewer literal contexts than LZMA. */
function lzma2Properties(byte: number): number {
  if (byte < 225 && (byte % 9) + (Math.floor(byte / 9) % 5) <= 4) return byte;
  throw corrupt(FORMAT, 'impossible LZMA properties');
}

function verifyIndex(reader: Reader, start: number, records: readonly BlockRecord[]): void {
  const mismatch = corrupt(FORMAT, 'the index does not match the blocks');
  if (reader.vli() !== records.length) throw mismatch;
  for (const record of records) {
    if (reader.vli() !== record.unpadded || reader.vli() !== record.uncompressed) throw mismatch;
  }
  reader.zeros(start, 4);
  const computed = crc32(reader.bytes.subarray(start, reader.at));
  if (reader.u32() !== computed) throw corrupt(FORMAT, 'the index does not match its checksum');
}
