// SPDX-License-Identifier: Apache-2.0
/**
 * The domain builder: puts a PV kernel and its start of day into a new VM's memory.
 *
 * Follows "Start-of-day memory layout" of xen public/xen.h and what Xen's own builder does: segments at their physical addresses,
 * start_info, rings, page tables that map themselves read-only and everything else read-write, the frame list, the initrd as it is.
 * The caller registers the frames with the hypervisor, pins the root table, and loads the registers.
 *
 * INVARIANT: the memory is new (all zero) outside of what this function writes. Machine frame numbers equal guest frame numbers.
 * GUEST: everything from the kernel file was bounded by `pvKernel` and `planPvLayout` before the first write.
 */
import { err, ok, type Result } from '../../base/result.ts';
import { writeHypercallPage } from '../hypervisor/hypercalls/hypercall-page.ts';
import { FLAT_KERNEL_CS, FLAT_KERNEL_SS } from '../hypervisor/abi/xen.ts';
import { type Mfn, mfn, PAGE_SIZE, type Pfn } from '../memory/frames.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { type BootError, bootError } from './boot-error.ts';
import type { KernelImage } from './kernel-image.ts';
import { type PvKernel, pvKernel } from './pv-kernel.ts';
import { planPvLayout, type PvLayout } from './pv-layout.ts';
import { type PageTableLevel, tableIndex } from './pv-page-table-plan.ts';
import { encodeCommandLine, MAX_GUEST_CMDLINE, SIF_MOD_START_PFN, writeStartInfo } from './start-info.ts';
import type { XenGuestNotes } from './xen-notes.ts';

const PTE_PRESENT = 0x001;
const PTE_RW = 0x002;
const PTE_USER = 0x004;
const PTE_ACCESSED = 0x020;
const PTE_DIRTY = 0x040;
const LEAF_RO = PTE_PRESENT | PTE_ACCESSED;
const LEAF_RW = LEAF_RO | PTE_RW;
const BRANCH = PTE_PRESENT | PTE_RW | PTE_USER | PTE_ACCESSED | PTE_DIRTY;

/** Interrupts enabled, which a PV guest always sees. */
const START_RFLAGS = 0x200;

export interface PvDomainConfig {
  readonly commandLine: string;
  /** Frame of shared_info; belongs to the hypervisor. */
  readonly sharedInfo: Mfn;
  readonly storeEvtchn: number;
  readonly consoleEvtchn: number;
  /** Guest frames that the domain has; all of `memory`'s when absent. */
  readonly nrPages?: number;
}

export interface PvStartRegisters {
  /** Signed virtual addresses. General registers that are not here are 0, as are DS, ES, FS, GS and their bases. */
  readonly rip: number;
  readonly rsp: number;
  readonly rsi: number;
  readonly rflags: number;
  readonly cs: number;
  readonly ss: number;
}

export interface PageTableFrame {
  readonly frame: Mfn;
  readonly level: PageTableLevel;
}

export interface StartState {
  readonly registers: PvStartRegisters;
  /** The root page table; not pinned yet. */
  readonly root: Mfn;
  readonly startInfo: Mfn;
  readonly xenstoreRing: Mfn;
  readonly consoleRing: Mfn;
  readonly sharedInfo: Mfn;
  /** Every page table, root first. */
  readonly pageTables: readonly PageTableFrame[];
  readonly notes: XenGuestNotes;
  readonly layout: PvLayout;
}

/** Builds the domain. On an error the memory is untouched. */
export function buildPvDomain(
  memory: GuestMemory,
  config: PvDomainConfig,
  image: KernelImage,
  initrd: Uint8Array | undefined,
): Result<StartState, BootError> {
  const commandLine = encodeCommandLine(config.commandLine);
  if (commandLine === undefined) {
    const limit = MAX_GUEST_CMDLINE - 1;
    return err(bootError('command-line', `the kernel's command line is longer than ${limit} bytes or holds a zero byte; shorten it`));
  }
  const kernel = pvKernel(image);
  if (!kernel.ok) return kernel;
  const nrPages = Math.min(config.nrPages ?? memory.layout.shape.guestFrames, memory.layout.shape.guestFrames);
  const planned = planPvLayout(kernel.value, initrd?.length ?? 0, nrPages);
  if (!planned.ok) return planned;
  const layout = planned.value;

  loadSegments(memory, kernel.value, layout);
  if (initrd !== undefined && layout.initrd !== undefined) memory.write(layout.initrd.start * PAGE_SIZE, initrd);
  writeFrameList(memory, layout, nrPages);
  writePageTables(memory, layout);
  for (const frame of [layout.xenstoreRing, layout.consoleRing, layout.bootStack]) clear(memory, frame);
  writeStart(memory, config, layout, commandLine, nrPages, initrd?.length ?? 0);
  return ok(startState(kernel.value, layout, config));
}

