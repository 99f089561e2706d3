// SPDX-License-Identifier: Apache-2.0
/** The door of the xenstore: the service, its client for backends and the toolstack, and the toolstack's standard trees. */
export { type PermissionsArgument, type XenstoreAccess, XenstoreClient, type XenstoreTransaction } from './client.ts';
export type { Permission, PermissionList } from './permissions.ts';
export { DEFAULT_QUOTAS, type XenstoreQuotas } from './quotas.ts';
export { RingConnection, type XenstoreRing } from './ring-connection.ts';
export { XenstoreServer, type XenstoreServerOptions } from './server.ts';
export { restoreXenstore, saveXenstore, type XenstoreSnapshot } from './snapshot.ts';
export type { XsResult } from './store.ts';
export * from './toolstack.ts';
export { domainPath, INTRODUCE_DOMAIN, RELEASE_DOMAIN, type XsPath } from './xs-path.ts';
export * from './xs-wire.ts';
