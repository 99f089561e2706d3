// SPDX-License-Identifier: Apache-2.0
/**
 * One TCP connection with the guest: the state machine of RFC 9293 §3.10, hardened as in RFC 5961. The halves are in `sender.ts` and
 * `receiver.ts`; what is behind the connection (a host socket, a service) is its `TcpApplication`.
 *
 * A SYN from the guest is not answered before the application says so (`accept`, `refuse`), so that the guest sees of a connection what
 * the host saw of it.
 *
 * Left out: urgent data (delivered in line), time stamps (RFC 7323 §3), simultaneous use of both by Fast Open.
 */
import { ACK, FIN, PSH, RST, type SequenceRange, SYN, type TcpSegment } from '../packet/tcp-segment.ts';
import type { Deadline, TimerQueue } from '../timer-queue.ts';
import type { FlowKey } from './flow-table.ts';
import { TcpReceiver } from './receiver.ts';
import { TcpSender } from './sender.ts';
import { advance, distance } from './sequence.ts';

export type TcpState =
  | 'connecting'
  | 'syn-sent'
  | 'syn-received'
  | 'established'
  | 'fin-wait-1'
  | 'fin-wait-2'
  | 'close-wait'
  | 'closing'
  | 'last-ack'
  | 'time-wait'
  | 'closed';

/** `reset`: the guest's RST; `refused`: it answered our SYN with one; `timeout`: it stopped answering. */
export type TcpEnd = 'orderly' | 'reset' | 'refused' | 'timeout';

export interface TcpApplication {
  /** The handshake is over; bytes may be written. */
  established(): void;
  /** Bytes from the guest, valid during the call. */
  data(bytes: Uint8Array): void;
  /** The guest sends no more. */
  finished(): void;
  /** Called once after a batch of `data`. */
  flush(): void;
  /** The guest acknowledged bytes: `queuedBytes` fell. */
  acknowledged(): void;
  /** How many more bytes `data` may bring. */
  receiveSpace(): number;
  /** The connection is gone; nothing follows. Not called after `abort`. */
  ended(how: TcpEnd): void;
}

export interface OutgoingSegment {
  readonly sequence: number;
  readonly acknowledgement: number;
  readonly flags: number;
  readonly window: number;
  /** Bytes of the send queue to carry. */
  readonly offset: number;
  readonly length: number;
  /** When `length` is larger, the frame counts as several segments. */
  readonly segmentBytes: number;
  readonly sack: readonly SequenceRange[];
  /** Present on a SYN. */
  readonly handshake: { readonly windowShift: number | undefined; readonly sackPermitted: boolean } | undefined;
}

/** What a connection uses of the layer around it. */
export interface TcpLayerPort {
  readonly timers: TimerQueue;
  /** Random 32 bits. */
  initialSequence(): number;
  linkBusy(): boolean;
  /** The connection was kept from sending by a busy link. */
  waitForLink(connection: TcpConnection): void;
  /** Calls `connection.flush` once, when the frames at hand were handled. */
  schedule(connection: TcpConnection): void;
  transmit(connection: TcpConnection, segment: OutgoingSegment): void;
  /** The most bytes that may be in flight, either way. */
  limitBytes(): number;
  /** The largest payload of a segment that our end takes and, with offload, of a frame it sends. */
  readonly mss: number;
  readonly maxBurst: number;
  /** The connection only waits for stragglers; it may be dropped when room is short. */
  timeWait(connection: TcpConnection): void;
  /** The connection is gone. */
  closed(connection: TcpConnection): void;
  readonly keepaliveIdleMs: number;
}

