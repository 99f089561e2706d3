// SPDX-License-Identifier: Apache-2.0
/** The engine's clock over Node's: monotonic time that is the same on every thread of the process. */
import { performance } from 'node:perf_hooks';
import type { Clock } from '../engine/index.ts';

/** `performance.now` starts at another moment on each thread; the process-wide clock says when. */
function originNs(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1e9 + nanoseconds - performance.now() * 1e6;
}

export function createClock(): Clock {
  const origin = originNs();
  return {
    nowNs: () => origin + performance.now() * 1e6,
    wallClock: () => {
      const milliseconds = performance.timeOrigin + performance.now();
      const seconds = Math.floor(milliseconds / 1000);
      return { seconds, nanoseconds: Math.floor((milliseconds - seconds * 1000) * 1e6) };
    },
  };
}
