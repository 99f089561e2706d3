// SPDX-License-Identifier: Apache-2.0
/** All instruction meanings, and the core functions they call. */
import { defineSoftFloat } from '../fpu/softfloat.ts';
import { FPU_HOST_FUNCTIONS } from '../fpu/transcendental.ts';
import type { CoreFunctions, HostFunction } from '../functions.ts';
import { defineAlu } from './alu.ts';
import { SemanticsTable } from './context.ts';
import { defineControl } from './control.ts';
import { defineDecimal } from './decimal.ts';
import { defineFlags } from './flags.ts';
import { defineFxState } from './fx-state.ts';
import { defineIntegerCore } from './integer-core.ts';
import { defineShifts } from './shift.ts';
import { defineSseInteger } from './sse-integer.ts';
import { defineSseMove } from './sse-move.ts';
import { defineSseShuffle } from './sse-shuffle.ts';
import { defineSseString, defineSseStringCore } from './sse-string.ts';
import { defineSseFloat } from './sse-float.ts';
import { defineStrings } from './string.ts';
import { defineSystem } from './system.ts';
import { defineX87 } from './x87.ts';

let made: SemanticsTable | null = null;

/** What every instruction means; made once. */
export function semanticsTable(): SemanticsTable {
  made ??= makeTable();
  return made;
}

function makeTable(): SemanticsTable {
  const table = new SemanticsTable();
  defineAlu(table);
  defineShifts(table);
  defineControl(table);
  defineStrings(table);
  defineDecimal(table);
  defineSystem(table);
  defineSseMove(table);
  defineSseInteger(table);
  defineSseShuffle(table);
  defineSseString(table);
  defineFxState(table);
  defineSseFloat(table);
  defineX87(table);
  return table;
}

/** Core functions that semantics call, besides address translation. */
export function defineCoreFunctions(core: CoreFunctions): void {
  defineFlags(core);
  defineIntegerCore(core);
  defineSseStringCore(core);
  defineSoftFloat(core);
}

/** Host functions that semantics call, besides those on segments. */
export const HOST_FUNCTIONS: readonly HostFunction[] = [...FPU_HOST_FUNCTIONS];
