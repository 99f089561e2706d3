// SPDX-License-Identifier: Apache-2.0
/** The decompression port for this folder's tests, which may use Node but not the application's own adapter. */
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { err, ok } from '../../../base/result.ts';
import type { Decompressors, HostCompression } from '../../host/decompress.ts';

const run = (kind: HostCompression, bytes: Uint8Array, maxOutputLength: number): Uint8Array =>
  kind === 'gzip' ? gunzipSync(bytes, { maxOutputLength }) : zstdDecompressSync(bytes, { maxOutputLength });

export const zlibHost: Decompressors = {
  decompress: async (kind, bytes, maxOutput) => {
    try {
      return ok(run(kind, bytes, Math.max(maxOutput, 1)));
    } catch (failure) {
      return err({ kind: 'corrupt', message: String(failure) });
    }
  },
  peek: async (kind, bytes, length) => {
    try {
      return ok(run(kind, bytes, 2 ** 30).subarray(0, length));
    } catch (failure) {
      return err({ kind: 'corrupt', message: String(failure) });
    }
  },
};
