// SPDX-License-Identifier: Apache-2.0
/**
 * Debian's own kernels and GRUB, as `npm run guests` fetches them: measured facts, and the start of day that Xen's own builder made.
 */
import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { mfn, PAGE_SIZE } from '../memory/frames.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import { inspectImage } from './inspect.ts';
import { loadKernel } from './kernel-image.ts';
import { buildPvDomain, type StartState } from './pv-builder.ts';
import { walkTables } from './testing/walk.ts';
import { zlibHost } from './testing/zlib-host.ts';

const GUEST_FRAMES = 65536;

function kernelFile(guest: string): string | undefined {
  const description = new URL(`../../../.cache/guests/${guest}/guest.json`, import.meta.url);
  if (!existsSync(description)) return undefined;
  const { guest: found } = JSON.parse(readFileSync(description, 'utf8')) as { guest: { kernel: string } };
  return existsSync(found.kernel) ? found.kernel : undefined;
}

async function build(file: string, initrdBytes: number): Promise<{ memory: GuestMemory; state: StartState }> {
  const image = await loadKernel(readFileSync(file), zlibHost);
  if (!image.ok) throw new Error(image.error.message);
  const memory = new GuestMemory({ guestFrames: GUEST_FRAMES, xenFrames: 1, vcpus: 1, codeArenaBytes: 0x10000 });
  const config = { commandLine: 'console=hvc0', sharedInfo: mfn(GUEST_FRAMES), storeEvtchn: 1, consoleEvtchn: 2 };
  const result = buildPvDomain(memory, config, image.value, initrdBytes === 0 ? undefined : new Uint8Array(initrdBytes));
  if (!result.ok) throw new Error(result.error.message);
  return { memory, state: result.value };
}

const COMMON_NOTES = {
  virtBase: -0x80000000,
  paddrOffset: 0,
  xenVersion: 'xen-3.0',
  guestOs: 'linux',
  guestVersion: '2.6',
  loader: 'generic',
  paeMode: 'yes',
  l1MfnValid: [{ mask: 1n, value: 1n }],
  suspendCancel: true,
  initP2m: 0x8000000000,
  modStartPfn: true,
} as const;

const xz = kernelFile('debian-6.1');
const lz4 = kernelFile('debian-6.1-cloud');
const zstd = kernelFile('debian-6.12');
const grub = kernelFile('grub-pv');
const unless = (file: string | undefined): string => (file === undefined ? ' (skipped: run "npm run guests" first)' : '');

describe('linux-image-6.1 amd64', () => {
  it.skipIf(xz === undefined)(`has the measured header and notes${unless(xz)}`, async () => {
    const bytes = readFileSync(xz ?? '');
    const image = await loadKernel(bytes, zlibHost);
    expect(image).toMatchObject({
      value: {
        compression: 'xz',
        bzImage: { protocol: 0x20f, setupSects: 39, payloadStart: 0x52cc, xloadflags: 0x7f, prefAddress: 0x1000000, efiStub: true },
        notes: { ...COMMON_NOTES, hvStartLow: -0x800000000000, features: { supported: 0x8811, required: 1 } },
      },
    });
    expect(image.ok && image.value.notes).not.toHaveProperty('hypercallPage');
    const report = await inspectImage(bytes, zlibHost);
    expect(Object.values(report.modes).every((mode) => mode.possible)).toBe(true);
    expect(report.kernelVersion).toMatch(/^6\.1\.\d/);
  });

  it.skipIf(xz === undefined)(`starts with 256 MiB as under Xen${unless(xz)}`, async () => {
    const { memory, state } = await build(xz ?? '', 0x214 * PAGE_SIZE);
    expect(state.layout).toMatchObject({
      kernel: { start: 0x1000, pages: 0x3a00 },
      startInfo: 0x4a00,
      xenstoreRing: 0x4a01,
      consoleRing: 0x4a02,
      pageTables: { start: 0x4a03, pages: 0x29 },
      bootStack: 0x4a2c,
      mappedEnd: 0x4c00,
      initrd: { start: 0x4c00, pages: 0x214 },
      p2m: { start: 0x4e14, pages: 0x80 },
      p2mWithTables: { start: 0x4e14, pages: 0x83 },
      p2mAddress: 0x8000000000,
    });
    expect(state.registers).toMatchObject({ rsp: -0x80000000 + 0x4a2d000, rsi: -0x80000000 + 0x4a00000, cs: 0xe033, ss: 0xe02b });
    const { mappings, tables } = walkTables(memory, state.root);
    expect(mappings.length).toBe(0x4c00 + 0x80);
    expect(tables.size).toBe(0x29 + 3);
    expect(mappings.filter(({ entry }) => (entry & 2n) === 0n).map(({ frame }) => frame)).toEqual(
      Array.from({ length: 0x29 }, (_, index) => 0x4a03 + index),
    );
  });
});

it.skipIf(lz4 === undefined)(`the cloud kernel (LZ4) builds${unless(lz4)}`, async () => {
  const { state } = await build(lz4 ?? '', 0x10000);
  expect(state.notes).toMatchObject(COMMON_NOTES);
});

it.skipIf(zstd === undefined)(`linux-image-6.12 (Zstandard) builds and is relocatable for PVH${unless(zstd)}`, async () => {
  const { state } = await build(zstd ?? '', 0x10000);
  expect(state.notes).toMatchObject({ ...COMMON_NOTES, phys32Reloc: { align: 0x200000, min: 0x1000000, max: 0x3fffffff } });
  expect(state.notes).not.toHaveProperty('hvStartLow');
});

it.skipIf(grub === undefined)(`GRUB for Xen PV builds at address 0 with its list in the mapping${unless(grub)}`, async () => {
  const { memory, state } = await build(grub ?? '', 5000);
  expect(state.notes).toMatchObject({ guestOs: 'GRUB', virtBase: 0, entry: 0, modStartPfn: false });
  const { layout } = state;
  expect(layout).toMatchObject({ kernel: { start: 0 }, initrdMapped: true, p2mWithTables: undefined });
  expect(layout.initrd?.start).toBe(layout.kernel.pages);
  expect(layout.p2mAddress).toBe(layout.p2m.start * PAGE_SIZE);
  expect(walkTables(memory, state.root).mappings.length).toBe(layout.mappedEnd);
});
