// SPDX-License-Identifier: Apache-2.0
/**
 * Many deadlines on one host timer: a binary heap with positions.
 *
 * TCP moves its deadlines with every segment, nearly always further away. Moving one away only notes the new time; the heap is touched
 * when the old time comes. INVARIANT: a deadline's place in the heap is at or before its time.
 */
import type { Clock } from '../host/clock.ts';
import type { TimerHandle, Timers } from '../host/timers.ts';

/** One thing that may be due once. Owned by who creates it; `set` again to repeat. */
export class Deadline {
  /** For the queue only. */
  position = -1;
  /** For the queue only: the time by which the heap is ordered. */
  heapMs = 0;
  readonly run: () => void;
  readonly #queue: TimerQueue;
  #dueMs = Number.POSITIVE_INFINITY;

  constructor(queue: TimerQueue, run: () => void) {
    this.#queue = queue;
    this.run = run;
  }

  get armed(): boolean {
    return this.#dueMs !== Number.POSITIVE_INFINITY;
  }

  /** When it is due, by the queue's clock; infinity when it is not armed. */
  get dueMs(): number {
    return this.#dueMs;
  }

  /** Arms it for `delayMs` (at least 1) from now, in place of what was set before. */
  set(delayMs: number): void {
    this.#dueMs = this.#queue.nowMs() + Math.max(1, delayMs);
    if (this.position < 0 || this.#dueMs < this.heapMs) this.#queue.place(this, this.#dueMs);
  }

  clear(): void {
    this.#dueMs = Number.POSITIVE_INFINITY;
  }

  /** Clears and leaves the queue at once: for owners that go away. */
  dispose(): void {
    this.clear();
    this.#queue.remove(this);
  }
}

export class TimerQueue {
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #heap: Deadline[] = [];
  #handle: TimerHandle | undefined;
  #handleMs = Number.POSITIVE_INFINITY;
  #running = false;

  constructor(clock: Clock, timers: Timers) {
    this.#clock = clock;
    this.#timers = timers;
  }

  nowMs(): number {
    return this.#clock.nowNs() / 1e6;
  }

  soon(task: () => void): void {
    this.#timers.soon(task);
  }

  deadline(run: () => void): Deadline {
    return new Deadline(this, run);
  }

  get size(): number {
    return this.#heap.length;
  }

  /** For `Deadline`: puts it into the heap at `heapMs`. */
  place(deadline: Deadline, heapMs: number): void {
    deadline.heapMs = heapMs;
    if (deadline.position < 0) {
      deadline.position = this.#heap.length;
      this.#heap.push(deadline);
    }
    this.#siftUp(deadline.position);
    this.#arm();
  }

  /** For `Deadline`. */
  remove(deadline: Deadline): void {
    const { position } = deadline;
    if (position < 0) return;
    deadline.position = -1;
    const last = this.#heap.pop()!;
    if (last === deadline) return;
    this.#heap[position] = last;
    last.position = position;
    this.#siftDown(position);
    this.#siftUp(last.position);
  }

  /** Nothing runs afterwards. */
  close(): void {
    this.#handle?.cancel();
    this.#handle = undefined;
    for (const deadline of this.#heap) deadline.position = -1;
    this.#heap.length = 0;
  }

  #runDue(): void {
    this.#handle = undefined;
    this.#handleMs = Number.POSITIVE_INFINITY;
    this.#running = true;
    const now = this.nowMs();
    while (this.#heap.length > 0 && this.#heap[0].heapMs <= now) {
      const deadline = this.#heap[0];
      const { dueMs } = deadline;
      if (dueMs > now) {
        this.remove(deadline);
        if (deadline.armed) this.place(deadline, dueMs);
        continue;
      }
      this.remove(deadline);
      deadline.clear();
      deadline.run();
    }
    this.#running = false;
    this.#arm();
  }

  #arm(): void {
    if (this.#running || this.#heap.length === 0) return;
    const firstMs = this.#heap[0].heapMs;
    if (this.#handle !== undefined && this.#handleMs <= firstMs) return;
    this.#handle?.cancel();
    this.#handleMs = firstMs;
    // Whole milliseconds, rounded up: a host timer that fires early would only be set again.
    this.#handle = this.#timers.after(Math.max(0, Math.ceil(firstMs - this.nowMs())), () => this.#runDue());
  }

  #siftUp(start: number): void {
    const heap = this.#heap;
    const item = heap[start];
    let at = start;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (heap[parent].heapMs <= item.heapMs) break;
      heap[at] = heap[parent];
      heap[at].position = at;
      at = parent;
    }
    heap[at] = item;
    item.position = at;
  }

  #siftDown(start: number): void {
    const heap = this.#heap;
    const item = heap[start];
    let at = start;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && heap[child + 1].heapMs < heap[child].heapMs) child++;
      if (heap[child].heapMs >= item.heapMs) break;
      heap[at] = heap[child];
      heap[at].position = at;
      at = child;
    }
    heap[at] = item;
    item.position = at;
  }
}
