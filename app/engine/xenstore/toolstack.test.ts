// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { formatPermission } from './permissions.ts';
import { XenstoreServer } from './server.ts';
import { GuestRing } from './testing/guest-ring.ts';
import {
  controlFeatures,
  createDomainTree,
  destroyDomainTree,
  requestShutdown,
  sendSysrq,
  setMemoryTarget,
  setVcpuOnline,
} from './toolstack.ts';
import * as wire from './xs-wire.ts';

function withDomain() {
  const server = new XenstoreServer();
  const client = server.client('toolstack');
  const created = createDomainTree(client, {
    domid: 1,
    name: 'deb',
    uuid: '11111111-2222-3333-4444-555555555555',
    type: 'pv',
    memoryTargetKib: 262144,
    memoryMaxKib: 524288,
    vcpus: [true, false],
    store: { ringRef: 18945, port: 1 },
    console: { ringRef: 18946, port: 2 },
  });
  const guest = new GuestRing();
  const connection = server.introduceDomain(1, guest);
  guest.pump = () => void connection.pump();
  return { server, client, created, guest };
}

async function turn(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 0));
}

describe('the tree of a domU', () => {
  it('has what a PV guest looks for, with the permissions libxl gives', () => {
    const { client, created } = withDomain();
    expect(created.ok).toBe(true);
    const line = (name: string): string => {
      const at = `/local/domain/1${name}`;
      return `${client.read(at)} (${client.getPermissions(at)!.map(formatPermission).join(',')})`;
    };
    expect(
      Object.fromEntries(
        [
          '',
          '/name',
          '/domid',
          '/memory/target',
          '/memory/static-max',
          '/cpu/0/availability',
          '/cpu/1/availability',
          '/store/port',
          '/store/ring-ref',
          '/console/port',
          '/console/ring-ref',
          '/console/limit',
          '/console/type',
          '/console/output',
          '/console/backend-id',
          '/device',
          '/device/suspend/event-channel',
          '/control',
          '/control/shutdown',
          '/control/sysrq',
          '/control/platform-feature-xs_reset_watches',
          '/data',
        ].map((name) => [name, line(name)]),
      ),
    ).toEqual({
      '': ' (n0,r1)',
      '/name': 'deb (n0,r1)',
      '/domid': '1 (n0,r1)',
      '/memory/target': '262144 (n0,r1)',
      '/memory/static-max': '524288 (n0,r1)',
      '/cpu/0/availability': 'online (n0,r1)',
      '/cpu/1/availability': 'offline (n0,r1)',
      '/store/port': '1 (n0,r1)',
      '/store/ring-ref': '18945 (n0,r1)',
      '/console/port': '2 (n0,r1)',
      '/console/ring-ref': '18946 (n0,r1)',
      '/console/limit': '1048576 (n0,r1)',
      '/console/type': 'xenconsoled (n0,r1)',
      '/console/output': 'pty (n0,r1)',
      '/console/backend-id': '0 (n1,r0)',
      '/device': ' (n0,r1)',
      '/device/suspend/event-channel': ' (n1)',
      '/control': ' (n0,r1)',
      '/control/shutdown': ' (n1)',
      '/control/sysrq': ' (n1)',
      '/control/platform-feature-xs_reset_watches': '1 (n0,r1)',
      '/data': ' (n1)',
    });
  });

  it('lets the guest do its part and nothing more', () => {
    const { guest } = withDomain();
    expect(guest.read('domid')).toBe('1');
    expect(guest.write('control/feature-poweroff', '1')).toBe('OK');
    expect(guest.write('data/os', 'linux')).toBe('OK');
    expect(guest.write('name', 'x')).toBe('EACCES');
    expect(guest.write('memory/target', '1')).toBe('EACCES');
    expect(guest.ask(wire.XS_DIRECTORY, ['/libxl/1'])).toBe('EACCES');
    expect(guest.ask(wire.XS_RM, ['/local/domain/1'])).toBe('EACCES');
    expect(guest.read('/vm/11111111-2222-3333-4444-555555555555/name')).toBe('deb');
  });

  it('goes away whole', () => {
    const { client } = withDomain();
    client.write('/local/domain/0/backend/vbd/1/51712/x', '');
    expect(destroyDomainTree(client, 1).ok).toBe(true);
    expect(client.directory('/local/domain')).toEqual(['0']);
    expect(client.directory('/local/domain/0/backend/vbd')).toEqual([]);
    expect(client.directory('/vm')).toEqual([]);
    expect(client.directory('/libxl')).toEqual([]);
  });
});

describe('control requests', () => {
  it('are acknowledged when the guest empties the node', async () => {
    const { client, guest } = withDomain();
    guest.ask(wire.XS_WATCH, ['control/shutdown', 'w']);
    guest.events.length = 0;
    let acknowledged = 0;
    expect(requestShutdown(client, 1, 'poweroff', () => acknowledged++).ok).toBe(true);
    await turn();
    guest.settle();
    expect(guest.events).toEqual([['control/shutdown', 'w']]);
    expect(guest.read('control/shutdown')).toBe('poweroff');
    expect(acknowledged).toBe(0);
    const again = requestShutdown(client, 1, 'reboot', () => {});
    expect(!again.ok && again.error.kind).toBe('busy');
    guest.write('control/shutdown', '');
    await turn();
    expect(acknowledged).toBe(1);
  });

  it('can be withdrawn, and are not taken for acknowledged when the guest writes something else', async () => {
    const { client, guest } = withDomain();
    let acknowledged = 0;
    const request = requestShutdown(client, 1, 'suspend', () => acknowledged++);
    if (request.ok) request.value();
    expect(guest.read('control/shutdown')).toBe('');
    requestShutdown(client, 1, 'suspend', () => acknowledged++);
    await turn();
    guest.write('control/shutdown', 'nonsense\x1b[2J');
    await turn();
    expect(acknowledged).toBe(0);
    const refused = requestShutdown(client, 1, 'suspend', () => {});
    expect(!refused.ok && refused.error.message).toContain('(nonsense?[2J)');
  });

  it('tell what the guest supports', () => {
    const { client, guest } = withDomain();
    guest.write('control/feature-poweroff', '1');
    expect(controlFeatures(client, 1)).toEqual({ poweroff: true, reboot: false, suspend: false });
  });

  it('carry SysRq, memory and processors within bounds', () => {
    const { client, guest } = withDomain();
    expect(sendSysrq(client, 1, 'h').ok).toBe(true);
    expect(guest.read('control/sysrq')).toBe('h');
    expect(sendSysrq(client, 1, 'hh').ok).toBe(false);
    expect(setMemoryTarget(client, 1, 131072).ok).toBe(true);
    expect(guest.read('memory/target')).toBe('131072');
    expect(setMemoryTarget(client, 1, 524289).ok).toBe(false);
    expect(setMemoryTarget(client, 1, 0).ok).toBe(false);
    expect(setVcpuOnline(client, 1, 1, true).ok).toBe(true);
    expect(setVcpuOnline(client, 1, 2, true).ok).toBe(false);
    expect(guest.read('cpu/1/availability')).toBe('online');
  });

  it('say that there is no such domain', () => {
    const { client } = withDomain();
    for (const result of [requestShutdown(client, 9, 'halt', () => {}), sendSysrq(client, 9, 'h'), setMemoryTarget(client, 9, 1)]) {
      expect(!result.ok && result.error.kind).toBe('no-domain');
    }
  });
});
