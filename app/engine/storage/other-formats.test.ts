// SPDX-License-Identifier: Apache-2.0
/** What is particular to VMDK, VHD, VHDX and the overlay. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { BlockDevice } from './block-device.ts';
import { compareDisks, copyDisk } from './copy-image.ts';
import { MemoryFile } from './core/memory-file.ts';
import { crc32c, setU64, viewOf } from './core/bytes.ts';
import { createImage, type CreateImageOptions } from './create-image.ts';
import { openImage, type OpenImageOptions } from './open-image.ts';
import { OverlayDevice } from './overlay/overlay-device.ts';
import { hasQemuImg, judge, qemuImg } from './testing/qemu-img.ts';
import { changedInFolder, testHost, type TestHost, unwrap } from './testing/test-host.ts';
import { compareWhole, exercise, Random } from './testing/twin.ts';
import { checksum } from './vhd/vhd-footer.ts';

const MIB = 1024 * 1024;

async function make(host: TestHost, name: string, options: Omit<CreateImageOptions, 'nowSeconds'>): Promise<void> {
  unwrap(await createImage(host, name, { nowSeconds: 0, ...options }));
}

async function open(host: TestHost, name: string, options: OpenImageOptions = {}): Promise<BlockDevice> {
  return unwrap(await openImage(host, name, options));
}

describe('vmdk', () => {
  it.skipIf(!hasQemuImg)('reads stream-optimized images (needs qemu-img)', async () => {
    const host = testHost();
    const content = new Uint8Array(3 * MIB + 1024);
    for (let at = 0; at < content.length; at += 300_000) content.set(new Random(at + 1).bytes(100_000), at);
    host.files.put('raw', content);
    await changedInFolder(host.files, (folder) =>
      qemuImg(folder, 'convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', 'raw', 'image'),
    );
    const device = await open(host, 'image');
    expect(device).toMatchObject({ format: 'vmdk', readOnly: true });
    await compareWhole(device, content);
    await device.close();
  });

  it('opens extents only beside the descriptor', async () => {
    const host = testHost();
    const extent = (file: string): string =>
      `# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 2048 FLAT "${file}" 0\n`;
    host.files.put('image', Buffer.from(extent('../../home/user/.profile')));
    expect(await openImage(host, 'image')).toMatchObject({ ok: false, error: { kind: 'forbidden-reference' } });
    host.files.put('image', Buffer.from(extent('image')));
    expect(await openImage(host, 'image')).toMatchObject({ ok: false, error: { kind: 'corrupt' } });
    host.files.put('short', new Uint8Array(1000));
    host.files.put('image', Buffer.from(extent('short')));
    expect(await openImage(host, 'image')).toMatchObject({ ok: false, error: { kind: 'corrupt' } });
    expect(host.files.openHandles).toBe(0);
  });
});

describe('vhd', () => {
  it('reads differencing images, sector by sector', async () => {
    const host = testHost();
    await make(host, 'base.vhd', { format: 'vhd', sizeBytes: 4 * MIB });
    const base = await open(host, 'base.vhd');
    const twin = new Random(1).bytes(4 * MIB);
    await base.write(0, twin);
    await base.close();
    // A differencing image is a dynamic one whose header names a parent and whose bitmaps choose.
    await make(host, 'image', { format: 'vhd', sizeBytes: 4 * MIB });
    const child = await open(host, 'image');
    const own = new Random(2).bytes(2 * MIB);
    await child.write(2 * MIB, own);
    await child.close();
    const bytes = await host.files.bytes('image');
    const baseId = (await host.files.bytes('base.vhd')).subarray(68, 84);
    const header = bytes.subarray(512, 1536);
    header.set(baseId, 40);
    const baseName = 'C:\\disks\\base.vhd';
    for (let index = 0; index < baseName.length; index++) viewOf(header).setUint16(64 + index * 2, baseName.charCodeAt(index));
    viewOf(header).setUint32(36, checksum(header, 36));
    for (const at of [0, bytes.length - 512]) {
      const footer = bytes.subarray(at, at + 512);
      viewOf(footer).setUint32(60, 4);
      viewOf(footer).setUint32(64, checksum(footer, 64));
    }
    const bitmapAt = bytes.indexOf(0xff, 2048);
    for (let sector = 0; sector < 4096; sector++) if (sector % 3 !== 0) bytes[bitmapAt + (sector >> 3)] &= ~(0x80 >> (sector & 7));
    host.files.put('image', bytes);
    for (let sector = 0; sector < 4096; sector += 3) twin.set(own.subarray(sector * 512, sector * 512 + 512), 2 * MIB + sector * 512);
    const device = await open(host, 'image');
    expect(device.readOnly).toBe(true);
    await compareWhole(device, twin);
    await device.close();
    // Another parent of the same name is not taken.
    await host.files.remove('base.vhd');
    const other = { ...host, entropy: { fill: (into: Uint8Array) => void into.fill(0x77) } };
    await make(other, 'base.vhd', { format: 'vhd', sizeBytes: 4 * MIB });
    expect(await openImage(host, 'image')).toMatchObject({ ok: false, error: { kind: 'corrupt' } });
  });
});

describe('vhdx', () => {
  it.skipIf(spawnSync('qemu-io', ['--version']).status !== 0)('opens what the judge did not close (needs qemu-io)', async () => {
    const host = testHost();
    await changedInFolder(host.files, (folder) => {
      qemuImg(folder, 'create', '-q', '-f', 'vhdx', '-o', 'block_size=1M', 'image', '8M');
      spawnSync('qemu-io', ['-c', 'write -P 5 0 1M', '-c', 'write -P 6 3M 1M', '-c', 'flush', '-c', 'abort', join(folder, 'image')], {
        stdio: 'ignore',
      });
    });
    const device = await open(host, 'image');
    const twin = new Uint8Array(8 * MIB).fill(5, 0, MIB).fill(6, 3 * MIB, 4 * MIB);
    await compareWhole(device, twin);
    await device.close();
    await judge(host.files, 'vhdx', twin, true);
  });

  /** An image whose log says that block 1 of the disk lies where block 0 does; the table does not know yet. */
  async function withLog(host: TestHost): Promise<void> {
    await make(host, 'image', { format: 'vhdx', sizeBytes: 4 * MIB, clusterSize: MIB });
    const device = await open(host, 'image');
    await device.write(0, new Uint8Array(MIB).fill(9));
    await device.close();
    const bytes = await host.files.bytes('image');
    const logGuid = new Uint8Array(16).fill(0x42);
    for (const at of [65_536, 131_072]) {
      const header = bytes.subarray(at, at + 4096);
      header.set(logGuid, 48);
      viewOf(header).setUint32(4, crc32c(header, 4), true);
    }
    // Two entries that follow each other at 8 KiB: the first is older and partly undone by the second.
    const table = bytes.slice(3 * MIB, 3 * MIB + 4096);
    setU64(viewOf(table), 8, 4 * MIB + 6, true);
    const wrong = table.slice();
    setU64(viewOf(wrong), 8, 4 * MIB + 2, true);
    bytes.set(logEntry(wrong, 11, 8192, logGuid, bytes.length), MIB + 8192);
    bytes.set(logEntry(table, 12, 8192, logGuid, bytes.length), MIB + 16_384);
    host.files.put('image', bytes);
  }

  function logEntry(sector: Uint8Array, sequence: number, tail: number, logGuid: Uint8Array, size: number): Uint8Array {
    const entry = new Uint8Array(8192);
    const view = viewOf(entry);
    entry.set(Buffer.from('loge'));
    view.setUint32(8, 8192, true);
    view.setUint32(12, tail, true);
    setU64(view, 16, sequence, true);
    view.setUint32(24, 1, true);
    entry.set(logGuid, 32);
    setU64(view, 48, size, true);
    setU64(view, 56, size, true);
    entry.set(Buffer.from('desc'), 64);
    entry.set(sector.subarray(4092), 68);
    entry.set(sector.subarray(0, 8), 72);
    setU64(view, 80, 3 * MIB, true);
    setU64(view, 88, sequence, true);
    entry.set(sector, 4096);
    entry.set(Buffer.from('data'), 4096);
    view.setUint32(4100, 0, true);
    view.setUint32(8188, sequence, true);
    view.setUint32(4, crc32c(entry, 4), true);
    return entry;
  }

  it('replays a log of several entries before writing', async () => {
    const host = testHost();
    await withLog(host);
    const device = await open(host, 'image');
    const twin = new Uint8Array(4 * MIB).fill(9, 0, 2 * MIB);
    await compareWhole(device, twin);
    await device.close();
    expect((await host.files.bytes('image')).subarray(131_072 + 48, 131_072 + 64).some((byte) => byte !== 0)).toBe(true);
    const again = await open(host, 'image', { readOnly: true });
    await compareWhole(again, twin);
    await again.close();
    if (hasQemuImg) await judge(host.files, 'vhdx', twin, true);
  });

  it('shows the log of an image that may not be written without touching it', async () => {
    const host = testHost();
    await withLog(host);
    const before = await host.files.bytes('image');
    const device = await open(host, 'image', { readOnly: true });
    await compareWhole(device, new Uint8Array(4 * MIB).fill(9, 0, 2 * MIB));
    await device.close();
    expect(Buffer.compare(await host.files.bytes('image'), before)).toBe(0);
  });
});

