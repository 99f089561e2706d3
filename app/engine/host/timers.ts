// SPDX-License-Identifier: Apache-2.0
/** Delayed work as a port. Tasks run on the thread that asked for them, never inside the call that asked. */

export interface TimerHandle {
  /** The task will not run any more; harmless after it ran. */
  cancel(): void;
}

export interface Timers {
  /** Runs `task` once, `delayMs` or more milliseconds from now. */
  after(delayMs: number, task: () => void): TimerHandle;
  /** Runs `task` once what the host has ready now was handled. */
  soon(task: () => void): void;
}
