// SPDX-License-Identifier: Apache-2.0
/** Instruction rows that a program of a host system cannot record, each with its reason. Everything else has vectors. */
import type { IsaRow } from '../isa/row.ts';

const BY_NAME: Readonly<Record<string, string>> = {
  int: 'calls the host kernel, or depends on its interrupt table',
  int1: 'a hypervisor below the host may report it at another address',
  syscall: 'calls the host kernel',
  sysenter: 'calls the host kernel',
  sysexit: 'differs between vendors in long mode',
  cpuid: 'answers differ on each host',
  rdtsc: 'the time is different each time',
  rdtscp: 'the time is different each time',
  rdpid: 'depends on the host processor it ran on',
  xgetbv: 'depends on what the host has enabled',
  sldt: 'the host kernel emulates it (UMIP)',
  str: 'the host kernel emulates it (UMIP)',
  sgdt: 'the host kernel emulates it (UMIP)',
  sidt: 'the host kernel emulates it (UMIP)',
  smsw: 'the host kernel emulates it (UMIP)',
  rdfsbase: 'FS belongs to the C library of the recorder',
  wrfsbase: 'FS belongs to the C library of the recorder',
  wrgsbase: 'the base it sets is not part of the recorded state',
};

const BY_TEXT: readonly (readonly [string, string])[] = [
  ['popsreg | 0F A1', 'FS belongs to the C library of the recorder'],
  ['lfar | 0F B4', 'FS belongs to the C library of the recorder'],
  ['ud | 0F 01 =C1', 'a hypervisor below the host answers it (VMCALL)'],
  ['ud | 0F 01 =D9', 'a hypervisor below the host answers it (VMMCALL)'],
];

/** Why `row` has no vectors, or null. */
export function skipReason(row: IsaRow): string | null {
  return BY_NAME[row.name] ?? BY_TEXT.find(([text]) => row.text.startsWith(text))?.[1] ?? null;
}
