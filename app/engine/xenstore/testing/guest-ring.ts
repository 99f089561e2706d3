// SPDX-License-Identifier: Apache-2.0
/** The guest's end of a xenstore ring, for tests: writes requests, collects replies and watch events as text. */
import * as wire from '../xs-wire.ts';

export interface GuestMessage {
  readonly type: number;
  readonly requestId: number;
  readonly transactionId: number;
  readonly payload: Uint8Array;
}

export class GuestRing {
  readonly page: Uint8Array;
  readonly words: Int32Array;
  notifications = 0;
  /** Called to let the other side work; set after the ring was introduced. */
  pump: () => void = () => {};
  readonly events: string[][] = [];
  #incoming: number[] = [];
  #replies: GuestMessage[] = [];
  #nextRequest = 1;

  constructor() {
    this.page = new Uint8Array(new SharedArrayBuffer(4096));
    this.words = new Int32Array(this.page.buffer);
  }

  notify(): void {
    this.notifications++;
  }

  word(at: number): number {
    return Atomics.load(this.words, at >>> 2) >>> 0;
  }

  setWord(at: number, value: number): void {
    Atomics.store(this.words, at >>> 2, value | 0);
  }

  /** Puts bytes into the request ring as space allows, letting the other side take them. */
  send(bytes: Uint8Array): void {
    let at = 0;
    for (let idle = 0; at < bytes.length && idle < 10; idle++) {
      const prod = this.word(wire.XENSTORE_RING_REQ_PROD);
      const room = 1024 - ((prod - this.word(wire.XENSTORE_RING_REQ_CONS)) >>> 0);
      const count = Math.min(room, bytes.length - at);
      for (let i = 0; i < count; i++) this.page[(prod + i) & 1023] = bytes[at + i];
      at += count;
      this.setWord(wire.XENSTORE_RING_REQ_PROD, prod + count);
      if (count > 0) idle = 0;
      this.pump();
      this.receive();
    }
    if (at < bytes.length) throw new Error('the other side does not take requests');
  }

  /** Takes everything from the response ring and sorts it into replies and events. */
  receive(): void {
    const prod = this.word(wire.XENSTORE_RING_RSP_PROD);
    let cons = this.word(wire.XENSTORE_RING_RSP_CONS);
    while (cons !== prod) {
      this.#incoming.push(this.page[1024 + (cons & 1023)]);
      cons = (cons + 1) >>> 0;
    }
    this.setWord(wire.XENSTORE_RING_RSP_CONS, cons);
    for (;;) {
      if (this.#incoming.length < 16) return;
      const header = wire.decodeHeader(Uint8Array.from(this.#incoming.slice(0, 16)));
      if (this.#incoming.length < 16 + header.length) return;
      const payload = Uint8Array.from(this.#incoming.slice(16, 16 + header.length));
      this.#incoming = this.#incoming.slice(16 + header.length);
      if (header.type === wire.XS_WATCH_EVENT) this.events.push(wire.payloadStrings(payload));
      else this.#replies.push({ ...header, payload });
    }
  }

  /** Lets the other side work until nothing moves, taking all it sends. */
  settle(): void {
    for (let i = 0; i < 200; i++) {
      const before = this.word(wire.XENSTORE_RING_RSP_PROD);
      this.receive();
      this.pump();
      if (before === this.word(wire.XENSTORE_RING_RSP_PROD)) break;
    }
    this.receive();
  }

  /** Sends one request and returns its reply. */
  request(type: number, payload: Uint8Array, transactionId = 0): GuestMessage {
    const requestId = this.#nextRequest++;
    this.send(wire.encodeMessage(type, requestId, transactionId, payload));
    this.settle();
    const at = this.#replies.findIndex((reply) => reply.requestId === requestId);
    if (at < 0) throw new Error('no reply');
    return this.#replies.splice(at, 1)[0];
  }

  /** Like `request`, with string arguments and the reply as text: `OK`, `ENOENT`, or strings joined with `|`. */
  ask(type: number, strings: readonly string[], transactionId = 0): string {
    const reply = this.request(type, wire.encodeStrings(strings), transactionId);
    return wire.latin1Decode(reply.payload).replace(/\0$/, '').replaceAll('\0', '|');
  }

  write(path: string, value: string, transactionId = 0): string {
    const head = wire.encodeStrings([path]);
    const payload = new Uint8Array([...head, ...wire.latin1Encode(value)]);
    return wire.latin1Decode(this.request(wire.XS_WRITE, payload, transactionId).payload).replace(/\0$/, '');
  }

  read(path: string, transactionId = 0): string {
    return this.ask(wire.XS_READ, [path], transactionId);
  }

  /** Replies that no `request` waited for. */
  takeReplies(): GuestMessage[] {
    const replies = this.#replies;
    this.#replies = [];
    return replies;
  }
}
