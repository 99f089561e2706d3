// SPDX-License-Identifier: Apache-2.0
/**
 * Where a region needs the arithmetic flags.
 *
 * Coarse on purpose: all flags are one value. An instruction needs them when it reads any of them, keeps some of them, or may leave the
 * region (a fault must show the flags as they were); it ends their life when it sets all of them without having needed them.
 */
import { OPERAND_KIND as K } from '../isa/row.ts';
import { ADDRESS } from '../isa/decoder.ts';
import type { Instruction } from './instruction.ts';
import type { BasicBlock } from './region.ts';

/** Set all arithmetic flags whatever they were. */
const SETTERS = new Set(['add', 'or', 'and', 'sub', 'xor', 'cmp', 'test', 'neg', 'imul', 'imul1', 'mul', 'popcnt', 'xadd', 'bsf', 'bsr']);
/** Neither read nor set flags, and never fault on registers. */
const NEUTRAL = new Set(['mov', 'movzx', 'movsx', 'lea', 'not', 'nop', 'pause', 'fence', 'bswap', 'cbw', 'cwd', 'xchg', 'jmp']);
const COUNTED = new Set(['shl', 'shr', 'sar', 'rol', 'ror', 'rcl', 'rcr', 'shld', 'shrd']);
const COUNTED_SETTERS = new Set(['shl', 'shr', 'sar']);

/** The last operand of a shift, when it is a constant; else NaN. */
function constantCount(instruction: Instruction): number {
  const { operands } = instruction.form.row;
  const last = operands[operands.length - 1];
  if (last.kind === K.one) return 1;
  if (last.kind !== K.imm) return Number.NaN;
  const wide = instruction.form.operandSize === 64 && operands[0].width === 'v';
  return instruction.immLo & (wide ? 63 : 31);
}

/** Does this instruction set flags only on a condition that is not known at translation? */
export function setsFlagsConditionally(instruction: Instruction): boolean {
  return COUNTED.has(instruction.form.row.name) && Number.isNaN(constantCount(instruction));
}

function touchesMemory(instruction: Instruction): boolean {
  return instruction.form.addressing !== ADDRESS.none && instruction.form.row.name !== 'lea' && instruction.form.row.name !== 'nop';
}

/** 1: needs the flags, -1: ends their life, 0: neither. */
function effect(instruction: Instruction): number {
  const { name } = instruction.form.row;
  if (touchesMemory(instruction)) return 1;
  if (SETTERS.has(name)) return -1;
  if (COUNTED_SETTERS.has(name)) {
    const count = constantCount(instruction);
    return Number.isNaN(count) ? 1 : count === 0 ? 0 : -1;
  }
  return NEUTRAL.has(name) ? 0 : 1;
}

/** For each block: does anything from its start on need the flags that are set before it? */
export function flagsNeededAtEntry(blocks: readonly BasicBlock[], successors: readonly (readonly number[])[]): boolean[] {
  const own = blocks.map((block) => block.instructions.map(effect).find((value) => value !== 0) ?? 0);
  const leaves = blocks.map((block, n) => {
    const wanted = block.end.kind === 'branch' ? 2 : block.end.kind === 'fall' || block.end.kind === 'jump' ? 1 : Number.POSITIVE_INFINITY;
    return successors[n].length < wanted;
  });
  const needed = own.map((value, n) => value === 1 || (value === 0 && leaves[n]));
  for (let changed = true; changed; ) {
    changed = false;
    for (let n = 0; n < blocks.length; n++) {
      if (needed[n] || own[n] !== 0 || !successors[n].some((next) => needed[next])) continue;
      needed[n] = true;
      changed = true;
    }
  }
  return needed;
}
