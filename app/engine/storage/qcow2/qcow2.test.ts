// SPDX-License-Identifier: Apache-2.0
/** What is particular to QCOW2: chains, snapshots, compression, external data, repair, refusal. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { BlockDevice } from '../block-device.ts';
import { copyDisk } from '../copy-image.ts';
import { createImage, type CreateImageOptions } from '../create-image.ts';
import { checkImage, snapshotsOf } from '../image-info.ts';
import { openImage, type OpenImageOptions } from '../open-image.ts';
import { viewOf } from '../core/bytes.ts';
import { hasQemuImg, judge, qemuImg } from '../testing/qemu-img.ts';
import { changedInFolder, testHost, type TestHost, unwrap, withFolder } from '../testing/test-host.ts';
import { compareWhole, exercise, Random } from '../testing/twin.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const DATE = { seconds: 1_700_000_000, nanoseconds: 5 };

async function make(host: TestHost, options: Omit<CreateImageOptions, 'nowSeconds' | 'format'>, name = 'image'): Promise<void> {
  unwrap(await createImage(host, name, { format: 'qcow2', nowSeconds: 0, ...options }));
}

async function open(host: TestHost, options: OpenImageOptions = {}, name = 'image'): Promise<BlockDevice> {
  return unwrap(await openImage(host, name, options));
}

async function contentOf(device: BlockDevice): Promise<Uint8Array> {
  const bytes = new Uint8Array(device.sizeBytes);
  await device.read(0, bytes);
  return bytes;
}

const refusal = async (host: TestHost, options: OpenImageOptions = {}, name = 'image'): Promise<string> => {
  const result = await openImage(host, name, options);
  if (result.ok) throw new Error('it was opened');
  expect(host.files.openHandles).toBe(0);
  return `${result.error.kind}: ${result.error.message}`;
};

describe('a chain of backing files', () => {
  const formats = ['raw', 'qcow2', 'vdi', 'vmdk', 'vhdx'] as const;

  it.each(formats)('stands on %s, which stays as it is', async (format) => {
    const host = testHost();
    unwrap(await createImage(host, 'base', { format, sizeBytes: 3 * MIB, nowSeconds: 0 }));
    const base = await open(host, { format }, 'base');
    await base.write(100_000, new Random(9).bytes(MIB));
    await base.close();
    const baseBytes = await host.files.bytes('base');
    await make(host, { sizeBytes: 4 * MIB, backing: { name: 'base', format } }, 'middle');
    await make(host, { backing: { name: 'middle', format: 'qcow2' }, clusterSize: 16 * KIB, extendedL2: true });
    const device = await open(host);
    const twin = await contentOf(device);
    await exercise(device, twin, { seed: 5, requests: 150 });
    await compareWhole(device, twin);
    expect([...new Set((await extents(device)).map(({ depth }) => depth))]).toContain(2);
    await device.close();
    expect(host.files.openHandles).toBe(0);
    expect(Buffer.compare(await host.files.bytes('base'), baseBytes)).toBe(0);
    if (hasQemuImg) await judge(host.files, 'qcow2', twin, true);
  });

  it.skipIf(!hasQemuImg)('is mapped as the judge maps it (needs qemu-img)', async () => {
    const host = testHost();
    host.files.put('base', new Random(1).bytes(MIB));
    await make(host, { sizeBytes: 2 * MIB, backing: { name: 'base', format: 'raw' } });
    const device = await open(host);
    await device.write(200_000, new Uint8Array(300_000).fill(1));
    await device.writeZeroes(640 * KIB, 128 * KIB);
    await device.close();
    const reopened = await open(host, { readOnly: true });
    const ours = await extents(reopened);
    await reopened.close();
    const theirs = await withFolder(host.files, (folder) => JSON.parse(qemuImg(folder, 'map', '--output=json', 'image')) as JudgeExtent[]);
    const flat = (list: readonly { start: number; length: number; data: boolean; place: number | undefined }[]): string[] =>
      list.map(({ start, length, data, place }) => `${start}+${length} ${data ? `data at ${place}` : 'zero'}`);
    const merged: { start: number; length: number; data: boolean; place: number | undefined }[] = [];
    for (const { offset, length, kind, fileOffset } of ours) {
      const data = kind === 'data';
      const last = merged.at(-1);
      if (last !== undefined && last.data === data && (!data || last.place! + last.length === fileOffset)) last.length += length;
      else merged.push({ start: offset, length, data, place: fileOffset });
    }
    const judged: typeof merged = [];
    for (const { start, length, data, offset } of theirs) {
      const last = judged.at(-1);
      if (last !== undefined && !data && !last.data) last.length += length;
      else judged.push({ start, length, data, place: offset });
    }
    expect(flat(merged)).toEqual(flat(judged));
  });

  it('may not be a circle', async () => {
    const host = testHost();
    await make(host, { sizeBytes: MIB }, 'a');
    await make(host, { backing: { name: 'a', format: 'qcow2' } }, 'b');
    await host.files.remove('a');
    await host.files.rename('b', 'a');
    expect(await refusal(host, {}, 'a')).toMatch(/^corrupt: .*circle/);
  });

  it('does not leave the folder unless that is allowed', async () => {
    const host = testHost();
    for (const [name, kind] of [
      ['../etc/shadow', 'forbidden-reference'],
      ['/etc/shadow', 'forbidden-reference'],
      ['nbd://host/disk', 'unsupported'],
      ['json:{"driver":"raw"}', 'unsupported'],
    ] as const) {
      host.files.put('base', new Uint8Array(MIB));
      await make(host, { sizeBytes: MIB, backing: { name: 'base', format: 'raw' } });
      await patchName(host, name);
      expect(await refusal(host), name).toMatch(new RegExp(`^${kind}: `));
      await host.files.remove('image');
      await host.files.remove('base');
    }
  });
});

interface JudgeExtent {
  readonly start: number;
  readonly length: number;
  readonly data: boolean;
  readonly offset?: number;
}

async function extents(
  device: BlockDevice,
): Promise<{ offset: number; length: number; kind: string; depth: number; fileOffset?: number }[]> {
  const list = [];
  for await (const extent of device.map(0, device.sizeBytes)) list.push(extent);
  return list;
}

/** Gives the image another backing file by name, in place. */
async function patchName(host: TestHost, name: string): Promise<void> {
  const bytes = await host.files.bytes('image');
  const view = viewOf(bytes);
  bytes.set(Buffer.from(name), Number(view.getBigUint64(8)));
  view.setUint32(16, name.length);
  host.files.put('image', bytes);
}

