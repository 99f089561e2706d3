// SPDX-License-Identifier: Apache-2.0
/**
 * Event channels as dom0's backends use them on the I/O thread (xen public/event_channel.h, seen from the other end).
 *
 * A notification of the guest sets a bit in shared memory and wakes this thread through Atomics.waitAsync on one word: no polling, no
 * message. Bits are collected in one turn; a port that was notified several times calls back once.
 *
 * INVARIANT: callbacks run only between `start` and `stop`, on the thread that made this object, never inside `notify`.
 */
import type { EventChannels as DomainEvents } from '../events/event-channels.ts';
import { MAX_EVTCHN_PORTS, type SharedState, STATE } from '../shared-state.ts';

/** One end of an interdomain channel, held by dom0 (the shape that backends ask for). */
export interface Dom0Port {
  notify(): void;
  onEvent(callback: () => void): void;
  close(): void;
}

export class Dom0Events {
  readonly #state: SharedState;
  readonly #events: DomainEvents;
  readonly #onError: (error: unknown) => void;
  readonly #callbacks = new Map<number, () => void>();
  /** Ports that were notified before they had a callback. */
  readonly #early = new Set<number>();
  #running = false;

  /** `onError` hears of exceptions in callbacks: a backend's defect must not silence the other backends. */
  constructor(state: SharedState, events: DomainEvents, onError: (error: unknown) => void = rethrowLater) {
    this.#state = state;
    this.#events = events;
    this.#onError = onError;
  }

  /** Starts waiting for notifications. */
  start(): void {
    if (this.#running) return;
    this.#running = true;
    this.#wait();
  }

  /** Ends waiting; a wait in progress is released. */
  stop(): void {
    this.#running = false;
    const word = this.#state.word(STATE.dom0Wake);
    Atomics.add(this.#state.i32, word, 1);
    Atomics.notify(this.#state.i32, word);
  }

  bindInterdomain(remoteDomain: number, remotePort: number): Dom0Port | null {
    if (remoteDomain !== this.#state.get(STATE.domid)) return null;
    const port = this.#events.dom0Bind(remotePort);
    if (port < 0) return null;
    let open = true;
    return {
      notify: () => {
        if (open) this.#events.dom0Send(port);
      },
      onEvent: (callback) => {
        if (!open) return;
        this.#callbacks.set(port, callback);
        if (this.#early.delete(port)) void Promise.resolve().then(() => this.#call(port));
      },
      close: () => {
        if (!open) return;
        open = false;
        this.#callbacks.delete(port);
        this.#early.delete(port);
        this.#events.dom0Close(port);
      },
    };
  }

  /** Calls back for everything that was notified until now. Returns how many ports had something. */
  dispatch(): number {
    const { i32 } = this.#state;
    let ports = 0;
    for (let s = 0; s < MAX_EVTCHN_PORTS / 1024; s++) {
      let summary = Atomics.exchange(i32, this.#state.word(STATE.dom0Summary) + s, 0);
      for (; summary !== 0; summary &= summary - 1) {
        const index = s * 32 + lowestBit(summary);
        let bits = Atomics.exchange(i32, this.#state.word(STATE.dom0Pending) + index, 0);
        for (; bits !== 0; bits &= bits - 1) {
          ports++;
          this.#call(index * 32 + lowestBit(bits));
        }
      }
    }
    return ports;
  }

  #call(port: number): void {
    const callback = this.#callbacks.get(port);
    if (callback === undefined) {
      this.#early.add(port);
      return;
    }
    try {
      callback();
    } catch (error) {
      this.#onError(error);
    }
  }

  #wait(): void {
    const { i32 } = this.#state;
    const word = this.#state.word(STATE.dom0Wake);
    while (this.#running) {
      const seen = Atomics.load(i32, word);
      this.dispatch();
      const result = Atomics.waitAsync(i32, word, seen);
      if (result.async) {
        void result.value.then(() => this.#wait());
        return;
      }
    }
  }
}

function lowestBit(bits: number): number {
  return 31 - Math.clz32(bits & -bits);
}

function rethrowLater(error: unknown): void {
  void Promise.reject(error);
}
