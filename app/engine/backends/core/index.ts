// SPDX-License-Identifier: Apache-2.0
/** What every backend stands on: ports to the hypervisor, shared rings, the xenbus life cycle, device nodes. */
export { BackRing, ringEntries, SRING_HEADER_SIZE } from './back-ring.ts';
export { createDevice, type DeviceNodes, removeDevice } from './device-nodes.ts';
export type { EventChannels, EventPort, GrantMapping, Grants, TaskQueue } from './ports.ts';
export * from './xenbus.ts';
export {
  type DeviceError,
  EINVAL,
  EIO,
  ENODEV,
  ENOMEM,
  EPROTO,
  XenbusBackend,
  type XenbusBackendOptions,
  type XenbusDriver,
} from './xenbus-backend.ts';
