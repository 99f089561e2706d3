// SPDX-License-Identifier: Apache-2.0
/**
 * The records of a domain's event channels and of dom0's ends, in shared memory.
 *
 * INVARIANT: records change under the event lock of the shared state; single fields may be read without it.
 * Port 0 does not exist (xen public/event_channel.h).
 */
import { DOM0_PORT_WORDS, EVTCHN_RECORD_WORDS, MAX_EVTCHN_PORTS, type SharedState, STATE } from '../shared-state.ts';

export const ECS = { free: 0, reserved: 1, unbound: 2, interdomain: 3, pirq: 4, virq: 5, ipi: 6 } as const;

/** Word indexes of a record. */
export const PORT = {
  state: 0,
  notifyVcpu: 1,
  priority: 2,
  /** Domain at the other end (unbound, interdomain). */
  remoteDom: 3,
  /** Port at the other end, or the number of the VIRQ. */
  remotePort: 4,
  /** An event arrived while the FIFO ABI's event array did not reach this port yet. */
  savedPending: 5,
  /** FIFO: vCPU and priority of the queue that the event was linked on last, as vcpu*16+priority. */
  lastQueue: 6,
} as const;

export const DOM0_PORT = { inUse: 0, guestPort: 1 } as const;

export class PortTable {
  readonly #i32: Int32Array;
  readonly #ports: number;
  readonly #dom0: number;

  constructor(state: SharedState) {
    this.#i32 = state.i32;
    this.#ports = state.word(STATE.ports);
    this.#dom0 = state.word(STATE.dom0Ports);
  }

  get(port: number, field: number): number {
    return Atomics.load(this.#i32, this.#ports + port * EVTCHN_RECORD_WORDS + field);
  }
  set(port: number, field: number, value: number): void {
    Atomics.store(this.#i32, this.#ports + port * EVTCHN_RECORD_WORDS + field, value);
  }
  clear(port: number): void {
    for (let field = 0; field < EVTCHN_RECORD_WORDS; field++) this.set(port, field, 0);
  }
  getDom0(port: number, field: number): number {
    return Atomics.load(this.#i32, this.#dom0 + port * DOM0_PORT_WORDS + field);
  }
  setDom0(port: number, field: number, value: number): void {
    Atomics.store(this.#i32, this.#dom0 + port * DOM0_PORT_WORDS + field, value);
  }
  /** A free port of dom0, or 0. */
  freeDom0(): number {
    for (let port = 1; port < MAX_EVTCHN_PORTS; port++) if (this.getDom0(port, DOM0_PORT.inUse) === 0) return port;
    return 0;
  }
}
