// SPDX-License-Identifier: Apache-2.0
/** A flat machine with named places and hexadecimal code, for tests of the CPU's exactness. */
import { createFlatMachine, type FlatMachine } from '../flat-machine.ts';
import type { Mfn } from '../../memory/frames.ts';
import { CTX, REG } from '../../memory/vcpu-context.ts';

const PAGE = 4096;
/** 8 MiB: enough for large pages to be told apart. */
const MEMORY_BYTES = 8 * 1024 * 1024;

export const CODE = 0x10000;
export const DATA = 0x20000;
export const STACK_TOP = 0x31000;

/** `'48 89 07'` as bytes. */
export const hex = (text: string): Uint8Array =>
  Uint8Array.from(
    text.split(/\s+/).filter((part) => part !== ''),
    (part) => Number.parseInt(part, 16),
  );

export interface CodeMachine extends FlatMachine {
  /** Writes code and sets RIP to its start. The code cache is told. */
  readonly load: (text: string, at?: number) => void;
  /** Writes memory as a device would. */
  readonly write: (va: number, bytes: Uint8Array) => void;
  readonly get: (register: keyof typeof REG) => number;
  readonly set: (registers: Partial<Record<keyof typeof REG, number>>) => void;
  readonly u64: (va: number) => bigint;
  readonly fault: () => { readonly vector: number; readonly error: number; readonly cr2: number; readonly rip: number };
  /** Root, and the tables below it that map address 0: [level 4, 3, 2, first of level 1]. */
  readonly tables: readonly number[];
  /** A page-table entry as it stands in memory. */
  readonly entry: (table: number, index: number) => bigint;
}

export function codeMachine(): CodeMachine {
  const machine = createFlatMachine(MEMORY_BYTES);
  const { memory, vcpu } = machine;
  const ctx = vcpu.ctx;
  const ram = (): Uint8Array => memory.u8.subarray(memory.layout.ramBase);
  const write = (va: number, bytes: Uint8Array): void => {
    memory.write(va, bytes);
    for (let n = 0; n < bytes.length; n++) vcpu.invalidateCode(Math.floor((va + n) / PAGE) as Mfn, (va + n) % PAGE, 1);
  };
  const view = new DataView(memory.buffer, memory.layout.ramBase);
  const frames = MEMORY_BYTES / PAGE;
  ctx.setGpr(REG.rsp, STACK_TOP);
  ctx.rip = CODE;
  ram().fill(0xcc, CODE, CODE + 0x3000);
  return {
    ...machine,
    load: (text, at = CODE) => {
      write(at, hex(text));
      ctx.rip = at;
    },
    write,
    get: (register) => ctx.gpr(REG[register]),
    set: (registers) => {
      for (const [name, value] of Object.entries(registers)) ctx.setGpr(REG[name as keyof typeof REG], value);
    },
    u64: (va) => view.getBigUint64(va, true),
    fault: () => ({ vector: ctx.u32(CTX.exitVector), error: ctx.u32(CTX.exitError), cr2: ctx.num(CTX.cr2), rip: ctx.rip }),
    tables: [frames, frames + 1, frames + 2, frames + 3],
    entry: (table, index) => view.getBigUint64(table * PAGE + index * 8, true),
  };
}
