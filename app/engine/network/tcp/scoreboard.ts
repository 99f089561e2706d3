// SPDX-License-Identifier: Apache-2.0
/**
 * What the guest says it received out of order (RFC 2018), and so what it lacks (in the manner of RFC 6675).
 *
 * GUEST: ranges outside what is in flight are ignored; at most MAX_RANGES are remembered.
 */
import { distance, later } from './sequence.ts';
import type { SequenceRange } from '../packet/tcp-segment.ts';

const MAX_RANGES = 64;

export class Scoreboard {
  /** Sorted, without overlaps or touching neighbours. */
  #ranges: { start: number; end: number }[] = [];

  get isEmpty(): boolean {
    return this.#ranges.length === 0;
  }

  /** Adds reported ranges that lie in `[unacknowledged, sent]`. True: something was new. */
  add(reported: readonly SequenceRange[], unacknowledged: number, sent: number): boolean {
    let isNew = false;
    for (const { start, end } of reported) {
      if (distance(end, start) <= 0 || distance(start, unacknowledged) < 0 || distance(end, sent) > 0) continue;
      isNew = this.#addRange(start, end) || isNew;
    }
    return isNew;
  }

  /** Drops what `unacknowledged` overtook. */
  acknowledge(unacknowledged: number): void {
    while (this.#ranges.length > 0 && distance(this.#ranges[0].end, unacknowledged) <= 0) this.#ranges.shift();
    if (this.#ranges.length > 0) this.#ranges[0].start = later(this.#ranges[0].start, unacknowledged);
  }

  /** Bytes reported as received. */
  get bytes(): number {
    let total = 0;
    for (const range of this.#ranges) total += distance(range.end, range.start);
    return total;
  }

  /** The end of the last range; only when it is not empty. */
  get highest(): number {
    return this.#ranges[this.#ranges.length - 1].end;
  }

  /** The first hole at or after `from` that has reported bytes behind it. */
  nextHole(from: number): SequenceRange | undefined {
    let start = from;
    for (const range of this.#ranges) {
      if (distance(range.start, start) > 0) return { start, end: range.start };
      start = later(start, range.end);
    }
    return undefined;
  }

  /** Bytes at or after `from` that are missing and have reported bytes behind them. */
  missingBytes(from: number): number {
    let total = 0;
    let at = from;
    for (const range of this.#ranges) {
      total += Math.max(0, distance(range.start, at));
      at = later(at, range.end);
    }
    return total;
  }

  clear(): void {
    this.#ranges = [];
  }

  #addRange(start: number, end: number): boolean {
    let first = 0;
    while (first < this.#ranges.length && distance(this.#ranges[first].end, start) < 0) first++;
    let behind = first;
    let from = start;
    let to = end;
    while (behind < this.#ranges.length && distance(this.#ranges[behind].start, end) <= 0) {
      const range = this.#ranges[behind];
      if (distance(start, range.start) >= 0 && distance(end, range.end) <= 0) return false;
      if (distance(range.start, from) < 0) from = range.start;
      to = later(to, range.end);
      behind++;
    }
    if (behind === first && this.#ranges.length >= MAX_RANGES) return false;
    this.#ranges.splice(first, behind - first, { start: from, end: to });
    return true;
  }
}
