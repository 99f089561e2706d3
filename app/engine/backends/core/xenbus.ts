// SPDX-License-Identifier: Apache-2.0
/**
 * Xenbus vocabulary: the states of a device's two ends (xen public/io/xenbus.h), where a device's nodes are, and reading
 * what a frontend wrote.
 */
import { domainPath, type XenstoreAccess } from '../../xenstore/index.ts';

export const XenbusStateUnknown = 0;
export const XenbusStateInitialising = 1;
export const XenbusStateInitWait = 2;
export const XenbusStateInitialised = 3;
export const XenbusStateConnected = 4;
export const XenbusStateClosing = 5;
export const XenbusStateClosed = 6;
export const XenbusStateReconfiguring = 7;
export const XenbusStateReconfigured = 8;

/** One of the XenbusState constants. */
export type XenbusState = 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8;

/** `vbd`, `vif`, `vscsi`, `vkbd`, `vfb`, `9pfs`, `pci`, `console`, … */
export interface DeviceAddress {
  readonly kind: string;
  readonly frontendDomid: number;
  readonly devid: number;
}

/** Console 0 is the one device outside of `device/`. */
export function frontendPath({ kind, frontendDomid, devid }: DeviceAddress): string {
  if (kind === 'console' && devid === 0) return `${domainPath(frontendDomid)}/console`;
  return `${domainPath(frontendDomid)}/device/${kind}/${devid}`;
}

export function backendPath({ kind, frontendDomid, devid }: DeviceAddress): string {
  return `${domainPath(0)}/backend/${kind}/${frontendDomid}/${devid}`;
}

/** Reads a `state` node. Missing or malformed counts as XenbusStateUnknown. */
export function readState(store: XenstoreAccess, path: string): XenbusState {
  const text = store.read(`${path}/state`);
  return text !== null && /^[0-8]$/.test(text) ? (Number(text) as XenbusState) : XenbusStateUnknown;
}

/**
 * A decimal number that a frontend wrote, within `min..max`; null when it is missing or anything else.
 * GUEST: the text is the guest's.
 */
export function readNumber(store: XenstoreAccess, path: string, min: number, max: number): number | null {
  const text = store.read(path);
  if (text === null || !/^[0-9]{1,15}$/.test(text)) return null;
  const value = Number(text);
  return value >= min && value <= max ? value : null;
}

/** Limits for `readNumber`: grant references and event-channel ports. */
export const MAX_GRANT_REF = 0xffffffff;
export const MAX_PORT = 0x1ffff;

export const STATE_NAMES = [
  'Unknown',
  'Initialising',
  'InitWait',
  'Initialised',
  'Connected',
  'Closing',
  'Closed',
  'Reconfiguring',
  'Reconfigured',
] as const;
