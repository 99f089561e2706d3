// SPDX-License-Identifier: Apache-2.0
/** Threads as a port. The engine sends plain data, shared memory included, and hears one final message. */

export interface EngineThread {
  /** Resolves with what the thread's entry returned; rejects when the thread died of an exception. */
  readonly done: Promise<unknown>;
  /** Ends the thread at once. */
  terminate(): Promise<void>;
}

export interface ThreadHost {
  /**
   * Starts a vCPU thread; `data` is cloned, shared buffers stay shared. The thread runs `runVcpuThread(data, …)`; what that prints with
   * console_io arrives at `onConsoleIo`.
   */
  startVcpu(data: unknown, onConsoleIo: (bytes: Uint8Array) => void): EngineThread;
}
