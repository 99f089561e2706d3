// SPDX-License-Identifier: Apache-2.0
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { nodeDecompressors } from './decompress.ts';

// More than one chunk, and hardly compressible, so that every part of the output needs its part of the input.
let state = 1;
const content = Uint8Array.from({ length: 3_000_000 }, () => {
  state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
  return state >>> 20;
});

describe.each([
  ['gzip', gzipSync(content), gzipSync(new Uint8Array(64 << 20))],
  ['zstd', zstdCompressSync(content), zstdCompressSync(new Uint8Array(64 << 20))],
] as const)('%s', (kind, packed, bomb) => {
  it('decodes to exactly the limit', async () => {
    expect(await nodeDecompressors.decompress(kind, packed, content.length)).toEqual({ ok: true, value: content });
  });

  it('stops at the limit', async () => {
    for (const limit of [content.length - 1, 1, 0]) {
      expect(await nodeDecompressors.decompress(kind, packed, limit)).toMatchObject({ error: { kind: 'too-large' } });
    }
    expect(bomb.length).toBeLessThan(100_000);
    expect(await nodeDecompressors.decompress(kind, bomb, 1 << 16)).toMatchObject({ error: { kind: 'too-large' } });
  });

  it('reports truncated data as an error, never as a shorter output', async () => {
    for (const length of [0, 1, 5, 100, packed.length >> 1, packed.length - 1]) {
      const result = await nodeDecompressors.decompress(kind, packed.subarray(0, length), content.length);
      expect(result, `cut to ${length}`).toMatchObject({ ok: false, error: { kind: 'truncated' } });
    }
  });

  it('reports damage', async () => {
    const changed = Uint8Array.from(packed);
    changed[1] ^= 0x40;
    expect(await nodeDecompressors.decompress(kind, changed, content.length)).toMatchObject({ error: { kind: 'corrupt' } });
  });

  it('peeks without needing the rest', async () => {
    const some = await nodeDecompressors.peek(kind, packed.subarray(0, packed.length >> 1), 1000);
    expect(some).toEqual({ ok: true, value: content.slice(0, 1000) });
    expect(await nodeDecompressors.peek(kind, packed, content.length + 5)).toEqual({ ok: true, value: content });
    expect(await nodeDecompressors.peek(kind, Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]), 10)).toMatchObject({ ok: false });
  });

  it('can be cancelled', async () => {
    expect(await nodeDecompressors.decompress(kind, packed, content.length, { aborted: true })).toMatchObject({
      error: { kind: 'aborted' },
    });
  });
});
