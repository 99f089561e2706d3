// SPDX-License-Identifier: Apache-2.0
/** One running virtual machine as its owner on the I/O thread sees it; `createMachine` (machine.ts) makes it. */
import type { PvConsole } from '../backends/console/index.ts';
import type { Result } from '../../base/result.ts';
import type { ControlError, ShutdownReason, XenstoreClient } from '../xenstore/index.ts';
import type { MachineEnd, MachineStats } from './config.ts';

export interface Machine {
  readonly console: PvConsole;
  readonly xenstore: XenstoreClient;
  readonly domid: number;
  /** Starts the vCPU threads. Once. */
  start(): void;
  /** Resolves when the machine has ended, for whatever reason; never rejects. */
  readonly ended: Promise<MachineEnd>;
  /** Ends the machine at once, like pulling the plug. */
  stop(): void;
  pause(): void;
  resume(): void;
  /** Asks the guest; `onAcknowledged` runs when it took the request. Gives a function that withdraws it. */
  requestShutdown(reason: ShutdownReason, onAcknowledged: () => void): Result<() => void, ControlError>;
  /**
   * Runs `listener` each time the guest has suspended itself. The machine then keeps its state until `resumeAfterSuspend` or `stop`;
   * without a listener a suspend ends it.
   */
  onSuspended(listener: () => void): void;
  /** Lets a suspended guest go on where it is, as after a cancelled suspend. False: it is not suspended. */
  resumeAfterSuspend(): boolean;
  /** Magic SysRq, one character. */
  sendSysrq(key: string): Result<void, ControlError>;
  /** Balloon target in MiB. */
  setMemoryTarget(mib: number): Result<void, ControlError>;
  stats(): MachineStats;
  /** Releases everything; the machine must have ended. */
  close(): Promise<void>;
}
