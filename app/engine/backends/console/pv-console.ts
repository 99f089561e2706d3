// SPDX-License-Identifier: Apache-2.0
/**
 * The host's end of a PV console (xen public/io/console.h): takes the guest's output from the first byte on, whether anyone
 * listens or not, keeps the last of it, hands it to any number of sinks, and queues what is typed.
 *
 * Flow control: a sink whose `write` answers false is full. One that was attached with `whenFull: 'wait'` then holds up the
 * guest (the ring fills, and hvc_xen waits) until it calls `drained`; one with `'drop'` misses output instead and learns
 * how much. With no sink attached output only goes to the scrollback.
 *
 * The protocol has no terminal size and no break signal, so there is nothing of the kind here.
 *
 * GUEST: output is bytes of any kind; they are passed on unchanged and never interpreted here.
 */
import type { TaskQueue } from '../core/ports.ts';
import { ConsoleRing, XENCONS_OUT_SIZE } from './console-ring.ts';
import { Scrollback } from './scrollback.ts';

export interface ConsoleSink {
  /**
   * Takes all of `bytes` (they stay the sink's to keep). False: no more, please, until `drained` is called.
   * The bytes of a call that answers false were taken as well.
   */
  write(bytes: Uint8Array): boolean;
}

export interface ConsoleAttachment {
  /** The sink has room again. */
  drained(): void;
  /** Bytes that a `drop` sink missed since it was attached. */
  readonly missedBytes: number;
  detach(): void;
}

export interface AttachOptions {
  /** Default `wait`. */
  readonly whenFull?: 'wait' | 'drop';
  /** Hands the scrollback to the sink first. Default true. */
  readonly replay?: boolean;
}

export interface PvConsoleOptions {
  /** The shared page: 4096 bytes. */
  readonly page: Uint8Array;
  /** Signals the guest's event channel. */
  readonly notify: () => void;
  /** Runs the rest of a long stretch of output later; without it, `pump` is bounded and the guest's next event continues. */
  readonly tasks?: TaskQueue;
  /** Default 64 KiB. */
  readonly scrollbackBytes?: number;
  /** Most bytes that wait to be typed. Default 64 KiB. */
  readonly inputBytes?: number;
}

/** Rings taken in one `pump`, so that a guest which never stops printing does not keep the I/O thread: 32 KiB. */
const TAKES_PER_PUMP = 16;

interface AttachedSink {
  readonly sink: ConsoleSink;
  readonly drops: boolean;
  full: boolean;
  missedBytes: number;
}

export class PvConsole {
  readonly #ring: ConsoleRing;
  readonly #notify: () => void;
  readonly #tasks: TaskQueue | null;
  readonly #scrollback: Scrollback;
  readonly #inputLimit: number;
  readonly #sinks = new Set<AttachedSink>();
  #input: Uint8Array[] = [];
  #inputBytes = 0;
  #whenInputDrained: (() => void)[] = [];
  #pumping = false;
  #scheduled = false;
  #closed = false;

  constructor(options: PvConsoleOptions) {
    this.#ring = new ConsoleRing(options.page);
    this.#notify = options.notify;
    this.#tasks = options.tasks ?? null;
    this.#scrollback = new Scrollback(options.scrollbackBytes ?? 65536);
    this.#inputLimit = options.inputBytes ?? 65536;
  }

  /** Bytes the guest has printed so far. */
  get outputBytes(): number {
    return this.#scrollback.total;
  }

  /** Bytes that wait until the guest has room for them. */
  get queuedInputBytes(): number {
    return this.#inputBytes;
  }

  /** How often the guest's ring indices made no sense. */
  get inconsistencies(): number {
    return this.#ring.inconsistencies;
  }

  /** The last of what the guest printed. */
  scrollback(): Uint8Array {
    return this.#scrollback.contents();
  }

