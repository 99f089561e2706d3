// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { err, ok } from '../../../base/result.ts';
import { XenstoreServer } from '../../xenstore/index.ts';
import { createDevice, removeDevice } from './device-nodes.ts';
import { type DeviceAddress, readNumber } from './xenbus.ts';
import { type DeviceError, EINVAL, XenbusBackend } from './xenbus-backend.ts';

const device: DeviceAddress = { kind: 'vbd', frontendDomid: 1, devid: 51712 };
const FRONT = '/local/domain/1/device/vbd/51712';
const BACK = '/local/domain/0/backend/vbd/1/51712';

async function turn(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 0));
}

function started(options: { fails?: DeviceError; asynchronously?: boolean; connectOn?: readonly (3 | 4)[] } = {}) {
  const server = new XenstoreServer();
  const client = server.client('test');
  client.write('/local/domain/1/device', '');
  client.setPermissions('/local/domain/1/device', ['n0', 'r1']);
  createDevice(client, { ...device, front: { 'virtual-device': '51712' } });
  const calls: string[] = [];
  const backend = new XenbusBackend({
    client,
    device,
    ...(options.connectOn ? { connectOn: options.connectOn } : {}),
    driver: {
      announce: (store, at) => void store.write(`${at}/feature-flush-cache`, '1'),
      connect: () => {
        calls.push('connect');
        return options.fails ? err(options.fails) : ok({ asynchronously: options.asynchronously ?? false });
      },
      publish: (store, at) => void store.write(`${at}/sectors`, '8'),
      disconnect: () => void calls.push('disconnect'),
      reconfigure: (state) => void calls.push(`reconfigure ${state}`),
      removed: () => void calls.push('removed'),
    },
  });
  backend.start();
  const frontend = async (state: string): Promise<string | null> => {
    client.write(`${FRONT}/state`, state);
    await turn();
    return client.read(`${BACK}/state`);
  };
  return { client, backend, calls, frontend };
}

describe('createDevice', () => {
  it('links both ends, and lets each side write only its own', () => {
    const { client } = started();
    const line = (at: string): string => {
      const list = client.getPermissions(at)!.map(({ domid, access }) => `${'nrwb'[access]}${domid}`);
      return `${client.read(at)} (${list.join(',')})`;
    };
    expect(line(FRONT)).toBe(' (n1,r0)');
    expect(line(`${FRONT}/backend`)).toBe(`${BACK} (n1,r0)`);
    expect(line(`${FRONT}/backend-id`)).toBe('0 (n1,r0)');
    expect(line(`${FRONT}/virtual-device`)).toBe('51712 (n1,r0)');
    expect(line('/local/domain/1/device/vbd')).toBe(' (n0,r1)');
    expect(line(`${BACK}/frontend`)).toBe(`${FRONT} (n0,r1)`);
    expect(line(`${BACK}/frontend-id`)).toBe('1 (n0,r1)');
    expect(line(`${BACK}/online`)).toBe('1 (n0,r1)');
    expect(client.read('/libxl/1/device/vbd/51712/backend')).toBe(BACK);
  });

  it('is undone by removeDevice', () => {
    const { client } = started();
    removeDevice(client, device);
    expect([client.exists(FRONT), client.exists(BACK), client.exists('/libxl/1/device/vbd/51712')]).toEqual([false, false, false]);
  });
});

