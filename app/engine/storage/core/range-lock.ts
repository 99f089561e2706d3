// SPDX-License-Identifier: Apache-2.0
/**
 * Locks over ranges of a disk, shared or exclusive, first come first served.
 *
 * Writes into storage that exists share their range; what changes the mapping of a range (allocation, discard) has it alone. A request
 * waits for every earlier one that overlaps unless both are shared; it never overtakes, so nobody starves.
 */
export interface RangeTicket {
  readonly start: number;
  readonly end: number;
  readonly exclusive: boolean;
  /** Earlier tickets in the way. */
  waits: number;
  readonly blocked: RangeTicket[];
  go: (() => void) | null;
  /** Null when the lock is held already; otherwise settles once it is. */
  ready: Promise<void> | null;
}

export class RangeLock {
  readonly #tickets = new Set<RangeTicket>();

  /** The caller awaits `ticket.ready` unless that is null. `end` is exclusive; Infinity locks the rest. */
  acquire(start: number, end: number, exclusive: boolean): RangeTicket {
    const ticket: RangeTicket = { start, end, exclusive, waits: 0, blocked: [], go: null, ready: null };
    for (const other of this.#tickets) {
      if (other.start < end && start < other.end && (exclusive || other.exclusive)) {
        other.blocked.push(ticket);
        ticket.waits++;
      }
    }
    if (ticket.waits > 0) {
      ticket.ready = new Promise((resolve) => {
        ticket.go = resolve;
      });
    }
    this.#tickets.add(ticket);
    return ticket;
  }

  release(ticket: RangeTicket): void {
    this.#tickets.delete(ticket);
    for (const waiting of ticket.blocked) if (--waiting.waits === 0) waiting.go!();
  }

  /** Runs `work` while the range is held. */
  async with<T>(start: number, end: number, exclusive: boolean, work: () => Promise<T>): Promise<T> {
    const ticket = this.acquire(start, end, exclusive);
    if (ticket.ready !== null) await ticket.ready;
    try {
      return await work();
    } finally {
      this.release(ticket);
    }
  }
}

/** One at a time, in order of arrival. */
export class Mutex {
  #tail: Promise<unknown> = Promise.resolve();

  run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work);
    this.#tail = result.catch(() => {});
    return result;
  }
}

/**
 * Joins calls of one costly operation that all want "everything until now": while one run is under way, later callers share the next.
 */
export class JoinedRuns {
  readonly #work: () => Promise<void>;
  #running: Promise<void> | null = null;
  #next: Promise<void> | null = null;

  constructor(work: () => Promise<void>) {
    this.#work = work;
  }

  /** Settles after a run that began after this call. */
  run(): Promise<void> {
    if (this.#next !== null) return this.#next;
    if (this.#running === null) return this.#start();
    this.#next = this.#running
      .catch(() => {})
      .then(() => {
        this.#next = null;
        return this.#start();
      });
    return this.#next;
  }

  #start(): Promise<void> {
    const run = this.#work().finally(() => {
      if (this.#running === run) this.#running = null;
    });
    this.#running = run;
    return run;
  }
}
