// SPDX-License-Identifier: Apache-2.0
/**
 * The store as backends and the toolstack use it, inside the I/O thread: dom0's rights, no wire. Operations are
 * synchronous; callbacks of watches are not: they run after the current task, in the order of the changes, never inside
 * a call that the caller made.
 *
 * GUEST: paths and values read here may come from the guest. Nothing here throws because a path is malformed: reading
 * answers null, changing answers an error.
 */
import { err } from '../../base/result.ts';
import type { Log } from '../host/log.ts';
import { Connection } from './connection.ts';
import type { PermissionList } from './permissions.ts';
import { parsePermissions } from './permissions.ts';
import type { Store, XsResult } from './store.ts';
import { type StoreView, TransactionView } from './store-view.ts';
import { utf8Decode, utf8Encode } from './text.ts';
import { childNames, type TreeNode } from './tree.ts';
import { isRelative, parsePath } from './xs-path.ts';

/** Permissions as a list or as SET_PERMS strings: `['n0', 'r1']`. */
export type PermissionsArgument = PermissionList | readonly string[];

/** What can be done with the store or inside a transaction. Relative paths are dom0's. */
export interface XenstoreAccess {
  /** The value as text (UTF-8); null when there is no such node. */
  read(path: string): string | null;
  readBytes(path: string): Uint8Array | null;
  exists(path: string): boolean;
  /** Names of the children; null when there is no such node. */
  directory(path: string): string[] | null;
  getPermissions(path: string): PermissionList | null;
  write(path: string, value: string | Uint8Array): XsResult<void>;
  mkdir(path: string): XsResult<void>;
  /** Removes the subtree. A missing node is no error as long as its parent exists. */
  rm(path: string): XsResult<void>;
  setPermissions(path: string, permissions: PermissionsArgument): XsResult<void>;
}

/** A transaction that outlives one call; `transaction` is simpler where the work is synchronous. */
export interface XenstoreTransaction extends XenstoreAccess {
  /** EAGAIN: something it depended on changed; start over. */
  commit(): XsResult<void>;
  abort(): void;
}

/** The part of the server that clients need. */
export interface ClientHost {
  readonly store: Store;
  readonly log: Log;
  publish(): void;
}

const TRANSACTION_ATTEMPTS = 16;

export class XenstoreClient implements XenstoreAccess {
  readonly #host: ClientHost;
  readonly #connection: LocalConnection;
  readonly #live: XenstoreAccess;
  readonly #detach: () => void;

  /** Made by `XenstoreServer.client`. */
  constructor(host: ClientHost, name: string, defer: (task: () => void) => void, attach: (connection: Connection) => () => void) {
    this.#host = host;
    this.#connection = new LocalConnection(name, host.log, defer);
    this.#live = new ViewAccess(host, this.#connection, host.store.live);
    this.#detach = attach(this.#connection);
  }

  read(path: string): string | null {
    return this.#live.read(path);
  }
  readBytes(path: string): Uint8Array | null {
    return this.#live.readBytes(path);
  }
  exists(path: string): boolean {
    return this.#live.exists(path);
  }
  directory(path: string): string[] | null {
    return this.#live.directory(path);
  }
  getPermissions(path: string): PermissionList | null {
    return this.#live.getPermissions(path);
  }
  write(path: string, value: string | Uint8Array): XsResult<void> {
    return this.#live.write(path, value);
  }
  mkdir(path: string): XsResult<void> {
    return this.#live.mkdir(path);
  }
  rm(path: string): XsResult<void> {
    return this.#live.rm(path);
  }
  setPermissions(path: string, permissions: PermissionsArgument): XsResult<void> {
    return this.#live.setPermissions(path, permissions);
  }

  /**
   * Calls `callback` once soon and then after every change at or below `path` (or when the special event of that name
   * happens), with the path that changed. Equal changes may be merged while they wait.
   * Throws for a malformed path: which paths are watched is the host's choice.
   * @returns the function that ends the watch; no callback runs after it was called.
   */
  watch(path: string, callback: (path: string) => void): () => void {
    const canonical = parsePath(path, 0, true);
    if (canonical === null) throw new RangeError(`'${path}' is not a path that can be watched`);
    return this.#connection.watch(canonical, isRelative(path), callback);
  }

  /**
   * Runs `work` in a transaction and commits; starts over when something changed meanwhile. When `work` throws, nothing is
   * changed and the error goes on to the caller.
   */
  transaction<T>(work: (access: XenstoreAccess) => T): XsResult<T> {
    for (let attempt = 0; attempt < TRANSACTION_ATTEMPTS; attempt++) {
      const transaction = this.begin();
      const value = work(transaction);
      const committed = transaction.commit();
      if (committed.ok) return { ok: true, value };
      if (committed.error !== 'EAGAIN') return committed;
    }
    return err('EAGAIN');
  }

  begin(): XenstoreTransaction {
    const view = this.#host.store.beginTransaction(this.#connection);
    return new TransactionAccess(this.#host, this.#connection, view);
  }

  /** Ends all watches. */
  close(): void {
    this.#connection.stop();
    this.#detach();
  }
}

class ViewAccess implements XenstoreAccess {
  protected readonly host: ClientHost;
  protected readonly connection: Connection;
  readonly #view: StoreView;

