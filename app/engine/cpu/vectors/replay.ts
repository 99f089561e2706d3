// SPDX-License-Identifier: Apache-2.0
/** Runs recorded vectors on the software CPU and says where it differs from the real one. */
import { VMEXIT, VMEXIT_NAMES } from '../../accel/accelerator.ts';
import { CTX } from '../../memory/vcpu-context.ts';
import { createFlatMachine, type FlatMachine } from '../flat-machine.ts';
import { initialState, type VectorCase, type VectorResult } from './case.ts';
import { CODE, CODE_BYTES, DATA, DATA_BYTES, DATA_WINDOW, FX, STACK, STACK_BYTES, STACK_WINDOW, STATE, WINDOW_BYTES } from './state.ts';

const PAGE = 4096;
const USER_PAGE = 7;
const MEMORY_BYTES = 0x200000;
const BP = 3;
/** What XMM state and x87 state a vector can differ in without meaning: instruction and operand pointers, opcode. */
const FX_IGNORED: readonly (readonly [number, number])[] = [[5, 24], [28, 32]];

export class VectorPlayer {
  readonly #machine: FlatMachine;
  readonly #view: DataView;

  constructor() {
    this.#machine = createFlatMachine(MEMORY_BYTES);
    for (let va = 0; va < MEMORY_BYTES; va += PAGE) {
      const mapped = [[CODE, CODE_BYTES], [DATA, DATA_BYTES], [STACK, STACK_BYTES]].some(([at, bytes]) => va >= at && va < at + bytes);
      if (!mapped) this.#machine.setPage(va, 0);
    }
    this.#view = new DataView(this.#machine.memory.buffer, this.#machine.memory.layout.ramBase);
    this.#machine.memory.fill(CODE, CODE_BYTES, 0xcc);
  }

  /** Runs one vector; null when everything agrees, else what does not. */
  run(item: VectorCase, expected: VectorResult): string | null {
    const before = initialState(item);
    this.#load(item, before);
    const ctx = this.#machine.vcpu.ctx;
    const reason = this.#machine.vcpu.run(2);
    const image = this.#store(before, item.mode);
    // Code goes back to INT3 for the next case.
    const rip = Number(new DataView(before.buffer).getBigUint64(STATE.rip, true));
    this.#machine.memory.write(rip, new Uint8Array(item.code.length).fill(0xcc));

    if (reason !== VMEXIT.exception) return `left with ${VMEXIT_NAMES[reason]}`;
    const trap = ctx.u32(CTX.exitVector);
    if (trap !== expected.trap) return `trap ${trap}, hardware ${expected.trap}`;
    if (trap !== BP) {
      const error = ctx.u32(CTX.exitHasError) ? ctx.u32(CTX.exitError) : 0;
      if (error !== expected.error) return `error code ${error.toString(16)}, hardware ${expected.error.toString(16)}`;
      if (trap === 14 && ctx.num(CTX.cr2) !== expected.cr2) return `CR2 ${ctx.num(CTX.cr2).toString(16)}, hardware ${expected.cr2.toString(16)}`;
    }
    const wanted = before.slice();
    for (const patch of expected.changes) wanted.set(patch.bytes, patch.offset);
    return compare(image, wanted, item);
  }

