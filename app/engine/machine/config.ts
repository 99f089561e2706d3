// SPDX-License-Identifier: Apache-2.0
/** What a virtual machine is made from, and how it can fail to start. */
import type { BootError } from '../boot/index.ts';

export interface MachineConfig {
  readonly name: string;
  readonly mode: 'pv';
  /** Bytes of the kernel file and of the initial RAM disk. */
  readonly kernel: Uint8Array;
  readonly initrd?: Uint8Array;
  readonly commandLine: string;
  /** Whole MiB. */
  readonly memoryMib: number;
  readonly vcpus: number;
  readonly accel: 'interp' | 'jit';
}

export interface MachineError {
  /** `configuration`: the request can't be met; `image`: a file is at fault; `host`: this computer lacks something. */
  readonly kind: 'configuration' | 'image' | 'host';
  /** One sentence, with what to do about it. */
  readonly message: string;
  readonly cause?: BootError;
}

/** How a machine's run ended. */
export type MachineEnd =
  | { readonly kind: 'poweroff' | 'reboot' | 'suspend' }
  /** The guest crashed or its watchdog ended it; `report` holds registers and what is known, line by line. */
  | { readonly kind: 'crashed'; readonly report: readonly string[] }
  /** `stop` was called. */
  | { readonly kind: 'stopped' }
  /** The engine itself failed. */
  | { readonly kind: 'engine-fault'; readonly report: readonly string[] };

/** What `--stats` prints, after and during a run. Counters that a thread has not reported yet are absent. */
export interface MachineStats {
  readonly wallSeconds: number;
  /** From start to the first byte on the console, or null. */
  readonly secondsToFirstConsoleByte: number | null;
  readonly instructions: number;
  readonly instructionsPerSecond: number;
  readonly exits: Readonly<Record<string, number>>;
  readonly hypercalls: Readonly<Record<string, number>>;
  readonly exceptions: Readonly<Record<string, number>>;
  readonly cpu: Readonly<Record<string, number>>;
  readonly memory: Readonly<Record<string, number>>;
}
