// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { mfn, PAGE_SIZE } from '../memory/frames.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import { type KernelImage, loadKernel } from './kernel-image.ts';
import { buildPvDomain, type PvDomainConfig, type StartState } from './pv-builder.ts';
import { makeElf, PV_NOTES, pvKernelFile, type TestNote, text } from './testing/make-kernel.ts';
import { walkTables } from './testing/walk.ts';
import { zlibHost } from './testing/zlib-host.ts';

const GUEST_FRAMES = 4096;
const BASE = -0x80000000;

const newMemory = (guestFrames = GUEST_FRAMES): GuestMemory =>
  new GuestMemory({ guestFrames, xenFrames: 1, vcpus: 1, codeArenaBytes: 0x10000 });

async function kernelOf(bytes: Uint8Array): Promise<KernelImage> {
  const image = await loadKernel(bytes, zlibHost);
  if (!image.ok) throw new Error(image.error.message);
  return image.value;
}

const config: PvDomainConfig = { commandLine: 'console=hvc0', sharedInfo: mfn(GUEST_FRAMES), storeEvtchn: 1, consoleEvtchn: 2 };

async function build(
  notes: readonly TestNote[],
  initrd?: Uint8Array,
  memory = newMemory(),
): Promise<{ memory: GuestMemory; state: StartState }> {
  const result = buildPvDomain(memory, config, await kernelOf(pvKernelFile(notes)), initrd);
  if (!result.ok) throw new Error(result.error.message);
  return { memory, state: result.value };
}

/** start_info as a DataView. */
const startInfo = (memory: GuestMemory, state: StartState): DataView =>
  new DataView(memory.read(state.startInfo * PAGE_SIZE, PAGE_SIZE).buffer);
const signed = (view: DataView, at: number): number => Number(view.getBigInt64(at, true));

const INIT_P2M = { type: 15, desc: 0x8000000000 };
const MOD_START_PFN = { type: 16, desc: 1 };
const initrd = Uint8Array.from({ length: 5000 }, (_, index) => index % 251);

/** What must hold for every domain. */
function checkTables(memory: GuestMemory, state: StartState, nrPages: number): void {
  const { layout } = state;
  const { mappings, tables } = walkTables(memory, state.root);
  expect(new Map([...tables].map(([frame, { level }]) => [frame, level]))).toEqual(
    new Map(state.pageTables.map(({ frame, level }) => [frame, level])),
  );
  const byAddress = new Map(mappings.map((mapping) => [mapping.address, mapping]));
  const expected = new Map<bigint, number>();
  const unsigned = (address: number): bigint => BigInt.asUintN(64, BigInt(address));
  for (let frame = 0; frame < layout.mappedEnd; frame++) expected.set(unsigned(layout.virtBase + frame * PAGE_SIZE), frame);
  for (let page = 0; page < layout.p2m.pages; page++) expected.set(unsigned(layout.p2mAddress + page * PAGE_SIZE), layout.p2m.start + page);
  expect(new Set(byAddress.keys())).toEqual(new Set(expected.keys()));
  for (const [address, frame] of expected) {
    const mapping = byAddress.get(address);
    expect(mapping?.frame).toBe(frame);
    expect(mapping?.entry).toBe((BigInt(frame) << 12n) | (tables.has(frame) ? 0x21n : 0x23n));
  }
  for (const { entry } of tables.values()) if (entry !== undefined) expect(entry & 0xfffn).toBe(0x67n);
  const list = memory.read(layout.p2m.start * PAGE_SIZE, nrPages * 8);
  const entries = new BigUint64Array(list.buffer);
  expect(entries.every((value, frame) => value === BigInt(frame))).toBe(true);
}

