// SPDX-License-Identifier: Apache-2.0
/**
 * The store's operations: read, write, make, remove, list, permissions, commit. Each checks the actor's rights and quotas
 * and answers with a value or with the error name that goes on the wire. What it models: the database half of xenstored,
 * after docs/misc/xenstore.txt. Watches, connections and the wire are elsewhere.
 *
 * Rights: a node may be reachable although its parent is not. Where it may not be told whether a node exists, the answer
 * is EACCES: a missing node is ENOENT only if the nearest existing ancestor grants the right that was asked for.
 */
import { err, ok, type Result } from '../../base/result.ts';
import {
  type Actor,
  accessOf,
  inheritedPermissions,
  PERM_NONE,
  PERM_OWNER,
  PERM_READ,
  PERM_WRITE,
  type PermissionList,
  withoutDomain,
} from './permissions.ts';
import { DEFAULT_QUOTAS, type XenstoreQuotas } from './quotas.ts';
import { LiveView, type StoreView, TransactionView } from './store-view.ts';
import { chained, leaf, lookup, nodeSize, postOrder, type TreeNode } from './tree.ts';
import { childOf, INTRODUCE_DOMAIN, parentOf, RELEASE_DOMAIN, ROOT_PATH, type XsPath } from './xs-path.ts';
import type { XsErrno } from './xs-wire.ts';

export type XsResult<T> = Result<T, XsErrno>;

const NOTHING = new Uint8Array(0);
const DOM0_ONLY: PermissionList = [{ domid: 0, access: PERM_NONE }];
const DONE = ok(undefined);

export class Store {
  readonly quotas: XenstoreQuotas;
  readonly live: LiveView;
  #generation = 1;

