// SPDX-License-Identifier: Apache-2.0
/**
 * Processor states of the recorded vectors: the byte image shared with the recorder, and the states that cases start from.
 *
 * A case names a seed; its state follows from it here, so that the repository stores only what cases add to it. Changing this file
 * makes the recorded vectors void: record them anew (`app/tools/vectors`).
 */

/** Offsets in the recorder's `struct state`. */
export const STATE = { gpr: 0, rip: 128, rflags: 136, fx: 144, data: 656, stack: 1296, bytes: 1808 } as const;
/** Offsets in the FXSAVE image (SDM volume 1, §10.5). */
export const FX = { fcw: 0, fsw: 2, ftw: 4, mxcsr: 24, st: 32, xmm: 160 } as const;

export const CODE = 0x100000;
export const CODE_BYTES = 0x2000;
export const DATA = 0x110000;
export const DATA_BYTES = 0x4000;
export const STACK = 0x120000;
export const STACK_BYTES = 0x2000;
/** A page that can only be read; all zeros. */
export const READ_ONLY = 0x116000;
export const READ_ONLY_BYTES = 0x1000;
/** GS is a segment with this base in 32-bit and 64-bit code alike; with it, 16-bit addresses reach the data area. */
export const GS_BASE = 0x108000;
export const GS_SELECTOR = 7;
/** The part of each memory area that a case sets and reports. An XSAVE image fits into that of the data. */
export const DATA_WINDOW_BYTES = 640;
export const STACK_WINDOW_BYTES = 512;
/** Windows straddle a page boundary. */
export const DATA_WINDOW = DATA + 0x1000 - 256;
export const STACK_WINDOW = STACK + 0x1000 - 256;

/** A small deterministic generator (xorshift32 over a mixed seed). */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = (Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ (seed >>> 13)) | 1;
    for (let n = 0; n < 4; n++) this.u32();
  }
  /** Where it stands; `restore` goes back there. */
  save(): number {
    return this.#state;
  }
  restore(state: number): void {
    this.#state = state;
  }
  u32(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return Math.imul(x, 0x2c1b3c6d) >>> 0;
  }
  below(limit: number): number {
    return this.u32() % limit;
  }
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)];
  }
  big(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }
}

const EDGES = [
  0n,
  1n,
  2n,
  0x7fn,
  0x80n,
  0xffn,
  0x7fffn,
  0x8000n,
  0xffffn,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  0x7fffffffffffffffn,
  0x8000000000000000n,
  0xffffffffffffffffn,
];

/** An integer that is interesting more often than chance. */
export function interestingInteger(random: Random): bigint {
  switch (random.below(6)) {
    case 0:
      return BigInt.asUintN(64, random.pick(EDGES) + BigInt(random.below(5) - 2));
    case 1:
      return BigInt(random.below(256));
    case 2:
      return BigInt.asUintN(64, -BigInt(random.below(256)));
    case 3:
      return BigInt(random.u32());
    default:
      return random.big();
  }
}

/** Bits of a float with `exponentBits` and `fractionBits`, from zeros, denormals, ones, halves, infinities, NaNs and ordinary numbers. */
export function interestingFloat(random: Random, exponentBits: number, fractionBits: number): bigint {
  const sign = BigInt(random.below(2));
  const bias = 2 ** (exponentBits - 1) - 1;
  const top = 2 ** exponentBits - 1;
  const all = (1n << BigInt(fractionBits)) - 1n;
  const any = random.big() & all;
  let exponent: number;
  let fraction: bigint;
  switch (random.below(12)) {
    case 0:
      exponent = 0;
      fraction = 0n;
      break;
    case 1:
      exponent = 0;
      fraction = any === 0n ? 1n : any;
      break;
    case 2:
      exponent = top;
      fraction = 0n;
      break;
    case 3:
      exponent = top;
      fraction = any | (1n << BigInt(fractionBits - 1));
      break;
    case 4:
      exponent = top;
      fraction = (any & (all >> 1n)) | 1n;
      break;
    case 5:
      exponent = 1 + random.below(3);
      fraction = any;
      break;
    case 6:
      exponent = top - 1 - random.below(3);
      fraction = any;
      break;
    case 7:
      exponent = bias + random.below(8);
      fraction = (any >> BigInt(fractionBits - 6)) << BigInt(fractionBits - 6);
      break;
    default:
      exponent = bias - 32 + random.below(64);
      fraction = any;
  }
  return (sign << BigInt(exponentBits + fractionBits)) | (BigInt(exponent) << BigInt(fractionBits)) | fraction;
}

