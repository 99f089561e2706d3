// SPDX-License-Identifier: Apache-2.0
/**
 * The life of one device seen from its backend: announce, wait for the frontend, connect, close, connect again, remove.
 * The handshake is that of Linux's xenbus drivers (xen public/io/xenbus.h has the states):
 *
 *   backend                              frontend
 *   Initialising → InitWait              Initialising: allocates rings, writes references and port
 *   connects, writes its features        → Initialised (blkfront) or Connected (netfront)
 *   → Connected                          → Connected
 *   disconnects → Closing                Closing
 *   → Closed, removed when offline       Closed
 *
 * A frontend that comes back to Initialising after Closed (a kexec, a reloaded driver) gets InitWait again.
 *
 * GUEST: the frontend writes its `state` and all that it announces. Any order of states may come; `connect` is only called
 * when disconnected and `disconnect` only when connected, whatever the guest does.
 */
import type { Result } from '../../../base/result.ts';
import { type Log, silentLog } from '../../host/log.ts';
import { domainPath, type XenstoreAccess, type XenstoreClient } from '../../xenstore/index.ts';
import {
  backendPath,
  type DeviceAddress,
  frontendPath,
  readState,
  STATE_NAMES,
  type XenbusState,
  XenbusStateClosed,
  XenbusStateClosing,
  XenbusStateConnected,
  XenbusStateInitialised,
  XenbusStateInitialising,
  XenbusStateInitWait,
  XenbusStateReconfigured,
  XenbusStateReconfiguring,
  XenbusStateUnknown,
} from './xenbus.ts';

/** A failure to be told to the guest: errno as a positive number and a sentence. */
export interface DeviceError {
  readonly errno: number;
  readonly message: string;
}

export const EIO = 5;
export const ENOMEM = 12;
export const ENODEV = 19;
export const EINVAL = 22;
export const EPROTO = 71;

/** What a kind of device adds to the common life. Calls come on the I/O thread, never nested in a store operation. */
export interface XenbusDriver {
  /** Writes what the frontend needs before it begins (features, limits); runs in a transaction, may run more than once. */
  announce?(store: XenstoreAccess, backend: string): void;
  /**
   * Reads the frontend's nodes, maps its rings, binds its port. On failure everything taken is given back by the driver.
   * @returns `asynchronously` true when the driver will call `XenbusBackend.connected` itself.
   */
  connect(frontend: string): Result<{ readonly asynchronously?: boolean }, DeviceError>;
  /** Writes what belongs to the step to Connected (sectors, …); runs in a transaction, may run more than once. */
  publish?(store: XenstoreAccess, backend: string): void;
  /** Gives everything back that `connect` took. */
  disconnect(): void;
  /** The frontend asks to change a running device (pcifront). */
  reconfigure?(state: XenbusState): void;
  /** The device is gone for good; called once. */
  removed?(): void;
}

export interface XenbusBackendOptions {
  readonly client: XenstoreClient;
  readonly device: DeviceAddress;
  readonly driver: XenbusDriver;
  readonly log?: Log;
  /** Frontend states upon which to connect. netback waits for Connected, blkback takes either. Default: either. */
  readonly connectOn?: readonly XenbusState[];
}

export class XenbusBackend {
  readonly device: DeviceAddress;
  readonly backend: string;
  readonly frontend: string;
  readonly #client: XenstoreClient;
  readonly #driver: XenbusDriver;
  readonly #log: Log;
  readonly #connectOn: readonly XenbusState[];
  #state: XenbusState = XenbusStateInitialising;
  #attached = false;
  #unwatch: () => void = () => {};
  #removed = false;

  /** The device's nodes must exist already (see device-nodes.ts). Nothing happens before `start`. */
  constructor(options: XenbusBackendOptions) {
    this.device = options.device;
    this.backend = backendPath(options.device);
    this.frontend = frontendPath(options.device);
    this.#client = options.client;
    this.#driver = options.driver;
    this.#log = options.log ?? silentLog;
    this.#connectOn = options.connectOn ?? [XenbusStateInitialised, XenbusStateConnected];
  }

  get state(): XenbusState {
    return this.#state;
  }

  /** The driver holds the frontend's rings. */
  get attached(): boolean {
    return this.#attached;
  }

  /** Announces the device, goes to InitWait and follows the frontend from then on. */
  start(): void {
    this.#enterInitWait();
    this.#unwatch = this.#client.watch(`${this.frontend}/state`, () => this.#frontendChanged());
  }

