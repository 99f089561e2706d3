// SPDX-License-Identifier: Apache-2.0
/** `node app/fuzz/network/main.ts [cases for each kind] [seed] [kind…]`: 200,000 cases unless told. */
import { FRAME_KINDS, type FrameKind } from './frames.ts';
import { fuzzNetwork } from './fuzz-network.ts';

const [casesText = '200000', seedText = '1', ...wanted] = process.argv.slice(2);
const cases = Number(casesText);
const seed = Number(seedText);
const kinds = FRAME_KINDS.filter((kind: FrameKind) => wanted.length === 0 || wanted.includes(kind));

for (const kind of kinds) {
  const startMs = performance.now();
  const report = await fuzzNetwork(kind, cases, seed);
  globalThis.gc?.();
  const seconds = ((performance.now() - startMs) / 1000).toFixed(1);
  const megabytes = Math.round(process.memoryUsage().heapUsed / 2 ** 20);
  console.log(
    `${kind}: ${report.cases} frames, ${report.answers} answers, ${report.dropped} dropped, at most ${report.mostConnections} connections, ${seconds} s, heap ${megabytes} MiB`,
  );
}