describe.each(['vdi', 'vhd', 'vhdx'] as const)('the size of a dynamic %s', (format) => {
  it('grows', async () => {
    const host = testHost();
    await make(host, 'image', { format, sizeBytes: 3 * MIB });
    const device = await open(host, 'image');
    const twin = new Uint8Array(4 * MIB);
    await exercise(device, twin.subarray(0, 3 * MIB), { seed: 1, requests: 50 });
    await device.resize(4 * MIB);
    await exercise(device, twin, { seed: 2, requests: 50 });
    await expect(device.resize(MIB)).rejects.toThrow(/smaller/);
    await device.close();
    const again = await open(host, 'image');
    await compareWhole(again, twin);
    await again.close();
    if (hasQemuImg) await judge(host.files, format, twin, format !== 'vhd');
  });
});

describe('a fixed vhd', () => {
  it('grows and shrinks with its footer', async () => {
    const host = testHost();
    await make(host, 'image', { format: 'vhd', sizeBytes: 2 * MIB, fixed: true });
    const device = await open(host, 'image');
    await device.write(0, new Uint8Array(2 * MIB).fill(1));
    for (const size of [3 * MIB, 2 * MIB + 512, MIB, 5 * MIB]) await device.resize(size);
    await device.close();
    const twin = new Uint8Array(5 * MIB).fill(1, 0, MIB);
    const again = await open(host, 'image');
    await compareWhole(again, twin);
    await again.close();
    if (hasQemuImg) await judge(host.files, 'vhd', twin, false);
  });
});