describe('a kernel with INIT_P2M and MOD_START_PFN', () => {
  it('has everything where the start-of-day layout says', async () => {
    const { memory, state } = await build([...PV_NOTES, INIT_P2M, MOD_START_PFN], initrd);
    const { layout } = state;
    // Kernel 0x100..0x102, three pages, L4 L3 L2 and two L1, the stack, 512 KiB spare: 4 MiB are enough.
    expect(layout).toMatchObject({
      kernel: { start: 0x100, pages: 2 },
      startInfo: 0x102,
      xenstoreRing: 0x103,
      consoleRing: 0x104,
      pageTables: { start: 0x105, pages: 5 },
      bootStack: 0x10a,
      mappedEnd: 0x400,
      initrd: { start: 0x400, pages: 2 },
      initrdMapped: false,
      p2m: { start: 0x402, pages: 8 },
      p2mWithTables: { start: 0x402, pages: 11 },
      end: 0x40d,
    });
    expect(state.registers).toEqual({
      rip: BASE + 0x100000,
      rsp: BASE + 0x10b000,
      rsi: BASE + 0x102000,
      rflags: 0x200,
      cs: 0xe033,
      ss: 0xe02b,
    });
    expect(state.pageTables.map(({ frame, level }) => [frame, level])).toEqual([
      [0x105, 4],
      [0x106, 3],
      [0x107, 2],
      [0x108, 1],
      [0x109, 1],
      [0x40a, 3],
      [0x40b, 2],
      [0x40c, 1],
    ]);
    checkTables(memory, state, GUEST_FRAMES);
  });

  it('fills start_info', async () => {
    const { memory, state } = await build([...PV_NOTES, INIT_P2M, MOD_START_PFN], initrd);
    const view = startInfo(memory, state);
    const bytes = new Uint8Array(view.buffer);
    expect(bytes.subarray(0, 32)).toEqual(Uint8Array.from([...text('xen-3.0-x86_64'), ...new Uint8Array(18)]));
    expect(signed(view, 32)).toBe(GUEST_FRAMES);
    expect(signed(view, 40)).toBe(GUEST_FRAMES * PAGE_SIZE);
    expect(view.getUint32(48, true)).toBe(8);
    expect([signed(view, 56), view.getUint32(64, true)]).toEqual([0x103, 1]);
    expect([signed(view, 72), view.getUint32(80, true)]).toEqual([0x104, 2]);
    expect([signed(view, 88), signed(view, 96)]).toEqual([BASE + 0x105000, 5]);
    expect(signed(view, 104)).toBe(0x8000000000);
    expect([signed(view, 112), signed(view, 120)]).toEqual([0x400, 5000]);
    expect(bytes.subarray(128, 141)).toEqual(text('console=hvc0\0'));
    expect([signed(view, 1152), signed(view, 1160)]).toEqual([0x402, 11]);
  });

  it('leaves the initrd as it is and out of the mapping', async () => {
    const { memory, state } = await build([...PV_NOTES, INIT_P2M, MOD_START_PFN], initrd);
    expect(memory.read(0x400 * PAGE_SIZE, initrd.length)).toEqual(initrd);
    expect(walkTables(memory, state.root).mappings.some((mapping) => mapping.frame === 0x400)).toBe(false);
  });

  it('has no module without an initrd', async () => {
    const { memory, state } = await build([...PV_NOTES, INIT_P2M, MOD_START_PFN]);
    const view = startInfo(memory, state);
    expect([view.getUint32(48, true), signed(view, 112), signed(view, 120)]).toEqual([0, 0, 0]);
    expect(state.layout.p2m.start).toBe(0x400);
  });
});

describe('a kernel without these notes', () => {
  it('has initrd and frame list mapped behind the kernel', async () => {
    const { memory, state } = await build(PV_NOTES, initrd);
    expect(state.layout).toMatchObject({
      initrd: { start: 0x102, pages: 2 },
      initrdMapped: true,
      p2m: { start: 0x104, pages: 8 },
      p2mWithTables: undefined,
      startInfo: 0x10c,
      mappedEnd: 0x400,
      end: 0x400,
    });
    const view = startInfo(memory, state);
    expect(view.getUint32(48, true)).toBe(0);
    expect([signed(view, 112), signed(view, 120)]).toEqual([BASE + 0x102000, 5000]);
    expect([signed(view, 104), signed(view, 1152), signed(view, 1160)]).toEqual([BASE + 0x104000, 0, 0]);
    checkTables(memory, state, GUEST_FRAMES);
  });

  it('at VIRT_BASE 0 cannot have its list at INIT_P2M', async () => {
    const notes = [{ type: 5, desc: 'xen-3.0' }, { type: 8, desc: 'generic' }, { type: 1, desc: 0x100000 }, { type: 3, desc: 0 }, INIT_P2M];
    const { memory, state } = await build(notes);
    expect(state.layout).toMatchObject({ virtBase: 0, p2m: { start: 0x102, pages: 8 }, p2mAddress: 0x102000 });
    expect(state.registers).toMatchObject({ rip: 0x100000, rsi: 0x10a000 });
    checkTables(memory, state, GUEST_FRAMES);
  });
});

describe('the kernel image', () => {
  it('has its file content, zeros up to its memory size, and its hypercall page', async () => {
    const memory = newMemory();
    memory.fill(0x100000, 0x2000, 0xaa);
    const { state } = await build([...PV_NOTES, { type: 2, desc: BASE + 0x101000 }], undefined, memory);
    expect(memory.read(0x100000, 5)).toEqual(Uint8Array.from([0xf4, 0x90, 0xc3, 0, 0]));
    expect(memory.read(0x100fff, 1)).toEqual(Uint8Array.from([0]));
    // push rcx; push r11; mov eax, 29; syscall; pop r11; pop rcx; ret
    expect(memory.read(0x101000 + 29 * 32, 13)).toEqual(
      Uint8Array.from([0x51, 0x41, 0x53, 0xb8, 29, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59]),
    );
    expect(state.notes.hypercallPage).toBe(BASE + 0x101000);
  });

  it('is followed by an empty symbol table when it wants one', async () => {
    const { memory, state } = await build([...PV_NOTES, { type: 11, desc: 'yes' }]);
    expect(state.layout.kernel).toEqual({ start: 0x100, pages: 3 });
    expect(memory.read(0x102000, 8)).toEqual(new Uint8Array(8));
  });
});

