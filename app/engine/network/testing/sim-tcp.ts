// SPDX-License-Identifier: Apache-2.0
/** The test guest's TCP: see `sim-guest.ts`. Offsets are counted from the initial sequence numbers and never wrap in a test's lifetime. */
import { be16, be32, internetSum, ip, ipv4, type SeenPacket, type SimGuest } from './sim-guest.ts';

const RESEND_MS = 250;
const FIN = 1;
const SYN = 2;
const RST = 4;
const PSH = 8;
const ACK = 16;

export class SimTcp {
  readonly localPort: number;
  state: 'closed' | 'opening' | 'accepting' | 'open' = 'closed';
  /** The peer ended its direction, and everything before that arrived. */
  finished = false;
  reset = false;
  mss = 1460;
  /** Bytes of a segment; above the MSS only with segmentation offload. */
  segmentBytes = 1460;
  /** Its receive buffer; unread bytes close the window. */
  windowBytes = 256 * 1024;
  reading = true;
  windowShift = 3;
  sack = true;
  /** For tests of what the engine makes of odd sequence numbers. */
  readonly initial: number;
  readonly #guest: SimGuest;
  readonly #remote: string;
  readonly #remotePort: number;
  #peerInitial = 0;
  #peerShift = 0;
  #peerWindow = 0;
  /** Largest payload and most bytes in flight that the engine allowed or sent. */
  largestArrival = 0;
  peerWindowNow = 0;
  #out = new Uint8Array(0);
  #una = 0;
  #nxt = 0;
  #finQueued = false;
  #resendAtMs = 0;
  #in: Uint8Array[] = [];
  #inBytes = 0;
  #unread = 0;
  readonly #early = new Map<number, Uint8Array>();
  #finAt = -1;
  #running = false;

  constructor(guest: SimGuest, remote: string, remotePort: number, localPort: number) {
    this.#guest = guest;
    this.#remote = remote;
    this.#remotePort = remotePort;
    this.localPort = localPort;
    // Near the end of the number space: every transfer wraps.
    this.initial = 0xffff_f000;
  }

