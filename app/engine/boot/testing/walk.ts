// SPDX-License-Identifier: Apache-2.0
/** Walks a domain's page tables as the MMU would, from nothing but memory and the root: an independent check of the builder. */
import { type Mfn, mfn } from '../../memory/frames.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';

export interface Mapping {
  /** Unsigned virtual address. */
  readonly address: bigint;
  readonly frame: number;
  readonly entry: bigint;
}

export interface Walk {
  readonly mappings: readonly Mapping[];
  /** Every table that was reached, with its level, and the entry that led to it. */
  readonly tables: ReadonlyMap<number, { readonly level: number; readonly entry: bigint | undefined }>;
}

export function walkTables(memory: GuestMemory, root: Mfn): Walk {
  const mappings: Mapping[] = [];
  const tables = new Map<number, { level: number; entry: bigint | undefined }>();
  const visit = (frame: number, level: number, base: bigint, via: bigint | undefined): void => {
    tables.set(frame, { level, entry: via });
    for (let index = 0; index < 512; index++) {
      const entry = (BigInt(memory.entryHi(mfn(frame), index)) << 32n) | BigInt(memory.entryLo(mfn(frame), index));
      if ((entry & 1n) === 0n) continue;
      let address = base | (BigInt(index) << BigInt(12 + 9 * (level - 1)));
      if (level === 4 && index >= 256) address |= 0xffff000000000000n;
      const next = Number((entry & 0x000ffffffffff000n) >> 12n);
      if (level === 1) mappings.push({ address, frame: next, entry });
      else visit(next, level - 1, address, entry);
    }
  };
  visit(root, 4, 0n, undefined);
  return { mappings, tables };
}