  /** To be called whenever the guest signalled: takes output, gives input. */
  pump(): void {
    if (this.#closed || this.#pumping) return;
    this.#pumping = true;
    let tell = false;
    let takes = 0;
    while (takes < TAKES_PER_PUMP && !this.#heldUp() && !this.#closed) {
      const bytes = this.#ring.takeOutput();
      if (bytes.length === 0) break;
      takes++;
      if (bytes.length >= XENCONS_OUT_SIZE / 2) tell = true;
      this.#emit(bytes);
    }
    if (this.#give()) tell = true;
    this.#pumping = false;
    // A guest that found the ring full may wait to hear that there is room again. One that prints a line at a time does not wait;
    // an interrupt for each of its lines would cost it more than the line.
    if (tell && !this.#closed) this.#notify();
    if (takes === TAKES_PER_PUMP) this.#continueLater();
  }

  attach(sink: ConsoleSink, options: AttachOptions = {}): ConsoleAttachment {
    const attached: AttachedSink = { sink, drops: options.whenFull === 'drop', full: false, missedBytes: 0 };
    this.#sinks.add(attached);
    if ((options.replay ?? true) && this.#scrollback.total > 0) attached.full = !sink.write(this.#scrollback.contents());
    return {
      drained: () => {
        if (!attached.full) return;
        attached.full = false;
        this.pump();
      },
      get missedBytes() {
        return attached.missedBytes;
      },
      detach: () => {
        // A sink that held up the guest does so no longer.
        if (this.#sinks.delete(attached)) this.pump();
      },
    };
  }

  /** Output that reached the host another way than through the ring: what a kernel prints with console_io before it has a console. */
  earlyOutput(bytes: Uint8Array): void {
    if (!this.#closed) this.#emit(bytes);
  }

  /** Queues bytes to be typed and says how many of them were accepted; the rest has to be offered again. */
  input(bytes: Uint8Array): number {
    if (this.#closed) return 0;
    const count = Math.min(bytes.length, this.#inputLimit - this.#inputBytes);
    if (count > 0) {
      this.#input.push(bytes.slice(0, count));
      this.#inputBytes += count;
      if (!this.#pumping && this.#give()) this.#notify();
    }
    return count;
  }

  /** Calls `callback` once, when all queued input is in the guest's ring; at once when none waits. */
  onInputDrained(callback: () => void): void {
    if (this.#inputBytes === 0) callback();
    else this.#whenInputDrained.push(callback);
  }

  /** Takes what the guest printed last (it may have crashed), then lets go of the page. */
  close(): void {
    if (this.#closed) return;
    const last = this.#ring.takeOutput();
    if (last.length > 0) this.#emit(last);
    this.#closed = true;
    this.#sinks.clear();
    this.#input = [];
    this.#inputBytes = 0;
    this.#whenInputDrained = [];
  }

  #heldUp(): boolean {
    for (const attached of this.#sinks) if (attached.full && !attached.drops) return true;
    return false;
  }

  #emit(bytes: Uint8Array): void {
    this.#scrollback.push(bytes);
    // A sink that is attached during this loop was given these bytes with the scrollback already.
    const sinks = Array.from(this.#sinks);
    for (const attached of sinks) {
      if (attached.full && attached.drops) attached.missedBytes += bytes.length;
      else if (!attached.sink.write(bytes.slice())) attached.full = true;
    }
  }

  /** Moves queued input into the ring. True when anything moved. */
  #give(): boolean {
    let moved = false;
    while (this.#input.length > 0) {
      const [first] = this.#input;
      const count = this.#ring.putInput(first);
      if (count === 0) break;
      moved = true;
      this.#inputBytes -= count;
      if (count === first.length) this.#input.shift();
      else this.#input[0] = first.subarray(count);
    }
    if (this.#inputBytes === 0 && this.#whenInputDrained.length > 0) {
      const callbacks = this.#whenInputDrained;
      this.#whenInputDrained = [];
      for (const callback of callbacks) callback();
    }
    return moved;
  }

  #continueLater(): void {
    if (this.#tasks === null || this.#scheduled) return;
    this.#scheduled = true;
    this.#tasks.soon(() => {
      this.#scheduled = false;
      this.pump();
    });
  }
}
