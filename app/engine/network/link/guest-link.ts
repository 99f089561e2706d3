// SPDX-License-Identifier: Apache-2.0
/**
 * The wire to the guest: frames go straight to the receiver, or wait in a bounded queue while it has no room.
 *
 * Who produces much (TCP) asks `busy` first and waits for `whenReady`; what is sent all the same (control packets, datagrams) is
 * queued up to QUEUE_BYTES and dropped beyond, as a switch would.
 */
import { canTake, completeFrame } from '../offload.ts';
import type { FrameReceiver, Offload } from '../network-port.ts';

const QUEUE_FRAMES = 1024;
const QUEUE_BYTES = 2 << 20;

interface QueuedFrame {
  readonly frame: Uint8Array;
  readonly offload: Offload;
}

export interface LinkCounters {
  framesToGuest: number;
  bytesToGuest: number;
  framesFromGuest: number;
  bytesFromGuest: number;
  /** Malformed, or of a kind that is not understood. */
  droppedFromGuest: number;
  /** No room, no receiver, or the link was down. */
  droppedToGuest: number;
}

export class GuestLink {
  readonly counters: LinkCounters = {
    framesToGuest: 0,
    bytesToGuest: 0,
    framesFromGuest: 0,
    bytesFromGuest: 0,
    droppedFromGuest: 0,
    droppedToGuest: 0,
  };
  readonly #whenReady: () => void;
  #receiver: FrameReceiver | undefined;
  #up = true;
  #queue: QueuedFrame[] = [];
  #queuedBytes = 0;

  /** `whenReady` runs each time the link may take frames again. */
  constructor(whenReady: () => void) {
    this.#whenReady = whenReady;
  }

  get up(): boolean {
    return this.#up;
  }

  /** Nothing goes to the guest now: frames wait, the link is down, or nobody is there. */
  get busy(): boolean {
    return this.#queue.length > 0 || !this.#up || this.#receiver === undefined;
  }

  attach(receiver: FrameReceiver | undefined): void {
    this.#receiver = receiver;
    this.#clearQueue();
    receiver?.linkChanged(this.#up);
    this.#whenReady();
  }

  setUp(up: boolean): void {
    if (up === this.#up) return;
    this.#up = up;
    if (!up) this.#clearQueue();
    this.#receiver?.linkChanged(up);
    this.#whenReady();
  }

  /** Sends a frame, or queues a copy, or drops it. */
  transmit(frame: Uint8Array, offload: Offload): void {
    const receiver = this.#receiver;
    if (receiver === undefined || !this.#up) {
      this.counters.droppedToGuest++;
      return;
    }
    if (canTake(receiver.features, frame, offload)) {
      this.#transmitOne(receiver, frame, offload, false);
      return;
    }
    const complete = completeFrame(receiver.features, frame, offload);
    for (const piece of complete.frames) this.#transmitOne(receiver, piece, complete.offload, true);
  }

  /** The receiver has room again. */
  receiveReady(): void {
    if (this.#queue.length === 0) return;
    const receiver = this.#receiver;
    if (receiver === undefined) return;
    let sent = 0;
    while (sent < this.#queue.length) {
      const { frame, offload } = this.#queue[sent];
      if (!receiver.receive(frame, offload)) break;
      this.#count(frame);
      this.#queuedBytes -= frame.length;
      sent++;
    }
    this.#queue = this.#queue.slice(sent);
    if (!this.busy) this.#whenReady();
  }

  #transmitOne(receiver: FrameReceiver, frame: Uint8Array, offload: Offload, owned: boolean): void {
    if (this.#queue.length === 0 && receiver.receive(frame, offload)) {
      this.#count(frame);
      return;
    }
    if (this.#queue.length >= QUEUE_FRAMES || this.#queuedBytes + frame.length > QUEUE_BYTES) {
      this.counters.droppedToGuest++;
      return;
    }
    this.#queue.push({ frame: owned ? frame : frame.slice(), offload });
    this.#queuedBytes += frame.length;
  }

  #count(frame: Uint8Array): void {
    this.counters.framesToGuest++;
    this.counters.bytesToGuest += frame.length;
  }

  #clearQueue(): void {
    this.counters.droppedToGuest += this.#queue.length;
    this.#queue = [];
    this.#queuedBytes = 0;
  }
}
