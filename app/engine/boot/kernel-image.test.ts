// SPDX-License-Identifier: Apache-2.0
import { gzipSync, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadKernel } from './kernel-image.ts';
import { pvKernel } from './pv-kernel.ts';
import * as samples from './testing/compressed-samples.ts';
import { makeBzImage, makeElf, PV_NOTES, pvKernelFile, text } from './testing/make-kernel.ts';
import { zlibHost } from './testing/zlib-host.ts';

const load = (bytes: Uint8Array) => loadKernel(bytes, zlibHost);
const elf = pvKernelFile();

describe('files that are kernels', () => {
  it.each([
    ['a plain ELF kernel', elf, 'elf', undefined],
    ['a gzip-compressed ELF kernel', gzipSync(elf), 'elf', 'gzip'],
    ['a bzImage with gzip', makeBzImage({ payload: gzipSync(elf) }), 'bzimage', 'gzip'],
    ['a bzImage with Zstandard', makeBzImage({ payload: zstdCompressSync(elf), declaredSize: elf.length }), 'bzimage', 'zstd'],
    ['a bzImage without compression', makeBzImage({ payload: elf }), 'bzimage', undefined],
  ])('%s', async (_name, bytes, container, compression) => {
    const result = await load(bytes);
    expect(result).toMatchObject({ ok: true, value: { container, compression, elf: { bits: 64 }, notes: { guestOs: 'linux' } } });
  });

  it('keeps the version string of a bzImage printable', async () => {
    const result = await load(makeBzImage({ payload: gzipSync(elf), version: '6.1.0\x1b[2J (me)' }));
    expect(result).toMatchObject({ value: { bzImage: { kernelVersion: '6.1.0?[2J (me)' } } });
  });
});

describe('files that are not', () => {
  it.each([
    ['nothing', new Uint8Array(0), 'empty'],
    ['zeros', new Uint8Array(100_000), 'neither a Linux kernel'],
    ['a qcow2 image', text('QFI\xfb\0\0\0\x03'), 'qcow2'],
    ['an initramfs', text('070701000000'), 'give it as the initrd'],
    ['a compressed initramfs', gzipSync(text('070701000000')), 'give it as the initrd'],
    ['other compressed data', samples.xzKernel, 'neither a Linux kernel'],
    ['an ELF file of another machine', makeElf({ machine: 183, segments: [] }), 'another processor'],
  ])('%s', async (_name, bytes, message) => {
    expect(await load(bytes)).toMatchObject({ ok: false, error: { kind: 'not-a-kernel', message: expect.stringContaining(message) } });
  });
});

describe('damaged kernels', () => {
  it('a truncated bzImage says how much is missing', async () => {
    const bytes = makeBzImage({ payload: gzipSync(elf) });
    expect(await load(bytes.subarray(0, bytes.length - 10))).toMatchObject({
      error: { kind: 'damaged', message: expect.stringContaining('10 bytes are missing') },
    });
  });

  it('a payload that is cut inside of an intact file is no kernel', async () => {
    const cut = samples.xzKernel.subarray(0, 500);
    expect(await load(makeBzImage({ payload: cut, declaredSize: 6000 }))).toMatchObject({
      error: { kind: 'decompression', message: expect.stringContaining('truncated') },
    });
  });

  it('a payload must have the size that it declares', async () => {
    const payload = zstdCompressSync(elf);
    expect(await load(makeBzImage({ payload, declaredSize: elf.length + 1 }))).toMatchObject({
      error: { kind: 'decompression', message: expect.stringContaining(`instead of the declared ${elf.length + 1}`) },
    });
    expect(await load(makeBzImage({ payload, declaredSize: elf.length - 1 }))).toMatchObject({ error: { kind: 'decompression' } });
  });

  it('a declared size beyond what the header allows is refused before anything is allocated', async () => {
    const payload = zstdCompressSync(elf);
    expect(await load(makeBzImage({ payload, declaredSize: 0xffffffff, initSize: 0xffffffff }))).toMatchObject({
      error: { kind: 'damaged' },
    });
    expect(await load(makeBzImage({ payload, declaredSize: 100 << 20, initSize: 1 << 20 }))).toMatchObject({ error: { kind: 'damaged' } });
  });

  it('an old protocol or an unknown compression is named', async () => {
    expect(await load(makeBzImage({ payload: gzipSync(elf), protocol: 0x207 }))).toMatchObject({
      error: { message: expect.stringContaining('older than 2.6.26') },
    });
    expect(await load(makeBzImage({ payload: text('whatever this is'), declaredSize: 100 }))).toMatchObject({
      error: { kind: 'decompression', message: expect.stringContaining('unknown compression') },
    });
  });
});

