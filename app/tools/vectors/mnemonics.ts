// SPDX-License-Identifier: Apache-2.0
/** The names a disassembler (binutils, Intel syntax) may give an instruction that the table calls by the name of its meaning. */
import type { Decoder } from '../../engine/cpu/isa/decoder.ts';
import { CONDITIONS } from '../../engine/cpu/isa/row.ts';

/** By row name; where the name depends on the operand size or on an immediate, all of them. */
const ALIASES: Record<string, string> = {
  imul1: 'imul',
  jmpi: 'jmp',
  calli: 'call',
  jmpf: 'jmp',
  jmpfm: 'jmp',
  callf: 'call',
  callfm: 'call',
  movfromsreg: 'mov',
  movtosreg: 'mov',
  pushsreg: 'push pushw',
  popsreg: 'pop popw',
  movfromcr: 'mov',
  movtocr: 'mov',
  movfromdr: 'mov',
  movtodr: 'mov',
  lfar: 'les lds lss lfs lgs',
  ud: 'ud2 ud1 ud0 vmcall monitor mwait vmmcall',
  privileged: 'lldt ltr lgdt lidt lgdtd lidtd lgdtw lidtw lmsw xsetbv',
  mov: 'movabs',
  movsx: 'movsxd',
  cbw: 'cbw cwde cdqe',
  cwd: 'cwd cdq cqo',
  jcxz: 'jcxz jecxz jrcxz',
  xlat: 'xlat',
  salc: 'salc',
  pushf: 'pushf pushfw pushfd pushfq',
  popf: 'popf popfw popfd popfq',
  pusha: 'pusha pushaw pushad',
  popa: 'popa popaw popad',
  push: 'pushw pushd pushq',
  leave: 'leavew',
  enter: 'enterw',
  iret: 'iret iretw iretd iretq',
  retf: 'retf retfw retfq',
  ret: 'ret retw',
  sysret: 'sysretd sysretq',
  sysexit: 'sysexitd sysexitq',
  call: 'callw',
  jmp: 'jmpw',
  sgdt: 'sgdtd sgdtw',
  sidt: 'sidtd sidtw',
  fence: 'lfence mfence sfence',
  clflush: 'clflush',
  movnti: 'movnti',
  nop: 'prefetch prefetchw prefetchwt1 prefetchnta prefetcht0 prefetcht1 prefetcht2 prefetchit0 prefetchit1 bndmov bndldx bndstx bndcl bndcu bndcn bndmk cldemote endbr32 endbr64 rdsspd rdsspq xchg',
  cmpps: cmpNames('ps'),
  cmppd: cmpNames('pd'),
  cmpss: cmpNames('ss'),
  cmpsd: cmpNames('sd'),
  movd: 'movq',
  pextrd: 'pextrq',
  pinsrd: 'pinsrq',
  xsave: 'xsave64',
  xsaveopt: 'xsaveopt64',
  xrstor: 'xrstor64',
  fxsave: 'fxsave64',
  fxrstor: 'fxrstor64',
  pcmpestri: 'pcmpestriq',
  pcmpestrm: 'pcmpestrmq',
  wbinvd: 'wbnoinvd',
  fnstenv: 'fnstenvw fnstenvd',
  fldenv: 'fldenvw fldenvd',
  fnsave: 'fnsavew fnsaved',
  frstor: 'frstorw frstord',
  crc32: 'crc32',
  int1: 'int1 icebp',
  cmpxchg8b: 'cmpxchg8b',
  pause: 'pause nop',
  xchg: 'nop',
  fcomp: 'fcomp2 fcomp3 fcomp5',
  fxch: 'fxch4 fxch7',
  fstp: 'fstp1 fstp8 fstp9',
  fcom: 'fcom2',
  fcomp_to: 'fcomp fcomp3',
  fcom_to: 'fcom fcom2',
  fwait: 'fwait',
  fnop: 'fneni(8087 fndisi(8087 fnsetpm(287 fnop',
  fadd_to: 'fadd',
  fmul_to: 'fmul',
  fsub_to: 'fsub',
  fsubr_to: 'fsubr',
  fdiv_to: 'fdiv',
  fdivr_to: 'fdivr',
};

function cmpNames(suffix: string): string {
  return ['eq', 'lt', 'le', 'unord', 'neq', 'nlt', 'nle', 'ord'].map((name) => `cmp${name}${suffix}`).join(' ');
}

const SHORT: Readonly<Record<string, string>> = { nb: 'ae', z: 'e', nz: 'ne', nbe: 'a', nl: 'ge', nle: 'g' };
for (const condition of CONDITIONS) {
  for (const family of ['j', 'set', 'cmov']) if (condition in SHORT) ALIASES[family + condition] = family + SHORT[condition];
}

/** Names of the decoded instruction. */
export function mnemonicOf(decoder: Decoder): ReadonlySet<string> {
  const { name } = decoder.row;
  return new Set([name, ...(ALIASES[name] ?? name).split(' ')]);
}
