// SPDX-License-Identifier: Apache-2.0
/** Replays the recorded vectors and prints failures by form: `node app/tools/vectors/replay.ts [FOLDER] [TEXT]` (forms whose name contains TEXT). */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';
import { parseVector } from '../../engine/cpu/vectors/case.ts';
import { VectorPlayer } from '../../engine/cpu/vectors/replay.ts';

const args = process.argv.slice(2);
const folder =
  args[0] !== undefined && existsSync(args[0]) ? (args.shift() as string) : join(import.meta.dirname, '../../engine/cpu/vectors/data');
const only = args[0] ?? '';
const player = new VectorPlayer();
const failures = new Map<string, { count: number; first: string }>();
let total = 0;
for (const file of readdirSync(folder)) {
  for (const line of brotliDecompressSync(readFileSync(join(folder, file)))
    .toString()
    .split('\n')) {
    if (line === '' || !`${file}:${line.slice(0, line.indexOf(' '))}`.includes(only)) continue;
    total++;
    const { item, result } = parseVector(line);
    const problem = player.run(item, result);
    if (problem === null) continue;
    const known = failures.get(item.name);
    if (known) known.count++;
    else failures.set(item.name, { count: 1, first: `${Buffer.from(item.code).toString('hex')} seed ${item.seed}: ${problem}` });
  }
}
let failed = 0;
for (const [name, { count, first }] of failures) {
  failed += count;
  process.stdout.write(`${name} ×${count}: ${first}\n`);
}
process.stdout.write(`${total} vectors, ${failed} fail in ${failures.size} forms\n`);
