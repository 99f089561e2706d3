// SPDX-License-Identifier: Apache-2.0
/**
 * Compares the state after an instruction with the recorded one, bit for bit, but for what the manuals leave open: undefined flags,
 * the precision of approximations, and results that differ between processors by one unit in the last place (x87 transcendentals).
 */
import type { VectorCase } from './case.ts';
import { FX, STATE } from './state.ts';

const REGISTERS = [
  'rax',
  'rcx',
  'rdx',
  'rbx',
  'rsp',
  'rbp',
  'rsi',
  'rdi',
  'r8',
  'r9',
  'r10',
  'r11',
  'r12',
  'r13',
  'r14',
  'r15',
  'rip',
  'rflags',
];
const FLAGS_INDEX = 17;

/** RCPPS and the like: relative error of at most 1.5 × 2^-12 (SDM volume 2), on either side. */
const APPROXIMATE = /^(rcp|rsqrt)(ps|ss)$/;
const APPROXIMATE_ERROR = 3 * 2 ** -12;
/** x87 functions with an error below one unit in the last place (SDM volume 1, §8.3.10): they may differ by one, and in C1. */
const TRANSCENDENTAL = new Set(['f2xm1', 'fyl2x', 'fyl2xp1', 'fptan', 'fpatan', 'fsin', 'fcos', 'fsincos']);
const C1 = 0x200;

const rowName = (item: VectorCase): string => item.name.slice(0, item.name.indexOf('.'));

const hexOf = (state: Uint8Array, at: number, length: number): string => {
  let text = '';
  for (let n = length - 1; n >= 0; n--) text += state[at + n].toString(16).padStart(2, '0');
  return text;
};

/** Null when the states agree, else what differs, for people. */
export function compareStates(got: Uint8Array, wanted: Uint8Array, item: VectorCase): string | null {
  for (const [offset, length] of item.ignored) got.set(wanted.subarray(offset, offset + length), offset);
  forgive(got, wanted, item);
  const problems: string[] = [];
  for (let n = 0; n < REGISTERS.length; n++) {
    const at = n * 8;
    if (sameBytes(got, wanted, at, 8)) continue;
    const text = n === FLAGS_INDEX ? flagNames(got, wanted) : '';
    problems.push(`${REGISTERS[n]} ${hexOf(got, at, 8)}, hardware ${hexOf(wanted, at, 8)}${text}`);
  }
  const field = (label: string, at: number, length: number): void => {
    if (!sameBytes(got, wanted, at, length)) problems.push(`${label} ${hexOf(got, at, length)}, hardware ${hexOf(wanted, at, length)}`);
  };
  const fx = STATE.fx;
  field('fcw', fx + FX.fcw, 2);
  field('fsw', fx + FX.fsw, 2);
  field('ftw', fx + FX.ftw, 1);
  field('mxcsr', fx + FX.mxcsr, 4);
  for (let n = 0; n < 8; n++) field(`st${n}`, fx + FX.st + n * 16, 10);
  for (let n = 0; n < 16; n++) field(`xmm${n}`, fx + FX.xmm + n * 16, 16);
  for (let at: number = STATE.data; at < STATE.bytes; at++) {
    if (got[at] === wanted[at]) continue;
    const start = at < STATE.stack ? STATE.data : STATE.stack;
    problems.push(
      `${start === STATE.data ? 'data' : 'stack'}+${at - start} ${hexOf(got, at, Math.min(16, STATE.bytes - at))}, hardware ${hexOf(wanted, at, Math.min(16, STATE.bytes - at))}`,
    );
    break;
  }
  return problems.length === 0 ? null : problems.join('; ');
}

function sameBytes(a: Uint8Array, b: Uint8Array, at: number, length: number): boolean {
  for (let n = at; n < at + length; n++) if (a[n] !== b[n]) return false;
  return true;
}

const FLAG_NAMES: readonly (readonly [number, string])[] = [
  [1, 'CF'],
  [4, 'PF'],
  [0x10, 'AF'],
  [0x40, 'ZF'],
  [0x80, 'SF'],
  [0x400, 'DF'],
  [0x800, 'OF'],
];

function flagNames(got: Uint8Array, wanted: Uint8Array): string {
  const at = STATE.rflags;
  const different = (got[at] ^ wanted[at]) | ((got[at + 1] ^ wanted[at + 1]) << 8);
  return ` (${FLAG_NAMES.filter(([bit]) => (different & bit) !== 0)
    .map(([, name]) => name)
    .join(' ')})`;
}

/** Makes what may differ equal in `got`. */
function forgive(got: Uint8Array, wanted: Uint8Array, item: VectorCase): void {
  for (let n = 0; n < 2; n++) {
    const mask = (item.undefinedFlags >> (8 * n)) & 0xff;
    const at = STATE.rflags + n;
    got[at] = (got[at] & ~mask) | (wanted[at] & mask);
  }
  const name = rowName(item);
  if (APPROXIMATE.test(name)) forgiveApproximation(got, wanted);
  else if (TRANSCENDENTAL.has(name)) forgiveLastPlace(got, wanted);
}

function forgiveApproximation(got: Uint8Array, wanted: Uint8Array): void {
  const a = new DataView(got.buffer);
  const b = new DataView(wanted.buffer);
  for (let at = STATE.fx + FX.xmm; at < STATE.fx + FX.xmm + 256; at += 4) {
    const x = a.getFloat32(at, true);
    const y = b.getFloat32(at, true);
    if (Number.isFinite(x) && Number.isFinite(y) && y !== 0 && Math.abs(x / y - 1) <= APPROXIMATE_ERROR)
      a.setUint32(at, b.getUint32(at, true), true);
  }
}

function forgiveLastPlace(got: Uint8Array, wanted: Uint8Array): void {
  const a = new DataView(got.buffer);
  const b = new DataView(wanted.buffer);
  const fsw = STATE.fx + FX.fsw;
  a.setUint16(fsw, (a.getUint16(fsw, true) & ~C1) | (b.getUint16(fsw, true) & C1), true);
  for (let n = 0; n < 8; n++) {
    const at = STATE.fx + FX.st + n * 16;
    const order = (view: DataView): bigint =>
      (BigInt(view.getUint16(at + 8, true)) << 63n) + (view.getBigUint64(at, true) & 0x7fff_ffff_ffff_ffffn);
    const difference = order(a) - order(b);
    if (difference !== 1n && difference !== -1n) continue;
    a.setBigUint64(at, b.getBigUint64(at, true), true);
    a.setUint16(at + 8, b.getUint16(at + 8, true), true);
  }
}
