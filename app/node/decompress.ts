// SPDX-License-Identifier: Apache-2.0
/**
 * The engine's decompression port over node:zlib: gzip and Zstandard.
 *
 * Decodes in chunks, so that the limit on the output and the abort signal take effect in the middle of a hostile or long stream. Members
 * and frames that follow each other are decoded in turn; behind the last gzip member only zeros may stand.
 */
import { constants, createGunzip, createZstdDecompress, type Gunzip, type ZstdDecompress } from 'node:zlib';
import { err, ok, type Result } from '../base/result.ts';
import type { AbortSignalLike, DecompressError, Decompressors, HostCompression } from '../engine/index.ts';

const CHUNK_BYTES = 1 << 20;
const PEEK_CHUNK_BYTES = 1 << 12;

const NAMES: Readonly<Record<HostCompression, string>> = { gzip: 'gzip', zstd: 'Zstandard' };

/** `lenient`: the end of the input is not an error. */
function createDecoder(kind: HostCompression, chunkSize: number, lenient: boolean): Gunzip | ZstdDecompress {
  if (kind === 'gzip') return createGunzip({ chunkSize, ...(lenient ? { finishFlush: constants.Z_SYNC_FLUSH } : {}) });
  return createZstdDecompress({ chunkSize, ...(lenient ? { finishFlush: constants.ZSTD_e_flush } : {}) });
}

function describe(kind: HostCompression, failure: unknown): DecompressError {
  const name = NAMES[kind];
  const code = failure instanceof Error && 'code' in failure ? failure.code : undefined;
  if (code === 'Z_BUF_ERROR') return { kind: 'truncated', message: `the ${name} data ends too early; the file is truncated` };
  return { kind: 'corrupt', message: `the ${name} data is damaged (${failure instanceof Error ? failure.message : String(failure)})` };
}

const tooLarge = (limit: number): DecompressError => ({
  kind: 'too-large',
  message: `the data decompresses to more than the ${limit} bytes that it may have`,
});

async function decompress(
  kind: HostCompression,
  bytes: Uint8Array,
  maxOutput: number,
  signal?: AbortSignalLike,
): Promise<Result<Uint8Array, DecompressError>> {
  const decoder = createDecoder(kind, Math.min(CHUNK_BYTES, Math.max(maxOutput, 64)), false);
  const chunks: Buffer[] = [];
  let length = 0;
  decoder.end(bytes);
  try {
    // Leaving the loop destroys the decoder.
    for await (const chunk of decoder as AsyncIterable<Buffer>) {
      if (signal?.aborted === true) return err({ kind: 'aborted', message: 'decompression was cancelled' });
      length += chunk.length;
      if (length > maxOutput) return err(tooLarge(maxOutput));
      chunks.push(chunk);
    }
  } catch (failure) {
    return err(describe(kind, failure));
  }
  return ok(joined(chunks, length));
}

function joined(chunks: readonly Buffer[], length: number): Uint8Array {
  const output = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    output.set(chunk, at);
    at += chunk.length;
  }
  return output;
}

async function peek(kind: HostCompression, bytes: Uint8Array, length: number): Promise<Result<Uint8Array, DecompressError>> {
  const decoder = createDecoder(kind, PEEK_CHUNK_BYTES, true);
  const chunks: Buffer[] = [];
  let have = 0;
  decoder.end(bytes);
  try {
    for await (const chunk of decoder as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      have += chunk.length;
      if (have >= length) break;
    }
  } catch (failure) {
    if (have === 0) return err(describe(kind, failure));
  }
  return ok(joined(chunks, have).subarray(0, length));
}

export const nodeDecompressors: Decompressors = { decompress, peek };
