// SPDX-License-Identifier: Apache-2.0
/** A clock that tests move, with the timers that hang on it. Promises get their turns in between. */
import type { Clock } from '../../host/clock.ts';
import type { TimerHandle, Timers } from '../../host/timers.ts';

interface Task {
  readonly atMs: number;
  readonly order: number;
  readonly run: () => void;
}

export class FakeTime implements Clock, Timers {
  #nowMs = 1000;
  #order = 0;
  #tasks: Task[] = [];
  #soon: (() => void)[] = [];

  get nowMs(): number {
    return this.#nowMs;
  }

  nowNs(): number {
    return this.#nowMs * 1e6;
  }

  wallClock(): { seconds: number; nanoseconds: number } {
    return { seconds: Math.floor(this.#nowMs / 1000), nanoseconds: (this.#nowMs % 1000) * 1e6 };
  }

  after(delayMs: number, task: () => void): TimerHandle {
    const entry = { atMs: this.#nowMs + delayMs, order: this.#order++, run: task };
    this.#tasks.push(entry);
    return {
      cancel: () => {
        this.#tasks = this.#tasks.filter((other) => other !== entry);
      },
    };
  }

  soon(task: () => void): void {
    this.#soon.push(task);
  }

  /** Timers that are set. */
  get pending(): number {
    return this.#tasks.length;
  }

  /** Runs everything that is due now, and what follows from it. */
  async settle(): Promise<void> {
    for (;;) {
      for (let turn = 0; turn < 8; turn++) await Promise.resolve();
      const batch = this.#soon;
      if (batch.length === 0) return;
      this.#soon = [];
      for (const task of batch) task();
    }
  }

  async advance(ms: number): Promise<void> {
    const end = this.#nowMs + ms;
    await this.settle();
    for (;;) {
      const next = this.#tasks.reduce<Task | undefined>(
        (best, task) => (best === undefined || isBefore(task, best) ? task : best),
        undefined,
      );
      if (next === undefined || next.atMs > end) break;
      this.#tasks = this.#tasks.filter((task) => task !== next);
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      next.run();
      await this.settle();
    }
    this.#nowMs = end;
  }

  /** Moves on in small steps until `done`, at most `limitMs`; says whether it came to that. */
  async until(done: () => boolean, limitMs: number): Promise<boolean> {
    const end = this.#nowMs + limitMs;
    await this.settle();
    while (!done()) {
      if (this.#nowMs >= end) return false;
      await this.advance(1);
    }
    return true;
  }
}

function isBefore(a: Task, b: Task): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}

/** Repeatable randomness (mulberry32): numbers from 0 to 1. */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b_79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}
