// SPDX-License-Identifier: Apache-2.0
/** Which arithmetic flags an instruction leaves undefined (Intel SDM volume 1, appendix A, and the instructions' pages in volume 2). */
import type { IsaRow } from '../../engine/cpu/isa/row.ts';

const CF = 1;
const PF = 4;
const AF = 0x10;
const ZF = 0x40;
const SF = 0x80;
const OF = 0x800;

const FIXED: Readonly<Record<string, number>> = {
  and: AF,
  or: AF,
  xor: AF,
  test: AF,
  mul: SF | ZF | AF | PF,
  imul: SF | ZF | AF | PF,
  imul1: SF | ZF | AF | PF,
  div: CF | OF | SF | ZF | AF | PF,
  idiv: CF | OF | SF | ZF | AF | PF,
  bsf: CF | OF | SF | AF | PF,
  bsr: CF | OF | SF | AF | PF,
  bt: OF | SF | AF | PF,
  bts: OF | SF | AF | PF,
  btr: OF | SF | AF | PF,
  btc: OF | SF | AF | PF,
  daa: OF,
  das: OF,
  aaa: OF | SF | ZF | PF,
  aas: OF | SF | ZF | PF,
  aam: OF | AF | CF,
  aad: OF | AF | CF,
};

/** Mask of undefined flags; `bits` is the operand's width, `count` the unmasked count of a shift or rotate. */
export function undefinedFlags(row: IsaRow, bits: number, count: number): number {
  const fixed = FIXED[row.name];
  if (fixed !== undefined) return fixed;
  const masked = count & (bits === 64 ? 63 : 31);
  switch (row.name) {
    case 'rol':
    case 'ror':
    case 'rcl':
    case 'rcr':
      return masked > 1 ? OF : 0;
    case 'shl':
    case 'shr':
      return masked === 0 ? 0 : AF | (masked > 1 ? OF : 0) | (masked >= bits ? CF : 0);
    case 'sar':
      // OF is cleared by a shift by one only.
      return masked === 0 ? 0 : AF | (masked > 1 ? OF : 0);
    case 'shld':
    case 'shrd':
      if (masked > bits) return CF | OF | SF | ZF | AF | PF;
      return masked === 0 ? 0 : AF | (masked > 1 ? OF : 0);
    default:
      return 0;
  }
}
