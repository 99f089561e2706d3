// SPDX-License-Identifier: Apache-2.0
/**
 * What a toolstack writes into the store for a guest and asks of it later: the tree of a new domU with the permissions that
 * libxl gives it, requests through `control/`, the balloon target, processors on and off. Names and permissions follow
 * docs/misc/xenstore-paths.pandoc and what libxl writes for a PV domain. Devices other than console 0 are not made here
 * (see backends/core/device-nodes.ts).
 */
import { err, ok, type Result } from '../../base/result.ts';
import type { XenstoreAccess, XenstoreClient } from './client.ts';
import type { XsResult } from './store.ts';
import { domainPath } from './xs-path.ts';

export interface DomainTree {
  readonly domid: number;
  readonly name: string;
  /** Canonical text form. */
  readonly uuid: string;
  readonly type: 'pv' | 'pvh' | 'hvm';
  readonly memoryTargetKib: number;
  readonly memoryMaxKib: number;
  /** Online state of each possible vCPU. */
  readonly vcpus: readonly boolean[];
  /** Frame (MFN for PV) and the guest's unbound port of each ring. */
  readonly store: { readonly ringRef: number; readonly port: number };
  readonly console: { readonly ringRef: number; readonly port: number; readonly tty?: string };
  /** Shown under /vm: what was booted and when. */
  readonly image?: { readonly kernel?: string; readonly ramdisk?: string; readonly cmdline?: string };
  readonly startTime?: string;
}

/** The limit that xenconsoled is told for console 0, in bytes. */
export const CONSOLE_LIMIT_BYTES = 1048576;

/** Nodes that the guest may write, all empty at first. */
const GUEST_NODES = [
  'device/suspend/event-channel',
  'control/shutdown',
  'control/feature-poweroff',
  'control/feature-reboot',
  'control/feature-suspend',
  'control/sysrq',
  'data',
  'drivers',
  'feature',
  'attr',
  'error',
] as const;

/** Writes the tree of a new domain; one that is left over from an earlier domain of the same number is replaced. */
export function createDomainTree(client: XenstoreClient, domain: DomainTree): XsResult<void> {
  return client.transaction((store) => writeDomainTree(store, domain));
}

function writeDomainTree(store: XenstoreAccess, domain: DomainTree): void {
  const { domid } = domain;
  const home = domainPath(domid);
  const vm = vmPath(domain.uuid);
  const libxl = `/libxl/${domid}`;
  const hidden = ['n0'];
  const readable = ['n0', `r${domid}`];
  const guests = [`n${domid}`];
  const make = (path: string, permissions: readonly string[], value = ''): void => {
    store.write(path, value);
    store.setPermissions(path, permissions);
  };

  for (const [path, permissions] of [
    [home, readable],
    [vm, readable],
    [libxl, hidden],
  ] as const) {
    store.rm(path);
    make(path, permissions);
  }
  make(`${libxl}/device`, hidden);
  store.write(`${libxl}/type`, domain.type);
  store.write(`${home}/vm`, vm);
  store.write(`${home}/name`, domain.name);
  for (const name of ['cpu', 'memory', 'device', 'control']) make(`${home}/${name}`, readable);
  for (const name of GUEST_NODES) make(`${home}/${name}`, guests);
  if (domain.type === 'hvm') {
    make(`${home}/hvmloader`, readable);
    make(`${home}/control/feature-s3`, guests);
    make(`${home}/control/feature-s4`, guests);
  }
  store.write(`${home}/control/platform-feature-multiprocessor-suspend`, '1');
  store.write(`${home}/control/platform-feature-xs_reset_watches`, '1');

  store.write(`${vm}/uuid`, domain.uuid);
  store.write(`${vm}/name`, domain.name);
  store.write(`${vm}/image/ostype`, 'linux');
  for (const key of ['kernel', 'ramdisk', 'cmdline'] as const) {
    const value = domain.image?.[key];
    if (value !== undefined) store.write(`${vm}/image/${key}`, value);
  }
  if (domain.startTime !== undefined) store.write(`${vm}/start_time`, domain.startTime);

  store.write(`${home}/memory/static-max`, String(domain.memoryMaxKib));
  store.write(`${home}/memory/target`, String(domain.memoryTargetKib));
  store.write(`${home}/memory/videoram`, '-1');
  store.write(`${home}/domid`, String(domid));
  store.write(`${home}/store/port`, String(domain.store.port));
  store.write(`${home}/store/ring-ref`, String(domain.store.ringRef));
  domain.vcpus.forEach((online, i) => {
    store.write(`${home}/cpu/${i}/availability`, online ? 'online' : 'offline');
  });
  writeConsole(store, domain, home, libxl);
}

/** Console 0: no xenbus handshake, its ring and port are given; the guest may read but not change them. */
function writeConsole(store: XenstoreAccess, domain: DomainTree, home: string, libxl: string): void {
  const { domid } = domain;
  const front = `${home}/console`;
  const back = `/local/domain/0/backend/console/${domid}/0`;
  const readable = ['n0', `r${domid}`];
  store.rm(back);
  store.write(`${libxl}/device/console/0/frontend`, front);
  store.write(`${libxl}/device/console/0/backend`, back);
  store.mkdir(front);
  store.setPermissions(front, readable);
  store.write(`${front}/backend`, back);
  store.write(`${front}/backend-id`, '0');
  store.setPermissions(`${front}/backend-id`, [`n${domid}`, 'r0']);
  for (const [name, value] of [
    ['limit', String(CONSOLE_LIMIT_BYTES)],
    ['type', 'xenconsoled'],
    ['output', 'pty'],
    ['tty', domain.console.tty ?? ''],
    ['port', String(domain.console.port)],
    ['ring-ref', String(domain.console.ringRef)],
  ]) {
    store.write(`${front}/${name}`, value);
    store.setPermissions(`${front}/${name}`, readable);
  }
  store.mkdir(back);
  store.setPermissions(back, readable);
  store.write(`${back}/frontend`, front);
  for (const [name, value] of [
    ['frontend-id', String(domid)],
    ['online', '1'],
    ['state', '1'],
    ['protocol', 'vt100'],
  ]) {
    store.write(`${back}/${name}`, value);
    store.write(`${libxl}/device/console/0/${name}`, value);
  }
}

