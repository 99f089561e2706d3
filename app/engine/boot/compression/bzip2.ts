// SPDX-License-Identifier: Apache-2.0
/**
 * bzip2: Huffman-coded move-to-front symbols of Burrows-Wheeler-transformed blocks, with run lengths before and after.
 *
 * Every block's and the stream's checksum is verified; concatenated streams are decoded in turn. Left out: the "randomised" blocks of
 * bzip2 before 0.9.5. Format facts: Joe Tsai's "BZIP2: Format Specification".
 */
import type { Result } from '../../../base/result.ts';
import type { DecompressError } from '../../host/decompress.ts';
import { crc32BigEndianBits } from './checksum.ts';
import { corrupt, type Output, runDecoder, truncated, unsupported } from './output.ts';

const FORMAT = 'bzip2';
const BLOCK_MAGIC = [0x314159, 0x265359] as const;
const END_MAGIC = [0x177245, 0x385090] as const;
const RUN_A = 0;
const RUN_B = 1;
const GROUP_SYMBOLS = 50;
const MAX_CODE_LENGTH = 20;

export function isBzip2(bytes: Uint8Array): boolean {
  return bytes[0] === 0x42 && bytes[1] === 0x5a && bytes[2] === 0x68 && bytes[3] >= 0x31 && bytes[3] <= 0x39;
}

export function decodeBzip2(
  bytes: Uint8Array,
  maxOutput: number,
  options: { readonly prefix?: boolean; readonly expected?: number } = {},
): Result<Uint8Array, DecompressError> {
  return runDecoder((output) => decodeStreams(bytes, output, options.prefix === true), maxOutput, options);
}

