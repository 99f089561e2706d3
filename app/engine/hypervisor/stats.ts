// SPDX-License-Identifier: Apache-2.0
/** Counters of one vCPU. Counting writes into typed arrays and never allocates; `report` is for the end of a run. */
import { VMEXIT_NAMES } from '../accel/accelerator.ts';
import { HYPERCALL_NAMES, NR_HYPERCALLS } from './abi/xen.ts';

const VECTORS = 32;

export interface StatsReport {
  readonly exits: Readonly<Record<string, number>>;
  readonly hypercalls: Readonly<Record<string, number>>;
  readonly exceptions: Readonly<Record<string, number>>;
  readonly emulated: number;
  readonly ptwr: number;
  readonly upcalls: number;
  readonly syscalls: number;
  readonly blocks: number;
}

export class VcpuStats {
  readonly exits = new Float64Array(VMEXIT_NAMES.length);
  readonly hypercalls = new Float64Array(NR_HYPERCALLS);
  readonly exceptions = new Float64Array(VECTORS);
  emulated = 0;
  ptwr = 0;
  upcalls = 0;
  syscalls = 0;
  blocks = 0;

  report(): StatsReport {
    return {
      exits: named(this.exits, (i) => VMEXIT_NAMES[i]),
      hypercalls: named(this.hypercalls, (i) => HYPERCALL_NAMES[i] ?? `nr_${i}`),
      exceptions: named(this.exceptions, (i) => `vector_${i}`),
      emulated: this.emulated,
      ptwr: this.ptwr,
      upcalls: this.upcalls,
      syscalls: this.syscalls,
      blocks: this.blocks,
    };
  }
}

function named(counts: Float64Array, name: (index: number) => string): Record<string, number> {
  const out: Record<string, number> = {};
  counts.forEach((count, index) => {
    if (count !== 0) out[name(index)] = count;
  });
  return out;
}