  #load(item: VectorCase, state: Uint8Array): void {
    const { vcpu, memory } = this.#machine;
    const ctx = vcpu.ctx;
    const view = new DataView(state.buffer);
    this.#machine.setMode(item.mode);
    for (let n = 0; n < 16; n++) ctx.setLoHi(CTX.gpr + n * 8, view.getUint32(n * 8, true), view.getUint32(n * 8 + 4, true));
    ctx.rip = Number(view.getBigUint64(STATE.rip, true));
    ctx.rflags = view.getUint32(STATE.rflags, true);
    const fx = STATE.fx;
    const fsw = view.getUint16(fx + FX.fsw, true);
    const top = (fsw >> 11) & 7;
    ctx.setU16(CTX.fcw, view.getUint16(fx + FX.fcw, true));
    ctx.setU16(CTX.fsw, fsw & ~0x3800);
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
    memory.write(DATA_WINDOW, state.subarray(STATE.data, STATE.data + WINDOW_BYTES));
    memory.write(STACK_WINDOW, state.subarray(STATE.stack, STATE.stack + WINDOW_BYTES));
    memory.write(ctx.rip, item.code);
  }

  #store(before: Uint8Array, mode: number): Uint8Array {
    const ctx = this.#machine.vcpu.ctx;
    const state = before.slice();
    const view = new DataView(state.buffer);
    for (let n = 0; n < 16; n++) {
      view.setUint32(n * 8, ctx.lo(CTX.gpr + n * 8), true);
      view.setUint32(n * 8 + 4, mode === 32 && n < 8 ? 0 : ctx.hi(CTX.gpr + n * 8), true);
    }
    view.setUint32(STATE.rip, ctx.lo(CTX.rip), true);
    view.setUint32(STATE.rip + 4, ctx.hi(CTX.rip), true);
    view.setUint32(STATE.rflags, ctx.rflags, true);
    const fx = STATE.fx;
    const top = ctx.u16(CTX.ftop) & 7;
    view.setUint16(fx + FX.fcw, ctx.u16(CTX.fcw), true);
    view.setUint16(fx + FX.fsw, (ctx.u16(CTX.fsw) & ~0x3800) | (top << 11), true);
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
    for (let n = 0; n < WINDOW_BYTES; n++) {
      state[STATE.data + n] = this.#view.getUint8(DATA_WINDOW + n);
      state[STATE.stack + n] = this.#view.getUint8(STACK_WINDOW + n);
    }
    return state;
  }
}

const REGISTERS = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15', 'rip', 'rflags'];

function compare(got: Uint8Array, wanted: Uint8Array, item: VectorCase): string | null {
  const g = new DataView(got.buffer);
  const w = new DataView(wanted.buffer);
  const problems: string[] = [];
  for (let n = 0; n < 18; n++) {
    // The resume flag comes and goes with how the trap was reported.
    const mask = n === 17 ? BigInt(~(item.undefinedFlags | 0x10000) >>> 0) : n < 8 && item.mode === 32 ? 0xffff_ffffn : 0xffff_ffff_ffff_ffffn;
    const a = g.getBigUint64(n * 8, true) & mask;
    const b = w.getBigUint64(n * 8, true) & mask;
    if (a !== b) problems.push(`${REGISTERS[n]} ${a.toString(16)}, hardware ${b.toString(16)}`);
  }
  for (let at = 0; at < 416; at++) {
    if (FX_IGNORED.some(([from, to]) => at >= from && at < to)) continue;
    if (at >= FX.st && at < FX.xmm && (at - FX.st) % 16 >= 10) continue;
    if (got[STATE.fx + at] !== wanted[STATE.fx + at]) {
      const field = at < FX.st ? at : at & ~15;
      const length = at < FX.st ? 4 : at < FX.xmm ? 10 : 16;
      const text = (state: Uint8Array): string => Array.from(state.subarray(STATE.fx + field, STATE.fx + field + length), (byte) => byte.toString(16).padStart(2, '0')).reverse().join('');
      const label = at < FX.st ? `fx+${field}` : at < FX.xmm ? `st${(field - FX.st) / 16}` : `xmm${(field - FX.xmm) / 16}`;
      problems.push(`${label} ${text(got)}, hardware ${text(wanted)}`);
      at = field + (at < FX.st ? 0 : 15);
    }
  }
  for (let at: number = STATE.data; at < STATE.bytes; at++) {
    if (got[at] !== wanted[at]) {
      problems.push(`memory ${at < STATE.stack ? 'data' : 'stack'}+${(at - STATE.data) % WINDOW_BYTES} ${got[at].toString(16)}, hardware ${wanted[at].toString(16)}`);
      break;
    }
  }
  return problems.length === 0 ? null : problems.join('; ');
}
