// SPDX-License-Identifier: Apache-2.0
/**
 * The soft-float core: exact x86 floating-point arithmetic as WebAssembly functions in the core module.
 *
 * It follows Intel SDM volume 1, chapters 4, 8 and 11. Everything the SSE and x87 semantics call is defined here; the transcendental
 * x87 instructions are host functions (`transcendental.ts`).
 */
import type { CoreFunctions } from '../functions.ts';
import { defineArithmetic } from './softfloat-arithmetic.ts';
import { defineConvert } from './softfloat-convert.ts';
import { definePack } from './softfloat-round.ts';
import { defineSseLanes } from './softfloat-sse.ts';
import { defineUnpack } from './softfloat-unpack.ts';
import { defineX87Arithmetic } from './x87-arithmetic.ts';
import { defineX87Functions } from './x87-functions.ts';
import { defineX87Stack } from './x87-stack.ts';

/** Defines all floating-point core functions. `FPU_HOST_FUNCTIONS` must be imported before. */
export function defineSoftFloat(core: CoreFunctions): void {
  defineUnpack(core);
  definePack(core);
  defineArithmetic(core);
  defineConvert(core);
  defineSseLanes(core);
  defineX87Stack(core);
  defineX87Arithmetic(core);
  defineX87Functions(core);
}