describe('internal snapshots', () => {
  it.each([
    { clusterSize: 64 * KIB },
    { clusterSize: 512 },
    { clusterSize: 16 * KIB, extendedL2: true, refcountBits: 32 },
    { clusterSize: 4 * KIB, refcountBits: 4 },
  ])('are made, applied and deleted in any order with %j', async (options) => {
    const host = testHost();
    await make(host, { sizeBytes: 2 * MIB, ...options });
    const device = await open(host);
    const twin = new Uint8Array(device.sizeBytes);
    const kept = new Map<string, Uint8Array>();
    const snapshots = snapshotsOf(device);
    const random = new Random(17);
    for (let step = 0; step < 14; step++) {
      await exercise(device, twin, { seed: 100 + step, requests: 25, maxLength: 100_000 });
      const names = [...kept.keys()];
      const name = names[random.next(Math.max(1, names.length))];
      const choice = random.next(4);
      if (choice < 2 || name === undefined) {
        await snapshots.create(`s${step}`, DATE);
        kept.set(`s${step}`, twin.slice());
      } else if (choice === 2) {
        await snapshots.apply(name);
        twin.set(kept.get(name)!);
      } else {
        await snapshots.delete(name);
        kept.delete(name);
      }
      await compareWhole(device, twin);
    }
    expect(await checkImage(device)).toMatchObject({ errors: 0, leaks: 0, staleFlags: 0 });
    expect((await snapshots.list()).map(({ name }) => name).sort()).toEqual([...kept.keys()].sort());
    await device.close();
    for (const [name, content] of kept) {
      const past = await open(host, { snapshot: name });
      expect(past.readOnly).toBe(true);
      await compareWhole(past, content);
      await past.close();
    }
    if (hasQemuImg) await judge(host.files, 'qcow2', twin, true);
  });

  it.skipIf(!hasQemuImg)("of the judge are ours, and ours are the judge's (needs qemu-img)", async () => {
    const host = testHost();
    const old = new Random(2).bytes(MIB);
    host.files.put('raw', old);
    await changedInFolder(host.files, (folder) => {
      qemuImg(folder, 'convert', '-f', 'raw', '-O', 'qcow2', 'raw', 'image');
      qemuImg(folder, 'snapshot', '-c', 'theirs', 'image');
    });
    const device = await open(host);
    expect(await snapshotsOf(device).list()).toMatchObject([{ id: '1', name: 'theirs', diskBytes: MIB }]);
    await device.write(0, new Uint8Array(500_000).fill(1));
    await snapshotsOf(device).create('ours', DATE);
    await device.write(0, new Uint8Array(MIB).fill(2));
    await device.close();
    await changedInFolder(host.files, (folder) => {
      qemuImg(folder, 'check', 'image');
      expect(qemuImg(folder, 'snapshot', '-l', 'image')).toMatch(/2\s+ours.*2023-11-14/);
      qemuImg(folder, 'snapshot', '-a', 'theirs', 'image');
      qemuImg(folder, 'check', 'image');
    });
    await judge(host.files, 'qcow2', old, true);
    const past = await open(host, { snapshot: 'ours' });
    const middle = old.slice().fill(1, 0, 500_000);
    await compareWhole(past, middle);
    await past.close();
  });

  it('are refused where counts are too narrow, names are taken, or data lies elsewhere', async () => {
    const host = testHost();
    await make(host, { sizeBytes: MIB, refcountBits: 1 });
    const narrow = await open(host);
    await expect(snapshotsOf(narrow).create('a', DATE)).rejects.toThrow(/too narrow/);
    await narrow.close();
    await make(host, { sizeBytes: MIB }, 'second');
    const device = await open(host, {}, 'second');
    await snapshotsOf(device).create('a', DATE);
    await expect(snapshotsOf(device).create('a', DATE)).rejects.toThrow(/already/);
    await expect(snapshotsOf(device).apply('b')).rejects.toThrow(/no snapshot "b"/);
    await device.close();
    await make(host, { sizeBytes: MIB, dataFile: { name: 'data', raw: true } }, 'third');
    const external = await open(host, {}, 'third');
    await expect(snapshotsOf(external).create('a', DATE)).rejects.toThrow(/external data file/);
    await external.close();
  });
});

