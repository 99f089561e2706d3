// SPDX-License-Identifier: Apache-2.0
/**
 * Which page tables a set of address ranges takes, and in which frames they stand.
 *
 * Tables are assigned in the order L4, L3, L2, L1 and by address, as Xen's builder does it and Linux expects it (it takes the builder's
 * tables apart again at boot). A range added later shares the tables that are there already.
 */
import { type Pfn, pfn } from '../memory/frames.ts';

export type PageTableLevel = 1 | 2 | 3 | 4;

export interface PageTable {
  readonly level: PageTableLevel;
  readonly frame: Pfn;
  /** First address that the table translates, as a signed number. */
  readonly base: number;
}

/** Bytes that one table of each level translates, by level. */
export const TABLE_SPAN = [0, 2 ** 21, 2 ** 30, 2 ** 39, 2 ** 48] as const;
const LEVELS: readonly PageTableLevel[] = [4, 3, 2, 1];

export class PageTablePlan {
  readonly tables: PageTable[] = [];
  readonly #byKey = new Map<string, PageTable>();

  /** Adds the tables that `[start, end)` still needs, in frames from `firstFrame` up; returns how many they are. */
  add(start: number, end: number, firstFrame: number): number {
    let frame = firstFrame;
    for (const level of LEVELS) {
      const span = TABLE_SPAN[level];
      // The root spans the whole address space, both halves.
      const first = level === 4 ? 0 : Math.floor(start / span);
      const last = level === 4 ? 0 : Math.floor((end - 1) / span);
      for (let index = first; index <= last; index++) {
        const key = `${level}:${index}`;
        if (this.#byKey.has(key)) continue;
        const table = { level, frame: pfn(frame++), base: index * span };
        this.#byKey.set(key, table);
        this.tables.push(table);
      }
    }
    return frame - firstFrame;
  }

  get root(): PageTable {
    return this.tables[0];
  }

  /** The table of `level` that translates `address`; undefined when the plan has none. */
  find(level: PageTableLevel, address: number): PageTable | undefined {
    return this.#byKey.get(`${level}:${level === 4 ? 0 : Math.floor(address / TABLE_SPAN[level])}`);
  }
}

/** Index (0..511) of `address` in a table of `level`. */
export function tableIndex(level: PageTableLevel, address: number): number {
  const index = Math.floor(address / 2 ** (12 + 9 * (level - 1))) % 512;
  return index < 0 ? index + 512 : index;
}
