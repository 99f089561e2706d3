// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as samples from '../testing/compressed-samples.ts';
import { sampleContent } from '../testing/sample.ts';
import { zlibHost } from '../testing/zlib-host.ts';
import { type Compression, decompress, decompressStart, detectCompression } from './decompress.ts';

const content = sampleContent(samples.SAMPLE_LENGTH);
const cases: readonly (readonly [string, Compression, Uint8Array])[] = [
  ['XZ as the kernel build makes it (x86 filter, CRC32)', 'xz', samples.xzKernel],
  ['XZ with CRC64', 'xz', samples.xzDefault],
  ['XZ without check', 'xz', samples.xzNoCheck],
  ['XZ of three blocks with other literal parameters', 'xz', samples.xzBlocks],
  ['LZMA-alone', 'lzma', samples.lzma],
  ['LZ4 legacy', 'lz4', samples.lz4],
  ['bzip2', 'bzip2', samples.bzip2],
];

describe.each(cases)('%s', (_name, compression, packed) => {
  it('is recognised', () => {
    expect(detectCompression(packed)).toBe(compression);
  });

  it('decodes, with a limit of exactly its size and a hint', async () => {
    const result = await decompress(compression, packed, content.length, zlibHost, { expected: content.length });
    expect(result).toEqual({ ok: true, value: content });
  });

  it('decodes into an output that grows', async () => {
    expect(await decompress(compression, packed, 1 << 24, zlibHost)).toEqual({ ok: true, value: content });
  });

  it('refuses to grow past the limit', async () => {
    const result = await decompress(compression, packed, content.length - 1, zlibHost);
    expect(result).toMatchObject({ ok: false, error: { kind: 'too-large' } });
  });

  it('gives a prefix without reading the rest', async () => {
    const result = await decompressStart(compression, packed, 100, zlibHost);
    if (!result.ok) throw new Error(result.error.message);
    // The x86 filter needs what follows for the last bytes, so a prefix is exact only up to there.
    const exact = compression === 'xz' ? 95 : 100;
    expect(result.value.length).toBe(100);
    expect(result.value.subarray(0, exact)).toEqual(content.subarray(0, exact));
  });

  it('is an error wherever it is cut off', async () => {
    // A legacy LZ4 frame of no blocks is a complete, empty one.
    const first = compression === 'lz4' ? 5 : 0;
    const lengths = Array.from({ length: packed.length - first }, (_, index) => first + index);
    // bzip2 allocates megabytes a block, so fewer cuts are tried.
    const tried = compression === 'bzip2' ? lengths.filter((length) => length % 13 === 0 || length > packed.length - 12) : lengths;
    for (const length of tried) {
      const result = await decompress(compression, packed.subarray(0, length), 1 << 20, zlibHost);
      expect(result.ok, `cut to ${length} bytes`).toBe(false);
    }
  });

  it('never throws and never exceeds the limit when bytes are changed', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(fc.nat(packed.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 }), async (changes) => {
        const changed = packed.slice();
        for (const [at, value] of changes) changed[at] = value;
        const result = await decompress(compression, changed, 1 << 14, zlibHost);
        if (result.ok) expect(result.value.length).toBeLessThanOrEqual(1 << 14);
      }),
      { numRuns: 300 },
    );
  });
});

it.each([
  ['XZ with CRC32', samples.xzKernel],
  ['XZ with CRC64', samples.xzDefault],
  ['bzip2', samples.bzip2],
])('%s: a changed bit never gives other content', async (_name, packed) => {
  const compression = detectCompression(packed) as Compression;
  let noticed = 0;
  let tried = 0;
  for (let bit = 32; bit < packed.length * 8; bit += 23) {
    tried++;
    const changed = packed.slice();
    changed[bit >> 3] ^= 1 << (bit & 7);
    const result = await decompress(compression, changed, 1 << 20, zlibHost);
    // A bit that no code uses (a length in bzip2's tables) may change without consequence.
    if (result.ok) expect(result.value, `bit ${bit}`).toEqual(content);
    else noticed++;
  }
  expect(noticed).toBeGreaterThan(tried * 0.9);
});