describe('compressed clusters', () => {
  const content = new Uint8Array(3 * MIB + 512);
  for (let at = 0; at < content.length; at += 40_000) content.set(new Random(at + 1).bytes(17_000), at);

  it.each([
    ['deflate', {}],
    ['zstd', {}],
    ['deflate', { clusterSize: 4 * KIB, refcountBits: 1 }],
    ['zstd', { clusterSize: 512, refcountBits: 2 }],
    ['zstd', { clusterSize: 2 * MIB, extendedL2: true }],
  ] as const)('are written with %s and %j, read, and overwritten', async (compression, options) => {
    const host = testHost();
    host.files.put('source', content);
    await make(host, { sizeBytes: content.length, compression, ...options });
    const source = await open(host, { format: 'raw', readOnly: true }, 'source');
    const target = await open(host);
    await copyDisk(source, target, { targetIsEmpty: true, compress: true });
    await source.close();
    await compareWhole(target, content);
    const report = await checkImage(target);
    expect(report).toMatchObject({ errors: 0, leaks: 0 });
    expect(report!.compressedClusters).toBeGreaterThan(0);
    await target.close();
    // Tables of 2 MiB clusters alone are larger than this disk.
    if (target.clusterSize < MIB) expect((await host.files.bytes('image')).length).toBeLessThan(content.length);
    if (hasQemuImg) await judge(host.files, 'qcow2', content, true);
    const device = await open(host);
    const twin = content.slice();
    await exercise(device, twin, { seed: 3, requests: 120 });
    await compareWhole(device, twin);
    await device.close();
    if (hasQemuImg) await judge(host.files, 'qcow2', twin, true);
  });

  it.skipIf(!hasQemuImg).each(['zlib', 'zstd'])('of the judge are read (%s, needs qemu-img)', async (type) => {
    const host = testHost();
    host.files.put('source', content);
    await changedInFolder(host.files, (folder) =>
      qemuImg(folder, 'convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', `compression_type=${type}`, 'source', 'image'),
    );
    const device = await open(host);
    await compareWhole(device, content);
    await device.close();
  });
});

