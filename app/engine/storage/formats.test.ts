// SPDX-License-Identifier: Apache-2.0
/** Every format against a raw twin under random requests, and before the independent judge in both directions. */
import { describe, expect, it } from 'vitest';
import { createImage, type CreateImageOptions } from './create-image.ts';
import { openImage } from './open-image.ts';
import { hasQemuImg, judge, judgeFormat, qemuImg } from './testing/qemu-img.ts';
import { changedInFolder, testHost, type TestHost, unwrap } from './testing/test-host.ts';
import { compareWhole, exercise } from './testing/twin.ts';

const MIB = 1024 * 1024;
type Ours = Omit<CreateImageOptions, 'format' | 'sizeBytes' | 'nowSeconds'>;

interface Case {
  readonly format: CreateImageOptions['format'];
  readonly sizeBytes: number;
  /** How we make it; absent: only the judge can. */
  readonly ours?: Ours;
  /** How the judge makes it. */
  readonly theirs?: string;
  /** `qemu-img check` knows it. */
  readonly checked?: boolean;
}

const qcow2 = (sizeMib: number, ours: Ours, theirs: string): Case => ({
  format: 'qcow2',
  sizeBytes: sizeMib * MIB,
  ours,
  theirs,
  checked: true,
});

const CASES: readonly Case[] = [
  { format: 'raw', sizeBytes: 5 * MIB, ours: {}, theirs: '' },
  qcow2(8, {}, 'compat=1.1'),
  qcow2(8, { version: 2 }, 'compat=0.10'),
  qcow2(3, { version: 2, clusterSize: 1024 }, 'compat=0.10,cluster_size=1k'),
  qcow2(3, { clusterSize: 512 }, 'cluster_size=512'),
  qcow2(3, { clusterSize: 512, refcountBits: 64 }, 'cluster_size=512,refcount_bits=64'),
  qcow2(2, { clusterSize: 512, refcountBits: 1 }, 'cluster_size=512,refcount_bits=1'),
  qcow2(4, { clusterSize: 4096, refcountBits: 2 }, 'cluster_size=4k,refcount_bits=2'),
  qcow2(4, { clusterSize: 8192, refcountBits: 4 }, 'cluster_size=8k,refcount_bits=4'),
  qcow2(8, { clusterSize: 16384, refcountBits: 8, extendedL2: true }, 'cluster_size=16k,refcount_bits=8,extended_l2=on'),
  qcow2(12, { extendedL2: true, lazyRefcounts: true }, 'extended_l2=on,lazy_refcounts=on'),
  qcow2(12, { clusterSize: 2 * MIB, refcountBits: 32 }, 'cluster_size=2M,refcount_bits=32'),
  qcow2(12, { clusterSize: 2 * MIB, extendedL2: true }, 'cluster_size=2M,extended_l2=on'),
  qcow2(8, { compression: 'zstd' }, 'compression_type=zstd'),
  { ...qcow2(5, {}, 'preallocation=metadata') },
  { format: 'vdi', sizeBytes: 6 * MIB, ours: {}, theirs: '', checked: true },
  { format: 'vdi', sizeBytes: 6 * MIB + 512, ours: {}, checked: true },
  { format: 'vdi', sizeBytes: 6 * MIB, ours: { fixed: true }, theirs: 'static=on', checked: true },
  { format: 'vhd', sizeBytes: 6 * MIB, ours: {}, theirs: 'force_size=on' },
  { format: 'vhd', sizeBytes: 6 * MIB, theirs: '' },
  { format: 'vhd', sizeBytes: 5 * MIB, ours: { fixed: true }, theirs: 'subformat=fixed,force_size=on' },
  { format: 'vhdx', sizeBytes: 33 * MIB, ours: {}, theirs: '', checked: true },
  { format: 'vhdx', sizeBytes: 6 * MIB, ours: { clusterSize: MIB }, theirs: 'block_size=1M,log_size=2M', checked: true },
  { format: 'vhdx', sizeBytes: 6 * MIB, ours: { fixed: true, clusterSize: MIB }, theirs: 'subformat=fixed,block_size=1M', checked: true },
  { format: 'vmdk', sizeBytes: 6 * MIB, ours: {}, theirs: '', checked: true },
  { format: 'vmdk', sizeBytes: 6 * MIB, ours: { fixed: true }, theirs: 'subformat=monolithicFlat' },
  { format: 'vmdk', sizeBytes: 6 * MIB, theirs: 'subformat=twoGbMaxExtentSparse' },
  { format: 'vmdk', sizeBytes: 6 * MIB, theirs: 'subformat=twoGbMaxExtentFlat' },
  { format: 'vmdk', sizeBytes: 6 * MIB, theirs: 'zeroed_grain=on', checked: true },
  { format: 'vmdk', sizeBytes: 6 * MIB, theirs: 'compat6=on', checked: true },
];

const title = ({ format, ours, theirs }: Case): string => `${format} ${ours === undefined ? theirs : JSON.stringify(ours)}`;

/** Three sessions of random requests; each must leave what the next one reads. Gives the twin. */
async function sessions(host: TestHost, image: string, format: Case['format'], seed: number): Promise<Uint8Array> {
  let twin = new Uint8Array(0);
  for (let session = 0; session < 3; session++) {
    // The format is found by content the first time and given afterwards, as an application does.
    const device = unwrap(await openImage(host, image, session === 0 ? {} : { format }));
    expect(device.format).toBe(format);
    if (session === 0) twin = new Uint8Array(device.sizeBytes);
    await exercise(device, twin, { seed: seed * 10 + session, requests: 100, maxLength: MIB });
    await compareWhole(device, twin);
    let covered = 0;
    for await (const extent of device.map(0, device.sizeBytes)) {
      expect(extent.offset).toBe(covered);
      covered += extent.length;
    }
    expect(covered).toBe(device.sizeBytes);
    await device.close();
    expect(host.files.openHandles).toBe(0);
  }
  return twin;
}

describe.each(CASES.filter(({ ours }) => ours !== undefined).map((test) => [title(test), test] as const))('%s', (_title, test) => {
  it('agrees with a raw twin', async () => {
    const host = testHost();
    unwrap(await createImage(host, 'image', { format: test.format, sizeBytes: test.sizeBytes, nowSeconds: 1_700_000_000, ...test.ours }));
    const twin = await sessions(host, 'image', test.format, 1);
    expect(twin.some((byte) => byte !== 0)).toBe(true);
  });

  it.skipIf(!hasQemuImg)('is clean and equal before the judge (needs qemu-img)', async () => {
    const host = testHost();
    unwrap(await createImage(host, 'image', { format: test.format, sizeBytes: test.sizeBytes, nowSeconds: 1_700_000_000, ...test.ours }));
    await judge(host.files, test.format, await sessions(host, 'image', test.format, 2), test.checked === true);
  });
});

describe.each(CASES.filter(({ theirs }) => theirs !== undefined).map((test) => [`${test.format} ${test.theirs}`, test] as const))(
  "the judge's %s",
  (_title, test) => {
    it.skipIf(!hasQemuImg)('is read, written and still clean (needs qemu-img)', async () => {
      const host = testHost();
      await changedInFolder(host.files, (folder) =>
        qemuImg(
          folder,
          'create',
          '-q',
          '-f',
          judgeFormat(test.format),
          ...(test.theirs === '' ? [] : ['-o', test.theirs!]),
          'image',
          `${test.sizeBytes}`,
        ),
      );
      await judge(host.files, test.format, await sessions(host, 'image', test.format, 3), test.checked === true);
    });
  },
);
