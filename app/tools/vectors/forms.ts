// SPDX-License-Identifier: Apache-2.0
/**
 * The forms of the instruction set that are recorded: each row by mode, operand size, register or memory, LOCK and REP.
 *
 * Sizes that change nothing are left out; so are those that processors disagree on (near branches with a 66 prefix in 64-bit mode).
 */
import { type IsaRow, OPERAND_KIND as K } from '../../engine/cpu/isa/row.ts';
import { ROWS } from '../../engine/cpu/isa/table.ts';
import { skipReason } from '../../engine/cpu/vectors/skipped.ts';

export interface VectorForm {
  readonly row: IsaRow;
  readonly mode: 32 | 64;
  /** Effective operand size: 16, 32 or 64. */
  readonly size: 16 | 32 | 64;
  /** ModRM (or the row itself) names memory. */
  readonly memory: boolean;
  readonly lock: boolean;
  /** 0, 2 (F3) or 3 (F2), for string instructions. */
  readonly rep: number;
  /** With the address-size prefix; only where it is more than another way to form an address. */
  readonly shortAddress: boolean;
  /** Stable, unique among forms. */
  readonly name: string;
}

/** Rows without operands whose meaning depends on the operand size all the same. */
const SIZED = new Set(
  'cbw cwd movs cmps stos lods scas ins outs pushf popf pusha popa enter leave iret retf ret callfm jmpfm lfar bound pushsreg popsreg call calli jmp jmpi fldenv fnstenv frstor fnsave'.split(
    ' ',
  ),
);
/** Rows that use RCX or string registers by address size. */
const COUNTED = new Set('loop loope loopne jcxz movs cmps stos lods scas xlat maskmovq maskmovdqu lea'.split(' '));
/** Far transfers with 64-bit offsets exist on one vendor's processors only. */
const NO_WIDE = new Set('callfm jmpfm lfar fldenv fnstenv frstor fnsave'.split(' '));
/** 16-bit returns through the stack leave the recorder's address range. */
const NO_NARROW = new Set('iret retf callfm jmpfm callf jmpf'.split(' '));

/** Its register form is undefined on one vendor's processors and does nothing on another's. */
const PREFETCHW = 0x0d;

function sizesOf(row: IsaRow, mode: 32 | 64): (16 | 32 | 64)[] {
  if (mode === 64 && row.attributes.has('f64')) return [64];
  const byV = row.operands.some(({ width, immediate }) => width === 'v' || width === 'z' || immediate === 'v' || immediate === 'z');
  const byY = row.operands.some(({ width }) => width === 'y');
  const isByte = row.attributes.has('b');
  if (row.attributes.has('w1')) return mode === 64 ? [64] : [];
  if (row.attributes.has('w0') || isByte) return [32];
  // A plain memory operand has the instruction's own size.
  const plain = row.operands.length === 1 && row.operands[0].kind === K.mem && !SIZED.has(row.name);
  if ((byV && !plain) || SIZED.has(row.name)) {
    let sizes: (16 | 32 | 64)[] = [16, 32];
    if (mode === 64) sizes = row.attributes.has('d64') ? [16, 64] : [16, 32, 64];
    if (row.prefix === 0 || row.prefix === 1) sizes = sizes.filter((size) => size !== 16);
    if (NO_WIDE.has(row.name)) sizes = sizes.filter((size) => size !== 64);
    if (NO_NARROW.has(row.name)) sizes = sizes.filter((size) => size !== 16);
    return sizes;
  }
  if (byY && mode === 64) return [32, 64];
  return mode === 64 && row.attributes.has('d64') ? [64] : [32];
}

export const hasModrmMemory = (row: IsaRow): boolean =>
  row.modrm && row.exact < 0 && row.rmForm !== 2 && !(row.map === 1 && row.opcode >= 0x20 && row.opcode <= 0x23);

export function vectorForms(rows: readonly IsaRow[] = ROWS): VectorForm[] {
  const forms: VectorForm[] = [];
  for (const row of rows) {
    if (skipReason(row) !== null) continue;
    const opcode = (row.map === 0 ? '' : ['', '0f', '0f38', '0f3a'][row.map]) + row.opcode.toString(16).padStart(2, '0');
    for (const mode of [64, 32] as const) {
      if (row.attributes.has(mode === 64 ? 'i64' : 'o64')) continue;
      for (const size of sizesOf(row, mode)) {
        const shapes: boolean[] = [];
        const moffs = row.operands.some(({ kind }) => kind === K.moffs);
        if (hasModrmMemory(row) || moffs) shapes.push(true);
        if (!moffs && row.rmForm !== 1 && row.name !== 'lea' && !(row.map === 1 && row.opcode === PREFETCHW)) shapes.push(false);
        for (const memory of shapes) {
          const repeats = row.attributes.has('rep') ? [0, 2, 3] : [0];
          for (const rep of repeats) {
            for (const shortAddress of COUNTED.has(row.name) ? [false, true] : [false]) {
              for (const lock of row.attributes.has('lock') && memory ? [false, true] : [false]) {
                const name = `${row.name}.${['np', '66', 'f3', 'f2'][row.prefix] ?? ''}${opcode}${row.reg >= 0 ? `-${row.reg}` : ''}${row.exact >= 0 ? `-${row.exact.toString(16)}` : ''}.${mode}.${size}${memory ? 'm' : 'r'}${
                  ['', '', '.rep', '.repne'][rep]
                }${shortAddress ? '.a' : ''}${lock ? '.lock' : ''}`;
                forms.push({ row, mode, size, memory, lock, rep, shortAddress, name });
              }
            }
          }
        }
      }
    }
  }
  return forms;
}

/** Rows without vectors, by reason. */
export function skippedRows(rows: readonly IsaRow[] = ROWS): Map<string, string[]> {
  const byReason = new Map<string, string[]>();
  for (const row of rows) {
    const reason = skipReason(row);
    if (reason === null) continue;
    const names = byReason.get(reason) ?? [];
    if (!names.includes(row.name)) names.push(row.name);
    byReason.set(reason, names);
  }
  return byReason;
}
