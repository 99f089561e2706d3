// SPDX-License-Identifier: Apache-2.0
/** The host fails: full disks, read errors, files cut off. Requests fail with words; nothing else breaks. */
import { describe, expect, it } from 'vitest';
import type { BlockDevice } from './block-device.ts';
import { FileError } from '../host/file.ts';
import { createImage, type CreateImageOptions } from './create-image.ts';
import { checkImage } from './image-info.ts';
import { openImage } from './open-image.ts';
import { testHost, type TestHost, unwrap } from './testing/test-host.ts';
import { compareWhole, Random } from './testing/twin.ts';

const MIB = 1024 * 1024;
const FORMATS: readonly Omit<CreateImageOptions, 'nowSeconds' | 'sizeBytes'>[] = [
  { format: 'raw' },
  { format: 'qcow2' },
  { format: 'qcow2', clusterSize: 4096, extendedL2: false },
  { format: 'vdi' },
  { format: 'vhd' },
  { format: 'vhdx', clusterSize: MIB },
  { format: 'vmdk' },
];

async function image(host: TestHost, options: (typeof FORMATS)[number]): Promise<BlockDevice> {
  unwrap(await createImage(host, 'image', { sizeBytes: 4 * MIB, nowSeconds: 0, ...options }));
  return unwrap(await openImage(host, 'image', { format: options.format }));
}

describe.each(FORMATS)('%j', (options) => {
  it('survives a full disk at any write', async () => {
    for (let failAt = 1; failAt < 30; failAt += 3) {
      const host = testHost();
      const device = await image(host, options);
      const twin = new Uint8Array(device.sizeBytes);
      const random = new Random(failAt);
      let count = 0;
      let failures = 0;
      host.files.faults.onWrite = () => {
        // A few writes fail, then somebody makes room.
        if (++count >= failAt && count < failAt + 3) throw new FileError('no-space', 'image: the disk it is on is full; free some space');
      };
      for (let i = 0; i < 40; i++) {
        const bytes = random.bytes(1 + random.next(20_000));
        const offset = random.next(twin.length - bytes.length);
        const previous = twin.slice(offset, offset + bytes.length);
        twin.set(bytes, offset);
        const work = i % 5 === 4 ? device.flush() : device.write(offset, bytes);
        if (i % 5 === 4) twin.set(previous, offset);
        await work.catch((error: unknown) => {
          failures++;
          expect(error).toMatchObject({ kind: 'no-space', image: 'image' });
          expect(String(error)).toMatch(/free some space/);
          // What failed is neither old nor new: write it again.
          return i % 5 === 4
            ? undefined
            : device
                .write(offset, bytes)
                .catch(() => device.write(offset, bytes))
                .catch(() => device.write(offset, bytes));
        });
      }
      expect(count).toBeGreaterThan(failAt);
      expect(failures).toBeGreaterThan(0);
      await compareWhole(device, twin);
      await device.close();
      const again = unwrap(await openImage(host, 'image', { format: options.format }));
      await compareWhole(again, twin);
      const report = await checkImage(again);
      if (report !== null) expect(report).toMatchObject({ errors: 0 });
      await again.close();
    }
  });

  it('reports read errors and goes on', async () => {
    const host = testHost();
    const device = await image(host, options);
    await device.write(0, new Uint8Array(100_000).fill(1));
    await device.flush();
    let broken = true;
    host.files.faults.onRead = () => {
      if (broken) throw new FileError('io', 'image: the disk it is on reports an error');
    };
    await expect(device.read(0, new Uint8Array(50_000))).rejects.toMatchObject({ kind: 'io' });
    broken = false;
    const bytes = new Uint8Array(100_000);
    await device.read(0, bytes);
    expect(bytes.every((byte) => byte === 1)).toBe(true);
    await device.close();
  });

  it('refuses requests outside the disk, on a closed disk, and writes to one that is read-only', async () => {
    const host = testHost();
    const device = await image(host, options);
    const size = device.sizeBytes;
    for (const [offset, length] of [
      [size, 1],
      [size - 1, 2],
      [-1, 1],
      [0.5, 1],
      [Number.NaN, 1],
      [2 ** 53, 1],
    ] as const) {
      await expect(device.read(offset, new Uint8Array(length)), `${offset}`).rejects.toMatchObject({ kind: 'out-of-range' });
      await expect(device.discard(offset, length)).rejects.toMatchObject({ kind: 'out-of-range' });
    }
    await device.read(size, new Uint8Array(0));
    await device.close();
    await expect(device.read(0, new Uint8Array(1))).rejects.toMatchObject({ kind: 'closed' });
    const readOnly = unwrap(await openImage(host, 'image', { format: options.format, readOnly: true }));
    await expect(readOnly.write(0, new Uint8Array(1))).rejects.toMatchObject({ kind: 'read-only' });
    await expect(readOnly.resize(MIB)).rejects.toMatchObject({ kind: 'read-only' });
    await readOnly.close();
  });
});

describe('a raw disk whose file becomes shorter', () => {
  it('fails to read what is gone instead of making it zeros', async () => {
    const host = testHost();
    const device = await image(host, { format: 'raw' });
    await host.files.contents.get('image')!.truncate(MIB);
    await device.read(0, new Uint8Array(MIB));
    await expect(device.read(MIB - 100, new Uint8Array(1000))).rejects.toMatchObject({ kind: 'io' });
  });
});
