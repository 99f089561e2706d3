// SPDX-License-Identifier: Apache-2.0
/**
 * Regions: what is translated at once. From a hot address, everything that direct branches, calls and returns to known call sites reach
 * within limits, as a control-flow graph of basic blocks.
 *
 * Addresses in a region are offsets from the start of its entry page (`at`), so that code which is mapped at several virtual addresses is
 * translated once. Other pages keep their distance to the entry page; what they map to is checked at entry.
 */
import { DECODE, Decoder } from '../isa/decoder.ts';
import { captureInstruction, type Instruction } from './instruction.ts';

const PAGE = 4096;

export interface RegionLimits {
  readonly instructions: number;
  readonly blocks: number;
  readonly pages: number;
}

export const DEFAULT_LIMITS: RegionLimits = { instructions: 400, blocks: 80, pages: 4 };

/** Where control goes at a block's end. */
export type Terminator =
  /** On to `next`, without a branch instruction. */
  | { readonly kind: 'fall'; readonly next: number }
  /** A conditional branch (the last instruction). */
  | { readonly kind: 'branch'; readonly taken: number; readonly next: number }
  /** A direct jump or call. */
  | { readonly kind: 'jump'; readonly taken: number }
  /** A near return: to a call site of the region, or anywhere. */
  | { readonly kind: 'return' }
  /** The last instruction leaves the region by itself. */
  | { readonly kind: 'leave' };

export interface BasicBlock {
  readonly index: number;
  readonly at: number;
  readonly instructions: readonly Instruction[];
  readonly end: Terminator;
}

export interface Region {
  readonly entry: number;
  /** Blocks by index; the entry is block 0. */
  readonly blocks: readonly BasicBlock[];
  /** Offsets (multiples of the page size) of the pages it was made from, the entry page (0) first, with their host offsets. */
  readonly pages: readonly { readonly offset: number; readonly host: number }[];
  /** Start addresses of blocks behind calls: where returns inside of the region may go. */
  readonly returnSites: readonly number[];
  readonly instructionCount: number;
}

/** Host offset of the page at `offset` from the entry page, or 0 when it can't be fetched from. */
export type PageSource = (offset: number) => number;

const DIRECT_JUMPS = new Set(['jmp', 'call']);

/** Finds the region around `entry` (an offset in its page). Null when not even its first instruction can be translated. */
export function discoverRegion(
  bytes: Uint8Array,
  entry: number,
  source: PageSource,
  supported: (instruction: Instruction) => boolean,
  limits = DEFAULT_LIMITS,
): Region | null {
  const scan = new RegionScan(bytes, source, supported, limits);
  return scan.run(entry);
}

class RegionScan {
  readonly #bytes: Uint8Array;
  readonly #source: PageSource;
  readonly #supported: (instruction: Instruction) => boolean;
  readonly #limits: RegionLimits;
  readonly #decoder = new Decoder();
  readonly #pages = new Map<number, number>();
  readonly #instructions = new Map<number, Instruction>();
  readonly #leaders = new Set<number>();
  readonly #returnSites = new Set<number>();
  readonly #straddle = new Uint8Array(32);

  constructor(bytes: Uint8Array, source: PageSource, supported: (instruction: Instruction) => boolean, limits: RegionLimits) {
    this.#bytes = bytes;
    this.#source = source;
    this.#supported = supported;
    this.#limits = limits;
  }

  run(entry: number): Region | null {
    const work = [entry];
    this.#leaders.add(entry);
    // Breadth first: near code before far.
    for (let n = 0; n < work.length; n++) this.#walk(work[n], work);
    if (!this.#instructions.has(entry)) return null;
    return this.#build(entry);
  }

  #hostPage(offset: number): number {
    const page = Math.floor(offset / PAGE) * PAGE;
    const known = this.#pages.get(page);
    if (known !== undefined) return known;
    if (this.#pages.size >= this.#limits.pages) return 0;
    const host = this.#source(page);
    if (host !== 0) this.#pages.set(page, host);
    return host;
  }

  #decode(at: number): Instruction | null {
    const host = this.#hostPage(at);
    if (host === 0) return null;
    const inPage = at - Math.floor(at / PAGE) * PAGE;
    let status = this.#decoder.decode(this.#bytes, host + inPage, host + PAGE, 64);
    if (status === DECODE.truncated) {
      const next = this.#hostPage(at + PAGE - inPage);
      if (next === 0) return null;
      const rest = PAGE - inPage;
      this.#straddle.set(this.#bytes.subarray(host + inPage, host + PAGE));
      this.#straddle.set(this.#bytes.subarray(next, next + 15), rest);
      status = this.#decoder.decode(this.#straddle, 0, rest + 15, 64);
    }
    if (status !== DECODE.ok) return null;
    const instruction = captureInstruction(this.#decoder, at);
    return this.#supported(instruction) ? instruction : null;
  }

  #leader(at: number, work: number[]): void {
    if (this.#leaders.has(at) || this.#leaders.size >= this.#limits.blocks) return;
    this.#leaders.add(at);
    if (!this.#instructions.has(at)) work.push(at);
  }

  #walk(start: number, work: number[]): void {
    let at = start;
    while (!this.#instructions.has(at) && this.#instructions.size < this.#limits.instructions) {
      const instruction = this.#decode(at);
      if (!instruction) return;
      this.#instructions.set(at, instruction);
      const { row } = instruction.form;
      const next = at + instruction.length;
      if (row.name === 'call') {
        this.#returnSites.add(next);
        this.#leader(instruction.target, work);
        this.#leader(next, work);
        return;
      }
      if (row.name === 'jmp') {
        this.#leader(instruction.target, work);
        return;
      }
      if (row.attributes.has('end')) return;
      if (!Number.isNaN(instruction.target)) {
        this.#leader(next, work);
        this.#leader(instruction.target, work);
        return;
      }
      at = next;
    }
  }

  #build(entry: number): Region {
    const starts = [...this.#leaders].filter((at) => this.#instructions.has(at));
    // The entry is block 0.
    starts.sort((a, b) => (a === entry ? -1 : b === entry ? 1 : a - b));
    const leaders = new Set(starts);
    const blocks = starts.map((at, index): BasicBlock => {
      const instructions: Instruction[] = [];
      let here = at;
      for (;;) {
        const instruction = this.#instructions.get(here);
        if (!instruction) return { index, at, instructions, end: { kind: 'fall', next: here } };
        instructions.push(instruction);
        const { row } = instruction.form;
        const next = here + instruction.length;
        if (DIRECT_JUMPS.has(row.name)) return { index, at, instructions, end: { kind: 'jump', taken: instruction.target } };
        if (row.name === 'ret') return { index, at, instructions, end: { kind: 'return' } };
        if (row.attributes.has('end')) return { index, at, instructions, end: { kind: 'leave' } };
        if (!Number.isNaN(instruction.target)) return { index, at, instructions, end: { kind: 'branch', taken: instruction.target, next } };
        here = next;
        if (leaders.has(here)) return { index, at, instructions, end: { kind: 'fall', next: here } };
      }
    });
    const pages = [...this.#pages].map(([offset, host]) => ({ offset, host })).sort((a, b) => Math.abs(a.offset) - Math.abs(b.offset));
    return {
      entry,
      blocks,
      pages,
      returnSites: [...this.#returnSites].filter((at) => leaders.has(at)),
      instructionCount: this.#instructions.size,
    };
  }
}