describe('an external data file', () => {
  it.each([true, false])('holds the data, raw: %s', async (raw) => {
    const host = testHost();
    await make(host, { sizeBytes: 2 * MIB, dataFile: { name: 'data', raw } });
    const device = await open(host);
    const twin = new Uint8Array(device.sizeBytes);
    await exercise(device, twin, { seed: 8, requests: 120, discard: false });
    await compareWhole(device, twin);
    await device.resize(3 * MIB);
    await device.close();
    const grown = new Uint8Array(3 * MIB);
    grown.set(twin);
    if (raw) expect(Buffer.compare(await host.files.bytes('data'), grown)).toBe(0);
    if (hasQemuImg) await judge(host.files, 'qcow2', grown, true);
  });

  it.skipIf(!hasQemuImg).each(['on', 'off'])('of the judge is read and written, raw: %s (needs qemu-img)', async (raw) => {
    const host = testHost();
    await changedInFolder(host.files, (folder) =>
      qemuImg(folder, 'create', '-q', '-f', 'qcow2', '-o', `data_file=data,data_file_raw=${raw}`, 'image', '2M'),
    );
    const device = await open(host);
    const twin = new Uint8Array(device.sizeBytes);
    await exercise(device, twin, { seed: 9, requests: 120, discard: false });
    await compareWhole(device, twin);
    await device.close();
    await judge(host.files, 'qcow2', twin, true);
  });
});

describe('its size', () => {
  it.each([{ clusterSize: 512 }, { clusterSize: 64 * KIB }, { clusterSize: 16 * KIB, extendedL2: true }])(
    'grows and shrinks with %j',
    async (options) => {
      const host = testHost();
      host.files.put('base', new Random(4).bytes(3 * MIB));
      await make(host, { sizeBytes: MIB + 512, backing: { name: 'base', format: 'raw' }, ...options });
      const device = await open(host);
      let twin = await contentOf(device);
      for (const size of [2 * MIB, MIB - 512, 4 * MIB, 4 * MIB + 512, 512, 3 * MIB]) {
        const next = new Uint8Array(size);
        next.set(twin.subarray(0, size));
        twin = next;
        await device.resize(size);
        expect(device.sizeBytes).toBe(size);
        await compareWhole(device, twin);
        if (size > 4096) await exercise(device, twin, { seed: size, requests: 20, maxLength: 50_000 });
      }
      expect(await checkImage(device)).toMatchObject({ errors: 0, leaks: 0 });
      await device.close();
      if (hasQemuImg) await judge(host.files, 'qcow2', twin, true);
    },
  );
});

