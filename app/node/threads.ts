// SPDX-License-Identifier: Apache-2.0
/** The engine's threads over Node's worker threads. */
import { Worker } from 'node:worker_threads';
import type { EngineThread, ThreadHost } from '../engine/index.ts';

type ThreadMessage = { readonly kind: 'console-io'; readonly bytes: Uint8Array } | { readonly kind: 'done'; readonly report: unknown };

/**
 * A vCPU thread hardly allocates: V8's default for the young generation costs 23 MB more and makes a boot no faster.
 * PERF: `npm run bench -- --only life`.
 */
const VCPU_LIMITS = { maxYoungGenerationSizeMb: 8 };

export const nodeThreads: ThreadHost = {
  startVcpu: (data, onConsoleIo): EngineThread => {
    const worker = new Worker(new URL('./vcpu-worker.ts', import.meta.url), { workerData: data, resourceLimits: VCPU_LIMITS });
    const done = new Promise((resolve, reject) => {
      worker.on('message', (message: ThreadMessage) => {
        if (message.kind === 'done') resolve(message.report);
        else onConsoleIo(message.bytes);
      });
      worker.once('error', reject);
      worker.once('exit', (code) => reject(new Error(`the vCPU thread ended with status ${code}`)));
    });
    // The owner may look at `done` late; an early failure must not count as unhandled.
    done.catch(() => {});
    return {
      done,
      terminate: async () => {
        await worker.terminate();
      },
    };
  },
};