  get received(): Uint8Array {
    const whole = new Uint8Array(this.#inBytes);
    let at = 0;
    for (const part of this.#in) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  }

  get receivedText(): string {
    return new TextDecoder().decode(this.received);
  }

  get acknowledgedBytes(): number {
    return Math.min(this.#una, this.#out.length);
  }

  get receivedBytes(): number {
    return this.#inBytes;
  }

  open(): void {
    this.state = 'opening';
    this.#segment(SYN, 0, 0);
    this.#start();
  }

  write(data: Uint8Array | string): void {
    const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : data;
    const whole = new Uint8Array(this.#out.length + bytes.length);
    whole.set(this.#out);
    whole.set(bytes, this.#out.length);
    this.#out = whole;
    this.#output();
  }

  end(): void {
    this.#finQueued = true;
    this.#output();
  }

  abort(): void {
    this.#segment(RST | ACK, this.#nxt, 0);
    this.state = 'closed';
  }

  /** Reads what is there, and from now on. */
  read(): void {
    this.reading = true;
    this.#unread = 0;
    this.#segment(ACK, this.#nxt, 0);
  }

  arrived({ frame, view, at }: SeenPacket): void {
    const flags = frame[at + 13];
    const end = 14 + view.getUint16(16);
    const header = (frame[at + 12] >> 4) * 4;
    if ((flags & RST) !== 0) {
      this.reset = true;
      this.state = 'closed';
      return;
    }
    if ((flags & SYN) !== 0) {
      this.#synArrived(frame, view, at, header, flags);
      return;
    }
    if (this.state === 'accepting') this.state = 'open';
    if (this.state !== 'open') return;
    const acked = (view.getUint32(at + 8) - this.initial - 1) | 0;
    this.#peerWindow = view.getUint16(at + 14) * 2 ** this.#peerShift;
    this.peerWindowNow = this.#peerWindow;
    if (acked > this.#una) {
      this.#una = acked;
      this.#nxt = Math.max(this.#nxt, acked);
      this.#resendAtMs = this.#guest.time.nowMs + RESEND_MS;
    }
    this.#payload((view.getUint32(at + 4) - this.#peerInitial - 1) | 0, frame.subarray(at + header, end), (flags & FIN) !== 0);
    this.#output();
  }

  #synArrived(frame: Uint8Array, view: DataView, at: number, header: number, flags: number): void {
    this.#peerInitial = view.getUint32(at + 4);
    for (let option = at + 20; option < at + header; option += frame[option] === 1 ? 1 : frame[option + 1]) {
      if (frame[option] === 2) this.mss = view.getUint16(option + 2);
      if (frame[option] === 3) this.#peerShift = frame[option + 2];
    }
    this.#peerWindow = view.getUint16(at + 14);
    if ((flags & ACK) !== 0) {
      this.state = 'open';
      this.#segment(ACK, 0, 0);
      this.#output();
    } else {
      this.state = 'accepting';
      this.#segment(SYN | ACK, 0, 0);
      this.#start();
    }
  }

  #payload(offset: number, bytes: Uint8Array, fin: boolean): void {
    this.largestArrival = Math.max(this.largestArrival, bytes.length);
    if (bytes.length === 0 && !fin) {
      // Below what is due: a question whether the connection still stands.
      if (offset < this.#inBytes && !this.finished) this.#segment(ACK, this.#nxt, 0);
      return;
    }
    if (fin) this.#finAt = offset + bytes.length;
    const room = this.windowBytes - this.#unread;
    const skip = Math.max(0, this.#inBytes - offset);
    const fresh = bytes.subarray(Math.min(skip, bytes.length));
    if (fresh.length > 0 && fresh.length <= room) this.#early.set(offset + skip, fresh.slice());
    this.#collect();
    if (this.#finAt === this.#inBytes) this.finished = true;
    this.#segment(ACK, this.#nxt, 0);
  }

  #collect(): void {
    for (let found = true; found; ) {
      found = false;
      for (const [offset, bytes] of this.#early) {
        if (offset > this.#inBytes) continue;
        this.#early.delete(offset);
        const fresh = bytes.subarray(Math.min(bytes.length, this.#inBytes - offset));
        this.#in.push(fresh);
        this.#inBytes += fresh.length;
        if (!this.reading) this.#unread += fresh.length;
        found = true;
      }
    }
  }

  #start(): void {
    if (this.#running) return;
    this.#running = true;
    this.#resendAtMs = this.#guest.time.nowMs + RESEND_MS;
    const tick = () => {
      if (this.state === 'closed') return;
      this.#guest.time.after(25, tick);
      if (this.#guest.time.nowMs < this.#resendAtMs) return;
      this.#resendAtMs = this.#guest.time.nowMs + RESEND_MS;
      if (this.state === 'opening') this.#segment(SYN, 0, 0);
      else if (this.state === 'accepting') this.#segment(SYN | ACK, 0, 0);
      else if (this.#una < this.#out.length + (this.#finQueued ? 1 : 0)) {
        this.#nxt = this.#una;
        // A closed window is probed with a byte.
        if (this.#peerWindow === 0 && this.#una < this.#out.length) this.#segment(ACK, this.#una, 1);
        this.#output();
      }
    };
    this.#guest.time.after(25, tick);
  }

  #output(): void {
    if (this.state !== 'open') return;
    for (;;) {
      const room = this.#peerWindow - (this.#nxt - this.#una);
      const length = Math.min(this.segmentBytes, this.#out.length - this.#nxt, room);
      if (length > 0) {
        this.#segment(ACK | PSH, this.#nxt, length);
        this.#nxt += length;
      } else break;
    }
    if (this.#finQueued && this.#nxt === this.#out.length) {
      this.#segment(ACK | FIN, this.#nxt, 0);
      this.#nxt++;
    }
  }

  #segment(flags: number, offset: number, length: number): void {
    const isSyn = (flags & SYN) !== 0;
    const sequence = isSyn ? this.initial : (this.initial + 1 + offset) >>> 0;
    const acknowledges = (flags & ACK) !== 0;
    const next = (this.#peerInitial + 1 + this.#inBytes + (this.finished ? 1 : 0)) >>> 0;
    const window = Math.max(0, this.windowBytes - this.#unread);
    const options = isSyn ? [2, 4, ...be16(1460), 1, 3, 3, this.windowShift, ...(this.sack ? [1, 1, 4, 2] : [])] : this.#sackOption();
    const segment = new Uint8Array(20 + options.length + length);
    segment.set([
      ...be16(this.localPort),
      ...be16(this.#remotePort),
      ...be32(sequence),
      ...be32(acknowledges ? next : 0),
      ((20 + options.length) / 4) << 4,
      flags,
      ...be16(Math.min(0xffff, isSyn ? window : window >> this.windowShift)),
      0,
      0,
      0,
      0,
      ...options,
    ]);
    segment.set(this.#out.subarray(offset, offset + length), 20 + options.length);
    const isLong = length > this.mss;
    if (!isLong) {
      const pseudo = [...ip(this.#guest.address), ...ip(this.#remote), 0, 6, ...be16(segment.length)];
      segment.set(be16(0xffff - internetSum([...pseudo, ...segment])), 16);
    }
    const frame = ipv4(6, this.#guest.address, this.#remote, segment);
    this.#guest.send(frame, { checksumBlank: isLong, gsoSize: isLong ? this.mss : 0 });
  }

  #sackOption(): number[] {
    if (!this.sack || this.#early.size === 0) return [];
    const [offset, bytes] = [...this.#early].at(-1)!;
    const start = (this.#peerInitial + 1 + offset) >>> 0;
    return [1, 1, 5, 10, ...be32(start), ...be32((start + bytes.length) >>> 0)];
  }
}