export function vmPath(uuid: string): string {
  return `/vm/${uuid}`;
}

/** Removes all that was written for a domain, its devices on dom0's side included. */
export function destroyDomainTree(client: XenstoreClient, domid: number): XsResult<void> {
  return client.transaction((store) => {
    const vm = store.read(`${domainPath(domid)}/vm`);
    // GUEST: the node is dom0's, but its path was the guest's to read; only a path under /vm is removed.
    if (vm?.startsWith('/vm/')) store.rm(vm);
    for (const kind of store.directory('/local/domain/0/backend') ?? []) store.rm(`/local/domain/0/backend/${kind}/${domid}`);
    store.rm(domainPath(domid));
    store.rm(`/libxl/${domid}`);
  });
}

export type ShutdownReason = 'poweroff' | 'reboot' | 'suspend' | 'halt' | 'crash';

/** Why a request to the guest was not made; `message` is a sentence for people. */
export interface ControlError {
  readonly kind: 'no-domain' | 'busy' | 'out-of-range' | 'invalid';
  readonly message: string;
}

/**
 * Asks the guest to shut down by writing `control/shutdown`. The guest acknowledges by emptying the node, which calls
 * `onAcknowledged` once; what it does then shows as its SCHEDOP_shutdown. PV Linux knows every reason but `crash`, which
 * exists for test guests.
 * @returns a function that withdraws the request if the guest has not taken it yet (and ends the waiting in any case).
 */
export function requestShutdown(
  client: XenstoreClient,
  domid: number,
  reason: ShutdownReason,
  onAcknowledged: () => void,
): Result<() => void, ControlError> {
  const path = `${domainPath(domid)}/control/shutdown`;
  const pending = client.read(path);
  if (pending === null) return err(noDomain(domid));
  if (pending !== '') return err({ kind: 'busy', message: `The guest has not answered an earlier request (${printable(pending)}) yet.` });
  const written = client.write(path, reason);
  if (!written.ok) return err(noDomain(domid));
  const unwatch = client.watch(path, () => {
    const value = client.read(path);
    if (value === reason) return;
    unwatch();
    if (value === '') onAcknowledged();
  });
  return ok(() => {
    unwatch();
    if (client.read(path) === reason) client.write(path, '');
  });
}

/** Which control requests the guest said it understands (it writes `1` into these nodes). */
export function controlFeatures(client: XenstoreClient, domid: number): Readonly<Record<'poweroff' | 'reboot' | 'suspend', boolean>> {
  const has = (name: string): boolean => client.read(`${domainPath(domid)}/control/feature-${name}`) === '1';
  return { poweroff: has('poweroff'), reboot: has('reboot'), suspend: has('suspend') };
}

/** Sends a magic SysRq key to the guest. */
export function sendSysrq(client: XenstoreClient, domid: number, key: string): Result<void, ControlError> {
  if (!/^[0-9A-Za-z]$/.test(key)) return err({ kind: 'invalid', message: 'A SysRq key is one letter or digit.' });
  const path = `${domainPath(domid)}/control/sysrq`;
  if (!client.exists(path)) return err(noDomain(domid));
  return client.write(path, key).ok ? ok(undefined) : err(noDomain(domid));
}

/** Asks the guest's balloon driver to hold `targetKib`; whether it follows shows in how many pages it has. */
export function setMemoryTarget(client: XenstoreClient, domid: number, targetKib: number): Result<void, ControlError> {
  const memory = `${domainPath(domid)}/memory`;
  const max = Number(client.read(`${memory}/static-max`) ?? Number.NaN);
  if (!Number.isFinite(max)) return err(noDomain(domid));
  if (!Number.isInteger(targetKib) || targetKib <= 0 || targetKib > max) {
    return err({ kind: 'out-of-range', message: `The memory target must be between 1 KiB and ${max} KiB.` });
  }
  return client.write(`${memory}/target`, String(targetKib)).ok ? ok(undefined) : err(noDomain(domid));
}

/** Asks the guest to take a processor into use or out of it. */
export function setVcpuOnline(client: XenstoreClient, domid: number, vcpu: number, online: boolean): Result<void, ControlError> {
  const path = `${domainPath(domid)}/cpu/${vcpu}/availability`;
  if (!client.exists(path)) return err({ kind: 'no-domain', message: `Domain ${domid} has no vCPU ${vcpu}.` });
  return client.write(path, online ? 'online' : 'offline').ok ? ok(undefined) : err(noDomain(domid));
}

function noDomain(domid: number): ControlError {
  return { kind: 'no-domain', message: `There is no domain ${domid}.` };
}

/** GUEST: the guest may write anything into its control nodes; messages show at most 20 plain characters of it. */
function printable(text: string): string {
  return text.replace(/[^ -~]/g, '?').slice(0, 20);
}
