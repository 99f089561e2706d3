// SPDX-License-Identifier: Apache-2.0
/** All ports of a machine, on Node. */
import { randomFillSync } from 'node:crypto';
import type { Log, MachinePorts } from '../engine/index.ts';
import { createClock } from './clock.ts';
import { nodeDecompressors } from './decompress.ts';
import { nodeThreads } from './threads.ts';

export function createMachinePorts(log: Log): MachinePorts {
  return {
    clock: createClock(),
    entropy: { fill: (bytes) => void randomFillSync(bytes) },
    log,
    threads: nodeThreads,
    decompressors: nodeDecompressors,
    soon: (task) => void setImmediate(task),
  };
}
