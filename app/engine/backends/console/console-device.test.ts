// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { XenstoreServer } from '../../xenstore/index.ts';
import type { EventChannels, Grants } from '../core/ports.ts';
import { createConsoleDevice } from './console-device.ts';
import type { PvConsole } from './pv-console.ts';

const FRONT = '/local/domain/1/device/console/1';
const BACK = '/local/domain/0/backend/console/1/1';

async function turn(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 0));
}

/** Domain 1 with one granted page (reference 8) and one unbound port (5). */
function world() {
  const client = new XenstoreServer().client('test');
  client.write('/local/domain/1/device', '');
  client.setPermissions('/local/domain/1/device', ['n0', 'r1']);
  const page = new Uint8Array(new SharedArrayBuffer(4096));
  const held = { mappings: 0, ports: 0, notifications: 0 };
  let onEvent: () => void = () => {};
  const grants: Grants = {
    map: (domain, ref) => {
      if (domain !== 1 || ref !== 8) return null;
      held.mappings++;
      return { bytes: page, wrote: () => {}, release: () => void held.mappings-- };
    },
    copyFrom: () => null,
    copyTo: () => false,
  };
  const events: EventChannels = {
    bindInterdomain: (_domain, port) => {
      if (port !== 5) return null;
      held.ports++;
      return {
        notify: () => void held.notifications++,
        onEvent: (callback) => {
          onEvent = callback;
        },
        close: () => void held.ports--,
      };
    },
  };
  const consoles: (PvConsole | null)[] = [];
  const backend = createConsoleDevice({
    client,
    grants,
    events,
    frontendDomid: 1,
    devid: 1,
    name: 'org.example.log',
    onConsole: (console) => consoles.push(console),
  });
  const frontend = async (nodes: Record<string, string>): Promise<string | null> => {
    for (const [name, value] of Object.entries(nodes)) client.write(`${FRONT}/${name}`, value);
    await turn();
    return client.read(`${BACK}/state`);
  };
  return { client, page, held, consoles, backend, frontend, event: () => onEvent() };
}

describe('a second console', () => {
  it('connects, carries bytes, and gives everything back', async () => {
    const { client, page, held, consoles, frontend, event } = world();
    expect(client.read(`${FRONT}/name`)).toBe('org.example.log');
    expect(await frontend({ 'ring-ref': '8', port: '5', state: '3' })).toBe('4');
    expect(held).toMatchObject({ mappings: 1, ports: 1 });
    page[1024] = 0x41;
    new Int32Array(page.buffer)[3084 >> 2] = 2048;
    event();
    expect([...consoles[0]!.scrollback().subarray(0, 2)]).toEqual([0x41, 0]);
    expect(held.notifications).toBe(1);
    expect(await frontend({ state: '5' })).toBe('5');
    expect(await frontend({ state: '6' })).toBe('6');
    expect(held).toMatchObject({ mappings: 0, ports: 0 });
    expect(consoles).toEqual([consoles[0], null]);
  });

  it.each([
    ['no reference', { port: '5' }, '22 ring-ref or port is missing or no number'],
    ['a reference that is not granted', { 'ring-ref': '9', port: '5' }, '22 grant reference 9 cannot be mapped'],
    ['a port that cannot be bound', { 'ring-ref': '8', port: '6' }, '22 event channel 6 cannot be bound'],
  ])('refuses %s and keeps nothing', async (_what, nodes, message) => {
    const { client, held, consoles, frontend } = world();
    expect(await frontend({ ...(nodes as Record<string, string>), state: '3' })).toBe('5');
    expect(client.read('/local/domain/0/error/backend/console/1/1/error')).toBe(message);
    expect(held).toMatchObject({ mappings: 0, ports: 0 });
    expect(consoles).toEqual([]);
  });
});