/** Bits from the top of each byte down. */
class BitReader {
  readonly #bytes: Uint8Array;
  #at: number;
  #buffer = 0;
  #count = 0;

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.#at = at;
  }

  /** Up to 24 bits. */
  bits(count: number): number {
    while (this.#count < count) {
      if (this.#at >= this.#bytes.length) throw truncated(FORMAT);
      this.#buffer = ((this.#buffer << 8) | this.#bytes[this.#at++]) & 0x7fffffff;
      this.#count += 8;
    }
    this.#count -= count;
    return (this.#buffer >>> this.#count) & ((1 << count) - 1);
  }

  u32(): number {
    return this.bits(16) * 0x10000 + this.bits(16);
  }

  /** Position of the next whole byte. */
  get bytePosition(): number {
    return this.#at - Math.floor(this.#count / 8);
  }
}

/** A canonical Huffman code: symbols sorted by length, with each length's first code and index. */
interface HuffmanTable {
  readonly limit: Int32Array;
  readonly offset: Int32Array;
  readonly symbols: Uint16Array;
}

function decodeStreams(bytes: Uint8Array, output: Output, prefix: boolean): void {
  let at = 0;
  do {
    if (bytes.length - at < 4) throw truncated(FORMAT);
    if (!isBzip2(bytes.subarray(at))) throw corrupt(FORMAT, 'no stream header');
    at = decodeStream(bytes, at, output);
  } while (at < bytes.length && (!prefix || isBzip2(bytes.subarray(at))));
}

/** Returns where the stream ends. */
function decodeStream(bytes: Uint8Array, start: number, output: Output): number {
  const blockSize = (bytes[start + 3] - 0x30) * 100_000;
  const reader = new BitReader(bytes, start + 4);
  const block = new Uint32Array(blockSize);
  let streamCrc = 0;
  for (;;) {
    const high = reader.bits(24);
    const low = reader.bits(24);
    const crc = reader.u32();
    if (high === END_MAGIC[0] && low === END_MAGIC[1]) {
      if (crc !== streamCrc) throw corrupt(FORMAT, 'the content does not match its checksum');
      return reader.bytePosition;
    }
    if (high !== BLOCK_MAGIC[0] || low !== BLOCK_MAGIC[1]) throw corrupt(FORMAT, 'no block header');
    const from = output.length;
    decodeBlock(reader, block, output);
    if (crc32BigEndianBits(output.buffer, from, output.length) !== crc) throw corrupt(FORMAT, 'the content does not match its checksum');
    streamCrc = (((streamCrc << 1) | (streamCrc >>> 31)) ^ crc) >>> 0;
  }
}

function decodeBlock(reader: BitReader, block: Uint32Array, output: Output): void {
  if (reader.bits(1) !== 0) throw unsupported(FORMAT, 'a randomised block of an old version');
  const origin = reader.bits(24);
  const alphabet = readAlphabet(reader);
  const tableCount = reader.bits(3);
  if (tableCount < 2 || tableCount > 6) throw corrupt(FORMAT, 'an impossible number of code tables');
  const selectors = readSelectors(reader, tableCount);
  const symbolCount = alphabet.length + 2;
  const tables: HuffmanTable[] = [];
  for (let index = 0; index < tableCount; index++) tables.push(readTable(reader, symbolCount));
  const length = readSymbols(reader, tables, selectors, alphabet, block);
  if (origin >= length) throw corrupt(FORMAT, 'an impossible start position');
  undoTransform(block, length, origin, output);
}

/** The byte values that occur in the block. */
function readAlphabet(reader: BitReader): Uint8Array {
  const groups = reader.bits(16);
  const used: number[] = [];
  for (let group = 0; group < 16; group++) {
    if ((groups & (0x8000 >> group)) === 0) continue;
    const members = reader.bits(16);
    for (let bit = 0; bit < 16; bit++) if ((members & (0x8000 >> bit)) !== 0) used.push(group * 16 + bit);
  }
  if (used.length === 0) throw corrupt(FORMAT, 'a block without symbols');
  return Uint8Array.from(used);
}

function readSelectors(reader: BitReader, tableCount: number): Uint8Array {
  const count = reader.bits(15);
  if (count === 0) throw corrupt(FORMAT, 'a block without selectors');
  const order = Array.from({ length: tableCount }, (_, index) => index);
  const selectors = new Uint8Array(count);
  for (let index = 0; index < count; index++) {
    let depth = 0;
    while (reader.bits(1) !== 0) if (++depth >= tableCount) throw corrupt(FORMAT, 'an impossible selector');
    const [chosen] = order.splice(depth, 1);
    order.unshift(chosen);
    selectors[index] = chosen;
  }
  return selectors;
}

function readTable(reader: BitReader, symbolCount: number): HuffmanTable {
  const lengths = new Uint8Array(symbolCount);
  let length = reader.bits(5);
  for (let symbol = 0; symbol < symbolCount; symbol++) {
    for (;;) {
      if (length < 1 || length > MAX_CODE_LENGTH) throw corrupt(FORMAT, 'an impossible code length');
      if (reader.bits(1) === 0) break;
      length += reader.bits(1) === 0 ? 1 : -1;
    }
    lengths[symbol] = length;
  }
  const counts = new Int32Array(MAX_CODE_LENGTH + 2);
  for (const each of lengths) counts[each]++;
  const limit = new Int32Array(MAX_CODE_LENGTH + 1);
  const offset = new Int32Array(MAX_CODE_LENGTH + 1);
  const firstIndex = new Int32Array(MAX_CODE_LENGTH + 2);
  let code = 0;
  let index = 0;
  for (let bits = 1; bits <= MAX_CODE_LENGTH; bits++) {
    firstIndex[bits] = index;
    offset[bits] = index - code;
    code += counts[bits];
    index += counts[bits];
    limit[bits] = code;
    code <<= 1;
  }
  const symbols = new Uint16Array(symbolCount);
  for (let symbol = 0; symbol < symbolCount; symbol++) symbols[firstIndex[lengths[symbol]]++] = symbol;
  return { limit, offset, symbols };
}

function readSymbol(reader: BitReader, table: HuffmanTable): number {
  let code = 0;
  for (let bits = 1; bits <= MAX_CODE_LENGTH; bits++) {
    code = (code << 1) | reader.bits(1);
    if (code < table.limit[bits]) {
      const symbol = table.symbols[code + table.offset[bits]];
      if (symbol !== undefined) return symbol;
      break;
    }
  }
  throw corrupt(FORMAT, 'an impossible code');
}

/** Reads the block's symbols, undoing move-to-front and zero runs, into the low bytes of `block`; returns their number. */
function readSymbols(
  reader: BitReader,
  tables: readonly HuffmanTable[],
  selectors: Uint8Array,
  alphabet: Uint8Array,
  block: Uint32Array,
): number {
  const recent = alphabet.slice();
  const endOfBlock = alphabet.length + 1;
  let length = 0;
  let group = 0;
  let left = 0;
  let table = tables[0];
  let run = 0;
  let runWeight = 1;
  for (;;) {
    if (left === 0) {
      if (group >= selectors.length) throw corrupt(FORMAT, 'too few selectors');
      table = tables[selectors[group++]];
      left = GROUP_SYMBOLS;
    }
    left--;
    const symbol = readSymbol(reader, table);
    if (symbol === RUN_A || symbol === RUN_B) {
      run += symbol === RUN_A ? runWeight : runWeight * 2;
      runWeight *= 2;
      if (run > block.length) throw corrupt(FORMAT, 'a block is too long');
      continue;
    }
    if (run > 0) {
      if (length + run > block.length) throw corrupt(FORMAT, 'a block is too long');
      block.fill(recent[0], length, length + run);
      length += run;
      run = 0;
      runWeight = 1;
    }
    if (symbol === endOfBlock) return length;
    const depth = symbol - 1;
    if (length >= block.length) throw corrupt(FORMAT, 'a block is too long');
    const byte = recent[depth];
    recent.copyWithin(1, 0, depth);
    recent[0] = byte;
    block[length++] = byte;
  }
}

/** Inverts the Burrows-Wheeler transform and the first run-length step. */
function undoTransform(block: Uint32Array, length: number, origin: number, output: Output): void {
  const starts = new Uint32Array(257);
  for (let index = 0; index < length; index++) starts[(block[index] & 0xff) + 1]++;
  for (let value = 0; value < 256; value++) starts[value + 1] += starts[value];
  for (let index = 0; index < length; index++) block[starts[block[index] & 0xff]++] |= index << 8;

  let position = block[origin] >>> 8;
  let previous = -1;
  let equal = 0;
  for (let left = length; left > 0; left--) {
    const entry = block[position];
    position = entry >>> 8;
    const byte = entry & 0xff;
    // Four equal bytes are followed by the count of further ones.
    const count = equal === 4 ? byte : 1;
    const granted = output.reserve(count);
    if (equal === 4) {
      output.buffer.fill(previous, output.length, output.length + granted);
      equal = 0;
      previous = -1;
    } else {
      output.buffer[output.length] = byte;
      equal = byte === previous ? equal + 1 : 1;
      previous = byte;
    }
    output.advance(granted);
  }
}