describe('check and repair', () => {
  it('finds lost and missing counts and makes them anew', async () => {
    const host = testHost();
    await make(host, { sizeBytes: MIB, clusterSize: 4 * KIB });
    const device = await open(host);
    const twin = new Uint8Array(MIB);
    await exercise(device, twin, { seed: 6, requests: 60 });
    await device.close();
    // The first block of counts: almost 40 used clusters count nothing, and 30 that do not exist count three times.
    const bytes = await host.files.bytes('image');
    const view = viewOf(bytes);
    const block = Number(view.getBigUint64(Number(view.getBigUint64(48))));
    for (let i = 20; i < 60; i++) view.setUint16(block + i * 2, 0);
    for (let i = 1000; i < 1030; i++) view.setUint16(block + i * 2, 3);
    host.files.put('image', bytes);
    const damaged = await open(host, { readOnly: true });
    const before = await checkImage(damaged);
    expect(before!.errors).toBeGreaterThan(30);
    expect(before).toMatchObject({ leaks: 30, repaired: false });
    await expect(checkImage(damaged, { repair: true })).rejects.toThrow(/reading only/);
    await damaged.close();
    const device2 = await open(host, { forRepair: true });
    expect(await checkImage(device2, { repair: true })).toMatchObject({ repaired: true, unrepairable: 0 });
    expect(await checkImage(device2)).toMatchObject({ errors: 0, leaks: 0, staleFlags: 0 });
    await compareWhole(device2, twin);
    await exercise(device2, twin, { seed: 7, requests: 60 });
    await device2.close();
    if (hasQemuImg) await judge(host.files, 'qcow2', twin, true);
  });

  it('refuses to write an image that is marked as damaged, and repairs one that is only dirty', async () => {
    const host = testHost();
    await make(host, { sizeBytes: MIB });
    const bytes = await host.files.bytes('image');
    viewOf(bytes).setUint32(76, 2);
    host.files.put('image', bytes);
    expect(await refusal(host)).toMatch(/^corrupt: .*--repair/);
    const readOnly = await open(host, { readOnly: true });
    await readOnly.close();
    viewOf(bytes).setUint32(76, 1);
    // The dirty bit excuses counts that are too low.
    const block = Number(viewOf(bytes).getBigUint64(Number(viewOf(bytes).getBigUint64(48))));
    viewOf(bytes).setUint16(block + 6, 0);
    host.files.put('image', bytes);
    const device = await open(host);
    expect(await checkImage(device)).toMatchObject({ errors: 0, leaks: 0 });
    await device.close();
    expect(viewOf(await host.files.bytes('image')).getUint32(76)).toBe(0);
  });

  it.skipIf(spawnSync('qemu-io', ['--version']).status !== 0)('takes over a lazy image that crashed (needs qemu-io)', async () => {
    const host = testHost();
    await changedInFolder(host.files, (folder) => {
      qemuImg(folder, 'create', '-q', '-f', 'qcow2', '-o', 'lazy_refcounts=on', 'image', '8M');
      spawnSync('qemu-io', ['-c', 'write -P 7 1M 3M', '-c', 'flush', '-c', 'abort', join(folder, 'image')], { stdio: 'ignore' });
    });
    expect(viewOf(await host.files.bytes('image')).getUint32(76) & 1).toBe(1);
    const device = await open(host);
    const twin = new Uint8Array(8 * MIB).fill(7, MIB, 4 * MIB);
    await compareWhole(device, twin);
    await exercise(device, twin, { seed: 2, requests: 40 });
    await device.close();
    await judge(host.files, 'qcow2', twin, true);
  });
});

describe('refusal', () => {
  it('of features that are not known, by name', async () => {
    const host = testHost();
    await make(host, { sizeBytes: MIB });
    const bytes = await host.files.bytes('image');
    viewOf(bytes).setUint32(76, 1 << 9);
    viewOf(bytes).setUint32(72, 1 << 3);
    host.files.put('image', bytes);
    expect(await refusal(host)).toMatch(/^unsupported: .*incompatible feature 9, incompatible feature 35/);
  });

  it.skipIf(!hasQemuImg)('of encryption (needs qemu-img)', async () => {
    const host = testHost();
    await changedInFolder(host.files, (folder) =>
      qemuImg(
        folder,
        'create',
        '-q',
        '--object',
        'secret,id=s,data=x',
        '-f',
        'qcow2',
        '-o',
        'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10',
        'image',
        '1M',
      ),
    );
    expect(await refusal(host)).toMatch(/^unsupported: .*encrypted/);
  });

  it('of a raw disk to become something else', async () => {
    const host = testHost();
    await make(host, { sizeBytes: MIB }, 'trap');
    host.files.put('image', new Uint8Array(2 * MIB));
    const guest = await open(host, { format: 'raw' });
    // The guest writes a QCOW2 header to its own disk.
    await guest.write(0, await host.files.bytes('trap'));
    await guest.close();
    const again = await open(host, { format: 'raw' });
    expect(again).toMatchObject({ format: 'raw', sizeBytes: 2 * MIB });
    await again.close();
  });
});
