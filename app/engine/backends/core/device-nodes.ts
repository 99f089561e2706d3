// SPDX-License-Identifier: Apache-2.0
/**
 * The toolstack's side of a device: writes the nodes of both ends with the permissions that libxl gives them, and removes
 * them. The backend's directory belongs to dom0 and the guest may read it; the frontend's belongs to the guest and dom0's
 * driver may read it; each names the other.
 */
import type { XenstoreClient, XsResult } from '../../xenstore/index.ts';
import { backendPath, type DeviceAddress, frontendPath, XenbusStateInitialising } from './xenbus.ts';

export interface DeviceNodes extends DeviceAddress {
  /** Written into the backend's directory besides what every device has. */
  readonly back?: Readonly<Record<string, string>>;
  /** Written into the frontend's directory; the guest may change them. */
  readonly front?: Readonly<Record<string, string>>;
  /** Written into the frontend's directory; dom0 owns them, the guest may only read. */
  readonly frontReadOnly?: Readonly<Record<string, string>>;
}

/** Creates (or replaces) a device in state Initialising on both ends. */
export function createDevice(client: XenstoreClient, device: DeviceNodes): XsResult<void> {
  const { frontendDomid, kind } = device;
  const front = frontendPath(device);
  const back = backendPath(device);
  const record = libxlPath(device);
  const guestOwned = [`n${frontendDomid}`, 'r0'];
  const backendOwned = ['n0', `r${frontendDomid}`];
  const initialising = String(XenbusStateInitialising);
  const backNodes = { 'frontend-id': String(frontendDomid), online: '1', state: initialising, ...device.back };
  const frontNodes = { 'backend-id': '0', state: initialising, ...device.front };
  return client.transaction((store) => {
    const put = (path: string, value: string, permissions: readonly string[]): void => {
      store.write(path, value);
      store.setPermissions(path, permissions);
    };
    for (const path of [record, front, back]) store.rm(path);
    // The directory above (`device/vbd`) stays dom0's: the guest must not be able to make devices up.
    const shelf = `/local/domain/${frontendDomid}/device/${kind}`;
    if (!store.exists(shelf)) put(shelf, '', backendOwned);

    store.write(`${record}/frontend`, front);
    store.write(`${record}/backend`, back);
    put(front, '', guestOwned);
    store.write(`${front}/backend`, back);
    for (const [name, value] of Object.entries(frontNodes)) put(`${front}/${name}`, value, guestOwned);
    for (const [name, value] of Object.entries(device.frontReadOnly ?? {})) put(`${front}/${name}`, value, backendOwned);
    put(back, '', backendOwned);
    store.write(`${back}/frontend`, front);
    for (const [name, value] of Object.entries(backNodes)) {
      store.write(`${back}/${name}`, value);
      store.write(`${record}/${name}`, value);
    }
  });
}

/** Removes all nodes of a device: after its backend closed, or with its domain. */
export function removeDevice(client: XenstoreClient, device: DeviceAddress): XsResult<void> {
  return client.transaction((store) => {
    for (const path of [frontendPath(device), backendPath(device), libxlPath(device)]) store.rm(path);
  });
}

/** The toolstack's own record of the device, which no guest and no backend may change. */
function libxlPath({ kind, frontendDomid, devid }: DeviceAddress): string {
  return `/libxl/${frontendDomid}/device/${kind}/${devid}`;
}
