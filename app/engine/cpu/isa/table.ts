// SPDX-License-Identifier: Apache-2.0
/** The whole instruction table, and the opcode index that the decoder walks. */
import { INTEGER } from './integer.ts';
import { type IsaRow, parseRows } from './row.ts';
import { SSE } from './sse.ts';
import { SYSTEM } from './system.ts';
import { X87 } from './x87.ts';

export const ROWS: readonly IsaRow[] = parseRows([...INTEGER, ...SYSTEM, ...X87, ...SSE]);

/** Row ids by mandatory prefix (4) × register form (2) × ModRM.reg (8), and by whole ModRM byte for mod 3; -1: none. */
export interface OpcodeEntry {
  readonly modrm: boolean;
  readonly slots: Int16Array;
  /** prefix (4) × ModRM & 63, or null when no row of this opcode is that exact. */
  readonly exact: Int16Array | null;
  /** Rows that differ by REX.W only: the row for W set, by the row for W clear. */
  readonly wide: ReadonlyMap<number, number> | null;
}

function buildEntry(rows: readonly IsaRow[]): OpcodeEntry {
  const slots = new Int16Array(64).fill(-1);
  let exact: Int16Array | null = null;
  let wide: Map<number, number> | null = null;
  // Specific rows come last and overwrite: any prefix first, then a given prefix; any reg first, then a given reg.
  const specificity = (row: IsaRow): number => (row.prefix >= 0 ? 2 : 0) + (row.reg >= 0 ? 1 : 0);
  for (const row of [...rows].sort((a, b) => specificity(a) - specificity(b))) {
    for (let prefix = 0; prefix < 4; prefix++) {
      if (row.prefix >= 0 && row.prefix !== prefix) continue;
      if (row.exact >= 0) {
        exact ??= new Int16Array(256).fill(-1);
        exact[prefix * 64 + (row.exact & 63)] = row.id;
        continue;
      }
      for (let form = 0; form < 2; form++) {
        if (row.rmForm === 1 && form === 1) continue;
        if (row.rmForm === 2 && form === 0) continue;
        for (let reg = 0; reg < 8; reg++) {
          if (row.reg >= 0 && row.reg !== reg) continue;
          const slot = prefix * 16 + form * 8 + reg;
          if (row.attributes.has('w1') && slots[slot] >= 0) {
            wide ??= new Map();
            wide.set(slots[slot], row.id);
          } else slots[slot] = row.id;
        }
      }
    }
  }
  return { modrm: rows.some((row) => row.modrm), slots, exact, wide };
}

/** Entries by map × 256 + opcode for one kind of mode; null: undefined opcode. */
function buildIndex(excluded: 'i64' | 'o64'): readonly (OpcodeEntry | null)[] {
  const lists: IsaRow[][] = Array.from({ length: 1024 }, () => []);
  for (const row of ROWS) {
    if (row.attributes.has(excluded)) continue;
    const count = row.opcodeReg ? 8 : 1;
    for (let n = 0; n < count; n++) lists[row.map * 256 + row.opcode + n].push(row);
  }
  return lists.map((rows) => (rows.length === 0 ? null : buildEntry(rows)));
}

export const OPCODES_64 = buildIndex('i64');
export const OPCODES_LEGACY = buildIndex('o64');