describe('the verdict on PV', () => {
  const verdict = async (bytes: Uint8Array) => {
    const image = await load(bytes);
    if (!image.ok) throw new Error(image.error.message);
    return pvKernel(image.value);
  };
  const without = (type: number) => PV_NOTES.filter((note) => note.type !== type);
  const segment = { paddr: 0x100000, data: new Uint8Array(16) };

  it('places a kernel at VIRT_BASE', async () => {
    expect(await verdict(elf)).toMatchObject({
      value: { entry: -0x7ff00000, virtBase: -0x80000000, start: 0x100000, end: 0x102000, hypercallPage: undefined },
    });
  });

  it('subtracts PADDR_OFFSET from physical addresses that are virtual ones', async () => {
    const notes = [...without(4), { type: 4, desc: -0x80000000 }];
    const bytes = makeElf({ segments: [{ paddr: -0x80000000 + 0x100000, data: new Uint8Array(16) }], notes });
    expect(await verdict(bytes)).toMatchObject({ value: { start: 0x100000, end: 0x100010 } });
  });

  it('defaults: VIRT_BASE 0 with notes, PADDR_OFFSET to VIRT_BASE with the old section, ENTRY to the file', async () => {
    const plain = makeElf({ entry: 0x100004, segments: [segment], notes: PV_NOTES.filter(({ type }) => type === 5 || type === 8) });
    expect(await verdict(plain)).toMatchObject({ value: { entry: 0x100004, virtBase: 0, paddrOffset: 0 } });
    const old = makeElf({
      segments: [{ paddr: -0x80000000 + 0x100000, data: new Uint8Array(0x2000) }],
      entry: -0x7ff00000,
      guestSection: 'XEN_VER=xen-3.0,LOADER=generic,VIRT_BASE=0xffffffff80000000,HYPERCALL_PAGE=0x101',
    });
    expect(await verdict(old)).toMatchObject({
      value: { entry: -0x7ff00000, paddrOffset: -0x80000000, start: 0x100000, hypercallPage: -0x80000000 + 0x101000 },
    });
  });

  it.each([
    ['no notes', makeElf({ segments: [segment] }), 'not-pv', 'CONFIG_XEN_PV'],
    ['no notes in a bzImage', makeBzImage({ payload: makeElf({ segments: [segment] }) }), 'not-pv', 'it can boot in mode hvm'],
    ['only a PVH entry', makeElf({ bits: 32, segments: [segment], notes: [{ type: 18, desc: 5 }] }), 'not-pv', 'boot it in mode pvh'],
    [
      'a 32-bit PV kernel',
      makeElf({ bits: 32, segments: [segment], notes: PV_NOTES.filter(({ type }) => type > 4) }),
      'unsupported-pv',
      '32-bit PV is not supported',
    ],
    ['another loader', pvKernelFile([...without(8), { type: 8, desc: 'special' }]), 'unsupported-pv', '"special"'],
    ['another Xen', pvKernelFile([...without(5), { type: 5, desc: 'xen-9.0' }]), 'unsupported-pv', '"xen-9.0"'],
    ['a required feature', pvKernelFile([...PV_NOTES, { type: 10, desc: '!dom0' }]), 'unsupported-pv', 'dom0'],
    ['nothing to load', makeElf({ segments: [], notes: PV_NOTES }), 'damaged', 'nothing to load'],
    ['an entry outside', pvKernelFile([...without(1), { type: 1, desc: -0x1000 }]), 'damaged', 'entry point'],
    ['a base that is not aligned', pvKernelFile([...without(3), { type: 3, desc: -0x80000001 }]), 'damaged', 'aligned'],
    ['a base in the hypervisor range', pvKernelFile([...without(3), { type: 3, desc: -0x800000000000 }]), 'damaged', 'virtual addresses'],
    ['a hypercall page outside', pvKernelFile([...PV_NOTES, { type: 2, desc: -0x80000000 }]), 'damaged', 'hypercall page'],
    [
      'overlapping segments',
      makeElf({ segments: [segment, { paddr: 0x10000f, data: new Uint8Array(1) }], notes: PV_NOTES }),
      'damaged',
      'overlap',
    ],
    [
      'a segment beyond the file',
      makeElf({ segments: [{ ...segment, fileSize: 0x10000, memSize: 0x10000 }], notes: PV_NOTES }),
      'damaged',
      'behind the end of the file',
    ],
    ['less memory than file', makeElf({ segments: [{ ...segment, memSize: 8 }], notes: PV_NOTES }), 'damaged', 'larger in the file'],
  ])('%s', async (_name, bytes, kind, message) => {
    expect(await verdict(bytes)).toMatchObject({ ok: false, error: { kind, message: expect.stringContaining(message) } });
  });
});

it('hostile files give an error or a bounded kernel, never an exception', async () => {
  const files = [elf, makeElf({ bits: 32, segments: [], notes: PV_NOTES.filter(({ type }) => type > 4) }), makeBzImage({ payload: elf })];
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...files),
      fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { maxLength: 12 }),
      fc.option(fc.nat(1200)),
      async (file, changes, cut) => {
        const bytes = file.slice(0, cut ?? file.length);
        for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value;
        const image = await load(bytes);
        if (!image.ok) return;
        const kernel = pvKernel(image.value);
        if (!kernel.ok) return;
        for (const segment of kernel.value.segments) {
          expect(segment.start).toBeGreaterThanOrEqual(0);
          expect(segment.bytes.length).toBeLessThanOrEqual(segment.end - segment.start);
        }
      },
    ),
    { numRuns: 2000 },
  );
});
