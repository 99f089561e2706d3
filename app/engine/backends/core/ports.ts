// SPDX-License-Identifier: Apache-2.0
/**
 * What a backend needs of the hypervisor, seen from dom0's side: event channels, grants and turns of the I/O thread's
 * event loop. The hypervisor implements these on the I/O thread; backends see nothing else of it. Terms and rules follow
 * xen public/event_channel.h (EVTCHNOP_bind_interdomain, EVTCHNOP_send) and public/grant_table.h (GNTTABOP_map_grant_ref,
 * GNTTABOP_copy).
 *
 * INVARIANT: nothing here throws because of what a guest did; refused operations answer null or false.
 */

/** One end of an interdomain event channel, held by dom0. */
export interface EventPort {
  /** Marks the remote end pending and wakes the guest (EVTCHNOP_send). Does nothing once either end is closed. */
  notify(): void;
  /** Replaces the callback that runs, on the I/O thread, after the guest notified. Notifications may be merged. */
  onEvent(callback: () => void): void;
  /** Unbinds this end. No callback runs afterwards. May be called twice. */
  close(): void;
}

export interface EventChannels {
  /**
   * Binds to a port which `remoteDomain` allocated unbound for dom0. Null when the port does not exist, is not unbound,
   * or is not meant for dom0: port numbers come from the guest.
   */
  bindInterdomain(remoteDomain: number, remotePort: number): EventPort | null;
}

/** One mapped frame of a guest. */
export interface GrantMapping {
  /** Live view of the frame, 4096 bytes over shared memory. The guest may change it at any time: copy once, then use. */
  readonly bytes: Uint8Array;
  /** To be called after writes through `bytes` into data pages, so that translated code in the frame is dropped. */
  wrote(offset: number, length: number): void;
  /** Ends the mapping; `bytes` must not be touched afterwards. May be called twice. */
  release(): void;
}

export interface Grants {
  /** Maps the frame behind `ref`. Null when the reference is not valid, not granted to dom0, or read-only while `writable`. */
  map(domain: number, ref: number, writable: boolean): GrantMapping | null;
  /**
   * Copies out of a granted frame (GNTTABOP_copy with a grant source). Null when refused. `offset + length` is at most 4096.
   */
  copyFrom(domain: number, ref: number, offset: number, length: number): Uint8Array | null;
  /** Copies into a granted, writable frame. False when refused; nothing was written then. */
  copyTo(domain: number, ref: number, offset: number, bytes: Uint8Array): boolean;
}

/** Turns of the I/O thread's event loop. */
export interface TaskQueue {
  /** Runs `task` in a later turn, after pending I/O had its chance: for work that must not starve the others. */
  soon(task: () => void): void;
}