  /** For drivers that connect asynchronously: the device is ready. Does nothing if the frontend left meanwhile. */
  connected(): void {
    if (this.#attached && this.#state !== XenbusStateConnected) this.#becomeConnected();
  }

  /** Asks the frontend to let go (hot unplug): the device goes away when the frontend has closed. */
  requestRemoval(): void {
    if (this.#removed) return;
    this.#client.write(`${this.backend}/online`, '0');
    const frontend = readState(this.#client, this.frontend);
    if (frontend === XenbusStateUnknown || frontend === XenbusStateClosed) this.#frontendClosed();
    else this.#switch(XenbusStateClosing);
  }

  /** Ends the device at once, whatever the frontend does: the domain is gone or the machine stops. */
  remove(): void {
    if (this.#removed) return;
    this.#removed = true;
    this.#unwatch();
    this.#detach();
    this.#switch(XenbusStateClosed);
    this.#driver.removed?.();
  }

  /** Leaves a message where people and toolstacks look for it: `error/backend/…/error`. The device goes on. */
  error({ errno, message }: DeviceError): void {
    const node = this.backend.slice(domainPath(0).length + 1);
    this.#client.write(`${domainPath(0)}/error/${node}/error`, `${errno} ${message}`);
    this.#log.write('warn', `${node}: ${message}`, { errno });
  }

  /** An error after which the device cannot go on: told as by `error`, then closed. */
  fatal(error: DeviceError): void {
    this.error(error);
    this.#detach();
    this.#switch(XenbusStateClosing);
  }

  #frontendChanged(): void {
    if (this.#removed) return;
    const state = readState(this.#client, this.frontend);
    if (this.#connectOn.includes(state)) {
      this.#connect();
      return;
    }
    switch (state) {
      case XenbusStateInitialising:
        // A frontend that starts over without having closed must not keep its old rings mapped.
        this.#detach();
        if (this.#state !== XenbusStateInitWait && this.#online()) this.#enterInitWait();
        break;
      case XenbusStateClosing:
        this.#detach();
        this.#switch(XenbusStateClosing);
        break;
      case XenbusStateClosed:
        this.#frontendClosed();
        break;
      case XenbusStateUnknown:
        if (!this.#client.exists(this.frontend)) this.remove();
        break;
      case XenbusStateReconfiguring:
      case XenbusStateReconfigured:
        if (this.#attached) this.#driver.reconfigure?.(state);
        break;
      default:
        break;
    }
  }

  #frontendClosed(): void {
    this.#detach();
    this.#switch(XenbusStateClosed);
    if (!this.#online()) this.remove();
  }

  /** The toolstack wants to keep the device. */
  #online(): boolean {
    return this.#client.read(`${this.backend}/online`) === '1';
  }

  #connect(): void {
    if (this.#attached || this.#state === XenbusStateConnected) return;
    // A closing device only waits for the frontend to close.
    if (this.#state === XenbusStateClosing) return;
    this.#attached = true;
    const connected = this.#driver.connect(this.frontend);
    if (!connected.ok) {
      this.#attached = false;
      this.fatal(connected.error);
    } else if (connected.value.asynchronously !== true) {
      this.connected();
    }
  }

  #becomeConnected(): void {
    this.#inTransaction((store) => this.#driver.publish?.(store, this.backend));
    this.#switch(XenbusStateConnected);
  }

  #enterInitWait(): void {
    this.#inTransaction((store) => this.#driver.announce?.(store, this.backend));
    this.#switch(XenbusStateInitWait);
  }

  #inTransaction(work: (store: XenstoreAccess) => void): void {
    const done = this.#client.transaction(work);
    if (!done.ok) this.error({ errno: EIO, message: `writing the device's nodes failed (${done.error})` });
  }

  #detach(): void {
    if (!this.#attached) return;
    this.#attached = false;
    this.#driver.disconnect();
  }

  #switch(state: XenbusState): void {
    if (this.#state === state) return;
    this.#log.write('debug', `${this.backend}: ${STATE_NAMES[this.#state]} to ${STATE_NAMES[state]}`);
    this.#state = state;
    // A device whose nodes were removed must not bring them back by writing its state.
    if (this.#client.exists(this.backend)) this.#client.write(`${this.backend}/state`, String(state));
  }
}