describe('a disposable overlay', () => {
  it('leaves the disk alone until it is committed', async () => {
    const host = testHost();
    await make(host, 'image', { format: 'qcow2', sizeBytes: 3 * MIB + 512 });
    const base = await open(host, 'image');
    const kept = new Uint8Array(base.sizeBytes);
    await exercise(base, kept, { seed: 1, requests: 50 });
    const overlay = new OverlayDevice(base, new MemoryFile('overlay', 64 * MIB));
    const twin = kept.slice();
    await exercise(overlay, twin, { seed: 2, requests: 150 });
    await compareWhole(overlay, twin);
    await compareWhole(base, kept);
    await overlay.discardChanges();
    await compareWhole(overlay, kept);
    expect(overlay.changedBytes).toBe(0);
    const second = kept.slice();
    await exercise(overlay, second, { seed: 3, requests: 150 });
    await overlay.commit();
    await compareWhole(base, second);
    await exercise(overlay, second, { seed: 4, requests: 50 });
    await compareWhole(overlay, second);
    await overlay.close();
    expect(host.files.openHandles).toBe(0);
  });

  it('stays within its memory and goes on after that', async () => {
    const host = testHost();
    host.files.put('image', new Uint8Array(4 * MIB));
    const base = await open(host, 'image', { format: 'raw', readOnly: true });
    const overlay = new OverlayDevice(base, new MemoryFile('overlay', MIB));
    await overlay.write(0, new Uint8Array(MIB).fill(1));
    await expect(overlay.write(2 * MIB, new Uint8Array(MIB))).rejects.toMatchObject({ kind: 'no-space' });
    const read = new Uint8Array(MIB);
    await overlay.read(0, read);
    expect(read.every((byte) => byte === 1)).toBe(true);
    await expect(overlay.commit()).rejects.toMatchObject({ kind: 'read-only' });
    await overlay.close();
  });
});