const WINDOW_SHIFT = 7;
const DEFAULT_MSS = 536;
/** GUEST: an MSS below this would turn each byte into a frame. */
const MIN_MSS = 88;
const DELAYED_ACK_MS = 20;
const SYN_TIMEOUTS_MS = [1000, 2000, 4000, 8000, 16_000];
const TIME_WAIT_MS = 10_000;
const KEEPALIVE_INTERVAL_MS = 30_000;
const KEEPALIVE_PROBES = 8;
/** Segments without content that make no sense are answered this often: two confused ends must not answer each other for ever. */
const CHALLENGE_MS = 100;
const NO_SACK: readonly SequenceRange[] = [];

export class TcpConnection {
  readonly key: FlowKey;
  application: TcpApplication | undefined;
  /** For the layer: it will be flushed. */
  scheduled = false;
  /** For the layer: it waits for the link. */
  waiting = false;
  readonly #layer: TcpLayerPort;
  readonly #sender: TcpSender;
  #receiver: TcpReceiver | undefined;
  #state: TcpState;
  #initialFromGuest = 0;
  #mss: number;
  /** `undefined`: the guest does not scale windows. */
  #guestShift: number | undefined;
  #sackPermitted = false;
  #finishRequested = false;
  #ackNow = false;
  readonly #ackTimer: Deadline;
  /** Handshake repetition, TIME-WAIT, keep-alive: one at a time. */
  readonly #stateTimer: Deadline;
  #attempts = 0;
  #probes = 0;
  #challengedMs = Number.NEGATIVE_INFINITY;
  #heardMs: number;