  constructor(host: ClientHost, connection: Connection, view: StoreView) {
    this.host = host;
    this.connection = connection;
    this.#view = view;
  }

  read(path: string): string | null {
    const node = this.#node(path);
    return node === null ? null : utf8Decode(node.value);
  }

  readBytes(path: string): Uint8Array | null {
    return this.#node(path)?.value.slice() ?? null;
  }

  exists(path: string): boolean {
    return this.#node(path) !== null;
  }

  directory(path: string): string[] | null {
    const node = this.#node(path);
    return node === null ? null : childNames(node);
  }

  getPermissions(path: string): PermissionList | null {
    const canonical = parsePath(path, 0, true);
    if (canonical === null) return null;
    const list = this.host.store.getPermissions(this.connection, this.#view, canonical);
    return list.ok ? list.value : null;
  }

  write(path: string, value: string | Uint8Array): XsResult<void> {
    const bytes = typeof value === 'string' ? utf8Encode(value) : value.slice();
    return this.#change(path, (store, canonical) => store.write(this.connection, this.#view, canonical, bytes));
  }

  mkdir(path: string): XsResult<void> {
    return this.#change(path, (store, canonical) => store.mkdir(this.connection, this.#view, canonical));
  }

  rm(path: string): XsResult<void> {
    return this.#change(path, (store, canonical) => store.rm(this.connection, this.#view, canonical));
  }

  setPermissions(path: string, permissions: PermissionsArgument): XsResult<void> {
    const list = toPermissions(permissions);
    if (list === null) return err('EINVAL');
    return this.#change(path, (store, canonical) => store.setPermissions(this.connection, this.#view, canonical, list), true);
  }

  #node(path: string): TreeNode | null {
    const canonical = parsePath(path, 0);
    if (canonical === null) return null;
    const node = this.host.store.read(this.connection, this.#view, canonical);
    return node.ok ? node.value : null;
  }

  #change(
    path: string,
    operation: (store: Store, path: NonNullable<ReturnType<typeof parsePath>>) => XsResult<void>,
    special = false,
  ): XsResult<void> {
    const canonical = parsePath(path, 0, special);
    if (canonical === null) return err('EINVAL');
    const result = operation(this.host.store, canonical);
    if (!(this.#view instanceof TransactionView)) this.host.publish();
    return result;
  }
}

class TransactionAccess extends ViewAccess implements XenstoreTransaction {
  readonly #transaction: TransactionView;
  #over = false;

  constructor(host: ClientHost, connection: Connection, transaction: TransactionView) {
    super(host, connection, transaction);
    this.#transaction = transaction;
  }

  commit(): XsResult<void> {
    if (this.#over) return err('ENOENT');
    this.#over = true;
    const result = this.host.store.commitTransaction(this.connection, this.#transaction);
    this.host.publish();
    return result;
  }

  abort(): void {
    this.#over = true;
  }
}

function toPermissions(permissions: PermissionsArgument): PermissionList | null {
  const texts: string[] = [];
  const list = [];
  for (const permission of permissions) {
    if (typeof permission === 'string') texts.push(permission);
    else list.push(permission);
  }
  if (texts.length === 0) return list.length === 0 ? null : list;
  return list.length === 0 ? parsePermissions(texts) : null;
}

/** dom0's end without a ring: events wait in a queue that is emptied after the current task. */
class LocalConnection extends Connection {
  readonly #name: string;
  readonly #log: Log;
  readonly #defer: (task: () => void) => void;
  readonly #callbacks = new Map<string, (path: string) => void>();
  /** Waiting events by token and path, oldest first: an equal event that still waits is not queued again. */
  readonly #waiting = new Map<string, { readonly path: string; readonly token: string }>();
  #nextToken = 1;
  #scheduled = false;

  constructor(name: string, log: Log, defer: (task: () => void) => void) {
    super(0, true);
    this.#name = name;
    this.#log = log;
    this.#defer = defer;
  }

  watch(path: NonNullable<ReturnType<typeof parsePath>>, relative: boolean, callback: (path: string) => void): () => void {
    const token = String(this.#nextToken++);
    this.watches.add({ path, token, relative });
    this.#callbacks.set(token, callback);
    this.deliver(relative ? path.slice('/local/domain/0/'.length) : path, token);
    return () => {
      this.watches.remove(path, token);
      this.#callbacks.delete(token);
    };
  }

  stop(): void {
    this.resetState();
    this.#callbacks.clear();
    this.#waiting.clear();
  }

  override deliver(path: string, token: string): void {
    const key = `${token}\0${path}`;
    if (!this.#waiting.has(key)) this.#waiting.set(key, { path, token });
    this.#schedule();
  }

  override flush(): void {
    // Events leave on their own, in `#drain`.
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#defer(() => this.#drain());
  }

  #drain(): void {
    this.#scheduled = false;
    const events = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { path, token } of events) {
      const callback = this.#callbacks.get(token);
      if (callback === undefined) continue;
      try {
        callback(path);
      } catch (cause) {
        // A watcher's defect must not cost the other watchers their events.
        this.#log.write('error', `a xenstore watch of ${this.#name} failed`, { path, cause: String(cause) });
      }
    }
  }
}
