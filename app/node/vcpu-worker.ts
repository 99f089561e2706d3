// SPDX-License-Identifier: Apache-2.0
/** Entry of a vCPU's worker thread. */
import { parentPort, workerData } from 'node:worker_threads';
import { runVcpuThread, type VcpuThreadStart } from '../engine/index.ts';
import { createClock } from './clock.ts';

parentPort?.postMessage(runVcpuThread(workerData as VcpuThreadStart, { clock: createClock() }));
