// SPDX-License-Identifier: Apache-2.0
/** The engine's codec for single clusters over node:zlib, on libuv's threads. */
import * as zlib from 'node:zlib';
import type { BlockCodec, BlockCompression } from '../engine/index.ts';

type Callback = (error: Error | null, result: Buffer) => void;

function settle(start: (done: Callback) => void): Promise<Uint8Array | null> {
  return new Promise((resolve) => start((error, result) => resolve(error === null ? result : null)));
}

function unpackers(kind: BlockCompression, packed: Uint8Array, size: number, done: Callback): void {
  const options = { maxOutputLength: size, chunkSize: Math.max(size, 64) };
  if (kind === 'deflate') zlib.inflateRaw(packed, options, done);
  else if (kind === 'zlib') zlib.inflate(packed, options, done);
  else zlib.zstdDecompress(packed, options, done);
}

export const nodeBlockCodec: BlockCodec = {
  unpack: async (kind, packed, size) => {
    const result = await settle((done) => unpackers(kind, packed, size, done));
    return result !== null && result.length === size ? result : null;
  },
  pack: async (kind, block) => {
    const result = await settle((done) => {
      if (kind === 'deflate') zlib.deflateRaw(block, { windowBits: 12 }, done);
      else if (kind === 'zlib') zlib.deflate(block, done);
      else zlib.zstdCompress(block, done);
    });
    return result !== null && result.length < block.length ? result : null;
  },
};
