// SPDX-License-Identifier: Apache-2.0
/**
 * A port with a limit on bytes a second, for each direction of its own (xen-netback's `rate`, and the same towards the guest).
 *
 * Nothing is dropped: both sides are made to wait, so that TCP on either end sees a slow link and not a lossy one.
 */
import type { Clock } from '../host/clock.ts';
import type { TimerHandle, Timers } from '../host/timers.ts';
import type { FrameReceiver, Offload, SwitchablePort } from './network-port.ts';
import { TokenBucket } from './token-bucket.ts';

export interface RateLimit {
  /** Absent: no limit. */
  readonly fromGuestBytesPerSecond?: number;
  readonly toGuestBytesPerSecond?: number;
  /** What may pass at once; at least one long frame, 20 ms' worth unless told. */
  readonly burstBytes?: number;
}

const MIN_BURST_BYTES = 65_536;
const DEFAULT_BURST_SECONDS = 0.02;
const MIN_RATE = 1000;

/** One direction: asks the bucket, and wakes the one who was sent away. */
class Gate {
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #wake: () => void;
  #bucket: TokenBucket | undefined;
  #timer: TimerHandle | undefined;

  constructor(clock: Clock, timers: Timers, wake: () => void) {
    this.#clock = clock;
    this.#timers = timers;
    this.#wake = wake;
  }

  limit(bytesPerSecond: number | undefined, burstBytes: number | undefined): void {
    if (bytesPerSecond === undefined) this.#bucket = undefined;
    else {
      const rate = Math.max(MIN_RATE, bytesPerSecond);
      this.#bucket = new TokenBucket(rate, Math.max(MIN_BURST_BYTES, burstBytes ?? rate * DEFAULT_BURST_SECONDS), this.#nowMs());
    }
    if (this.#timer === undefined) return;
    this.close();
    this.#timers.soon(this.#wake);
  }

  /** False: not now; `wake` runs when it may be tried again. */
  pass(bytes: number): boolean {
    if (this.#bucket === undefined || this.#bucket.take(bytes, this.#nowMs())) return true;
    this.#timer ??= this.#timers.after(Math.max(1, Math.ceil(this.#bucket.delayMs(bytes, this.#nowMs()))), () => {
      this.#timer = undefined;
      this.#wake();
    });
    return false;
  }

  /** What passed was not taken after all. */
  giveBack(bytes: number): void {
    this.#bucket?.giveBack(bytes);
  }

  close(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  #nowMs(): number {
    return this.#clock.nowNs() / 1e6;
  }
}

export class RateLimitedPort implements SwitchablePort {
  readonly #port: SwitchablePort;
  readonly #fromGuest: Gate;
  readonly #toGuest: Gate;
  #receiver: FrameReceiver | undefined;

  constructor(port: SwitchablePort, limit: RateLimit, clock: Clock, timers: Timers) {
    this.#port = port;
    this.#fromGuest = new Gate(clock, timers, () => this.#receiver?.sendReady());
    this.#toGuest = new Gate(clock, timers, () => this.#port.receiveReady());
    this.setLimit(limit);
  }

  /** May change while frames flow. */
  setLimit(limit: RateLimit): void {
    this.#fromGuest.limit(limit.fromGuestBytesPerSecond, limit.burstBytes);
    this.#toGuest.limit(limit.toGuestBytesPerSecond, limit.burstBytes);
  }

  get linkUp(): boolean {
    return this.#port.linkUp;
  }

  setLink(up: boolean): void {
    this.#port.setLink(up);
  }

  attach(receiver: FrameReceiver | undefined): void {
    this.#receiver = receiver;
    if (receiver === undefined) {
      this.#fromGuest.close();
      this.#toGuest.close();
      this.#port.attach(undefined);
      return;
    }
    this.#port.attach({
      features: receiver.features,
      receive: (frame, offload) => {
        if (!this.#toGuest.pass(frame.length)) return false;
        const taken = receiver.receive(frame, offload);
        if (!taken) this.#toGuest.giveBack(frame.length);
        return taken;
      },
      sendReady: () => receiver.sendReady(),
      linkChanged: (up) => receiver.linkChanged(up),
    });
  }

  send(frame: Uint8Array, offload: Offload): boolean {
    return this.#fromGuest.pass(frame.length) && this.#port.send(frame, offload);
  }

  receiveReady(): void {
    this.#port.receiveReady();
  }
}
