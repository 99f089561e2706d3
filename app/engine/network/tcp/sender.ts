// SPDX-License-Identifier: Apache-2.0
/**
 * The sending half of a connection towards the guest: RFC 9293 §3.8 (windows, probes, retransmission), RFC 6298 (time-outs), RFC 5681 and
 * RFC 6582 (fast retransmit and recovery), RFC 2018 (selective acknowledgements). No Nagle: what the host delivered goes out at once.
 *
 * Segments are as long as a frame allows; the frame says how long the MSS is (segmentation offload).
 *
 * INVARIANT: the queue's first byte has sequence number `una`, from the handshake to the acknowledgement of the last byte.
 */
import type { Deadline } from '../timer-queue.ts';
import type { TcpSegment } from '../packet/tcp-segment.ts';
import { Congestion } from './congestion.ts';
import { MAX_RTO_MS, RoundTrip } from './round-trip.ts';
import { Scoreboard } from './scoreboard.ts';
import { SendQueue } from './send-queue.ts';
import { advance, distance, later } from './sequence.ts';

const DUPLICATES_FOR_LOSS = 3;
/** With the back-off of RFC 6298 this is several minutes. */
const MAX_RETRANSMISSIONS = 12;

export interface SenderHooks {
  nowMs(): number;
  /** Creates the sender's one timer. */
  deadline(run: () => void): Deadline;
  /** The link takes no frames; `output` is called again once it does. */
  linkBusy(): boolean;
  /** Sends `length` bytes from `offset` of the queue, and a FIN behind them. */
  emit(sequence: number, offset: number, length: number, fin: boolean, mss: number): void;
  /** Bytes were acknowledged: there is room in the queue. */
  acknowledged(): void;
  /** The guest stopped answering. */
  gaveUp(): void;
}

export type AckOutcome = 'taken' | 'fin' | 'unsent';

export class TcpSender {
  readonly queue = new SendQueue();
  readonly initial: number;
  readonly #hooks: SenderHooks;
  readonly #timer: Deadline;
  readonly #roundTrip = new RoundTrip();
  readonly #scoreboard = new Scoreboard();
  #congestion = new Congestion(536, 1 << 16);
  #mss = 536;
  #maxBurst = 536;
  #una: number;
  #nxt: number;
  /** The highest `nxt` ever: what the guest may acknowledge. */
  #max: number;
  #open = false;
  #finQueued = false;
  #window = 0;
  #maxWindow = 0;
  #windowShift = 0;
  /** Sequence and acknowledgement numbers of the last window update (RFC 9293: SND.WL1, SND.WL2). */
  #windowSequence = 0;
  #windowAck = 0;
  #duplicates = 0;
  /** In recovery: it ends when this is acknowledged. */
  #recoverTo: number | undefined;
  /** In recovery: retransmission has come to here. */
  #holeFrom = 0;
  /** In recovery: what had been sent when the last hole was filled. Frames keep their order, so a hole that is still there when something
   * behind this was received got lost again. */
  #sweptTo = 0;
  /** After a time-out: duplicates below this tell nothing. */
  #timedOutTo: number | undefined;
  #timedSequence: number | undefined;
  #timedMs = 0;
  #retries = 0;
  /** Probes since the window closed: their distance grows. */
  #probes = 0;
  #unansweredProbes = 0;

  constructor(initial: number, hooks: SenderHooks) {
    this.initial = initial;
    this.#hooks = hooks;
    this.#una = initial;
    this.#nxt = advance(initial, 1);
    this.#max = this.#nxt;
    this.#timer = hooks.deadline(() => this.#expired());
  }

  /** The handshake is over. `maxBurst`: payload bytes of the longest frame; `limitBytes`: the most that may ever be in flight. */
  open(mss: number, windowShift: number, maxBurst: number, limitBytes: number, segment: TcpSegment): void {
    this.#mss = mss;
    this.#maxBurst = Math.max(mss, maxBurst - (maxBurst % mss));
    this.#windowShift = windowShift;
    this.#congestion = new Congestion(mss, limitBytes);
    this.#una = advance(this.initial, 1);
    this.#windowSequence = segment.sequence;
    this.#windowAck = segment.acknowledgement;
    // The window of a SYN is never scaled.
    this.#window = (segment.flags & 2) !== 0 ? segment.window : segment.window << windowShift;
    this.#maxWindow = this.#window;
    this.#open = true;
  }

  get mss(): number {
    return this.#mss;
  }

  get next(): number {
    return this.#nxt;
  }

  get unacknowledged(): number {
    return this.#una;
  }

