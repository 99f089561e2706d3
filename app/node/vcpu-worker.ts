// SPDX-License-Identifier: Apache-2.0
/** Entry of a vCPU's worker thread. */
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { loadVcpuThread, type VcpuThreadStart } from '../engine/index.ts';
import { createClock } from './clock.ts';

const port = parentPort as MessagePort;
const runVcpuThread = await loadVcpuThread();
const report = runVcpuThread(workerData as VcpuThreadStart, {
  clock: createClock(),
  onConsoleIo: (bytes) => port.postMessage({ kind: 'console-io', bytes }),
});
port.postMessage({ kind: 'done', report });
