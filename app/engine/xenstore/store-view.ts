// SPDX-License-Identifier: Apache-2.0
/**
 * The two ways to see the store: live, where every change counts at once, and inside a transaction, where changes stay
 * private until commit. The operations in store.ts work on either.
 */
import type { PermissionList } from './permissions.ts';
import { lookup, type NearestNode, nearest, replaced, type TreeNode } from './tree.ts';
import type { XsPath } from './xs-path.ts';

/** A change that watches may want to hear of. */
export interface ChangeEvent {
  readonly path: XsPath;
  /** Only watches on exactly this path match: the node went away with an ancestor, whose own event tells everybody above. */
  readonly exact: boolean;
  /** Permissions before the change, when they matter: whoever could read the node then may still hear of it. */
  readonly before: PermissionList | null;
}

export interface StoreView {
  /** The node at `path`. A transaction remembers that it looked, also when there was none. */
  get(path: XsPath): TreeNode | null;
  /** For a path without a node: the nearest ancestor that exists. */
  nearest(path: XsPath): NearestNode;
  /** Sets or removes (null) the node with all below it. Ancestors exist. `generation` is fresh. */
  put(path: XsPath, node: TreeNode | null, generation: number): void;
  /** Says that a `put` further up brings a node to `path`. */
  created(path: XsPath): void;
  /** Says that a `put` further up takes `node` away from `path`. False when that is more than this view may do. */
  removed(path: XsPath, node: TreeNode): boolean;
  /** Nodes that `domid` owns. */
  owned(domid: number): number;
  addOwned(domid: number, difference: number): void;
  announce(event: ChangeEvent): void;
}

/** The store as everybody sees it. */
export class LiveView implements StoreView {
  top: TreeNode;
  readonly #owned = new Map<number, number>();
  #events: ChangeEvent[] = [];

  constructor(top: TreeNode) {
    this.top = top;
  }

  get(path: XsPath): TreeNode | null {
    return lookup(this.top, path);
  }

  nearest(path: XsPath): NearestNode {
    return nearest(this.top, path);
  }

  put(path: XsPath, node: TreeNode | null, generation: number): void {
    this.top = replaced(this.top, path, node, generation);
  }

  created(): void {}

  removed(): boolean {
    return true;
  }

  owned(domid: number): number {
    return this.#owned.get(domid) ?? 0;
  }

  addOwned(domid: number, difference: number): void {
    const count = this.owned(domid) + difference;
    if (count === 0) this.#owned.delete(domid);
    else this.#owned.set(domid, count);
  }

  /** Owned nodes by domain, for checks and tests. */
  ownedCounts(): ReadonlyMap<number, number> {
    return this.#owned;
  }

  announce(event: ChangeEvent): void {
    this.#events.push(event);
  }

  /** Takes the events gathered since the last call, oldest first. */
  takeEvents(): ChangeEvent[] {
    const events = this.#events;
    if (events.length > 0) this.#events = [];
    return events;
  }
}

/** Bounds on what one transaction may gather. */
export interface TransactionLimits {
  readonly nodes: number;
  readonly bytes: number;
}

/**
 * A transaction: the store as it was at the start, plus its own changes.
 *
 * INVARIANT: `accessed` holds every path that a request of this transaction depended on or changed, with the generation
 * it had at the start (-1: absent); for absent nodes the ancestor that exists is enough. If all of them are unchanged
 * at commit, replaying the changes gives what the transaction saw; otherwise the commit is refused with EAGAIN (see
 * `commitTransaction`).
 */
export class TransactionView implements StoreView {
  readonly base: TreeNode;
  top: TreeNode;
  readonly accessed = new Map<XsPath, number>();
  readonly modified = new Set<XsPath>();
  readonly ownedDifference = new Map<number, number>();
  /** A limit was hit or an operation half failed: the commit will be refused. */
  doomed = false;
  /** Stands for a transaction that was open when the store was saved: its client has to start over. */
  stale = false;
  readonly #live: LiveView;
  readonly #limits: TransactionLimits | null;
  readonly #events = new Map<XsPath, ChangeEvent>();
  #bytes = 0;

  /** `limits` null: no bounds (dom0). */
  constructor(live: LiveView, limits: TransactionLimits | null) {
    this.#live = live;
    this.base = live.top;
    this.top = live.top;
    this.#limits = limits;
  }

  get(path: XsPath): TreeNode | null {
    if (!this.accessed.has(path)) this.#depend(path, lookup(this.base, path)?.generation ?? -1);
    return lookup(this.top, path);
  }

  nearest(path: XsPath): NearestNode {
    const found = nearest(this.top, path);
    // A node that appears below it changes its set of children, and with that its generation.
    this.get(found.path);
    return found;
  }

  put(path: XsPath, node: TreeNode | null, generation: number): void {
    this.modified.add(path);
    this.#charge(node === null ? 0 : node.value.length);
    this.top = replaced(this.top, path, node, generation);
  }

  created(path: XsPath): void {
    this.#charge(path.length);
    this.modified.add(path);
  }

  removed(path: XsPath, node: TreeNode): boolean {
    // A change further down would otherwise vanish uncounted. What this transaction has not changed yet still has its
    // generation from the start.
    if (!this.modified.has(path) && !this.accessed.has(path)) this.#depend(path, node.generation);
    this.modified.add(path);
    return !this.doomed;
  }

  owned(domid: number): number {
    return this.#live.owned(domid) + (this.ownedDifference.get(domid) ?? 0);
  }

  addOwned(domid: number, difference: number): void {
    this.ownedDifference.set(domid, (this.ownedDifference.get(domid) ?? 0) + difference);
  }

  announce(event: ChangeEvent): void {
    const known = this.#events.get(event.path);
    if (known === undefined) {
      this.#events.set(event.path, { ...event, before: event.before ?? lookup(this.base, event.path)?.permissions ?? null });
    } else if (known.exact && !event.exact) {
      this.#events.set(event.path, { ...known, exact: false });
    }
  }

  /** What to announce after a commit, in the order of first change. */
  events(): Iterable<ChangeEvent> {
    return this.#events.values();
  }

  #depend(path: XsPath, generation: number): void {
    this.#charge(path.length);
    if (this.#limits !== null && this.accessed.size >= this.#limits.nodes) this.doomed = true;
    else this.accessed.set(path, generation);
  }

  #charge(bytes: number): void {
    this.#bytes += bytes;
    if (this.#limits !== null && this.#bytes > this.#limits.bytes) this.doomed = true;
  }
}