  /** To be given an application, and then to be opened, or started by the guest's SYN. */
  constructor(key: FlowKey, layer: TcpLayerPort) {
    this.key = key;
    this.#layer = layer;
    this.#state = 'connecting';
    this.#mss = Math.min(DEFAULT_MSS, layer.mss);
    this.#heardMs = layer.timers.nowMs();
    this.#ackTimer = layer.timers.deadline(() => this.#sendAck());
    this.#stateTimer = layer.timers.deadline(() => this.#stateTimeout());
    this.#sender = new TcpSender(layer.initialSequence(), {
      nowMs: () => layer.timers.nowMs(),
      deadline: (run) => layer.timers.deadline(run),
      linkBusy: () => this.#linkBusy(),
      emit: (sequence, offset, length, fin, mss) => this.#emitData(sequence, offset, length, fin, mss),
      acknowledged: () => this.application?.acknowledged(),
      gaveUp: () => this.#end('timeout', true),
    });
  }

  get state(): TcpState {
    return this.#state;
  }

  /** Bytes that the guest did not acknowledge yet. */
  get queuedBytes(): number {
    return this.#sender.queue.length;
  }

  get sender(): TcpSender {
    return this.#sender;
  }

  // ---- the application's side

  /** The guest's SYN: remembered, not answered. */
  start(segment: TcpSegment): void {
    this.#takeSyn(segment);
  }

  /** Answers the guest's SYN. */
  accept(): void {
    if (this.#state !== 'connecting') return;
    this.#state = 'syn-received';
    this.#sendSyn();
  }

  /** Refuses the guest's SYN; `silently` without a RST. */
  refuse(silently: boolean): void {
    if (this.#state !== 'connecting') return;
    if (!silently) this.#transmit(0, RST | ACK, 0, 0);
    this.application = undefined;
    this.#close();
  }

  /** Connects to the guest. */
  open(): void {
    this.#state = 'syn-sent';
    this.#sendSyn();
  }

  /** Sends `bytes`, which belong to the connection from here on. */
  write(bytes: Uint8Array): void {
    if (this.#state === 'closed' || this.#finishRequested) return;
    this.#sender.queue.append(bytes);
    this.#output();
  }

  /** Sends no more; what is queued goes first. */
  finish(): void {
    if (this.#finishRequested || this.#state === 'closed') return;
    this.#finishRequested = true;
    if (this.#state === 'established' || this.#state === 'close-wait') this.#startFinish();
  }

  /** Resets the connection; the application hears nothing more. */
  abort(): void {
    if (this.#state === 'closed') return;
    this.application = undefined;
    if (this.#state === 'connecting') this.#transmit(0, RST | ACK, 0, 0);
    else if (this.#state !== 'syn-sent' && this.#state !== 'time-wait') this.#transmit(this.#sender.next, RST | ACK, 0, 0);
    this.#close();
  }

  /** `receiveSpace` grew: tells the guest if that is worth a segment. */
  receiveSpaceGrew(): void {
    if (this.#canReceive() && this.#receiver?.windowUpdateDue === true) this.#layer.schedule(this);
  }

  /** Forgets the connection without a word on the wire. */
  drop(): void {
    this.application = undefined;
    this.#close();
  }

  /** Whether the guest may begin anew with this SYN, in place of a connection that is over (RFC 9293 §3.6.1). */
  yieldsTo(segment: TcpSegment): boolean {
    return this.#state === 'time-wait' && this.#receiver !== undefined && distance(segment.sequence, this.#receiver.next) > 0;
  }

  // ---- the layer's side

  /** End of a batch: bytes go to the application's other side, acknowledgements and data to the guest. */
  flush(): void {
    this.application?.flush();
    if (this.#state === 'closed' || this.#receiver === undefined) return;
    if (this.#sender.output()) this.#ackNow = false;
    const due = this.#receiver.unacknowledgedBytes;
    if (this.#ackNow || due >= 2 * this.#mss || (this.#canReceive() && this.#receiver.windowUpdateDue)) this.#sendAck();
    else if (due > 0 && !this.#ackTimer.armed) this.#ackTimer.set(DELAYED_ACK_MS);
  }

  /** A segment with a right checksum, for this connection. */
  segmentArrived(segment: TcpSegment): void {
    this.#heardMs = this.#layer.timers.nowMs();
    this.#probes = 0;
    if (this.#state === 'connecting') this.#whileConnecting(segment);
    else if (this.#state === 'syn-sent') this.#whileSynSent(segment);
    else this.#synchronised(segment);
    if (this.#state !== 'closed') this.#layer.schedule(this);
  }

  #whileConnecting(segment: TcpSegment): void {
    // Repetitions of the SYN need no answer: the first one gets it.
    if ((segment.flags & RST) !== 0 && distance(segment.sequence, this.#initialFromGuest) >= 0) this.#end('reset', false);
  }

  #whileSynSent(segment: TcpSegment): void {
    const hasAck = (segment.flags & ACK) !== 0;
    if (hasAck && !this.#sender.acknowledgesSyn(segment.acknowledgement)) {
      if ((segment.flags & RST) === 0) this.#transmit(segment.acknowledgement, RST, 0, 0);
      return;
    }
    if ((segment.flags & RST) !== 0) {
      if (hasAck) this.#end('refused', false);
      return;
    }
    if ((segment.flags & SYN) === 0) return;
    this.#takeSyn(segment);
    if (hasAck) {
      this.#establish(segment);
      this.#ackNow = true;
    } else {
      this.#state = 'syn-received';
      this.#sendSyn();
    }
  }

  #synchronised(segment: TcpSegment): void {
    const receiver = this.#receiver;
    if (receiver === undefined) return;
    const { flags } = segment;
    const length = segment.payload.length + (flags & FIN);
    if (!receiver.isAcceptable(segment.sequence, length + ((flags & SYN) >> 1))) {
      if ((flags & RST) === 0) this.#challenge(length);
      return;
    }
    if ((flags & RST) !== 0) {
      if (segment.sequence === receiver.next) this.#end(this.#state === 'syn-received' ? 'refused' : 'reset', false);
      else if (receiver.isInWindow(segment.sequence)) this.#challenge(0);
      return;
    }
    if ((flags & SYN) !== 0) {
      if (this.#state === 'syn-received') this.#sendSyn();
      else this.#challenge(0);
      return;
    }
    if ((flags & ACK) === 0) return;
    if (this.#state === 'syn-received') {
      if (!this.#sender.acknowledgesSyn(segment.acknowledgement)) {
        this.#transmit(segment.acknowledgement, RST, 0, 0);
        return;
      }
      this.#establish(segment);
    }
    const outcome = this.#sender.acknowledge(segment);
    if (outcome === 'unsent') {
      this.#challenge(length);
      return;
    }
    if (outcome === 'fin') this.#finAcknowledged();
    this.#receive(receiver, segment, length);
  }

  #receive(receiver: TcpReceiver, segment: TcpSegment, length: number): void {
    if (length === 0 || this.#state === 'closed') {
      // Below the window without content: a keep-alive probe.
      if (length === 0 && segment.sequence !== receiver.next && !receiver.isInWindow(segment.sequence)) this.#ackNow = true;
      return;
    }
    if (!this.#canReceive()) {
      // After the guest's FIN only repetitions can come.
      this.#ackNow = true;
      return;
    }
    const arrival = receiver.arrive(segment.sequence, segment.payload, (segment.flags & FIN) !== 0);
    // An application may have aborted on what it was given.
    if (this.#isClosed()) return;
    if (arrival === 'duplicate') this.#sendAck();
    if (receiver.takeFin()) this.#finReceived();
  }

  // ---- state changes

  #takeSyn(segment: TcpSegment): void {
    this.#initialFromGuest = segment.sequence;
    this.#mss = Math.max(MIN_MSS, Math.min(segment.mss ?? DEFAULT_MSS, this.#layer.mss));
    this.#guestShift = segment.windowShift;
    this.#sackPermitted = segment.sackPermitted;
    this.#receiver = new TcpReceiver(segment.sequence, this.#guestShift === undefined ? 0 : WINDOW_SHIFT, {
      space: () => this.application?.receiveSpace() ?? 0,
      deliver: (bytes) => this.application?.data(bytes),
    });
  }

  #establish(segment: TcpSegment): void {
    const limit = this.#layer.limitBytes();
    this.#sender.open(this.#mss, this.#guestShift ?? 0, this.#layer.maxBurst, limit, segment);
    this.#state = 'established';
    this.#attempts = 0;
    this.#stateTimer.set(this.#layer.keepaliveIdleMs);
    this.application?.established();
    if (this.#finishRequested && !this.#isClosed()) this.#startFinish();
  }

  #startFinish(): void {
    this.#state = this.#state === 'close-wait' ? 'last-ack' : 'fin-wait-1';
    this.#sender.finish();
    this.#output();
  }

  #finAcknowledged(): void {
    if (this.#state === 'fin-wait-1') this.#state = 'fin-wait-2';
    else if (this.#state === 'closing') this.#timeWait();
    else if (this.#state === 'last-ack') this.#end('orderly', false);
  }

  #finReceived(): void {
    this.#ackNow = true;
    if (this.#state === 'established') this.#state = 'close-wait';
    else if (this.#state === 'fin-wait-1') this.#state = 'closing';
    else if (this.#state === 'fin-wait-2') {
      this.application?.finished();
      if (!this.#isClosed()) this.#timeWait();
      return;
    }
    this.application?.finished();
  }

  #timeWait(): void {
    this.#state = 'time-wait';
    this.#ackNow = true;
    this.#layer.timeWait(this);
    this.#stateTimer.set(TIME_WAIT_MS);
    const { application } = this;
    this.application = undefined;
    application?.flush();
    application?.ended('orderly');
  }

  #end(how: TcpEnd, sendReset: boolean): void {
    if (this.#isClosed()) return;
    if (sendReset) this.#transmit(this.#sender.next, RST | ACK, 0, 0);
    const { application } = this;
    this.application = undefined;
    if (how === 'orderly') application?.flush();
    this.#close();
    application?.ended(how);
  }

  #close(): void {
    this.#state = 'closed';
    this.#ackTimer.dispose();
    this.#stateTimer.dispose();
    this.#sender.dispose();
    this.#receiver?.dispose();
    this.#layer.closed(this);
  }

  #stateTimeout(): void {
    switch (this.#state) {
      case 'syn-sent':
      case 'syn-received':
        if (this.#attempts >= SYN_TIMEOUTS_MS.length) this.#end('timeout', this.#state === 'syn-received');
        else this.#sendSyn();
        return;
      case 'time-wait':
        this.#close();
        return;
      default:
        this.#keepalive();
    }
  }

  #keepalive(): void {
    const idle = this.#layer.timers.nowMs() - this.#heardMs;
    const rest = this.#layer.keepaliveIdleMs - idle;
    if (rest > 0) {
      this.#stateTimer.set(rest);
      return;
    }
    this.#stateTimer.set(KEEPALIVE_INTERVAL_MS);
    if (this.#linkBusy()) return;
    if (++this.#probes > KEEPALIVE_PROBES) {
      this.#end('timeout', true);
      return;
    }
    this.#transmit(advance(this.#sender.unacknowledged, -1), ACK, 0, 0);
  }

  // ---- output

  #canReceive(): boolean {
    return this.#state === 'established' || this.#state === 'fin-wait-1' || this.#state === 'fin-wait-2';
  }

  /** A call, so that the compiler does not think it knows the state. */
  #isClosed(): boolean {
    return this.#state === 'closed';
  }

  #linkBusy(): boolean {
    const busy = this.#layer.linkBusy();
    if (busy) this.#layer.waitForLink(this);
    return busy;
  }

  #output(): void {
    if (this.#sender.output()) this.#ackNow = false;
  }

  #sendSyn(): void {
    this.#stateTimer.set(SYN_TIMEOUTS_MS[Math.min(this.#attempts++, SYN_TIMEOUTS_MS.length - 1)]);
    this.#transmit(this.#sender.initial, this.#state === 'syn-sent' ? SYN : SYN | ACK, 0, 0);
  }

  #sendAck(): void {
    if (this.#state === 'closed' || this.#state === 'connecting') return;
    this.#transmit(this.#sender.next, ACK, 0, 0);
  }

  /** Answers what does not fit the connection with where it stands (RFC 5961 §7). */
  #challenge(contentBytes: number): void {
    const now = this.#heardMs;
    if (contentBytes === 0 && now - this.#challengedMs < CHALLENGE_MS) return;
    this.#challengedMs = now;
    this.#sendAck();
  }

  #emitData(sequence: number, offset: number, length: number, fin: boolean, mss: number): void {
    const last = offset + length === this.#sender.queue.length;
    this.#transmit(sequence, ACK | (last && length > 0 ? PSH : 0) | (fin ? FIN : 0), offset, length, mss);
  }

  #transmit(sequence: number, flags: number, offset: number, length: number, segmentBytes = 0): void {
    const receiver = this.#receiver;
    const isSyn = (flags & SYN) !== 0;
    const acknowledges = (flags & ACK) !== 0 && receiver !== undefined;
    const offersOptions = isSyn && this.#state !== 'syn-sent';
    this.#layer.transmit(this, {
      sequence,
      acknowledgement: acknowledges ? receiver.next : 0,
      flags,
      window: receiver === undefined ? 0xffff : receiver.advertise(!isSyn),
      offset,
      length,
      segmentBytes,
      sack: this.#sackPermitted && acknowledges && length === 0 && receiver.heldBytes > 0 ? receiver.sackRanges() : NO_SACK,
      handshake: isSyn
        ? {
            windowShift: offersOptions && this.#guestShift === undefined ? undefined : WINDOW_SHIFT,
            sackPermitted: !offersOptions || this.#sackPermitted,
          }
        : undefined,
    });
    if (acknowledges) {
      this.#ackNow = false;
      this.#ackTimer.clear();
    }
  }
}
