// SPDX-License-Identifier: Apache-2.0
/**
 * The xenstore service of one machine: the store, who is connected, which domains are introduced, and the sending of
 * watch events. It lives on the I/O thread; everything here is synchronous except the callbacks of in-process watches.
 *
 * INVARIANT: after every operation on the live store `publish` runs before anything else looks at it, so events leave in
 * the order of the changes.
 */
import { err, ok } from '../../base/result.ts';
import { type Log, silentLog } from '../host/log.ts';
import { XenstoreClient } from './client.ts';
import type { Connection } from './connection.ts';
import { accessOf, PERM_READ } from './permissions.ts';
import type { XenstoreQuotas } from './quotas.ts';
import type { DomainDirectory, RequestContext } from './requests.ts';
import { RingConnection, type XenstoreRing } from './ring-connection.ts';
import { Store, type XsResult } from './store.ts';
import type { ChangeEvent } from './store-view.ts';
import { toldPath } from './watches.ts';
import { INTRODUCE_DOMAIN, parentOf, RELEASE_DOMAIN, type XsPath } from './xs-path.ts';
import { XENSTORE_CONNECTED, XENSTORE_RECONNECT, XENSTORE_RING_CONNECTION } from './xs-wire.ts';

export interface XenstoreServerOptions {
  readonly quotas?: Partial<XenstoreQuotas>;
  readonly log?: Log;
  /** Runs a task when the current one is over; watch callbacks use it. Default: a microtask. */
  readonly defer?: (task: () => void) => void;
  /** Runs a task in a later turn of the event loop; long rings use it. Without it, `RingConnection.pump` says when to call again. */
  readonly soon?: (task: () => void) => void;
  /** Finds the ring for an INTRODUCE that arrives on the wire from a privileged domain. Without it such requests get ENOSYS. */
  readonly mapRing?: (domid: number, frame: number, port: number) => XenstoreRing | null;
}

interface Domain {
  readonly connection: RingConnection;
  /** It shut down or crashed, and @releaseDomain said so. */
  shutdown: boolean;
}

export class XenstoreServer implements RequestContext, DomainDirectory {
  readonly store: Store;
  readonly log: Log;
  readonly domains: DomainDirectory = this;
  readonly #options: XenstoreServerOptions;
  readonly #connections = new Set<Connection>();
  readonly #domains = new Map<number, Domain>();

  constructor(options: XenstoreServerOptions = {}) {
    this.#options = options;
    this.store = new Store(options.quotas);
    this.log = options.log ?? silentLog;
  }

  /** A privileged client inside this process, acting as dom0. `name` tells them apart in the log. */
  client(name: string): XenstoreClient {
    const defer = this.#options.defer ?? ((task: () => void): void => void Promise.resolve().then(task));
    return new XenstoreClient(this, name, defer, (connection) => {
      this.#connections.add(connection);
      return () => void this.#connections.delete(connection);
    });
  }

  /**
   * Connects a domain's ring and fires @introduceDomain. For a domain that is already introduced the conversation starts
   * over on the same page. Call the connection's `pump` once now, for what the domain wrote before, and whenever it signals its port.
   */
  introduceDomain(domid: number, ring: XenstoreRing): RingConnection {
    const known = this.#domains.get(domid);
    if (known !== undefined) {
      known.connection.restart();
      return known.connection;
    }
    const { soon } = this.#options;
    const connection = new RingConnection(this, domid, ring, { privileged: domid === 0, ...(soon ? { soon } : {}) });
    const words = new Int32Array(ring.page.buffer, ring.page.byteOffset, 1024);
    const waits = Atomics.compareExchange(words, XENSTORE_RING_CONNECTION >>> 2, XENSTORE_RECONNECT, XENSTORE_CONNECTED);
    this.#connections.add(connection);
    this.#domains.set(domid, { connection, shutdown: false });
    if (domid !== 0) this.#fireSpecial(INTRODUCE_DOMAIN);
    if (waits === XENSTORE_RECONNECT) ring.notify();
    return connection;
  }

  /** The ring connection of an introduced domain. */
  connectionOf(domid: number): RingConnection | null {
    return this.#domains.get(domid)?.connection ?? null;
  }

  /** Says that a domain shut down or crashed; fires @releaseDomain once, until `resume`. */
  domainShutdown(domid: number): void {
    const domain = this.#domains.get(domid);
    if (domain === undefined || domain.shutdown) return;
    domain.shutdown = true;
    this.#fireSpecial(RELEASE_DOMAIN);
  }

  /** Disconnects a domain that no longer exists, drops the nodes it owned and fires @releaseDomain. */
  release(domid: number): XsResult<void> {
    const domain = this.#domains.get(domid);
    if (domain === undefined) return err('ENOENT');
    domain.connection.close();
    this.#connections.delete(domain.connection);
    this.#domains.delete(domid);
    for (const other of this.#connections) if (other.target === domid) other.target = null;
    this.store.forgetDomain(domid);
    this.publish();
    this.#fireSpecial(RELEASE_DOMAIN);
    return ok(undefined);
  }

  introduce(domid: number, frame: number, port: number): XsResult<void> {
    const known = this.#domains.get(domid);
    if (known !== undefined) {
      known.connection.restart();
      return ok(undefined);
    }
    const { mapRing } = this.#options;
    if (mapRing === undefined) return err('ENOSYS');
    const ring = domid > 0 ? mapRing(domid, frame, port) : null;
    if (ring === null) return err('EINVAL');
    this.introduceDomain(domid, ring);
    return ok(undefined);
  }

  resume(domid: number): XsResult<void> {
    const domain = this.#domains.get(domid);
    if (domain === undefined) return err('ENOENT');
    domain.shutdown = false;
    return ok(undefined);
  }

  setTarget(domid: number, target: number): XsResult<void> {
    const domain = this.#domains.get(domid);
    if (domain === undefined || !this.#domains.has(target)) return err('ENOENT');
    domain.connection.target = target;
    return ok(undefined);
  }

  isIntroduced(domid: number): boolean {
    return this.#domains.has(domid);
  }

  introducedDomains(): number[] {
    return [...this.#domains.keys()];
  }

  publish(): void {
    for (const event of this.store.live.takeEvents()) this.#fire(event);
    for (const connection of this.#connections) connection.flush();
  }

  #fire(event: ChangeEvent): void {
    for (const connection of this.#connections) {
      const watches = connection.watches.matching(event.path, event.exact);
      if (watches.length === 0 || !this.#mayHear(connection, event)) continue;
      for (const watch of watches) connection.deliver(toldPath(watch, event.path, connection.domid), watch.token);
    }
  }

  /** Whoever may read the node, could read it before, or may list its parent, may hear of the change. */
  #mayHear(connection: Connection, event: ChangeEvent): boolean {
    const { live } = this.store;
    for (const permissions of [event.before, live.get(event.path)?.permissions, live.get(parentOf(event.path))?.permissions]) {
      if (permissions && (accessOf(connection, permissions) & PERM_READ) !== 0) return true;
    }
    return false;
  }

  #fireSpecial(path: XsPath): void {
    this.#fire({ path, exact: true, before: null });
    for (const connection of this.#connections) connection.flush();
  }
}
