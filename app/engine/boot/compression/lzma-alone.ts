// SPDX-License-Identifier: Apache-2.0
/**
 * The old ".lzma" file: a header of 13 bytes (properties, dictionary size, output size or -1) and one LZMA section.
 *
 * There is no magic number and no checksum; `isLzmaAlone` accepts what `xz --format=lzma` and the kernel's build write. Format facts:
 * "lzma-file-format.txt" of XZ Utils (public domain).
 */
import { err, ok, type Result } from '../../../base/result.ts';
import type { DecompressError } from '../../host/decompress.ts';
import { LzmaDecoder } from './lzma-decoder.ts';
import { corrupt, DecodeFailure, type Output, runDecoder, truncated } from './output.ts';

const FORMAT = 'LZMA';
const HEADER_BYTES = 13;
const UNKNOWN_SIZE = 2 ** 64 - 1;
/** XZ Utils takes larger sizes for another format. */
const PLAUSIBLE_SIZE = 2 ** 38;
const SLICE = 1 << 20;

interface Header {
  readonly properties: number;
  readonly dictionarySize: number;
  /** undefined: the section ends with a marker. */
  readonly size: number | undefined;
}

function readHeader(bytes: Uint8Array): Header | undefined {
  if (bytes.length < HEADER_BYTES) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES);
  const low = view.getUint32(5, true);
  const high = view.getUint32(9, true);
  const unknown = low === 0xffffffff && high === 0xffffffff;
  return { properties: bytes[0], dictionarySize: view.getUint32(1, true), size: unknown ? undefined : high * 2 ** 32 + low };
}

export function isLzmaAlone(bytes: Uint8Array): boolean {
  const header = readHeader(bytes);
  if (header === undefined || header.properties >= 225) return false;
  if (header.size !== undefined && header.size >= PLAUSIBLE_SIZE) return false;
  // 2^n or 2^n + 2^(n-1), from 4 KiB: everything that encoders choose. Files of zeros or text do not look like this.
  const size = header.dictionarySize;
  const top = 2 ** Math.floor(Math.log2(Math.max(size, 1)));
  return size >= 4096 && (size === top || size === top + top / 2 || size === 0xffffffff) && bytes[HEADER_BYTES] === 0;
}

export function decodeLzmaAlone(
  bytes: Uint8Array,
  maxOutput: number,
  options: { readonly prefix?: boolean; readonly expected?: number } = {},
): Result<Uint8Array, DecompressError> {
  // One byte more than allowed, so that an end marker right at the limit can still be told from a byte too many.
  const limit = options.prefix === true ? maxOutput : maxOutput + 1;
  const result = runDecoder((output) => decode(bytes, output), limit, options);
  if (result.ok && result.value.length > maxOutput) {
    return err({ kind: 'too-large', message: `the data decompresses to more than the ${maxOutput} bytes that it may have` });
  }
  return result.ok ? ok(result.value) : result;
}

function decode(bytes: Uint8Array, output: Output): void {
  const header = readHeader(bytes);
  if (header === undefined) throw truncated(FORMAT);
  if (header.size !== undefined && header.size !== UNKNOWN_SIZE && header.size > PLAUSIBLE_SIZE)
    throw corrupt(FORMAT, 'an impossible size');
  const decoder = new LzmaDecoder(FORMAT, output);
  decoder.resetDictionary(Math.max(header.dictionarySize, 4096));
  decoder.setProperties(header.properties);
  decoder.startInput(bytes, HEADER_BYTES, bytes.length);
  for (;;) {
    const left = (header.size ?? Number.POSITIVE_INFINITY) - output.length;
    if (left === 0) return;
    const room = output.limit - output.length;
    const granted = output.reserve(Math.min(left, SLICE, Math.max(room, 1)));
    if (decoder.decode(granted) === 'marker') {
      if (header.size !== undefined) throw corrupt(FORMAT, 'it ends before its declared size');
      return;
    }
    output.advance(granted);
    if (header.size !== undefined && header.size > output.limit && output.length === output.limit) {
      throw new DecodeFailure('too-large', `the data decompresses to more than the ${output.limit - 1} bytes that it may have`);
    }
  }
}
