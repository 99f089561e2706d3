// SPDX-License-Identifier: Apache-2.0
/**
 * Breakpoints of the debug registers DR0..DR3, DR7 (Intel SDM volume 3B, §18.2 and §18.3).
 *
 * Data: pages with a watched piece get no read and write tags in the TLB, so that accesses to them take the slow paths, which ask
 * `touch`. An access that hits ends the run before its instruction has any effect; the instruction is then executed alone, while hits
 * are noted, and the trap follows it. Instructions: blocks are decoded with a check in front of instructions whose offset in the page is
 * that of a breakpoint; the check compares the whole address (`atInstruction`).
 *
 * While nothing is armed none of this costs anything. The registers are looked at when a run begins: MOV to DR is for CPL 0 only.
 * Leaves out: I/O breakpoints (port instructions of a PV guest are emulated), general detect.
 */
import { CTX, type VcpuContext } from '../memory/vcpu-context.ts';
import { CPU, WATCH } from './record.ts';

/** `exitVector` of a run that met a watched access; never seen outside of the software CPU. */
export const VECTOR_WATCH = 0x100;

const COUNT = 4;
const DR7 = CTX.dr + 7 * 8;
const PAGE = 4096;
/** Field R/W of DR7. */
const ON = { execute: 0, write: 1, port: 2, access: 3 } as const;
/** Bytes for the values of field LEN. */
const LENGTHS: readonly number[] = [1, 2, 8, 4];
/** No page is at this address. */
const NO_PAGE = 1;

interface Watch {
  readonly bit: number;
  readonly from: number;
  readonly to: number;
  readonly reads: boolean;
}

export class Breakpoints {
  readonly #ctx: VcpuContext;
  readonly #seen = new Float64Array(COUNT + 1);
  #watches: readonly Watch[] = [];
  readonly #code: number[] = [];
  /** Page offsets of armed instruction breakpoints. */
  readonly codeOffsets = new Set<number>();

  constructor(ctx: VcpuContext) {
    this.#ctx = ctx;
    for (let i = 0; i < COUNT; i++) ctx.setNum(CPU.watchPages + i * 8, NO_PAGE);
  }

  /** False: nothing is armed, and nothing was when it was asked last. */
  get concerned(): boolean {
    return (this.#ctx.u32(DR7) & 0xff) !== 0 || this.data || this.code;
  }
  /** Data breakpoints are armed. */
  get data(): boolean {
    return this.#watches.length > 0;
  }
  /** Instruction breakpoints are armed. */
  get code(): boolean {
    return this.#code.length > 0;
  }

  /** Takes the registers over. True when a breakpoint came or went: translations and decoded code are out of date then. */
  update(): boolean {
    const ctx = this.#ctx;
    const control = ctx.u32(DR7);
    let same = this.#seen[COUNT] === control;
    this.#seen[COUNT] = control;
    for (let i = 0; i < COUNT; i++) {
      const address = ctx.num(CTX.dr + i * 8);
      same &&= this.#seen[i] === address;
      this.#seen[i] = address;
    }
    if (same) return false;
    const watches: Watch[] = [];
    this.#code.length = 0;
    this.codeOffsets.clear();
    for (let i = 0; i < COUNT; i++) {
      const address = this.#seen[i];
      ctx.setNum(CPU.watchPages + i * 8, NO_PAGE);
      if ((control & (3 << (i * 2))) === 0 || Number.isNaN(address)) continue;
      const on = (control >>> (16 + i * 4)) & 3;
      if (on === ON.port) continue;
      if (on === ON.execute) {
        this.#code.push(address, 1 << i);
        this.codeOffsets.add(((address % PAGE) + PAGE) % PAGE);
        continue;
      }
      const length = LENGTHS[(control >>> (18 + i * 4)) & 3];
      const from = Math.floor(address / length) * length;
      watches.push({ bit: 1 << i, from, to: from + length, reads: on === ON.access });
      ctx.setNum(CPU.watchPages + i * 8, Math.floor(from / PAGE) * PAGE);
    }
    this.#watches = watches;
    ctx.setU32(CPU.watchActive, this.data ? 1 : 0);
    return true;
  }

  /** An access while `CPU.watchMode` is on. True: it must not happen now; the exception fields say `VECTOR_WATCH`. */
  touch(va: number, bytes: number, write: boolean): boolean {
    const ctx = this.#ctx;
    let hits = 0;
    for (const watch of this.#watches) if ((write || watch.reads) && va < watch.to && va + bytes > watch.from) hits |= watch.bit;
    if (hits === 0) return false;
    if (ctx.u32(CPU.watchMode) === WATCH.note) {
      ctx.setU32(CPU.watchHits, ctx.u32(CPU.watchHits) | hits);
      return false;
    }
    ctx.setU32(CTX.exitVector, VECTOR_WATCH);
    ctx.setU32(CTX.exitHasError, 0);
    return true;
  }

  /** Bits of DR6 for instruction breakpoints at `rip`, which is not under RF. */
  atInstruction(rip: number): number {
    let bits = 0;
    for (let n = 0; n < this.#code.length; n += 2) if (this.#code[n] === rip) bits |= this.#code[n + 1];
    return bits;
  }
}
