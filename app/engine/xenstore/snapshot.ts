// SPDX-License-Identifier: Apache-2.0
/**
 * The store and its conversations with guests as plain, named data, and back. In-process clients are not part of it: they
 * belong to backends, which set their watches again. Open transactions are saved by number only; after a restore they
 * answer reads from the store as it is and refuse to commit with EAGAIN, upon which every client starts over.
 * Ring contents and indices are guest memory and saved with it.
 */
import type { Connection } from './connection.ts';
import { formatPermission, parsePermissions } from './permissions.ts';
import type { XenstoreRing } from './ring-connection.ts';
import { XenstoreServer, type XenstoreServerOptions } from './server.ts';
import { TransactionView } from './store-view.ts';
import { leaf, postOrder, type TreeNode } from './tree.ts';
import { INTRODUCE_DOMAIN, parsePath, RELEASE_DOMAIN, ROOT_PATH, type XsPath } from './xs-path.ts';

export interface XenstoreSnapshot {
  readonly version: 1;
  /** Parents before children, siblings in order. */
  readonly nodes: readonly { readonly path: string; readonly value: Uint8Array; readonly permissions: readonly string[] }[];
  readonly domains: readonly DomainSnapshot[];
}

export interface DomainSnapshot {
  readonly domid: number;
  readonly target: number | null;
  readonly watches: readonly { readonly path: string; readonly token: string; readonly relative: boolean }[];
  readonly transactions: readonly number[];
  readonly nextTransactionId: number;
  /** Bytes of a request of which the rest is yet to come. */
  readonly received: Uint8Array;
  /** Messages not yet in the ring; the first may be the rest of one. `event` names watch events. */
  readonly outgoing: readonly { readonly bytes: Uint8Array; readonly event: string | null }[];
}

export function saveXenstore(server: XenstoreServer): XenstoreSnapshot {
  const { top } = server.store.live;
  const nodes = [];
  for (const path of [ROOT_PATH, INTRODUCE_DOMAIN, RELEASE_DOMAIN]) {
    const node = server.store.live.get(path);
    if (node !== null) nodes.push(...preOrder(node, path));
  }
  if (top.children.size !== 3) throw new Error('the store has roots that a snapshot does not know');
  const domains: DomainSnapshot[] = [];
  for (const domid of server.introducedDomains()) {
    const connection = server.connectionOf(domid);
    if (connection !== null) domains.push({ ...identity(connection), ...connection.pending() });
  }
  return { version: 1, nodes, domains };
}

/**
 * Makes a server from a snapshot. `rings` finds the restored ring page of a domain; a domain without one stays
 * disconnected. Throws when the snapshot does not describe a store: snapshots come from the host.
 */
export function restoreXenstore(
  snapshot: XenstoreSnapshot,
  rings: (domid: number) => XenstoreRing | null,
  options: XenstoreServerOptions = {},
): XenstoreServer {
  const server = new XenstoreServer(options);
  const { live } = server.store;
  live.top = { ...live.top, children: new Map(), childBytes: 0 };
  for (const [domid, count] of live.ownedCounts()) live.addOwned(domid, -count);
  for (const { path, value, permissions } of snapshot.nodes) {
    const canonical = parsePath(path, 0, true);
    const list = parsePermissions(permissions);
    if (canonical === null || list === null) throw new Error(`the xenstore snapshot has a malformed node '${path}'`);
    const generation = server.store.nextGeneration();
    live.put(canonical, leaf(value.slice(), list, generation), generation);
    live.addOwned(list[0].domid, 1);
  }
  if (live.get(ROOT_PATH) === null) throw new Error('the xenstore snapshot has no root');
  for (const domain of snapshot.domains) restoreDomain(server, domain, rings);
  return server;
}

function restoreDomain(server: XenstoreServer, saved: DomainSnapshot, rings: (domid: number) => XenstoreRing | null): void {
  const ring = rings(saved.domid);
  if (ring === null) return;
  const connection = server.introduceDomain(saved.domid, ring);
  connection.target = saved.target;
  if (!connection.resume(saved.received, saved.outgoing)) {
    throw new Error(`the xenstore snapshot has a malformed request of domain ${saved.domid}`);
  }
  for (const { path, token, relative } of saved.watches) connection.watches.add({ path: path as XsPath, token, relative });
  for (const id of saved.transactions) {
    const transaction = new TransactionView(server.store.live, null);
    transaction.stale = true;
    connection.transactions.set(id, transaction);
  }
  connection.continueTransactionIds(saved.nextTransactionId);
}

function identity(connection: Connection): Omit<DomainSnapshot, 'received' | 'outgoing'> {
  return {
    domid: connection.domid,
    target: connection.target,
    watches: [...connection.watches.all()],
    transactions: [...connection.transactions.keys()],
    nextTransactionId: connection.nextTransactionId,
  };
}

function preOrder(node: TreeNode, path: XsPath): XenstoreSnapshot['nodes'] {
  const nodes = [...postOrder(node, path)].map(({ path: at, node: { value, permissions } }) => ({
    path: at as string,
    value: value.slice(),
    permissions: permissions.map(formatPermission),
  }));
  // Post-order has siblings in order but parents last; a stable sort by depth puts parents first and keeps siblings.
  const depth = (at: string): number => (at === '/' ? 0 : at.split('/').length);
  return nodes.sort((a, b) => depth(a.path) - depth(b.path));
}