  /** Whether `ack` acknowledges our SYN and nothing that was not sent. */
  acknowledgesSyn(ack: number): boolean {
    return distance(ack, this.initial) > 0 && distance(ack, this.#max) <= 0;
  }

  /** No more bytes come; a FIN follows the queue. */
  finish(): void {
    this.#finQueued = true;
  }

  /** Digests the acknowledgement of a segment. `fin`: our FIN is acknowledged now; `unsent`: it acknowledges what was never sent. */
  acknowledge(segment: TcpSegment): AckOutcome {
    const ack = segment.acknowledgement;
    if (distance(ack, this.#max) > 0) return 'unsent';
    this.#unansweredProbes = 0;
    const windowChanged = this.#updateWindow(segment);
    const advanced = distance(ack, this.#una);
    if (advanced > 0) return this.#advance(ack, advanced, segment);
    const reported = segment.sack.length > 0 && this.#scoreboard.add(segment.sack, this.#una, this.#max);
    const isDuplicate = advanced === 0 && segment.payload.length === 0 && !windowChanged && distance(this.#max, this.#una) > 0;
    if (isDuplicate || reported) this.#duplicate();
    return 'taken';
  }

  /** Sends what windows and link allow. True: something went out (and with it an acknowledgement). */
  output(): boolean {
    if (!this.#open) return false;
    let sent = false;
    while (!this.#hooks.linkBusy()) {
      if (!this.#retransmitHole() && !this.#sendNew()) break;
      sent = true;
    }
    if (!this.#timer.armed) this.#arm();
    return sent;
  }

  dispose(): void {
    this.#timer.dispose();
    this.queue.clear();
    this.#open = false;
  }

  #dataEnd(): number {
    return advance(this.#una, this.queue.length);
  }

  #updateWindow(segment: TcpSegment): boolean {
    const newer = distance(segment.sequence, this.#windowSequence);
    if (newer < 0 || (newer === 0 && distance(segment.acknowledgement, this.#windowAck) < 0)) return false;
    const window = segment.window << this.#windowShift;
    const changed = window !== this.#window;
    if (changed && this.#window === 0) {
      this.#timer.clear();
      this.#probes = 0;
    }
    this.#window = window;
    this.#maxWindow = Math.max(this.#maxWindow, window);
    this.#windowSequence = segment.sequence;
    this.#windowAck = segment.acknowledgement;
    return changed;
  }

  #advance(ack: number, advanced: number, segment: TcpSegment): AckOutcome {
    const limited = distance(this.#nxt, this.#una) + this.#mss >= this.#congestion.windowBytes;
    const data = Math.min(advanced, this.queue.length);
    const finAcknowledged = advanced > data;
    this.queue.discard(data);
    this.#una = ack;
    this.#nxt = later(this.#nxt, ack);
    this.#scoreboard.acknowledge(ack);
    if (segment.sack.length > 0) this.#scoreboard.add(segment.sack, ack, this.#max);
    this.#measure(ack);
    this.#retries = 0;
    if (this.#timedOutTo !== undefined && distance(ack, this.#timedOutTo) >= 0) this.#timedOutTo = undefined;
    if (this.#recoverTo === undefined) {
      this.#duplicates = 0;
      if (limited) this.#congestion.acknowledged(advanced);
    } else if (distance(ack, this.#recoverTo) >= 0) {
      this.#recoverTo = undefined;
      this.#duplicates = 0;
    } else {
      // A partial acknowledgement: what follows it was lost as well (RFC 6582).
      this.#duplicates = Math.max(0, this.#duplicates - Math.floor(data / this.#mss));
      this.#holeFrom = later(this.#holeFrom, ack);
    }
    this.#timer.clear();
    this.#arm();
    if (data > 0) this.#hooks.acknowledged();
    return finAcknowledged ? 'fin' : 'taken';
  }

  #measure(ack: number): void {
    if (this.#timedSequence !== undefined && distance(ack, this.#timedSequence) > 0) {
      this.#roundTrip.sample(this.#hooks.nowMs() - this.#timedMs);
      this.#timedSequence = undefined;
    } else this.#roundTrip.progress();
  }

  #duplicate(): void {
    this.#duplicates++;
    if (this.#recoverTo !== undefined || this.#timedOutTo !== undefined) return;
    // With few segments in flight there cannot be three duplicates (RFC 5827).
    const inFlight = distance(this.#max, this.#una);
    const threshold = Math.max(1, Math.min(DUPLICATES_FOR_LOSS, Math.ceil(inFlight / this.#mss) - 1));
    if (this.#duplicates < threshold && this.#scoreboard.bytes <= threshold * this.#mss) return;
    this.#recoverTo = this.#max;
    this.#holeFrom = this.#una;
    this.#sweptTo = this.#max;
    this.#congestion.lossDetected(inFlight);
    this.#timedSequence = undefined;
  }

  /** Bytes believed to be on their way: not those reported as received, nor those believed lost and not yet sent again. */
  #pipe(): number {
    const inFlight = distance(this.#nxt, this.#una);
    if (this.#recoverTo === undefined) return inFlight;
    if (this.#scoreboard.isEmpty) return Math.max(0, inFlight - this.#duplicates * this.#mss);
    const lost = this.#scoreboard.missingBytes(later(this.#holeFrom, this.#una));
    return Math.max(0, inFlight - this.#scoreboard.bytes - lost);
  }

  /** In recovery: repeats the next piece that is missing. */
  #retransmitHole(): boolean {
    if (this.#recoverTo === undefined) return false;
    let start = later(this.#holeFrom, this.#una);
    let hole = this.#scoreboard.nextHole(start);
    if (hole === undefined && !this.#scoreboard.isEmpty && distance(this.#scoreboard.highest, this.#sweptTo) > 0) {
      this.#holeFrom = this.#una;
      start = this.#una;
      hole = this.#scoreboard.nextHole(start);
    }
    if (hole === undefined) {
      // Without reports, only the segment that was asked for, and that once.
      const length = Math.min(this.#mss, this.queue.length);
      if (start !== this.#una || length === 0) return false;
      this.#emit(start, length, false);
      this.#holeFrom = advance(start, length);
      return true;
    }
    const room = this.#congestion.windowBytes - this.#pipe();
    if (room < this.#mss && start !== this.#una) return false;
    const unsent = distance(this.#dataEnd(), hole.start);
    const length = Math.min(distance(hole.end, hole.start), Math.max(room, this.#mss), this.#maxBurst, unsent);
    if (length <= 0) return false;
    this.#emit(hole.start, length, false);
    this.#holeFrom = advance(hole.start, length);
    this.#sweptTo = this.#max;
    return true;
  }

  #sendNew(): boolean {
    const dataEnd = this.#dataEnd();
    const available = distance(dataEnd, this.#nxt);
    if (available < 0) return false;
    const length = this.#burst(available);
    const fin = this.#finQueued && length === available;
    if (length === 0 && !fin) return false;
    const sequence = this.#nxt;
    if (sequence === this.#max && this.#timedSequence === undefined && length > 0) {
      this.#timedSequence = sequence;
      this.#timedMs = this.#hooks.nowMs();
    }
    this.#nxt = advance(sequence, length + (fin ? 1 : 0));
    this.#max = later(this.#max, this.#nxt);
    this.#emit(sequence, length, fin);
    return true;
  }

  /** How much of `available` to send now (RFC 9293 §3.8.6.2.1: no silly windows). */
  #burst(available: number): number {
    const inFlight = distance(this.#nxt, this.#una);
    const room = Math.min(this.#window - inFlight, this.#congestion.windowBytes - this.#pipe(), this.#maxBurst);
    if (room >= available) return available;
    if (room >= this.#mss) return room - (room % this.#mss);
    if (room <= 0 || inFlight > 0 || room < Math.min(this.#mss, this.#maxWindow / 2)) return 0;
    return room;
  }

  #emit(sequence: number, length: number, fin: boolean): void {
    this.#hooks.emit(sequence, distance(sequence, this.#una), length, fin, this.#mss);
  }

  /** Starts the timer if something is in flight (retransmission) or kept back by the window (probe). */
  #arm(): void {
    if (distance(this.#max, this.#una) > 0 && distance(this.#nxt, this.#una) > 0) this.#timer.set(this.#roundTrip.rtoMs);
    else if (this.queue.length > 0) this.#timer.set(Math.min(MAX_RTO_MS, this.#roundTrip.rtoMs * 2 ** Math.min(this.#probes, 10)));
  }

  #expired(): void {
    if (!this.#open) return;
    const inFlight = distance(this.#nxt, this.#una);
    if (this.#hooks.linkBusy()) {
      // Nothing was lost: the guest takes no frames. It must not count against it.
      if (inFlight > 0 || this.queue.length > 0) this.#arm();
      return;
    }
    if (inFlight > 0) this.#retransmit(inFlight);
    else if (this.queue.length > 0) this.#probe();
  }

  #retransmit(inFlight: number): void {
    if (++this.#retries > MAX_RETRANSMISSIONS) {
      this.#hooks.gaveUp();
      return;
    }
    this.#congestion.timedOut(inFlight, this.#retries === 1);
    this.#roundTrip.expired();
    this.#scoreboard.clear();
    this.#recoverTo = undefined;
    this.#duplicates = 0;
    this.#timedOutTo = this.#max;
    this.#timedSequence = undefined;
    this.#nxt = this.#una;
    this.output();
  }

  /** One byte into a closed window, so that an update that got lost comes again. */
  #probe(): void {
    this.#probes++;
    if (++this.#unansweredProbes > MAX_RETRANSMISSIONS) {
      this.#hooks.gaveUp();
      return;
    }
    const length = Math.max(1, Math.min(this.#window, this.queue.length, this.#mss));
    this.#max = later(this.#max, advance(this.#una, length));
    this.#timedSequence = undefined;
    this.#emit(this.#una, length, false);
    this.#arm();
  }
}
