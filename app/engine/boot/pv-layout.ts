// SPDX-License-Identifier: Apache-2.0
/**
 * Where everything stands in a new PV domain: the plan, before a byte is written.
 *
 * Follows "Start-of-day memory layout" of xen public/xen.h: kernel, initrd (when it must be mapped), frame list (when the kernel has no
 * INIT_P2M), start_info, xenstore ring, console ring, page tables, boot stack, then padding up to a 4 MiB boundary with at least 512 KiB
 * spare. Behind the mapped region: the initrd that need not be mapped, and the frame list with its own page tables at INIT_P2M.
 *
 * The mapped region begins at guest frame 0, which stands at VIRT_BASE; frames and addresses go up together.
 */
import { err, ok, type Result } from '../../base/result.ts';
import { PAGE_SIZE, type Pfn, pfn } from '../memory/frames.ts';
import { type BootError, bootError } from './boot-error.ts';
import { PageTablePlan } from './pv-page-table-plan.ts';
import { isGuestAddressRange, type PvKernel } from './pv-kernel.ts';

const MAPPED_ALIGNMENT = 4 * 1024 * 1024;
const SPARE_BYTES = 512 * 1024;
const P2M_ENTRY_BYTES = 8;

export interface PageRange {
  readonly start: Pfn;
  readonly pages: number;
}

export interface PvLayout {
  readonly virtBase: number;
  readonly kernel: PageRange;
  readonly initrd: PageRange | undefined;
  readonly initrdMapped: boolean;
  /** The frame list: its entries' pages. */
  readonly p2m: PageRange;
  readonly p2mAddress: number;
  /** Present when the list stands at INIT_P2M: the list and its page tables, in one piece. */
  readonly p2mWithTables: PageRange | undefined;
  readonly startInfo: Pfn;
  readonly xenstoreRing: Pfn;
  readonly consoleRing: Pfn;
  readonly pageTables: PageRange;
  readonly bootStack: Pfn;
  /** First frame behind the mapped region. */
  readonly mappedEnd: Pfn;
  /** First frame that nothing uses. */
  readonly end: Pfn;
  readonly tables: PageTablePlan;
}

const pagesOf = (bytes: number): number => Math.ceil(bytes / PAGE_SIZE);
/** Order of addresses as the CPU sees them: the upper half comes last. */
const unsigned = (address: number): number => (address < 0 ? address + 2 ** 64 : address);

/** Plans a domain of `totalPages`; the error says how much memory it would take. */
export function planPvLayout(kernel: PvKernel, initrdBytes: number, totalPages: number): Result<PvLayout, BootError> {
  const { virtBase, notes } = kernel;
  let next = 0;
  const take = (pages: number): PageRange => {
    const start = pfn(next);
    next += pages;
    return { start, pages };
  };

  // A kernel that wants its symbol table gets a size of zero behind its image: no symbols.
  const imageBytes = notes.bsdSymtab ? Math.ceil(kernel.end / 8) * 8 + 8 : kernel.end;
  next = Math.floor(kernel.start / PAGE_SIZE);
  const kernelRange = take(pagesOf(imageBytes) - next);

  const initrdMapped = initrdBytes > 0 && !notes.modStartPfn;
  let initrd = initrdMapped ? take(pagesOf(initrdBytes)) : undefined;
  const listPages = pagesOf(totalPages * P2M_ENTRY_BYTES);
  const separateP2m = usableInitP2m(kernel, listPages);
  let p2m = separateP2m === undefined ? take(listPages) : undefined;
  const startInfo = take(1).start;
  const xenstoreRing = take(1).start;
  const consoleRing = take(1).start;

  // GUEST: bounds what the file claims before tables are counted for it.
  if (next > totalPages) return err(tooLarge(next, totalPages, initrdBytes));
  const mappedEnd = pfn(mappedPages(virtBase, next));
  if (!isGuestAddressRange(virtBase, virtBase + mappedEnd * PAGE_SIZE)) {
    return err(
      bootError('memory', 'kernel and initrd do not fit between VIRT_BASE and the end of the address space; use a smaller initrd'),
    );
  }
  const tables = new PageTablePlan();
  const pageTables = take(tables.add(virtBase, virtBase + mappedEnd * PAGE_SIZE, next));
  const bootStack = take(1).start;

  next = mappedEnd;
  if (initrdBytes > 0 && !initrdMapped) initrd = take(pagesOf(initrdBytes));
  let p2mWithTables: PageRange | undefined;
  if (p2m === undefined && separateP2m !== undefined) {
    p2m = take(listPages);
    const tablePages = take(tables.add(separateP2m, separateP2m + listPages * PAGE_SIZE, next)).pages;
    p2mWithTables = { start: p2m.start, pages: listPages + tablePages };
  }
  if (next > totalPages) return err(tooLarge(next, totalPages, initrdBytes));
  const list = p2m ?? take(0);
  return ok({
    virtBase,
    kernel: kernelRange,
    initrd,
    initrdMapped,
    p2m: list,
    p2mAddress: separateP2m ?? virtBase + list.start * PAGE_SIZE,
    p2mWithTables,
    startInfo,
    xenstoreRing,
    consoleRing,
    pageTables,
    bootStack,
    mappedEnd,
    end: pfn(next),
    tables,
  });
}

/** INIT_P2M, unless it cannot be used; then the list goes where kernels without the note have it. */
function usableInitP2m(kernel: PvKernel, listPages: number): number | undefined {
  const address = kernel.notes.initP2m;
  if (address === undefined || address % PAGE_SIZE !== 0) return undefined;
  const end = address + listPages * PAGE_SIZE;
  if (!isGuestAddressRange(address, end)) return undefined;
  return unsigned(address) + listPages * PAGE_SIZE <= unsigned(kernel.virtBase) ? address : undefined;
}

/** Pages of the mapped region: what is there up to `used`, the tables that map it, the stack, the spare room, rounded up. */
function mappedPages(virtBase: number, used: number): number {
  let end = used;
  for (;;) {
    const tables = new PageTablePlan().add(virtBase, virtBase + Math.max(end, 1) * PAGE_SIZE, 0);
    const needed = (used + tables + 1) * PAGE_SIZE + SPARE_BYTES;
    const rounded = (Math.ceil((virtBase + needed) / MAPPED_ALIGNMENT) * MAPPED_ALIGNMENT - virtBase) / PAGE_SIZE;
    if (rounded === end) return end;
    end = rounded;
  }
}

function tooLarge(needed: number, total: number, initrdBytes: number): BootError {
  const mib = (pages: number): number => Math.ceil((pages * PAGE_SIZE) / (1024 * 1024));
  const what = initrdBytes > 0 ? `the kernel with its initrd of ${mib(pagesOf(initrdBytes))} MiB needs` : 'the kernel needs';
  return bootError(
    'memory',
    `${what} at least ${mib(needed)} MiB of memory to start and the VM has ${mib(total)} MiB; give it more memory`,
  );
}
