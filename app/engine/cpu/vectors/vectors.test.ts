// SPDX-License-Identifier: Apache-2.0
/**
 * The software CPU against recorded hardware: every vector, on every way to run code.
 *
 * `TIERS` lists those ways; a translator joins by adding its machine factory.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { createFlatMachine } from '../flat-machine.ts';
import { DECODE, Decoder } from '../isa/decoder.ts';
import { ROWS } from '../isa/table.ts';
import { parseVector, type VectorCase, type VectorResult } from './case.ts';
import { type MachineFactory, VectorPlayer } from './replay.ts';
import { skipReason } from './skipped.ts';

/** With `hotAfter` 1 every block is translated at its first entry. */
const TIERS: readonly (readonly [string, MachineFactory])[] = [
  ['interpreter', createFlatMachine],
  ['translator', (bytes) => createFlatMachine(bytes, {}, { translate: true, hotAfter: 1 })],
];
/** Vectors that one machine runs: translations of all of them would fill the host's memory. */
const PER_MACHINE = 6000;

const MINIMUM_CASES = 40_000;
/** Failing forms that are reported in full. */
const REPORTED = 40;

interface Vector {
  readonly item: VectorCase;
  readonly result: VectorResult;
}

const folder = join(import.meta.dirname, 'data');
const vectors: Vector[] = readdirSync(folder).flatMap((file) =>
  brotliDecompressSync(readFileSync(join(folder, file)))
    .toString()
    .split('\n')
    .filter((line) => line !== '')
    .map(parseVector),
);

/** Failures by form, each with its first example. */
function failures(create: MachineFactory, list: readonly Vector[]): string[] {
  const forms = new Map<string, { count: number; first: string }>();
  let player = new VectorPlayer(create);
  for (const [n, { item, result }] of list.entries()) {
    if (n % PER_MACHINE === PER_MACHINE - 1) player = new VectorPlayer(create);
    const problem = player.run(item, result);
    if (problem === null) continue;
    const known = forms.get(item.name);
    if (known) known.count++;
    else forms.set(item.name, { count: 1, first: `${Buffer.from(item.code).toString('hex')} seed ${item.seed}: ${problem}` });
  }
  return [...forms].map(([name, { count, first }]) => `${name} ×${count}: ${first}`);
}

describe('instruction vectors', () => {
  it('are many', () => {
    expect(vectors.length).toBeGreaterThanOrEqual(MINIMUM_CASES);
  });

  it('cover every instruction row that can be recorded', () => {
    const covered = new Set<number>();
    const decoder = new Decoder();
    for (const { item } of vectors) {
      if (decoder.decode(item.code, 0, item.code.length, item.mode) === DECODE.ok) covered.add(decoder.row.id);
    }
    const missing = ROWS.filter((row) => !covered.has(row.id) && skipReason(row) === null).map((row) => row.text);
    expect(missing).toEqual([]);
    const needless = ROWS.filter((row) => covered.has(row.id) && skipReason(row) !== null).map((row) => row.text);
    expect(needless).toEqual([]);
  });

  for (const [name, create] of TIERS) {
    it(`agree with the ${name}`, { timeout: 240_000 }, () => {
      const failed = failures(create, vectors);
      expect(failed.slice(0, REPORTED), `${failed.length} forms fail`).toEqual([]);
    });
  }

  it('are noticed when they disagree', () => {
    const player = new VectorPlayer();
    const vector = vectors.find(({ item, result }) => item.name.startsWith('add.01.64.64r') && result.trap === 3) as Vector;
    expect(player.run(vector.item, vector.result)).toBeNull();
    expect(player.run(vector.item, { ...vector.result, trap: 6 })).toBe('trap 3, hardware 6');
    expect(player.run(vector.item, { ...vector.result, changes: [] })).toMatch(/^\w+ [0-9a-f]{16}, hardware/);
  });
});