describe('what does not fit', () => {
  it('memory: the message says how much it takes, and nothing was written', async () => {
    const memory = newMemory(1024);
    const image = await kernelOf(pvKernelFile([...PV_NOTES, INIT_P2M, MOD_START_PFN]));
    const result = buildPvDomain(memory, config, image, new Uint8Array(3 << 20));
    expect(result).toMatchObject({
      ok: false,
      error: {
        kind: 'memory',
        message: 'the kernel with its initrd of 3 MiB needs at least 8 MiB of memory to start and the VM has 4 MiB; give it more memory',
      },
    });
    expect(memory.read(0, 1024 * PAGE_SIZE).every((byte) => byte === 0)).toBe(true);
  });

  it('a kernel that claims petabytes', async () => {
    const image = await kernelOf(
      pvKernelFile(
        [
          { type: 5, desc: 'xen-3.0' },
          { type: 8, desc: 'generic' },
          { type: 1, desc: 0x100000 },
        ],
        2 ** 46,
      ),
    );
    expect(buildPvDomain(newMemory(), config, image, undefined)).toMatchObject({ error: { kind: 'memory' } });
  });

  it('an image that reaches the end of the address space', async () => {
    const notes = PV_NOTES.map((note) =>
      note.type === 3 ? { type: 3, desc: -0x200000 } : note.type === 1 ? { type: 1, desc: -0x100000 } : note,
    );
    const image = await kernelOf(pvKernelFile(notes));
    expect(buildPvDomain(newMemory(), config, image, new Uint8Array(2 << 20))).toMatchObject({
      error: { kind: 'memory', message: expect.stringContaining('address space') },
    });
  });

  it('a command line of 1,024 bytes, counted as UTF-8', async () => {
    const image = await kernelOf(pvKernelFile());
    const of = (commandLine: string) => buildPvDomain(newMemory(), { ...config, commandLine }, image, undefined);
    expect(of('x'.repeat(1023)).ok).toBe(true);
    expect(of('x'.repeat(1024))).toMatchObject({ error: { kind: 'command-line' } });
    expect(of('é'.repeat(512))).toMatchObject({ error: { kind: 'command-line' } });
    expect(of('a\0b')).toMatchObject({ error: { kind: 'command-line' } });
  });
});

it('every kernel that builds has sound tables, whatever its notes, size and initrd', async () => {
  const shapes = fc.record({
    virtBase: fc.constantFrom(0, 0x1000, 0x40000000 - 0x1000, BASE, -0x780000000000, 0x7f0000000000),
    paddr: fc.integer({ min: 0, max: 0x300 }),
    memSize: fc.integer({ min: 1, max: 0x400000 }),
    initrd: fc.integer({ min: 0, max: 0x100000 }),
    initP2m: fc.option(fc.constantFrom(0x8000000000, 0x40000000, BASE, 0x1001, -0x800000000000)),
    modStartPfn: fc.boolean(),
  });
  let built = 0;
  await fc.assert(
    fc.asyncProperty(shapes, async (shape) => {
      const paddr = shape.paddr * PAGE_SIZE;
      const notes: TestNote[] = [
        { type: 5, desc: 'xen-3.0' },
        { type: 8, desc: 'generic' },
        { type: 3, desc: shape.virtBase },
        { type: 1, desc: shape.virtBase + paddr },
      ];
      if (shape.initP2m !== null) notes.push({ type: 15, desc: shape.initP2m });
      if (shape.modStartPfn) notes.push(MOD_START_PFN);
      const bytes = makeElf({ segments: [{ paddr, data: text('k'), memSize: shape.memSize }], notes });
      const memory = newMemory();
      const result = buildPvDomain(memory, config, await kernelOf(bytes), new Uint8Array(shape.initrd));
      if (!result.ok) {
        expect(result.error.kind).toBe('memory');
        return;
      }
      built++;
      checkTables(memory, result.value, GUEST_FRAMES);
      const { layout } = result.value;
      expect(layout.mappedEnd * PAGE_SIZE - (layout.bootStack + 1) * PAGE_SIZE).toBeGreaterThanOrEqual(512 * 1024);
      expect(Math.abs((layout.virtBase + layout.mappedEnd * PAGE_SIZE) % (4 << 20))).toBe(0);
    }),
    { numRuns: 60 },
  );
  expect(built).toBeGreaterThan(20);
});
