// SPDX-License-Identifier: Apache-2.0
/**
 * Every compression that a kernel payload or an initramfs may have, behind one function: which one it is, the whole content, or its start.
 */
import { err, type Result } from '../../../base/result.ts';
import type { AbortSignalLike, DecompressError, Decompressors } from '../../host/decompress.ts';
import { decodeBzip2, isBzip2 } from './bzip2.ts';
import { decodeLz4Legacy, isLz4Legacy } from './lz4-legacy.ts';
import { decodeLzmaAlone, isLzmaAlone } from './lzma-alone.ts';
import { decodeXz, isXz } from './xz.ts';

export type Compression = 'gzip' | 'zstd' | 'xz' | 'lzma' | 'lz4' | 'bzip2' | 'lzo';

const LZO_MAGIC = [0x89, 0x4c, 0x5a, 0x4f, 0x00, 0x0d, 0x0a, 0x1a, 0x0a] as const;

/** The compression of `bytes` by magic number (LZMA by a plausible header), or undefined. */
export function detectCompression(bytes: Uint8Array): Compression | undefined {
  if (bytes[0] === 0x1f && bytes[1] === 0x8b && bytes[2] === 8) return 'gzip';
  if (bytes[0] === 0x28 && bytes[1] === 0xb5 && bytes[2] === 0x2f && bytes[3] === 0xfd) return 'zstd';
  if (isXz(bytes)) return 'xz';
  if (isBzip2(bytes)) return 'bzip2';
  if (isLz4Legacy(bytes)) return 'lz4';
  if (LZO_MAGIC.every((value, index) => bytes[index] === value)) return 'lzo';
  if (isLzmaAlone(bytes)) return 'lzma';
  return undefined;
}

export interface DecompressOptions {
  /** A declared output size within `maxOutput`, so that the output need not grow step by step. */
  readonly expected?: number;
  readonly signal?: AbortSignalLike;
}

/** Decompresses `bytes` whole, to at most `maxOutput` bytes. */
export async function decompress(
  compression: Compression,
  bytes: Uint8Array,
  maxOutput: number,
  host: Decompressors,
  options: DecompressOptions = {},
): Promise<Result<Uint8Array, DecompressError>> {
  if (options.signal?.aborted === true) return err({ kind: 'aborted', message: 'decompression was cancelled' });
  const expected = options.expected === undefined ? {} : { expected: options.expected };
  switch (compression) {
    case 'gzip':
    case 'zstd':
      return host.decompress(compression, bytes, maxOutput, options.signal);
    case 'xz':
      return decodeXz(bytes, maxOutput, expected);
    case 'lzma':
      return decodeLzmaAlone(bytes, maxOutput, expected);
    case 'lz4':
      return decodeLz4Legacy(bytes, maxOutput, expected);
    case 'bzip2':
      return decodeBzip2(bytes, maxOutput, expected);
    case 'lzo':
      return lzoUnsupported();
  }
}

/** The first `length` bytes of what `bytes` decompress to; fewer when there are not more. */
export async function decompressStart(
  compression: Compression,
  bytes: Uint8Array,
  length: number,
  host: Decompressors,
): Promise<Result<Uint8Array, DecompressError>> {
  const prefix = { prefix: true } as const;
  switch (compression) {
    case 'gzip':
    case 'zstd':
      return host.peek(compression, bytes, length);
    case 'xz':
      return decodeXz(bytes, length, prefix);
    case 'lzma':
      return decodeLzmaAlone(bytes, length, prefix);
    case 'lz4':
      return decodeLz4Legacy(bytes, length, prefix);
    case 'bzip2':
      return decodeBzip2(bytes, length, prefix);
    case 'lzo':
      return lzoUnsupported();
  }
}

function lzoUnsupported(): Result<Uint8Array, DecompressError> {
  return err({ kind: 'unsupported', message: 'LZO compression is not supported; compress it with gzip, XZ, Zstandard or LZ4 instead' });
}