function clear(memory: GuestMemory, frame: Pfn): void {
  memory.fill(frame * PAGE_SIZE, PAGE_SIZE, 0);
}

function loadSegments(memory: GuestMemory, kernel: PvKernel, layout: PvLayout): void {
  for (const segment of kernel.segments) {
    memory.write(segment.start, segment.bytes);
    const zeros = segment.start + segment.bytes.length;
    memory.fill(zeros, segment.end - zeros, 0);
  }
  if (kernel.hypercallPage === undefined) return;
  const page = new Uint8Array(PAGE_SIZE);
  writeHypercallPage(page);
  memory.write(kernel.hypercallPage - layout.virtBase, page);
}

/** The list of machine frames by guest frame: the identity here. */
function writeFrameList(memory: GuestMemory, layout: PvLayout, nrPages: number): void {
  const bytes = new Uint8Array(layout.p2m.pages * PAGE_SIZE);
  const words = new Uint32Array(bytes.buffer);
  for (let frame = 0; frame < nrPages; frame++) words[frame * 2] = frame;
  memory.write(layout.p2m.start * PAGE_SIZE, bytes);
}

function writePageTables(memory: GuestMemory, layout: PvLayout): void {
  const { tables, virtBase, mappedEnd, p2m, p2mWithTables, p2mAddress } = layout;
  const tableFrames = new Set(tables.tables.map((table) => table.frame));
  for (const table of tables.tables) clear(memory, table.frame);
  for (const table of tables.tables) {
    if (table.level === 4) continue;
    const parent = tables.find((table.level + 1) as PageTableLevel, table.base);
    if (parent === undefined) throw new Error('a planned page table has no parent');
    setEntry(memory, parent.frame, tableIndex(parent.level, table.base), table.frame, BRANCH);
  }
  const map = (address: number, frame: number): void => {
    const table = tables.find(1, address);
    if (table === undefined) throw new Error('a planned address has no page table');
    setEntry(memory, table.frame, tableIndex(1, address), frame, tableFrames.has(frame as Pfn) ? LEAF_RO : LEAF_RW);
  };
  for (let frame = 0; frame < mappedEnd; frame++) map(virtBase + frame * PAGE_SIZE, frame);
  if (p2mWithTables === undefined) return;
  for (let page = 0; page < p2m.pages; page++) map(p2mAddress + page * PAGE_SIZE, p2m.start + page);
}

function setEntry(memory: GuestMemory, table: Pfn, index: number, frame: number, flags: number): void {
  const address = frame * PAGE_SIZE;
  memory.setEntry(mfn(table), index, ((address % 2 ** 32) | flags) >>> 0, Math.floor(address / 2 ** 32));
}

function writeStart(
  memory: GuestMemory,
  config: PvDomainConfig,
  layout: PvLayout,
  cmdLine: Uint8Array,
  nrPages: number,
  initrdBytes: number,
): void {
  const address = (frame: Pfn): number => layout.virtBase + frame * PAGE_SIZE;
  const page = new Uint8Array(PAGE_SIZE);
  const initrd = layout.initrd;
  const byFrame = initrd !== undefined && !layout.initrdMapped;
  writeStartInfo(page, {
    nrPages,
    sharedInfo: config.sharedInfo * PAGE_SIZE,
    flags: byFrame ? SIF_MOD_START_PFN : 0,
    storeMfn: layout.xenstoreRing,
    storeEvtchn: config.storeEvtchn,
    consoleMfn: layout.consoleRing,
    consoleEvtchn: config.consoleEvtchn,
    ptBase: address(layout.pageTables.start),
    nrPtFrames: layout.pageTables.pages,
    mfnList: layout.p2mAddress,
    modStart: initrd === undefined ? 0 : byFrame ? initrd.start : address(initrd.start),
    modLen: initrdBytes,
    cmdLine,
    firstP2mPfn: layout.p2mWithTables?.start ?? 0,
    nrP2mFrames: layout.p2mWithTables?.pages ?? 0,
  });
  memory.write(layout.startInfo * PAGE_SIZE, page);
}

function startState(kernel: PvKernel, layout: PvLayout, config: PvDomainConfig): StartState {
  const address = (frame: number): number => layout.virtBase + frame * PAGE_SIZE;
  return {
    registers: {
      rip: kernel.entry,
      rsp: address(layout.bootStack + 1),
      rsi: address(layout.startInfo),
      rflags: START_RFLAGS,
      cs: FLAT_KERNEL_CS,
      ss: FLAT_KERNEL_SS,
    },
    root: mfn(layout.tables.root.frame),
    startInfo: mfn(layout.startInfo),
    xenstoreRing: mfn(layout.xenstoreRing),
    consoleRing: mfn(layout.consoleRing),
    sharedInfo: config.sharedInfo,
    pageTables: layout.tables.tables.map((table) => ({ frame: mfn(table.frame), level: table.level })),
    notes: kernel.notes,
    layout,
  };
}
