// SPDX-License-Identifier: Apache-2.0
/**
 * x87 instructions, opcodes D8 to DF and WAIT (Intel SDM volume 2, table ), with the undocumented aliases that every
 * processor has (AMD64 Architecture Programmer's Manual volume 3, appendix A).
 *
 * The ModRM.reg field of arithmetic and comparison rows is the operation (`row.reg`).
 *
 * @abi insn x87 — all of x87 with 80-bit arithmetic; transcendental functions correctly rounded
 */
const ARITHMETIC = ['fadd', 'fmul', 'fcom', 'fcomp', 'fsub', 'fsubr', 'fdiv', 'fdivr'] as const;

/** In DC and DE with a register the names of reversed forms trade places; the field keeps its meaning seen from ST(0). */
const TRADED = [0, 1, 2, 3, 5, 4, 7, 6] as const;

const arithmetic = ARITHMETIC.flatMap((name, n) => {
  const to = ARITHMETIC[TRADED[n]];
  const rows = [`${name} | D8 /${n} | Md | x87`, `${name} | D8 /${n} | ST | x87`, `${name} | DC /${n} | Mq | x87`];
  rows.push(`${to}_to | DC /${n} | ST | x87`, `fi${name.slice(1)} | DA /${n} | Md | x87`, `fi${name.slice(1)} | DE /${n} | Mw | x87`);
  if (n !== 2 && n !== 3) rows.push(`${to}p | DE /${n} | ST | x87`);
  return rows;
});

export const X87: readonly string[] = [
  'fwait | 9B | |',
  ...arithmetic,
  'fcomp | DE /2 | ST | x87',
  'fcompp | DE =D9 | | x87',

  'fld | D9 /0 | Md | x87',
  'fld | D9 /0 | ST | x87',
  'fst | D9 /2 | Md | x87',
  'fstp | D9 /3 | Md | x87',
  'fstp | D9 /3 | ST | x87',
  'fldenv | D9 /4 | M | x87',
  'fldcw | D9 /5 | Mw | x87',
  'fnstenv | D9 /6 | M | x87 nowait',
  'fnstcw | D9 /7 | Mw | x87 nowait',
  'fxch | D9 /1 | ST | x87',
  'fnop | D9 =D0 | | x87',
  'fchs | D9 =E0 | | x87',
  'fabs | D9 =E1 | | x87',
  'ftst | D9 =E4 | | x87',
  'fxam | D9 =E5 | | x87',
  'fld1 | D9 =E8 | | x87',
  'fldl2t | D9 =E9 | | x87',
  'fldl2e | D9 =EA | | x87',
  'fldpi | D9 =EB | | x87',
  'fldlg2 | D9 =EC | | x87',
  'fldln2 | D9 =ED | | x87',
  'fldz | D9 =EE | | x87',
  'f2xm1 | D9 =F0 | | x87',
  'fyl2x | D9 =F1 | | x87',
  'fptan | D9 =F2 | | x87',
  'fpatan | D9 =F3 | | x87',
  'fxtract | D9 =F4 | | x87',
  'fprem1 | D9 =F5 | | x87',
  'fdecstp | D9 =F6 | | x87',
  'fincstp | D9 =F7 | | x87',
  'fprem | D9 =F8 | | x87',
  'fyl2xp1 | D9 =F9 | | x87',
  'fsqrt | D9 =FA | | x87',
  'fsincos | D9 =FB | | x87',
  'frndint | D9 =FC | | x87',
  'fscale | D9 =FD | | x87',
  'fsin | D9 =FE | | x87',
  'fcos | D9 =FF | | x87',

  'fcmovb | DA /0 | ST | x87',
  'fcmove | DA /1 | ST | x87',
  'fcmovbe | DA /2 | ST | x87',
  'fcmovu | DA /3 | ST | x87',
  'fucompp | DA =E9 | | x87',

  'fild | DB /0 | Md | x87',
  'fisttp | DB /1 | Md | x87',
  'fist | DB /2 | Md | x87',
  'fistp | DB /3 | Md | x87',
  'fld | DB /5 | Mt | x87',
  'fstp | DB /7 | Mt | x87',
  'fcmovnb | DB /0 | ST | x87',
  'fcmovne | DB /1 | ST | x87',
  'fcmovnbe | DB /2 | ST | x87',
  'fcmovnu | DB /3 | ST | x87',
  'fnop | DB =E0 | | x87 nowait',
  'fnop | DB =E1 | | x87 nowait',
  'fnclex | DB =E2 | | x87 nowait',
  'fninit | DB =E3 | | x87 nowait',
  'fnop | DB =E4 | | x87 nowait',
  'fucomi | DB /5 | ST | x87',
  'fcomi | DB /6 | ST | x87',

  'fld | DD /0 | Mq | x87',
  'fisttp | DD /1 | Mq | x87',
  'fst | DD /2 | Mq | x87',
  'fstp | DD /3 | Mq | x87',
  'frstor | DD /4 | M | x87',
  'fnsave | DD /6 | M | x87 nowait',
  'fnstsw | DD /7 | Mw | x87 nowait',
  'ffree | DD /0 | ST | x87',
  'fxch | DD /1 | ST | x87',
  'fst | DD /2 | ST | x87',
  'fstp | DD /3 | ST | x87',
  'fucom | DD /4 | ST | x87',
  'fucomp | DD /5 | ST | x87',

  'fild | DF /0 | Mw | x87',
  'fisttp | DF /1 | Mw | x87',
  'fist | DF /2 | Mw | x87',
  'fistp | DF /3 | Mw | x87',
  'fbld | DF /4 | Mt | x87',
  'fild | DF /5 | Mq | x87',
  'fbstp | DF /6 | Mt | x87',
  'fistp | DF /7 | Mq | x87',
  'ffreep | DF /0 | ST | x87',
  'fxch | DF /1 | ST | x87',
  'fstp | DF /2 | ST | x87',
  'fstp | DF /3 | ST | x87',
  'fnstsw | DF =E0 | AX | x87 nowait',
  'fucomip | DF /5 | ST | x87',
  'fcomip | DF /6 | ST | x87',
];
