// SPDX-License-Identifier: Apache-2.0
/** Event channels between two real threads: nothing is lost, nobody polls. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { EventChannels } from '../events/event-channels.ts';
import { fakeMachine, DOMID } from '../testing/fake-machine.ts';
import { Dom0Events, type Dom0Port } from './dom0-events.ts';
import { DomainControl } from './domain-control.ts';

const PORTS = 40;
const ROUNDS = 50;

describe('dom0 and a vCPU on two threads', () => {
  it(`${PORTS} channels make ${ROUNDS} round trips each`, async () => {
    const m = fakeMachine();
    const channels = new EventChannels(m.state, -1, m.mmu);
    const dom0 = new Dom0Events(m.state, channels);
    const guestPorts = Array.from({ length: PORTS }, () => channels.allocUnbound(DOMID, 0));
    let open = PORTS;
    let finished: () => void = () => {};
    const done = new Promise<void>((resolve) => {
      finished = resolve;
    });
    const ports = guestPorts.map((guestPort) => {
      const port = dom0.bindInterdomain(DOMID, guestPort) as Dom0Port;
      let left = ROUNDS;
      port.onEvent(() => {
        left--;
        if (left > 0) port.notify();
        else if (--open === 0) finished();
      });
      return port;
    });
    const worker = new Worker(new URL('../testing/echo-thread.ts', import.meta.url), {
      workerData: { memory: m.memory.memory, shape: m.memory.layout.shape, ports: guestPorts },
    });
    dom0.start();
    for (const port of ports) port.notify();
    await done;
    dom0.stop();
    new DomainControl(m.state).stop();
    const [seen] = (await once(worker, 'message')) as [[number, number][]];
    expect(new Map(seen)).toEqual(new Map(guestPorts.map((port) => [port, ROUNDS])));
    await worker.terminate();
  });
});
