// SPDX-License-Identifier: Apache-2.0
/**
 * The receiving half of a connection: what arrives from the guest, in order, and when to acknowledge it (RFC 9293 §3.10.7.4 and §3.8.6.2.2,
 * RFC 5681 §4.2).
 *
 * GUEST: bytes outside the window that was advertised are cut off; the window follows the room on the host's side and never shrinks.
 */
import { ReceiveQueue } from './receive-queue.ts';
import { advance, distance, later } from './sequence.ts';
import type { SequenceRange } from '../packet/tcp-segment.ts';

/** Smaller steps would invite silly windows. */
const WINDOW_STEP_BYTES = 2920;
/** So much new room is worth a segment of its own. */
const LARGE_STEP_BYTES = 65_536;

export interface ReceiverHooks {
  /** Bytes that the host's side can still take. */
  space(): number;
  /** The next bytes; valid during the call. */
  deliver(bytes: Uint8Array): void;
}

/** `duplicate`: to be acknowledged at once, so that the guest learns what is missing. */
export type Arrival = 'in-order' | 'duplicate' | 'nothing';

export class TcpReceiver {
  readonly #hooks: ReceiverHooks;
  readonly #early = new ReceiveQueue();
  readonly #shift: number;
  #next: number;
  /** The right edge of the window, as far as it was ever advertised. */
  #edge: number;
  #acknowledged: number;
  #finAt: number | undefined;

  /** `initial`: the guest's initial sequence number. `shift`: the scale of the windows we advertise. */
  constructor(initial: number, shift: number, hooks: ReceiverHooks) {
    this.#hooks = hooks;
    this.#shift = shift;
    this.#next = advance(initial, 1);
    this.#edge = this.#next;
    this.#acknowledged = this.#next;
  }

  get next(): number {
    return this.#next;
  }

  /** Bytes received in order that no acknowledgement covered yet. */
  get unacknowledgedBytes(): number {
    return distance(this.#next, this.#acknowledged);
  }

  get heldBytes(): number {
    return this.#early.heldBytes;
  }

  /** Whether a segment `[sequence, sequence + length)` touches the window. */
  isAcceptable(sequence: number, length: number): boolean {
    return distance(sequence, this.#edge) <= 0 && distance(advance(sequence, length), this.#next) >= 0;
  }

  isInWindow(sequence: number): boolean {
    return distance(sequence, this.#next) >= 0 && distance(sequence, this.#edge) <= 0;
  }

  /** Takes the payload of an acceptable segment. */
  arrive(sequence: number, payload: Uint8Array, fin: boolean): Arrival {
    let start = sequence;
    let bytes = payload;
    const old = distance(this.#next, start);
    if (old > 0) {
      if (old > bytes.length || (old === bytes.length && !fin)) return bytes.length > 0 || fin ? 'duplicate' : 'nothing';
      bytes = bytes.subarray(old);
      start = this.#next;
    }
    const room = distance(this.#edge, start);
    const cut = bytes.length > room;
    if (cut) bytes = bytes.subarray(0, Math.max(0, room));
    if (fin && !cut) this.#finAt = advance(start, bytes.length);
    if (start !== this.#next) {
      this.#early.insert(start, bytes);
      return 'duplicate';
    }
    if (bytes.length > 0) {
      const hadEarly = this.#early.heldBytes > 0;
      this.#accept(bytes);
      for (let early = this.#early.take(this.#next); early !== undefined; early = this.#early.take(this.#next)) this.#accept(early);
      return hadEarly || cut ? 'duplicate' : 'in-order';
    }
    return cut ? 'duplicate' : 'nothing';
  }

  /** Steps over the guest's FIN once everything before it arrived; true: it did. */
  takeFin(): boolean {
    if (this.#finAt === undefined || this.#finAt !== this.#next) return false;
    this.#finAt = undefined;
    this.#next = advance(this.#next, 1);
    this.#edge = later(this.#edge, this.#next);
    this.#early.clear();
    return true;
  }

  /** The window field of a segment that goes out now; counts as acknowledgement. `scaled`: it is not a SYN. */
  advertise(scaled: boolean): number {
    const offered = advance(this.#next, this.#hooks.space());
    if (distance(offered, this.#edge) >= WINDOW_STEP_BYTES) this.#edge = offered;
    this.#acknowledged = this.#next;
    const window = Math.max(0, distance(this.#edge, this.#next));
    if (scaled) return Math.min(0xffff, window >>> this.#shift);
    return Math.min(0xffff, window);
  }

  /** The guest should be told that there is room again. */
  get windowUpdateDue(): boolean {
    const offered = advance(this.#next, this.#hooks.space());
    const step = distance(offered, this.#edge);
    return step >= LARGE_STEP_BYTES || (step >= WINDOW_STEP_BYTES && distance(this.#edge, this.#next) < LARGE_STEP_BYTES / 2);
  }

  sackRanges(): SequenceRange[] {
    return this.#early.sackRanges();
  }

  dispose(): void {
    this.#early.clear();
  }

  #accept(bytes: Uint8Array): void {
    this.#next = advance(this.#next, bytes.length);
    this.#hooks.deliver(bytes);
  }
}
