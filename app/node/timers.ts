// SPDX-License-Identifier: Apache-2.0
/** The engine's timers over Node's. They keep no process alive. */
import type { Timers } from '../engine/index.ts';

export const nodeTimers: Timers = {
  after: (delayMs, task) => {
    const timer = setTimeout(task, Math.min(delayMs, 0x7fff_ffff));
    timer.unref();
    return { cancel: () => clearTimeout(timer) };
  },
  soon: (task) => void setImmediate(task),
};
