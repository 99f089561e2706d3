// SPDX-License-Identifier: Apache-2.0
/** Runs recorded vectors on the software CPU and says where it differs from the real one. */
import { VMEXIT, VMEXIT_NAMES } from '../../accel/accelerator.ts';
import type { Mfn } from '../../memory/frames.ts';
import { CTX, SEGREG } from '../../memory/vcpu-context.ts';
import { createFlatMachine, type FlatMachine } from '../flat-machine.ts';
import { initialState, type VectorCase, type VectorResult } from './case.ts';
import { compareStates } from './compare.ts';
import {
  CODE,
  CODE_BYTES,
  DATA,
  DATA_BYTES,
  DATA_WINDOW,
  DATA_WINDOW_BYTES,
  FX,
  GS_BASE,
  GS_SELECTOR,
  READ_ONLY,
  READ_ONLY_BYTES,
  STACK,
  STACK_BYTES,
  STACK_WINDOW,
  STACK_WINDOW_BYTES,
  STATE,
} from './state.ts';

const PAGE = 4096;
const USER_READ_ONLY = 5;
const MEMORY_BYTES = 0x200000;
const INT3 = 0xcc;
const BREAKPOINT = 3;
const PAGE_FAULT = 14;
/** An instruction and the INT3 behind it; long string instructions count as more. */
const BUDGET = 10_000;
const TOP = 0x3800;

export type MachineFactory = (bytes: number) => FlatMachine;

/** Plays vectors, one after the other, on one machine; `create` chooses what runs them. */
export class VectorPlayer {
  readonly #machine: FlatMachine;
  readonly #ram: Uint8Array;

  constructor(create: MachineFactory = createFlatMachine) {
    this.#machine = create(MEMORY_BYTES);
    const within = (va: number, start: number, bytes: number): boolean => va >= start && va < start + bytes;
    for (let va = 0; va < MEMORY_BYTES; va += PAGE) {
      if (within(va, READ_ONLY, READ_ONLY_BYTES)) this.#machine.setPage(va, USER_READ_ONLY);
      else if (!within(va, CODE, CODE_BYTES) && !within(va, DATA, DATA_BYTES) && !within(va, STACK, STACK_BYTES))
        this.#machine.setPage(va, 0);
    }
    const { memory } = this.#machine;
    this.#ram = memory.u8.subarray(memory.layout.ramBase, memory.layout.ramBase + MEMORY_BYTES);
    memory.fill(CODE, CODE_BYTES, INT3);
  }

  /** Runs one vector; null when everything agrees, else what does not. */
  run(item: VectorCase, expected: VectorResult): string | null {
    const before = initialState(item);
    this.#load(item, before);
    const { ctx } = this.#machine.vcpu;
    const rip = ctx.rip;
    let image: Uint8Array;
    try {
      const reason = this.#machine.vcpu.run(BUDGET);
      if (reason !== VMEXIT.exception) return `left with ${VMEXIT_NAMES[reason]}`;
      image = this.#store(before, item.mode);
    } catch (error) {
      return `engine: ${String(error)}`;
    } finally {
      // Code goes back to INT3 for the next case.
      this.#writeCode(rip, new Uint8Array(item.code.length).fill(INT3));
    }
    const trap = ctx.u32(CTX.exitVector);
    if (trap !== expected.trap) return `trap ${trap}, hardware ${expected.trap}`;
    if (trap !== BREAKPOINT) {
      const error = ctx.u32(CTX.exitHasError) ? ctx.u32(CTX.exitError) : 0;
      if (error !== expected.error) return `error code of trap ${trap} ${error.toString(16)}, hardware ${expected.error.toString(16)}`;
      if (trap === PAGE_FAULT && ctx.num(CTX.cr2) !== expected.cr2)
        return `CR2 ${ctx.num(CTX.cr2).toString(16)}, hardware ${expected.cr2.toString(16)}`;
    }
    const wanted = before.slice();
    for (const patch of expected.changes) wanted.set(patch.bytes, patch.offset);
    return compareStates(image, wanted, item);
  }

