// SPDX-License-Identifier: Apache-2.0
/**
 * A recorded vector: an instruction, the state it starts from, and what the real processor made of it.
 *
 * As text, one line, fields separated by spaces: name, mode, code in hexadecimal, seed, changes to the seeded state, mask of undefined
 * flags, bytes to ignore, trap, error code, CR2, then the bytes in which the final state differs from the initial one. Lists of changes are
 * `offset:hex` joined by commas, or `-`; offsets are those of the state image.
 */
import { seededState } from './state.ts';

export interface Patch {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

export interface VectorCase {
  /** Row and form, for reports: `add.32.rm`. */
  readonly name: string;
  readonly mode: 32 | 64;
  readonly code: Uint8Array;
  readonly seed: number;
  readonly setup: readonly Patch[];
  /** RFLAGS bits that the manual leaves undefined here. */
  readonly undefinedFlags: number;
  /** Bytes of the final state, [offset, length], that processors fill as they like. */
  readonly ignored: readonly (readonly [number, number])[];
}

export interface VectorResult {
  /** Exception vector: 3 when the instruction completed (the INT3 behind it), else the fault. */
  readonly trap: number;
  readonly error: number;
  readonly cr2: number;
  readonly changes: readonly Patch[];
}

export function initialState(item: VectorCase): Uint8Array {
  const state = seededState(item.seed);
  for (const patch of item.setup) state.set(patch.bytes, patch.offset);
  return state;
}

/** The runs of bytes in which two images differ. */
export function differences(before: Uint8Array, after: Uint8Array): Patch[] {
  const patches: Patch[] = [];
  for (let at = 0; at < before.length; at++) {
    if (before[at] === after[at]) continue;
    let end = at + 1;
    while (end < before.length && before[end] !== after[end]) end++;
    patches.push({ offset: at, bytes: after.slice(at, end) });
    at = end;
  }
  return patches;
}

const hex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
function unhex(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length / 2);
  for (let n = 0; n < bytes.length; n++) bytes[n] = Number.parseInt(text.slice(n * 2, n * 2 + 2), 16);
  return bytes;
}
const patchesText = (patches: readonly Patch[]): string =>
  patches.length === 0 ? '-' : patches.map((patch) => `${patch.offset.toString(36)}:${hex(patch.bytes)}`).join(',');
const rangesText = (ranges: VectorCase['ignored']): string =>
  ranges.length === 0 ? '-' : ranges.map(([offset, length]) => `${offset.toString(36)}+${length.toString(36)}`).join(',');
function parseRanges(text: string): [number, number][] {
  if (text === '-') return [];
  return text.split(',').map((part) => {
    const [offset, length] = part.split('+');
    return [Number.parseInt(offset, 36), Number.parseInt(length, 36)];
  });
}
function parsePatches(text: string): Patch[] {
  if (text === '-') return [];
  return text.split(',').map((part) => {
    const [offset, bytes] = part.split(':');
    return { offset: Number.parseInt(offset, 36), bytes: unhex(bytes) };
  });
}

export function formatVector(item: VectorCase, result: VectorResult): string {
  return [
    item.name,
    item.mode,
    hex(item.code),
    item.seed.toString(36),
    patchesText(item.setup),
    item.undefinedFlags.toString(16),
    rangesText(item.ignored),
    result.trap,
    result.error.toString(16),
    result.cr2.toString(16),
    patchesText(result.changes),
  ].join(' ');
}

export function parseVector(line: string): { readonly item: VectorCase; readonly result: VectorResult } {
  const [name, mode, code, seed, setup, undefinedFlags, ignored, trap, error, cr2, changes] = line.split(' ');
  return {
    item: {
      name,
      mode: mode === '32' ? 32 : 64,
      code: unhex(code),
      seed: Number.parseInt(seed, 36),
      setup: parsePatches(setup),
      undefinedFlags: Number.parseInt(undefinedFlags, 16),
      ignored: parseRanges(ignored),
    },
    result: { trap: Number(trap), error: Number.parseInt(error, 16), cr2: Number.parseInt(cr2, 16), changes: parsePatches(changes) },
  };
}
