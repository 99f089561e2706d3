// SPDX-License-Identifier: Apache-2.0
/**
 * Segments that came before their turn (RFC 9293 §3.10.7.4), and the selective acknowledgements that name them (RFC 2018).
 *
 * GUEST: what is kept lies inside the advertised window, and is bounded in pieces; overlaps are cut so that no byte is held twice and the
 * first copy that arrived wins.
 */
import { advance, distance } from './sequence.ts';
import type { SequenceRange } from '../packet/tcp-segment.ts';

const MAX_PIECES = 256;
const MAX_SACK_RANGES = 3;

interface Piece {
  readonly start: number;
  readonly bytes: Uint8Array;
}

export class ReceiveQueue {
  /** Sorted, without overlaps. */
  #pieces: Piece[] = [];
  #bytes = 0;
  /** Where the newest piece went: its range is reported first. */
  #newest = 0;

  get heldBytes(): number {
    return this.#bytes;
  }

  /** Keeps a copy of what is new in `bytes`. Without room for another piece it is dropped: the sender will repeat it. */
  insert(sequence: number, bytes: Uint8Array): void {
    let start = sequence;
    let rest = bytes;
    let index = 0;
    this.#newest = sequence;
    while (rest.length > 0) {
      while (index < this.#pieces.length && distance(endOf(this.#pieces[index]), start) <= 0) index++;
      const next = this.#pieces[index];
      const gap = next === undefined ? rest.length : Math.min(rest.length, distance(next.start, start));
      if (gap > 0) {
        if (this.#pieces.length >= MAX_PIECES) return;
        this.#pieces.splice(index, 0, { start, bytes: rest.slice(0, gap) });
        this.#bytes += gap;
        start = advance(start, gap);
        rest = rest.subarray(gap);
      } else {
        const overlap = Math.min(rest.length, distance(endOf(next), start));
        start = advance(start, overlap);
        rest = rest.subarray(overlap);
      }
    }
  }

  /** Takes the piece that continues at `sequence`, without what lies before; `undefined` when there is none. */
  take(sequence: number): Uint8Array | undefined {
    while (this.#pieces.length > 0 && distance(this.#pieces[0].start, sequence) <= 0) {
      const piece = this.#pieces.shift()!;
      this.#bytes -= piece.bytes.length;
      const old = distance(sequence, piece.start);
      if (old < piece.bytes.length) return piece.bytes.subarray(old);
    }
    return undefined;
  }

  /** The ranges held, the one with the newest piece first. */
  sackRanges(): SequenceRange[] {
    const ranges: { start: number; end: number }[] = [];
    for (const piece of this.#pieces) {
      const last = ranges[ranges.length - 1];
      if (last !== undefined && last.end === piece.start) last.end = endOf(piece);
      else ranges.push({ start: piece.start, end: endOf(piece) });
    }
    const first = ranges.findIndex((range) => distance(this.#newest, range.start) >= 0 && distance(this.#newest, range.end) < 0);
    if (first > 0) ranges.unshift(...ranges.splice(first, 1));
    return ranges.slice(0, MAX_SACK_RANGES);
  }

  clear(): void {
    this.#pieces = [];
    this.#bytes = 0;
  }
}

function endOf(piece: Piece): number {
  return advance(piece.start, piece.bytes.length);
}