describe('XZ', () => {
  it('says which filter or check it does not know', async () => {
    expect(await decompress('xz', samples.xzDelta, 1 << 20, zlibHost)).toMatchObject({
      error: { kind: 'unsupported', message: expect.stringContaining('filter 0x3') },
    });
    expect(await decompress('xz', samples.xzSha256, 1 << 20, zlibHost)).toMatchObject({
      error: { kind: 'unsupported', message: expect.stringContaining('check type 10') },
    });
  });

  it('decodes streams one after the other, with padding between', async () => {
    const both = Uint8Array.from([...samples.xzKernel, 0, 0, 0, 0, ...samples.xzDefault]);
    const result = await decompress('xz', both, 1 << 20, zlibHost);
    expect(result).toEqual({ ok: true, value: Uint8Array.from([...content, ...content]) });
  });

  it('refuses what follows the stream', async () => {
    const result = await decompress('xz', Uint8Array.from([...samples.xzKernel, 1, 2, 3, 4]), 1 << 20, zlibHost);
    expect(result).toMatchObject({ error: { kind: 'corrupt' } });
  });
});

describe('LZMA-alone', () => {
  const withSize = (size: bigint): Uint8Array => {
    const packed = samples.lzma.slice();
    new DataView(packed.buffer).setBigUint64(5, size, true);
    return packed;
  };

  it('takes the size from the header when there is one', async () => {
    expect(await decompress('lzma', withSize(6000n), 6000, zlibHost)).toEqual({ ok: true, value: content });
    expect(await decompress('lzma', withSize(100n), 6000, zlibHost)).toEqual({ ok: true, value: content.subarray(0, 100) });
  });

  it('does not believe a size that the data does not have', async () => {
    expect(await decompress('lzma', withSize(6001n), 1 << 20, zlibHost)).toMatchObject({ error: { kind: 'corrupt' } });
    expect(await decompress('lzma', withSize(2n ** 37n), 4096, zlibHost)).toMatchObject({ error: { kind: 'too-large' } });
  });
});

describe('LZ4 legacy', () => {
  const frame = (...blocks: number[][]): Uint8Array =>
    Uint8Array.from([0x02, 0x21, 0x4c, 0x18, ...blocks.flatMap((block) => [block.length & 255, block.length >> 8, 0, 0, ...block])]);

  it('does not let a small block become a large output', async () => {
    const bomb = (bytes: number): Uint8Array => frame([0x1f, 0x41, 1, 0, ...Array.from({ length: bytes }, () => 255), 0, 0x10, 0x41]);
    expect(await decompress('lz4', bomb(30_000), 1 << 16, zlibHost)).toMatchObject({ error: { kind: 'too-large' } });
    // A block has at most 8 MiB whatever the limit is.
    expect(await decompress('lz4', bomb(60_000), 2 ** 30, zlibHost)).toMatchObject({ error: { kind: 'corrupt' } });
  });

  it('refuses matches that reach before the block', async () => {
    expect(await decompress('lz4', frame([0x10, 0x41, 2, 0, 0x10, 0x42]), 100, zlibHost)).toMatchObject({ error: { kind: 'corrupt' } });
    expect(await decompress('lz4', frame([0x10, 0x41, 0, 0, 0x10, 0x42]), 100, zlibHost)).toMatchObject({ error: { kind: 'corrupt' } });
  });

  it('decodes literals of any length', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 700 }), async (literals) => {
        const token = literals.length < 15 ? [literals.length << 4] : [0xf0, ...lengthBytes(literals.length - 15)];
        expect(await decompress('lz4', frame([...token, ...literals]), 700, zlibHost)).toEqual({ ok: true, value: literals });
      }),
    );
  });

  const lengthBytes = (rest: number): number[] => (rest < 255 ? [rest] : [255, ...lengthBytes(rest - 255)]);
});

it('LZO is recognised and refused with advice', async () => {
  const lzo = Uint8Array.from([0x89, 0x4c, 0x5a, 0x4f, 0, 0x0d, 0x0a, 0x1a, 0x0a]);
  expect(detectCompression(lzo)).toBe('lzo');
  expect(await decompress('lzo', lzo, 100, zlibHost)).toMatchObject({ error: { kind: 'unsupported' } });
});

it('zeros, text and code are not taken for compressed data', () => {
  expect(detectCompression(new Uint8Array(64))).toBeUndefined();
  expect(detectCompression(content)).toBeUndefined();
  expect(detectCompression(new Uint8Array(0))).toBeUndefined();
});

it('a cancelled decompression does not start', async () => {
  const result = await decompress('xz', samples.xzKernel, 1 << 20, zlibHost, { signal: { aborted: true } });
  expect(result).toMatchObject({ error: { kind: 'aborted' } });
});
