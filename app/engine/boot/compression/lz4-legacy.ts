// SPDX-License-Identifier: Apache-2.0
/**
 * LZ4 in its legacy frame, as `lz4 -l` writes it and the Linux kernel's build uses it.
 *
 * A magic number, then blocks: a 32-bit compressed size and an LZ4 block of at most 8 MiB of output that refers to nothing outside of
 * itself. The frame has no end mark and no checksum: it ends with the data, or where another frame begins. Follows "LZ4 Frame Format"
 * (legacy frame) and "LZ4 Block Format".
 */
import type { Result } from '../../../base/result.ts';
import type { DecompressError } from '../../host/decompress.ts';
import { corrupt, type Output, runDecoder, truncated } from './output.ts';

const FORMAT = 'LZ4';
const MAGIC = 0x184c2102;
const BLOCK_OUTPUT = 8 << 20;
/** Incompressible data grows by one byte in 255 and 16. */
const BLOCK_INPUT = BLOCK_OUTPUT + Math.floor(BLOCK_OUTPUT / 255) + 16;
const MIN_MATCH = 4;

function u32(bytes: Uint8Array, at: number): number {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
}

export function isLz4Legacy(bytes: Uint8Array): boolean {
  return bytes.length >= 4 && u32(bytes, 0) === MAGIC;
}

export function decodeLz4Legacy(
  bytes: Uint8Array,
  maxOutput: number,
  options: { readonly prefix?: boolean; readonly expected?: number } = {},
): Result<Uint8Array, DecompressError> {
  return runDecoder((output) => decodeFrame(bytes, output, options.prefix === true), maxOutput, options);
}

function decodeFrame(bytes: Uint8Array, output: Output, prefix: boolean): void {
  if (!isLz4Legacy(bytes)) throw corrupt(FORMAT, 'no frame header');
  let at = 4;
  while (at < bytes.length) {
    if (at + 4 > bytes.length) throw truncated(FORMAT);
    const size = u32(bytes, at);
    at += 4;
    if (size === MAGIC) continue;
    if (size === 0 || size > BLOCK_INPUT) throw corrupt(FORMAT, 'an impossible block size');
    if (at + size > bytes.length && !prefix) throw truncated(FORMAT);
    decodeBlock(bytes.subarray(at, at + size), output);
    at += size;
  }
}

/** Reads the extension of a length nibble: bytes that add up until one is not 255. Returns [sum, next position]. */
function extendLength(src: Uint8Array, from: number): readonly [number, number] {
  let sum = 0;
  for (let at = from; at < src.length; ) {
    const byte = src[at++];
    sum += byte;
    if (byte !== 255) return [sum, at];
  }
  throw truncated(FORMAT);
}

function decodeBlock(src: Uint8Array, output: Output): void {
  const blockStart = output.length;
  let at = 0;
  while (at < src.length) {
    const token = src[at++];
    let literals = token >>> 4;
    if (literals === 15) {
      const [more, next] = extendLength(src, at);
      literals += more;
      at = next;
    }
    if (at + literals > src.length) throw truncated(FORMAT);
    if (output.length - blockStart + literals > BLOCK_OUTPUT) throw corrupt(FORMAT, 'a block is too long');
    output.append(src, at, at + literals);
    at += literals;
    // The last sequence of a block has literals only.
    if (at === src.length) return;

    if (at + 2 > src.length) throw truncated(FORMAT);
    const distance = src[at] | (src[at + 1] << 8);
    at += 2;
    let length = (token & 15) + MIN_MATCH;
    if ((token & 15) === 15) {
      const [more, next] = extendLength(src, at);
      length += more;
      at = next;
    }
    const start = output.length;
    if (distance === 0 || distance > start - blockStart) throw corrupt(FORMAT, 'a match reaches before the start');
    if (start - blockStart + length > BLOCK_OUTPUT) throw corrupt(FORMAT, 'a block is too long');
    const granted = output.reserve(length);
    const out = output.buffer;
    if (distance >= granted && granted >= 32) out.copyWithin(start, start - distance, start - distance + granted);
    else for (let to = start, from = start - distance; to < start + granted; ) out[to++] = out[from++];
    output.advance(granted);
  }
  throw truncated(FORMAT);
}