  /** Writes code the way a device would: the CPU is told. */
  #writeCode(va: number, bytes: Uint8Array): void {
    const { memory, vcpu } = this.#machine;
    memory.write(va, bytes);
    for (let at = va; at < va + bytes.length; ) {
      const end = Math.min(va + bytes.length, (Math.floor(at / PAGE) + 1) * PAGE);
      vcpu.invalidateCode(Math.floor(at / PAGE) as Mfn, at % PAGE, end - at);
      at = end;
    }
  }

  #load(item: VectorCase, state: Uint8Array): void {
    const { vcpu } = this.#machine;
    const ctx = vcpu.ctx;
    const view = new DataView(state.buffer);
    this.#machine.setMode(item.mode);
    for (const segment of [SEGREG.es, SEGREG.ss, SEGREG.ds]) ctx.setSegment(segment, 0x2b, 0, 0xffff_ffff, 0xcf3);
    ctx.setSegment(SEGREG.fs, 0, 0, 0, 0);
    ctx.setSegment(SEGREG.gs, GS_SELECTOR, GS_BASE, 0xffff_ffff, 0xcf3);
    for (let n = 0; n < 16; n++) ctx.setLoHi(CTX.gpr + n * 8, view.getUint32(n * 8, true), view.getUint32(n * 8 + 4, true));
    ctx.rip = Number(view.getBigUint64(STATE.rip, true));
    ctx.rflags = view.getUint32(STATE.rflags, true);
    const fx = STATE.fx;
    const fsw = view.getUint16(fx + FX.fsw, true);
    const top = (fsw >> 11) & 7;
    ctx.setU16(CTX.fcw, view.getUint16(fx + FX.fcw, true));
    ctx.setU16(CTX.fsw, fsw & ~TOP);
    ctx.setU16(CTX.ftop, top);
    ctx.setU16(CTX.ftag, state[fx + FX.ftw]);
    ctx.setU32(CTX.mxcsr, view.getUint32(fx + FX.mxcsr, true));
    for (let n = 0; n < 8; n++) {
      const from = fx + FX.st + n * 16;
      const to = CTX.fpr + ((top + n) & 7) * 16;
      ctx.setLoHi(to, view.getUint32(from, true), view.getUint32(from + 4, true));
      ctx.setU16(to + 8, view.getUint16(from + 8, true));
    }
    for (let n = 0; n < 256; n += 4) ctx.setU32(CTX.xmm + n, view.getUint32(fx + FX.xmm + n, true));
    const ram = this.#ram;
    ram.fill(0, DATA, DATA + DATA_BYTES);
    ram.fill(0, STACK, STACK + STACK_BYTES);
    ram.set(state.subarray(STATE.data, STATE.data + DATA_WINDOW_BYTES), DATA_WINDOW);
    ram.set(state.subarray(STATE.stack, STATE.stack + STACK_WINDOW_BYTES), STACK_WINDOW);
    this.#writeCode(ctx.rip, item.code);
  }

  #store(before: Uint8Array, mode: number): Uint8Array {
    const ctx = this.#machine.vcpu.ctx;
    const state = before.slice();
    const view = new DataView(state.buffer);
    for (let n = 0; n < 16; n++) {
      view.setUint32(n * 8, ctx.lo(CTX.gpr + n * 8), true);
      // In 32-bit mode nobody sees the upper halves.
      if (mode === 64 || n >= 8) view.setUint32(n * 8 + 4, ctx.hi(CTX.gpr + n * 8), true);
    }
    view.setUint32(STATE.rip, ctx.lo(CTX.rip), true);
    view.setUint32(STATE.rip + 4, ctx.hi(CTX.rip), true);
    view.setUint32(STATE.rflags, ctx.rflags, true);
    const fx = STATE.fx;
    const top = ctx.u16(CTX.ftop) & 7;
    view.setUint16(fx + FX.fcw, ctx.u16(CTX.fcw), true);
    view.setUint16(fx + FX.fsw, (ctx.u16(CTX.fsw) & ~TOP) | (top << 11), true);
    state[fx + FX.ftw] = ctx.u16(CTX.ftag);
    view.setUint32(fx + FX.mxcsr, ctx.u32(CTX.mxcsr), true);
    for (let n = 0; n < 8; n++) {
      const from = CTX.fpr + ((top + n) & 7) * 16;
      const to = fx + FX.st + n * 16;
      view.setUint32(to, ctx.lo(from), true);
      view.setUint32(to + 4, ctx.hi(from), true);
      view.setUint16(to + 8, ctx.u16(from + 8), true);
    }
    for (let n = 0; n < 256; n += 4) view.setUint32(fx + FX.xmm + n, ctx.u32(CTX.xmm + n), true);
    state.set(this.#ram.subarray(DATA_WINDOW, DATA_WINDOW + DATA_WINDOW_BYTES), STATE.data);
    state.set(this.#ram.subarray(STACK_WINDOW, STACK_WINDOW + STACK_WINDOW_BYTES), STATE.stack);
    return state;
  }
}