describe('copying', () => {
  it('takes a disk from any format to any other', async () => {
    const host = testHost();
    const content = new Uint8Array(3 * MIB);
    for (let at = 0; at < content.length; at += 700_000) content.set(new Random(at + 1).bytes(100_000), at);
    host.files.put('raw', content);
    const formats = ['qcow2', 'vdi', 'vhd', 'vhdx', 'vmdk', 'raw'] as const;
    let from = 'raw';
    for (const format of formats) {
      const to = `as-${format}`;
      await make(host, to, { format, sizeBytes: content.length });
      const source = await open(host, from, { readOnly: true });
      const target = await open(host, to);
      const seen: number[] = [];
      await copyDisk(source, target, { targetIsEmpty: true, onProgress: (fraction) => seen.push(fraction) });
      expect(await compareDisks(source, target)).toEqual({ equal: true, firstDifference: null, sizesDiffer: false });
      expect(seen.at(-1)).toBe(1);
      expect([...seen].sort((a, b) => a - b)).toEqual(seen);
      await source.close();
      await target.close();
      if (hasQemuImg) await judge(host.files, format, content, format === 'qcow2' || format === 'vdi', to);
      from = to;
    }
  });

  it('finds the first byte that differs, and what is only longer', async () => {
    const host = testHost();
    host.files.put('a', new Uint8Array(3 * MIB).fill(1, 0, 100));
    host.files.put('b', new Uint8Array(2 * MIB).fill(1, 0, 100));
    const [a, b] = [await open(host, 'a', { format: 'raw' }), await open(host, 'b', { format: 'raw' })];
    expect(await compareDisks(a, b)).toEqual({ equal: true, firstDifference: null, sizesDiffer: true });
    await a.write(2 * MIB + 12_345, Uint8Array.of(1));
    expect(await compareDisks(a, b)).toEqual({ equal: false, firstDifference: 2 * MIB + 12_345, sizesDiffer: true });
    await b.write(1_234_567, Uint8Array.of(1));
    expect(await compareDisks(b, a)).toMatchObject({ equal: false, firstDifference: 1_234_567 });
    await a.close();
    await b.close();
  });

  it('can be cancelled', async () => {
    const host = testHost();
    host.files.put('a', new Uint8Array(3 * MIB).fill(1));
    host.files.put('b', new Uint8Array(3 * MIB));
    const [a, b] = [await open(host, 'a', { format: 'raw' }), await open(host, 'b', { format: 'raw' })];
    const signal = { aborted: false };
    const work = copyDisk(a, b, { targetIsEmpty: true, signal, onProgress: () => (signal.aborted = true) });
    await expect(work).rejects.toMatchObject({ kind: 'cancelled' });
  });
});