function fillLanes(random: Random, view: DataView, at: number, bytes: number): void {
  const kind = random.below(4);
  for (let n = 0; n < bytes; n += 8) {
    let value: bigint;
    if (kind === 0) value = random.big();
    else if (kind === 1) value = (interestingFloat(random, 8, 23) << 32n) | interestingFloat(random, 8, 23);
    else if (kind === 2) value = interestingFloat(random, 11, 52);
    else value = interestingInteger(random);
    view.setBigUint64(at + n, value, true);
  }
}

const cached = new Map<number, Uint8Array>();

/** The image of the state that `seed` stands for; a copy. */
export function seededState(seed: number): Uint8Array {
  let state = cached.get(seed);
  if (!state) {
    state = makeState(seed);
    cached.set(seed, state);
  }
  return state.slice();
}

function makeState(seed: number): Uint8Array {
  const random = new Random(seed);
  const bytes = new Uint8Array(STATE.bytes);
  const view = new DataView(bytes.buffer);
  for (let n = 0; n < 16; n++) view.setBigUint64(STATE.gpr + n * 8, interestingInteger(random), true);
  view.setBigUint64(STATE.rip, BigInt(CODE + 0x800), true);
  view.setBigUint64(STATE.rflags, BigInt(0x202 | (random.u32() & 0x8d5)), true);

  const fx = STATE.fx;
  let masks = random.below(8) === 0 ? random.below(64) : 0x3f;
  // An exception that the next waiting x87 instruction reports; the status word then has its summary bits.
  const pending = random.below(20) === 0 ? 1 << random.below(6) : 0;
  masks &= ~pending;
  const precision = random.pick([0, 2, 3, 3, 3]);
  view.setUint16(fx + FX.fcw, 0x40 | masks | (precision << 8) | (random.below(4) << 10), true);
  const raised = (random.below(4) === 0 ? random.below(64) & masks : 0) | pending | (pending === 0 ? 0 : 0x8080);
  view.setUint16(fx + FX.fsw, raised | ((random.below(8) << 8) & 0x700) | (random.below(8) << 11) | (random.below(2) << 14), true);
  bytes[fx + FX.ftw] = random.below(4) === 0 ? random.below(256) : 0xff;
  const sseMasks = random.below(8) === 0 ? random.below(64) : 0x3f;
  const daz = random.below(8) === 0 ? 0x40 : 0;
  const ftz = random.below(8) === 0 ? 0x8000 : 0;
  const rounding = random.below(3) === 0 ? random.below(4) : 0;
  view.setUint32(
    fx + FX.mxcsr,
    (sseMasks << 7) | daz | ftz | (rounding << 13) | (random.below(2) === 0 ? random.below(64) & sseMasks : 0),
    true,
  );
  for (let n = 0; n < 8; n++) {
    const at = fx + FX.st + n * 16;
    if (random.below(6) === 0) {
      view.setBigUint64(at, random.big(), true);
      view.setUint16(at + 8, random.below(65536), true);
    } else {
      const float = interestingFloat(random, 15, 63);
      const exponent = Number((float >> 63n) & 0x7fffn);
      view.setBigUint64(at, (float & 0x7fffffffffffffffn) | (exponent === 0 ? 0n : 1n << 63n), true);
      view.setUint16(at + 8, Number(float >> 63n), true);
    }
  }
  for (let n = 0; n < 16; n++) fillLanes(random, view, fx + FX.xmm + n * 16, 16);
  for (let n = 0; n < DATA_WINDOW_BYTES; n += 16) fillLanes(random, view, STATE.data + n, 16);
  for (let n = 0; n < STACK_WINDOW_BYTES; n += 16) fillLanes(random, view, STATE.stack + n, 16);
  return bytes;
}
