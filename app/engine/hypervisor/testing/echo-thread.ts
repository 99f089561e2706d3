// SPDX-License-Identifier: Apache-2.0
/** A thread that plays a vCPU: it sleeps until it is kicked, takes what is pending, and answers each event on the port it came on. */
import { parentPort, workerData } from 'node:worker_threads';
import { GuestMemory } from '../../memory/guest-memory.ts';
import type { MemoryShape } from '../../memory/layout.ts';
import { EventChannels } from '../events/event-channels.ts';
import { SharedState, STATE } from '../shared-state.ts';

const { memory, shape, ports } = workerData as { memory: WebAssembly.Memory; shape: MemoryShape; ports: number[] };
const state = new SharedState(new GuestMemory(shape, memory));
const events = new EventChannels(state, 0, { holdFrame: () => 0, releaseFrame: () => {} });
const seen = new Map<number, number>(ports.map((port) => [port, 0]));

while (state.get(STATE.request) === 0) {
  state.contexts[0].waitForKick(1000);
  state.contexts[0].takeKick();
  events.delivery.drain(0);
  for (const port of ports) {
    if (!events.delivery.isPending(port)) continue;
    events.delivery.clearPending(port);
    seen.set(port, (seen.get(port) ?? 0) + 1);
    events.send(port);
  }
}
parentPort?.postMessage([...seen]);