describe('the life of a backend', () => {
  it('announces, connects, closes and connects again', async () => {
    const { client, backend, calls, frontend } = started();
    expect(client.read(`${BACK}/state`)).toBe('2');
    expect(client.read(`${BACK}/feature-flush-cache`)).toBe('1');
    expect(client.exists(`${BACK}/sectors`)).toBe(false);
    expect(await frontend('3')).toBe('4');
    expect(client.read(`${BACK}/sectors`)).toBe('8');
    expect(await frontend('4')).toBe('4');
    expect(await frontend('5')).toBe('5');
    expect(await frontend('6')).toBe('6');
    expect(await frontend('1')).toBe('2');
    expect(await frontend('4')).toBe('4');
    expect(calls).toEqual(['connect', 'disconnect', 'connect']);
    expect(backend.attached).toBe(true);
  });

  it('waits for Connected where a driver wants that', async () => {
    const { calls, frontend } = started({ connectOn: [4] });
    expect(await frontend('3')).toBe('2');
    expect(calls).toEqual([]);
    expect(await frontend('4')).toBe('4');
  });

  it('lets go of the rings when a frontend starts over without closing', async () => {
    const { calls, frontend } = started();
    await frontend('4');
    expect(await frontend('1')).toBe('2');
    expect(calls).toEqual(['connect', 'disconnect']);
    expect(await frontend('3')).toBe('4');
  });

  it('reports what went wrong and closes', async () => {
    const { client, calls, frontend } = started({ fails: { errno: EINVAL, message: 'ring-ref is not a grant reference' } });
    expect(await frontend('3')).toBe('5');
    expect(client.read('/local/domain/0/error/backend/vbd/1/51712/error')).toBe('22 ring-ref is not a grant reference');
    expect(calls).toEqual(['connect']);
    expect(await frontend('3'), 'does not try again before the frontend closed').toBe('5');
    expect(await frontend('6')).toBe('6');
    expect(await frontend('1')).toBe('2');
  });

  it('connects later when the driver says so, unless the frontend left', async () => {
    const one = started({ asynchronously: true });
    expect(await one.frontend('3')).toBe('2');
    one.backend.connected();
    expect(one.client.read(`${BACK}/state`)).toBe('4');
    const two = started({ asynchronously: true });
    await two.frontend('3');
    await two.frontend('6');
    two.backend.connected();
    expect(two.client.read(`${BACK}/state`)).toBe('6');
  });

  it('goes away when unplugged: after the frontend closed', async () => {
    const { client, backend, calls, frontend } = started();
    await frontend('4');
    backend.requestRemoval();
    expect(client.read(`${BACK}/state`)).toBe('5');
    expect(client.read(`${BACK}/online`)).toBe('0');
    expect(calls).toEqual(['connect']);
    await frontend('5');
    expect(await frontend('6')).toBe('6');
    expect(calls).toEqual(['connect', 'disconnect', 'removed']);
    expect(await frontend('1'), 'is not there any more').toBe('6');
  });

  it('goes away at once when no frontend ever came', () => {
    const { client, backend, calls } = started();
    client.write(`${FRONT}/state`, '6');
    backend.requestRemoval();
    expect(calls).toEqual(['removed']);
  });

  it('goes away with the frontend s directory and writes nothing into a removed one', async () => {
    const { client, calls, frontend } = started();
    await frontend('4');
    removeDevice(client, device);
    await turn();
    expect(calls).toEqual(['connect', 'disconnect', 'removed']);
    expect(client.exists(BACK)).toBe(false);
  });

  it('keeps connect and disconnect paired for any sequence of states', async () => {
    const { calls, frontend, backend } = started();
    let random = 12345;
    for (let i = 0; i < 300; i++) {
      random = (Math.imul(random, 1103515245) + 12345) & 0x7fffffff;
      await frontend(['1', '2', '3', '4', '5', '6', '7', '8', '9', 'x', '', '44'][(random >> 8) % 12]);
    }
    backend.remove();
    const pairs = calls.filter((call) => call === 'connect' || call === 'disconnect');
    expect(pairs.length).toBeGreaterThan(10);
    pairs.forEach((call, i) => {
      expect(call).toBe(i % 2 === 0 ? 'connect' : 'disconnect');
    });
    expect(pairs.length % 2).toBe(0);
  });
});

describe('readNumber', () => {
  it('takes decimal numbers within bounds only', () => {
    const client = new XenstoreServer().client('test');
    const of = (text: string): number | null => {
      client.write('/n', text);
      return readNumber(client, '/n', 1, 100);
    };
    expect(['1', '100', '0', '101', '-1', '1e1', ' 1', '', '0x10', '1'.repeat(30)].map(of)).toEqual([
      1,
      100,
      ...Array.from({ length: 8 }, () => null),
    ]);
    expect(readNumber(client, '/none', 0, 1)).toBeNull();
  });
});
