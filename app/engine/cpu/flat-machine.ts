// SPDX-License-Identifier: Apache-2.0
/**
 * A bare 64-bit user-mode processor over flat memory: the smallest machine that runs code, for vectors, tests and benchmarks.
 *
 * Guest memory is mapped at address 0 upwards with 4 KiB pages, writable and executable, by page tables in the hypervisor's frames.
 */
import type { Vcpu, VcpuHost } from '../accel/accelerator.ts';
import { type Mfn, PAGE_SIZE } from '../memory/frames.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import { CTX, SEGREG, type VcpuContext } from '../memory/vcpu-context.ts';
import { setCodeSegment } from './segment-functions.ts';
import { type SoftwareCpuOptions, SoftwareVcpu } from './software-cpu.ts';

const USER_PAGE = 7;

/** Descriptors of a flat ring 3: 0x23 32-bit code, 0x2b data, 0x33 64-bit code, as [low, high]. */
const DESCRIPTORS: Readonly<Record<number, readonly [number, number]>> = {
  4: [0x0000ffff, 0x00cffb00],
  5: [0x0000ffff, 0x00cff300],
  6: [0x0000ffff, 0x00affb00],
};

export interface FlatMachine {
  readonly memory: GuestMemory;
  readonly vcpu: SoftwareVcpu;
  /** Changes the page-table entry of a page: flags in the low 12 bits. */
  readonly setPage: (va: number, flags: number, noExecute?: boolean) => void;
  /** 16-, 32- or 64-bit code from now on. */
  readonly setMode: (bits: 32 | 64) => void;
}

/** Makes a machine with `bytes` of memory (a multiple of 4 KiB). */
export function createFlatMachine(bytes: number, host: Partial<VcpuHost> = {}, options: SoftwareCpuOptions = {}): FlatMachine {
  const frames = bytes / PAGE_SIZE;
  const leafTables = Math.ceil(frames / 512);
  const memory = new GuestMemory({ guestFrames: frames, xenFrames: leafTables + 3, vcpus: 1, codeArenaBytes: 4 * 1024 * 1024 });
  const root = frames as Mfn;
  const entry = (table: number, index: number, frame: number, flags: number): void =>
    memory.setEntry(table as Mfn, index, frame * PAGE_SIZE + flags, 0);
  entry(root, 0, frames + 1, USER_PAGE);
  entry(frames + 1, 0, frames + 2, USER_PAGE);
  for (let n = 0; n < leafTables; n++) entry(frames + 2, n, frames + 3 + n, USER_PAGE);
  const leaf = (page: number): Mfn => (frames + 3 + Math.floor(page / 512)) as Mfn;
  for (let page = 0; page < frames; page++) entry(leaf(page), page % 512, page, USER_PAGE);

  const vcpu = new SoftwareVcpu(
    0,
    memory,
    {
      readDescriptor: (selector) => DESCRIPTORS[selector >> 3] ?? null,
      readTsc: () => 0,
      cpuid: (_leaf, _subleaf, out) => out.fill(0),
      ...host,
    },
    options,
  );
  memory.onCodeWrite = (frame, offset, length) => vcpu.invalidateCode(frame, offset, length);
  resetUserState(vcpu.ctx);
  vcpu.loadRoot(0, root);
  vcpu.enterSpace(0);
  return {
    memory,
    vcpu,
    setPage: (va, flags, noExecute = false) => {
      const page = va / PAGE_SIZE;
      memory.setEntry(leaf(page), page % 512, page * PAGE_SIZE + flags, noExecute ? 0x8000_0000 : 0);
      vcpu.flushTlb();
    },
    setMode: (bits) => loadCode(vcpu, bits),
  };
}

function loadCode(vcpu: Vcpu, bits: 32 | 64): void {
  const selector = bits === 64 ? 0x33 : 0x23;
  const [low, high] = DESCRIPTORS[selector >> 3];
  setCodeSegment(vcpu.ctx, selector, low, high);
}

function resetUserState(ctx: VcpuContext): void {
  ctx.setU32(CTX.cr0, 0x8005_0033);
  ctx.setU32(CTX.cr4, 0x0005_0660);
  ctx.setU32(CTX.efer, 0xd01);
  ctx.setU32(CTX.xcr0, 3);
  ctx.setU16(CTX.fcw, 0x37f);
  ctx.setU32(CTX.mxcsr, 0x1f80);
  ctx.setU32(CTX.dr + 6 * 8, 0xffff_0ff0);
  ctx.setU32(CTX.dr + 7 * 8, 0x400);
  ctx.rflags = 0x202;
  const [low, high] = DESCRIPTORS[6];
  setCodeSegment(ctx, 0x33, low, high);
  for (const segment of [SEGREG.es, SEGREG.ss, SEGREG.ds, SEGREG.fs, SEGREG.gs]) ctx.setSegment(segment, 0x2b, 0, 0xffff_ffff, 0xcf3);
}
