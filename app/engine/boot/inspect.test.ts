// SPDX-License-Identifier: Apache-2.0
import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { BOOT_MODES, type ImageReport, inspectImage } from './inspect.ts';
import * as samples from './testing/compressed-samples.ts';
import { makeBzImage, makeElf, PV_NOTES, pvKernelFile, text } from './testing/make-kernel.ts';
import { zlibHost } from './testing/zlib-host.ts';

const inspect = (bytes: Uint8Array, tail?: Uint8Array) => inspectImage(bytes, zlibHost, tail === undefined ? {} : { tail });
const possible = (report: ImageReport) => BOOT_MODES.filter((mode) => report.modes[mode].possible);
const at = (size: number, ...parts: readonly (readonly [number, Uint8Array | number[]])[]): Uint8Array => {
  const bytes = new Uint8Array(size);
  for (const [offset, part] of parts) bytes.set(part, offset);
  return bytes;
};

describe('kernels', () => {
  it('a bzImage with PV and PVH', async () => {
    const payload = gzipSync(pvKernelFile([...PV_NOTES, { type: 18, desc: 0x100000 }]));
    const report = await inspect(makeBzImage({ payload, version: '6.1.0-56-amd64 (debian) #1' }));
    expect(report).toMatchObject({
      kind: 'bzimage',
      description: 'Linux kernel 6.1.0-56-amd64 (bzImage, protocol 2.15, gzip)',
      compression: 'gzip',
      kernelVersion: '6.1.0-56-amd64 (debian) #1',
    });
    expect(possible(report)).toEqual(['pv', 'pvh', 'pvhvm', 'hvm-bios']);
    expect(report.modes['hvm-uefi'].reason).toContain('EFI stub');
  });

  it('a bzImage that does not know Xen', async () => {
    const report = await inspect(makeBzImage({ payload: makeElf({ segments: [{ paddr: 0x1000, data: text('x') }] }) }));
    expect(possible(report)).toEqual(['hvm-bios']);
    expect(report.modes.pv.reason).toContain('no Xen notes');
  });

  it('a bare PVH kernel and a compressed PV kernel', async () => {
    const pvh = makeElf({ bits: 32, segments: [{ paddr: 0x1000, data: text('x') }], notes: [{ type: 18, desc: 0x1000 }] });
    expect(possible(await inspect(pvh))).toEqual(['pvh']);
    const packed = await inspect(gzipSync(pvKernelFile()));
    expect(packed).toMatchObject({ kind: 'elf-kernel', compression: 'gzip', description: '64-bit ELF kernel of linux (gzip)' });
    expect(possible(packed)).toEqual(['pv']);
  });

  it('a damaged one says what is wrong, for every mode', async () => {
    const bytes = makeBzImage({ payload: samples.xzKernel.subarray(0, 700), declaredSize: 6000, version: '6.1' });
    const report = await inspect(bytes);
    expect(report).toMatchObject({ kind: 'bzimage', kernelVersion: '6.1', problem: { kind: 'decompression' } });
    expect(possible(report)).toEqual([]);
  });
});

describe('everything else, by magic number', () => {
  const mbr = (type: number): [number, number[]][] => [
    [446 + 4, [type]],
    [510, [0x55, 0xaa]],
  ];
  const volume: [number, Uint8Array] = [0x8000, text('\x01CD001')];
  const elTorito: [number, Uint8Array] = [0x8800, text('\0CD001\x01EL TORITO SPECIFICATION')];
  const catalog = 0x9000;
  const gpt = at(
    4096,
    ...mbr(0xee),
    [512, text('EFI PART')],
    [512 + 72, [2]],
    [512 + 80, [4]],
    [512 + 84, [128]],
    [1024 + 128, [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]],
  );

  it.each<[string, Uint8Array, ImageReport['kind'], string, readonly string[]]>([
    ['cpio', text('070701AABB'), 'initramfs', 'initramfs', []],
    ['gzip-compressed cpio', gzipSync(text('070701AABB')), 'initramfs', 'initramfs (gzip)', []],
    ['compressed data', samples.xzKernel, 'unknown', 'compressed data (XZ)', []],
    ['qcow2', text('QFI\xfb'), 'disk-image', 'qcow2', ['pvhvm', 'hvm-bios', 'hvm-uefi']],
    ['VMDK', text('KDMV'), 'disk-image', 'VMDK', ['pvhvm', 'hvm-bios', 'hvm-uefi']],
    ['VDI', at(128, [0x40, [0x7f, 0x10, 0xda, 0xbe]]), 'disk-image', 'VDI', ['pvhvm', 'hvm-bios', 'hvm-uefi']],
    ['VHDX', text('vhdxfile'), 'disk-image', 'VHDX', ['pvhvm', 'hvm-bios', 'hvm-uefi']],
    ['dynamic VHD', text('conectix'), 'disk-image', 'VHD', ['pvhvm', 'hvm-bios', 'hvm-uefi']],
    ['MBR disk with boot code', at(512, [0, [0xeb]], ...mbr(0x83)), 'raw-disk', 'an MBR', ['pvhvm', 'hvm-bios']],
    ['MBR disk without', at(512, ...mbr(0x83)), 'raw-disk', 'an MBR', []],
    ['GPT disk with an EFI partition', gpt, 'raw-disk', 'a GPT', ['pvhvm', 'hvm-uefi']],
    ['ISO that does not boot', at(0x9000, volume), 'iso', 'ISO 9660', []],
    [
      'ISO with both boot entries',
      at(
        0x9800,
        volume,
        elTorito,
        [0x8847, [catalog / 2048]],
        [catalog, [1]],
        [catalog + 32, [0x88]],
        [catalog + 64, [0x91, 0xef]],
        [catalog + 96, [0x88]],
      ),
      'iso',
      'ISO 9660',
      ['pvhvm', 'hvm-bios', 'hvm-uefi'],
    ],
    ['EFI application', at(128, [0, text('MZ')], [0x3c, [64]], [64, text('PE\0\0')]), 'efi-application', 'EFI application', ['hvm-uefi']],
    ['text', text('hello, this is a letter'), 'unknown', 'unknown file', []],
    ['nothing', new Uint8Array(0), 'unknown', 'unknown file', []],
  ])('%s', async (_name, bytes, kind, description, modes) => {
    const report = await inspect(bytes);
    expect(report.kind).toBe(kind);
    expect(report.description).toContain(description);
    expect(possible(report)).toEqual(modes);
    for (const mode of BOOT_MODES) expect(report.modes[mode].reason).not.toBe('');
  });

  it('a fixed VHD shows itself at its end only', async () => {
    const tail = at(512, [0, text('conectix')]);
    expect(await inspect(new Uint8Array(512), tail)).toMatchObject({ kind: 'disk-image', diskFormat: 'vhd' });
  });
});
