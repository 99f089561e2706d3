// SPDX-License-Identifier: Apache-2.0
/** Ways to write down the address of a memory operand, with the registers set to match. */
import type { Address } from './encode.ts';
import { GS_BASE } from '../../engine/cpu/vectors/state.ts';
import type { CaseBuilder } from './builder.ts';

const GS_PREFIX = 0x65;
const RSP = 4;
const RBP = 5;

export interface PlacedAddress {
  readonly address: Address;
  readonly segment: number;
  readonly address67: boolean;
}

const signed = (value: bigint, bits: number): bigint => BigInt.asIntN(bits, value);

function pickRegister(c: CaseBuilder, not: number): number {
  const count = c.form.mode === 64 ? 16 : 8;
  for (;;) {
    const register = c.random.below(count);
    if (!c.reserved.has(register) && register !== not) return register;
  }
}

/**
 * Makes the instruction address `target`. RIP-relative addresses depend on the length: they are given as `length` bytes and the
 * caller tries again once it knows better. Without GS, 16-bit addresses miss the data area and fault; `reachable` forbids that.
 */
export function placeAddress(c: CaseBuilder, target: bigint, length: number, reachable: boolean): PlacedAddress {
  const { random, form } = c;
  const long = form.mode === 64;
  let address67 = form.shortAddress || (long && c.chance(10));
  let segment = 0;
  if (c.chance(12)) segment = GS_PREFIX;
  else if (long && c.chance(24)) segment = random.pick([0x26, 0x2e, 0x36, 0x3e]);
  if (!long && !address67 && c.chance(12)) address67 = true;
  if (!long && address67 && (reachable || !c.chance(3))) segment = GS_PREFIX;
  const canonical = target < 0x1_0000_0000n;
  if (!canonical) {
    address67 = false;
    segment = 0;
  }
  const bits = long ? (address67 ? 32 : 64) : address67 ? 16 : 32;
  const effective = BigInt.asUintN(bits, target - (segment === GS_PREFIX ? BigInt(GS_BASE) : 0n));
  if (bits === 16) return { address: place16(c, effective), segment, address67 };
  return { address: place(c, effective, bits, canonical, segment, length), segment, address67 };
}

function place(c: CaseBuilder, effective: bigint, bits: 32 | 64, canonical: boolean, segment: number, length: number): Address {
  const { random, form } = c;
  const kind = canonical ? random.below(12) : 2 + random.below(6);
  const fits = effective < 0x8000_0000n || bits === 32;
  if (kind === 0 && fits) return { bits, base: -1, index: -1, scale: 0, disp: signed(effective, 32), dispBytes: 4, ripRelative: false };
  if (kind === 1 && form.mode === 64 && segment !== GS_PREFIX) {
    const disp = BigInt.asIntN(32, effective - c.rip - BigInt(length));
    return { bits, base: -1, index: -1, scale: 0, disp, dispBytes: 4, ripRelative: true };
  }
  const dispBytes = random.pick([0, 0, 1, 1, 4]);
  let disp = dispBytes === 0 ? 0n : dispBytes === 1 ? BigInt(random.below(256) - 128) : signed(BigInt(random.u32()), 32);
  if (kind === 2 && canonical) {
    // An index alone.
    const index = pickRegister(c, RSP);
    const scale = random.below(4);
    const amount = BigInt(random.below(4096));
    c.setGpr(index, amount, bits);
    disp = signed(effective - (amount << BigInt(scale)), 32);
    if (BigInt.asUintN(bits, (amount << BigInt(scale)) + disp) === effective)
      return { bits, base: -1, index, scale, disp, dispBytes: 4, ripRelative: false };
  }
  let base = pickRegister(c, -1);
  let bytes = dispBytes;
  // Without a displacement, RBP and R13 as a base mean something else.
  if (bytes === 0 && (base & 7) === RBP) bytes = 1;
  if (c.reserved.has(base)) base = pickRegister(c, -1);
  if (kind < 7) {
    c.setGpr(base, BigInt.asUintN(bits, effective - disp), bits);
    return { bits, base, index: -1, scale: 0, disp, dispBytes: bytes, ripRelative: false };
  }
  c.reserved.add(base);
  const index = pickRegister(c, RSP);
  if (random.below(2) === 0) c.setGpr(index, BigInt(random.below(64) - 32), bits);
  else c.reserved.add(index);
  const scale = random.below(4);
  const offset = BigInt.asUintN(bits, c.gpr(index) << BigInt(scale));
  c.setGpr(base, BigInt.asUintN(bits, effective - disp - offset), bits);
  return { bits, base, index, scale, disp, dispBytes: bytes, ripRelative: false };
}

/** The eight pairs of 16-bit addressing, and the bare displacement. */
const PAIRS: readonly (readonly [number, number])[] = [
  [3, 6],
  [3, 7],
  [5, 6],
  [5, 7],
  [6, -1],
  [7, -1],
  [5, -1],
  [3, -1],
  [-1, -1],
];

function place16(c: CaseBuilder, effective: bigint): Address {
  const { random } = c;
  for (let tries = 0; ; tries++) {
    const [base, index] = tries > 20 ? [-1, -1] : random.pick(PAIRS);
    if (base < 0) return { bits: 16, base, index, scale: 0, disp: effective, dispBytes: 2, ripRelative: false };
    if (c.reserved.has(base) || (index >= 0 && c.reserved.has(index))) continue;
    let dispBytes = random.below(3);
    if (dispBytes === 0 && base === 5 && index < 0) dispBytes = 1;
    const disp = dispBytes === 0 ? 0n : dispBytes === 1 ? BigInt(random.below(256) - 128) : BigInt.asIntN(16, BigInt(random.u32()));
    const offset = index < 0 ? 0n : c.gpr(index) & 0xffffn;
    if (index >= 0) c.reserved.add(index);
    c.setGpr(base, BigInt.asUintN(16, effective - disp - offset), 16);
    return { bits: 16, base, index, scale: 0, disp, dispBytes, ripRelative: false };
  }
}
