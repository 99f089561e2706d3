// SPDX-License-Identifier: Apache-2.0
/**
 * Consoles beyond the first: xenbus devices of kind `console` (hvc1, hvc2, …). The frontend grants a page and allocates a
 * port, writes `ring-ref` and `port`, and goes to Initialised; from then on the page works like that of console 0.
 * Scrollback and sinks belong to one connection: a frontend that connects again gets a fresh `PvConsole`, announced by
 * `onConsole`.
 */
import { err, ok } from '../../../base/result.ts';
import type { Log } from '../../host/log.ts';
import type { XenstoreClient } from '../../xenstore/index.ts';
import { createDevice, type DeviceNodes } from '../core/device-nodes.ts';
import type { EventChannels, EventPort, GrantMapping, Grants, TaskQueue } from '../core/ports.ts';
import { type DeviceAddress, MAX_GRANT_REF, MAX_PORT, readNumber } from '../core/xenbus.ts';
import { EINVAL, XenbusBackend } from '../core/xenbus-backend.ts';
import { PvConsole } from './pv-console.ts';

export interface ConsoleDeviceOptions {
  readonly client: XenstoreClient;
  readonly grants: Grants;
  readonly events: EventChannels;
  readonly frontendDomid: number;
  /** 1 or higher; console 0 has no xenbus device. */
  readonly devid: number;
  /** Shown to the guest as the channel's name. */
  readonly name?: string;
  readonly tasks?: TaskQueue;
  readonly log?: Log;
  /** Runs with the console when the guest connected, and with null when it disconnected. */
  readonly onConsole: (console: PvConsole | null) => void;
}

interface Connected {
  readonly mapping: GrantMapping;
  readonly port: EventPort;
  readonly console: PvConsole;
}

/** Writes the device's nodes and starts its backend. */
export function createConsoleDevice(options: ConsoleDeviceOptions): XenbusBackend {
  const { client, frontendDomid, devid } = options;
  const device: DeviceAddress = { kind: 'console', frontendDomid, devid };
  const name: Record<string, string> = options.name === undefined ? {} : { name: options.name };
  const nodes: DeviceNodes = {
    ...device,
    back: { protocol: 'vt100', ...name },
    front: { protocol: 'vt100' },
    frontReadOnly: { limit: '1048576', type: 'ioemu', output: 'pty', tty: '', ...name },
  };
  createDevice(client, nodes);
  let connected: Connected | null = null;
  const backend = new XenbusBackend({
    client,
    device,
    ...(options.log ? { log: options.log } : {}),
    driver: {
      connect: (frontend) => {
        const ref = readNumber(client, `${frontend}/ring-ref`, 0, MAX_GRANT_REF);
        const remotePort = readNumber(client, `${frontend}/port`, 1, MAX_PORT);
        if (ref === null || remotePort === null) return err({ errno: EINVAL, message: 'ring-ref or port is missing or no number' });
        const mapping = options.grants.map(frontendDomid, ref, true);
        if (mapping === null) return err({ errno: EINVAL, message: `grant reference ${ref} cannot be mapped` });
        const port = options.events.bindInterdomain(frontendDomid, remotePort);
        if (port === null) {
          mapping.release();
          return err({ errno: EINVAL, message: `event channel ${remotePort} cannot be bound` });
        }
        const { tasks } = options;
        const console = new PvConsole({ page: mapping.bytes, notify: () => port.notify(), ...(tasks ? { tasks } : {}) });
        connected = { mapping, port, console };
        port.onEvent(() => console.pump());
        options.onConsole(console);
        console.pump();
        return ok({});
      },
      disconnect: () => {
        if (connected === null) return;
        const { mapping, port, console } = connected;
        connected = null;
        console.close();
        port.close();
        mapping.release();
        options.onConsole(null);
      },
    },
  });
  backend.start();
  return backend;
}
