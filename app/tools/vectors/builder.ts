// SPDX-License-Identifier: Apache-2.0
/** A case under construction: the seeded state, and what is changed in it so that the instruction has something sensible to work on. */
import { differences, type Patch } from '../../engine/cpu/vectors/case.ts';
import {
  CODE,
  DATA,
  DATA_BYTES,
  DATA_WINDOW,
  DATA_WINDOW_BYTES,
  READ_ONLY,
  type Random,
  seededState,
  STACK_WINDOW,
  STACK_WINDOW_BYTES,
  STATE,
} from '../../engine/cpu/vectors/state.ts';
import type { VectorForm } from './forms.ts';

/** Addresses that nothing is mapped at. */
const UNMAPPED = 0x118000;
const RAX = 0;
const RSP = 4;

const lowMask = (bits: number): bigint => (1n << BigInt(bits)) - 1n;

export class CaseBuilder {
  readonly form: VectorForm;
  readonly random: Random;
  readonly seed: number;
  readonly state: Uint8Array;
  readonly #before: Uint8Array;
  readonly #view: DataView;
  /** General registers that have a value the case depends on. */
  readonly reserved = new Set<number>();

  constructor(form: VectorForm, seed: number, random: Random) {
    this.form = form;
    this.seed = seed;
    this.random = random;
    this.#before = seededState(seed);
    this.state = this.#before.slice();
    this.#view = new DataView(this.state.buffer);
  }

  gpr(register: number): bigint {
    return this.#view.getBigUint64(STATE.gpr + register * 8, true);
  }
  /** Sets a register's low `bits` and reserves it. */
  setGpr(register: number, value: bigint, bits = 64): void {
    const mask = lowMask(bits);
    this.#view.setBigUint64(STATE.gpr + register * 8, (this.gpr(register) & ~mask) | (value & mask), true);
    this.reserved.add(register);
  }
  get rip(): bigint {
    return this.#view.getBigUint64(STATE.rip, true);
  }
  set rip(value: number) {
    this.#view.setBigUint64(STATE.rip, BigInt(value), true);
  }
  setFlags(set: number, clear: number): void {
    this.#view.setUint32(STATE.rflags, (this.#view.getUint32(STATE.rflags, true) & ~clear) | set, true);
  }

  /** Offset in the state image of an address, or -1 when it is in neither window. */
  offsetOf(address: bigint, bytes: number): number {
    const at = Number(address);
    if (at >= DATA_WINDOW && at + bytes <= DATA_WINDOW + DATA_WINDOW_BYTES) return STATE.data + at - DATA_WINDOW;
    if (at >= STACK_WINDOW && at + bytes <= STACK_WINDOW + STACK_WINDOW_BYTES) return STATE.stack + at - STACK_WINDOW;
    return -1;
  }
  readMemory(address: bigint, bytes: number): bigint {
    const at = this.offsetOf(address, bytes);
    if (at < 0) return 0n;
    let value = 0n;
    for (let n = bytes - 1; n >= 0; n--) value = (value << 8n) | BigInt(this.state[at + n]);
    return value;
  }
  writeMemory(address: bigint, bytes: number, value: bigint): void {
    const at = this.offsetOf(address, bytes);
    if (at < 0) return;
    for (let n = 0; n < bytes; n++) this.state[at + n] = Number((value >> BigInt(8 * n)) & 0xffn);
  }
  writeBytes(address: bigint, bytes: Uint8Array): void {
    const at = this.offsetOf(address, bytes.length);
    if (at >= 0) this.state.set(bytes, at);
  }

  chance(oneIn: number): boolean {
    return this.random.below(oneIn) === 0;
  }

  /** An address in the data window for an operand of `bytes`, or one that faults. `align` bytes, most of the time. */
  dataAddress(bytes: number, align: number, room: readonly [number, number] = [0, DATA_WINDOW_BYTES], mayFault = true): bigint {
    const random = this.random;
    if (mayFault && this.chance(32)) {
      switch (random.below(6)) {
        case 0:
          return BigInt(UNMAPPED + random.below(0x1000));
        case 1:
          return BigInt(DATA + DATA_BYTES - 1 - random.below(Math.max(1, bytes - 1)));
        case 2:
          return BigInt(DATA - 1 - random.below(Math.max(1, bytes - 1)));
        case 3:
          return this.form.mode === 64 ? (0x8000_0000_0000n << BigInt(random.below(3))) + BigInt(random.below(256)) : BigInt(UNMAPPED);
        default:
          return BigInt(READ_ONLY + (random.below(0x1000 - bytes) & ~15));
      }
    }
    const [from, to] = room;
    let offset = from + random.below(Math.max(1, to - bytes - from + 1));
    // Now and then over the page boundary.
    if (bytes > 1 && from <= 256 - bytes && to >= 256 + bytes && this.chance(10)) offset = 256 - 1 - random.below(bytes - 1);
    else if (align > 1 && !this.chance(8)) {
      offset &= ~(align - 1);
      if (offset < from) offset += align;
    }
    return BigInt(DATA_WINDOW + offset);
  }

  /** A jump target among INT3s, away from the instruction itself. */
  codeTarget(): bigint {
    for (;;) {
      const target = CODE + this.random.below(0x1ff0);
      if (Math.abs(target - Number(this.rip)) > 24) return BigInt(target);
    }
  }

  /** Puts RSP into the stack window (or where it faults, rarely). Returns it. */
  stack(mayFault = true): bigint {
    const random = this.random;
    let sp = STACK_WINDOW + 128 + random.below(256);
    if (!this.chance(8)) sp &= ~7;
    if (mayFault && this.chance(32)) sp = random.pick([0x120000, 0x120002, 0x11fff0, 0x122000, 0x121ffe, 0x130000]);
    this.setGpr(RSP, BigInt(sp));
    return BigInt(sp);
  }

  /** RAX from now on equals `value` in its low bits. */
  matchAccumulator(value: bigint, bits: number): void {
    this.setGpr(RAX, value, bits);
  }

  patches(): Patch[] {
    return differences(this.#before, this.state);
  }
}