  constructor(quotas: Partial<XenstoreQuotas> = {}) {
    this.quotas = { ...DEFAULT_QUOTAS, ...quotas };
    this.live = new LiveView(leaf(NOTHING, DOM0_ONLY, 0));
    for (const path of [ROOT_PATH, '/tool', '/tool/xenstored', INTRODUCE_DOMAIN, RELEASE_DOMAIN] as XsPath[]) {
      this.live.put(path, leaf(NOTHING, DOM0_ONLY, this.nextGeneration()), this.#generation);
      this.live.addOwned(0, 1);
    }
  }

  nextGeneration(): number {
    return ++this.#generation;
  }

  beginTransaction(actor: Actor): TransactionView {
    const { transactionNodes, transactionBytes } = this.quotas;
    return new TransactionView(this.live, actor.privileged ? null : { nodes: transactionNodes, bytes: transactionBytes });
  }

  /** The node itself (value, children, generation): READ, DIRECTORY and DIRECTORY_PART. */
  read(actor: Actor, view: StoreView, path: XsPath): XsResult<TreeNode> {
    return this.#node(actor, view, path, PERM_READ);
  }

  /** Sets the value; missing ancestors are created empty. `value` is kept: pass a copy of guest bytes. */
  write(actor: Actor, view: StoreView, path: XsPath, value: Uint8Array): XsResult<void> {
    const found = this.#node(actor, view, path, PERM_WRITE);
    if (found.ok) {
      const generation = this.nextGeneration();
      const node = { ...found.value, value, generation };
      if (this.#tooLarge(actor, node)) return err('ENOSPC');
      view.put(path, node, generation);
    } else {
      if (found.error !== 'ENOENT') return found;
      const created = this.#create(actor, view, path, value);
      if (!created.ok) return created;
    }
    view.announce({ path, exact: false, before: null });
    return limited(view);
  }

  /** Makes the node if there is none; an existing one keeps its value. */
  mkdir(actor: Actor, view: StoreView, path: XsPath): XsResult<void> {
    const found = this.#node(actor, view, path, PERM_WRITE);
    if (found.ok) return DONE;
    if (found.error !== 'ENOENT') return found;
    const created = this.#create(actor, view, path, NOTHING);
    if (!created.ok) return created;
    view.announce({ path, exact: false, before: null });
    return limited(view);
  }

  /** Removes the node and everything below. A missing node is no error as long as its parent exists. */
  rm(actor: Actor, view: StoreView, path: XsPath): XsResult<void> {
    const found = this.#node(actor, view, path, PERM_WRITE);
    if (!found.ok) return found.error === 'ENOENT' && view.get(parentOf(path)) !== null ? DONE : found;
    if (path === ROOT_PATH) return err('EINVAL');
    view.get(parentOf(path));
    for (const { path: below, node } of postOrder(found.value, path)) {
      if (!view.removed(below, node)) return err('ENOSPC');
      view.addOwned(node.permissions[0].domid, -1);
      view.announce({ path: below, exact: below !== path, before: node.permissions });
    }
    view.put(path, null, this.nextGeneration());
    return limited(view);
  }

  getPermissions(actor: Actor, view: StoreView, path: XsPath): XsResult<PermissionList> {
    const found = this.#node(actor, view, path, PERM_READ);
    return found.ok ? ok(found.value.permissions) : found;
  }

  /** Replaces the list; for owners and dom0. Only dom0 may give a node away. */
  setPermissions(actor: Actor, view: StoreView, path: XsPath, permissions: PermissionList): XsResult<void> {
    if (!actor.privileged && permissions.length > this.quotas.permissionsPerNode) return err('ENOSPC');
    const found = this.#node(actor, view, path, PERM_WRITE | PERM_OWNER);
    if (!found.ok) return found;
    const before = found.value.permissions;
    if (!actor.privileged && permissions[0].domid !== before[0].domid) return err('EPERM');
    const generation = this.nextGeneration();
    const node = { ...found.value, permissions, generation };
    if (this.#tooLarge(actor, node)) return err('ENOSPC');
    view.put(path, node, generation);
    view.addOwned(before[0].domid, -1);
    view.addOwned(permissions[0].domid, 1);
    view.announce({ path, exact: false, before });
    return limited(view);
  }

  /**
   * Makes a transaction's changes everybody's, or refuses: EAGAIN when something it depended on changed meanwhile,
   * ENOMEM when it hit a limit before, ENOSPC when it would lift its owner over the quota. Announces through the live view.
   */
  commitTransaction(actor: Actor, transaction: TransactionView): XsResult<void> {
    if (transaction.stale) return err('EAGAIN');
    if (transaction.doomed) return err('ENOMEM');
    const live = this.live;
    const untouched = live.top === transaction.base;
    if (!untouched) {
      for (const [path, generation] of transaction.accessed) {
        if ((lookup(live.top, path)?.generation ?? -1) !== generation) return err('EAGAIN');
      }
    }
    if (!actor.privileged) {
      const grown = transaction.ownedDifference.get(actor.domid) ?? 0;
      if (grown > 0 && live.owned(actor.domid) + grown > this.quotas.nodes) return err('ENOSPC');
    }
    if (untouched) live.top = transaction.top;
    else this.#replay(transaction);
    for (const [domid, difference] of transaction.ownedDifference) live.addOwned(domid, difference);
    for (const event of transaction.events()) live.announce(event);
    return DONE;
  }

  /** Forgets a domain that no longer exists: its nodes go, and so do permissions granted to it. */
  forgetDomain(domid: number): void {
    const dom0: Actor = { domid: 0, privileged: true, target: null };
    for (const { path, node } of postOrder(this.live.top.children.get('') as TreeNode, ROOT_PATH)) {
      const current = this.live.get(path);
      if (current === null) continue;
      if (node.permissions[0].domid === domid && path !== ROOT_PATH) {
        this.rm(dom0, this.live, path);
      } else {
        const kept = withoutDomain(current.permissions, domid);
        if (kept !== current.permissions) {
          const generation = this.nextGeneration();
          this.live.put(path, { ...current, permissions: kept, generation }, generation);
        }
      }
    }
  }

  /** Recounts the owned nodes and compares with the running counts; false would be a defect of this module. */
  countsAreRight(): boolean {
    const counted = new Map<number, number>();
    for (const top of this.live.top.children) {
      for (const { node } of postOrder(top[1], top[0] as XsPath)) {
        const owner = node.permissions[0].domid;
        counted.set(owner, (counted.get(owner) ?? 0) + 1);
      }
    }
    const running = this.live.ownedCounts();
    return running.size === counted.size && [...counted].every(([domid, count]) => running.get(domid) === count);
  }

  #replay(transaction: TransactionView): void {
    const depth = (path: string): number => path.split('/').length;
    const paths = [...transaction.modified].sort((a, b) => depth(a) - depth(b));
    for (const path of paths) {
      const wanted = lookup(transaction.top, path);
      const present = lookup(this.live.top, path);
      // Below something that was created or removed as a whole there is nothing left to do.
      if (wanted === present) continue;
      const generation = this.nextGeneration();
      if (wanted === null || present === null) {
        // What is absent here was absent at the start, so all of `wanted` is the transaction's own.
        this.live.put(path, wanted, generation);
      } else {
        const { value, permissions } = wanted;
        this.live.put(path, { ...present, value, permissions, generation }, generation);
      }
    }
  }

  #node(actor: Actor, view: StoreView, path: XsPath, want: number): XsResult<TreeNode> {
    const node = view.get(path);
    if (node !== null) return (accessOf(actor, node.permissions) & want) === want ? ok(node) : err('EACCES');
    const { permissions } = view.nearest(path).node;
    return err((accessOf(actor, permissions) & want) !== 0 ? 'ENOENT' : 'EACCES');
  }

  /** Creates `path` and the ancestors it lacks. Nothing is created when a quota says no. */
  #create(actor: Actor, view: StoreView, path: XsPath, value: Uint8Array): XsResult<void> {
    const { node: ancestor, path: above, missing } = view.nearest(path);
    const permissions = inheritedPermissions(actor, ancestor.permissions);
    if (!actor.privileged) {
      const { nodes, nodeSize: largest } = this.quotas;
      if (view.owned(actor.domid) + missing.length > nodes) return err('ENOSPC');
      if (nodeSize(ancestor) + missing[0].length + 1 > largest) return err('ENOSPC');
      if (24 + permissions.length * 8 + value.length > largest) return err('ENOSPC');
    }
    const generation = this.nextGeneration();
    const first = childOf(above, missing[0]);
    view.put(first, chained(missing, leaf(value, permissions, generation), generation), generation);
    let at = first;
    for (const name of missing.slice(1)) {
      at = childOf(at, name);
      view.created(at);
    }
    view.addOwned(permissions[0].domid, missing.length);
    return DONE;
  }

  #tooLarge(actor: Actor, node: TreeNode): boolean {
    return !actor.privileged && nodeSize(node) > this.quotas.nodeSize;
  }
}

/** A transaction that went over its limits fails the request that did it. */
function limited(view: StoreView): XsResult<void> {
  return view instanceof TransactionView && view.doomed ? err('ENOSPC') : DONE;
}
