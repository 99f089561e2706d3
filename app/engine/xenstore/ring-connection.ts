// SPDX-License-Identifier: Apache-2.0
/**
 * A domain's connection: the shared page with a request and a response ring, after xen public/io/xs_wire.h
 * (`struct xenstore_domain_interface`) and docs/misc/xenstore-ring.txt.
 *
 * Messages may be longer than a ring and come and go in pieces. When the response ring is full, replies wait here; when
 * too many wait, no further request is read (back-pressure). Watch events that wait are kept once each and within a byte
 * limit. A connection that breaks the protocol is told why in the page's error field and is deaf from then on, until the
 * guest asks for a reconnect.
 *
 * GUEST: every field of the page may change at any moment. Indices are read once, bounded, then used; data is copied
 * before it is parsed; nothing here throws because of the page's contents, and memory stays within the quotas.
 */
import { Connection } from './connection.ts';
import { handleRequest, type RequestContext } from './requests.ts';
import {
  decodeHeader,
  encodeMessage,
  encodeStrings,
  XENSTORE_CONNECTED,
  XENSTORE_ERROR_NONE,
  XENSTORE_ERROR_PROTO,
  XENSTORE_ERROR_RINGIDX,
  XENSTORE_PAYLOAD_MAX,
  XENSTORE_RECONNECT,
  XENSTORE_RING_CONNECTION,
  XENSTORE_RING_ERROR,
  XENSTORE_RING_REQ,
  XENSTORE_RING_REQ_CONS,
  XENSTORE_RING_REQ_PROD,
  XENSTORE_RING_RSP,
  XENSTORE_RING_RSP_CONS,
  XENSTORE_RING_RSP_PROD,
  XENSTORE_RING_SERVER_FEATURES,
  XENSTORE_RING_SIZE,
  XENSTORE_SERVER_FEATURE_ERROR,
  XENSTORE_SERVER_FEATURE_RECONNECTION,
  XS_HEADER_SIZE,
  XS_WATCH_EVENT,
} from './xs-wire.ts';

/** Where a domain's ring lives. */
export interface XenstoreRing {
  /** The page: 4096 bytes over shared memory, 4-byte aligned. */
  readonly page: Uint8Array;
  /** Signals the domain's event channel. */
  notify(): void;
}

/** A message on its way out. `event` names a watch event, so that the same one is not queued twice. */
interface Outgoing {
  readonly bytes: Uint8Array;
  readonly event: string | null;
}

/** Requests handled in one `pump`, so that a guest which never stops asking does not keep the I/O thread. */
const MESSAGES_PER_PUMP = 32;
/** Bytes a queued message takes beyond its own, for the limit on waiting events. */
const MESSAGE_OVERHEAD = 64;

export interface RingConnectionOptions {
  readonly privileged?: boolean;
  /** Continues `pump` in a later turn of the event loop when its budget is used up. Without it the caller must (see `pump`). */
  readonly soon?: (task: () => void) => void;
}

export class RingConnection extends Connection {
  readonly #context: RequestContext;
  readonly #ring: XenstoreRing;
  readonly #words: Int32Array;
  readonly #soon: ((task: () => void) => void) | null;
  readonly #header = new Uint8Array(XS_HEADER_SIZE);
  readonly #payload = new Uint8Array(XENSTORE_PAYLOAD_MAX);
  /** Bytes of the incoming message so far, header included. */
  #received = 0;
  #outgoing: Outgoing[] = [];
  /** Bytes of the first outgoing message already in the ring. */
  #sent = 0;
  #waitingReplies = 0;
  #waitingEventBytes = 0;
  readonly #waitingEvents = new Set<string>();
  #error = XENSTORE_ERROR_NONE;
  #closed = false;
  #pumping = false;
  #scheduled = false;
  #moved = false;
  #droppedEvents = 0;

  constructor(context: RequestContext, domid: number, ring: XenstoreRing, options: RingConnectionOptions = {}) {
    super(domid, options.privileged ?? false);
    if (ring.page.length !== 4096 || ring.page.byteOffset % 4 !== 0) throw new RangeError('the xenstore ring needs one aligned page');
    this.#context = context;
    this.#ring = ring;
    this.#soon = options.soon ?? null;
    this.#words = new Int32Array(ring.page.buffer, ring.page.byteOffset, 1024);
    const features = XENSTORE_SERVER_FEATURE_RECONNECTION | XENSTORE_SERVER_FEATURE_ERROR;
    this.#store(XENSTORE_RING_SERVER_FEATURES, features);
  }

  /** XENSTORE_ERROR_*; anything but XENSTORE_ERROR_NONE means that the connection is deaf. */
  get error(): number {
    return this.#error;
  }

  /** Watch events that were lost because the guest does not take what waits for it. */
  get droppedEvents(): number {
    return this.#droppedEvents;
  }

  /** Bytes held for this connection, for tests and statistics. */
  get queuedBytes(): number {
    return this.#outgoing.reduce((sum, message) => sum + message.bytes.length, 0);
  }

  /**
   * To be called whenever the domain signalled its event channel: takes requests, answers them, sends what waits.
   * True when requests may be left because the budget of one call is used up and no `soon` was given: call again later.
   */
  pump(): boolean {
    if (this.#closed || this.#pumping) return false;
    if (this.#load(XENSTORE_RING_CONNECTION) === XENSTORE_RECONNECT) {
      this.#reconnect();
      return false;
    }
    let more = false;
    this.#pumping = true;
    let budget = MESSAGES_PER_PUMP;
    while (this.#error === XENSTORE_ERROR_NONE && !this.#closed) {
      this.#send();
      if (!this.privileged && this.#waitingReplies >= this.#context.store.quotas.outstanding) break;
      if (budget === 0) {
        more = true;
        break;
      }
      const received = this.#receive();
      if (received === 'nothing') break;
      if (received === 'message') {
        this.#handle();
        budget--;
      }
    }
    this.#pumping = false;
    this.flush();
    if (more && this.#soon !== null && !this.#scheduled) {
      this.#scheduled = true;
      this.#soon(() => {
        this.#scheduled = false;
        this.pump();
      });
    }
    return more && this.#soon === null;
  }

  override deliver(path: string, token: string): void {
    if (this.#closed || this.#error !== XENSTORE_ERROR_NONE) return;
    const payload = encodeStrings([path, token]);
    if (payload.length > XENSTORE_PAYLOAD_MAX) return;
    const event = `${path}\0${token}`;
    const special = path.startsWith('@');
    if (!special && this.#waitingEvents.has(event)) return;
    const bytes = encodeMessage(XS_WATCH_EVENT, 0, 0, payload);
    const cost = bytes.length + MESSAGE_OVERHEAD;
    if (!this.privileged && this.#waitingEventBytes + cost > this.#context.store.quotas.eventBytes) {
      this.#droppedEvents++;
      return;
    }
    this.#waitingEventBytes += cost;
    this.#waitingEvents.add(event);
    this.#outgoing.push({ bytes, event });
  }

  override flush(): void {
    if (this.#pumping || this.#closed) return;
    if (this.#error === XENSTORE_ERROR_NONE) this.#send();
    if (this.#moved) {
      this.#moved = false;
      this.#ring.notify();
    }
  }

  /** Drops everything that belongs to the conversation and empties both rings (INTRODUCE of a known domain, reconnect). */
  restart(): void {
    this.#drop();
    this.#error = XENSTORE_ERROR_NONE;
    for (const at of [XENSTORE_RING_REQ_CONS, XENSTORE_RING_REQ_PROD, XENSTORE_RING_RSP_CONS, XENSTORE_RING_RSP_PROD]) {
      this.#store(at, 0);
    }
    this.#store(XENSTORE_RING_ERROR, XENSTORE_ERROR_NONE);
  }

  /** Ends the connection; the page is not touched again. */
  close(): void {
    this.#drop();
    this.#closed = true;
  }

  /** The unfinished conversation, for a snapshot: bytes of a partly received request, and messages (the first may be a rest). */
  pending(): { readonly received: Uint8Array; readonly outgoing: readonly Outgoing[] } {
    const head = Math.min(this.#received, XS_HEADER_SIZE);
    const received = new Uint8Array(this.#received);
    received.set(this.#header.subarray(0, head));
    received.set(this.#payload.subarray(0, this.#received - head), head);
    const outgoing = this.#outgoing.map((message, i) => (i === 0 ? { ...message, bytes: message.bytes.slice(this.#sent) } : message));
    return { received, outgoing };
  }

  /** Takes up a conversation that `pending` described. False when `received` cannot be the start of a request. */
  resume(received: Uint8Array, outgoing: readonly Outgoing[]): boolean {
    const head = received.subarray(0, XS_HEADER_SIZE);
    const rest = received.subarray(head.length);
    const length = head.length === XS_HEADER_SIZE ? decodeHeader(head).length : 0;
    if (length > XENSTORE_PAYLOAD_MAX || rest.length > length) return false;
    this.#drop();
    this.#header.set(head);
    this.#payload.set(rest);
    this.#received = received.length;
    for (const message of outgoing) {
      this.#outgoing.push(message);
      if (message.event === null) {
        this.#waitingReplies++;
      } else {
        this.#waitingEvents.add(message.event);
        this.#waitingEventBytes += message.bytes.length + MESSAGE_OVERHEAD;
      }
    }
    return true;
  }

  #handle(): void {
    const header = decodeHeader(this.#header);
    const payload = this.#payload.slice(0, header.length);
    this.#received = 0;
    const reply = handleRequest(this.#context, this, header.type, header.transactionId, payload);
    this.#outgoing.push({ bytes: encodeMessage(reply.type, header.requestId, header.transactionId, reply.payload), event: null });
    this.#waitingReplies++;
    reply.after?.();
  }

  /** Takes what the ring has of the current message. */
  #receive(): 'nothing' | 'part' | 'message' {
    const cons = this.#load(XENSTORE_RING_REQ_CONS);
    const available = (this.#load(XENSTORE_RING_REQ_PROD) - cons) >>> 0;
    // GUEST: both indices are the guest's to write.
    if (available > XENSTORE_RING_SIZE) {
      this.#fail(XENSTORE_ERROR_RINGIDX);
      return 'nothing';
    }
    const inHeader = this.#received < XS_HEADER_SIZE;
    const target = inHeader ? this.#header : this.#payload;
    const at = inHeader ? this.#received : this.#received - XS_HEADER_SIZE;
    const want = inHeader ? XS_HEADER_SIZE - at : decodeHeader(this.#header).length - at;
    const count = Math.min(available, want);
    if (count === 0) return 'nothing';
    copyFromRing(this.#ring.page, XENSTORE_RING_REQ, cons, target, at, count);
    this.#store(XENSTORE_RING_REQ_CONS, cons + count);
    this.#moved = true;
    this.#received += count;
    if (this.#received < XS_HEADER_SIZE) return 'part';
    const { length } = decodeHeader(this.#header);
    if (length > XENSTORE_PAYLOAD_MAX) {
      this.#fail(XENSTORE_ERROR_PROTO);
      return 'nothing';
    }
    return this.#received === XS_HEADER_SIZE + length ? 'message' : 'part';
  }

  /** Puts as much of the outgoing queue into the ring as fits. */
  #send(): void {
    let done = 0;
    while (done < this.#outgoing.length && !this.#closed) {
      const cons = this.#load(XENSTORE_RING_RSP_CONS);
      const prod = this.#load(XENSTORE_RING_RSP_PROD);
      const used = (prod - cons) >>> 0;
      if (used > XENSTORE_RING_SIZE) {
        this.#fail(XENSTORE_ERROR_RINGIDX);
        return;
      }
      const message = this.#outgoing[done];
      const count = Math.min(XENSTORE_RING_SIZE - used, message.bytes.length - this.#sent);
      if (count === 0) break;
      copyToRing(this.#ring.page, XENSTORE_RING_RSP, prod, message.bytes, this.#sent, count);
      this.#store(XENSTORE_RING_RSP_PROD, prod + count);
      this.#moved = true;
      this.#sent += count;
      if (this.#sent < message.bytes.length) continue;
      this.#sent = 0;
      done++;
      if (message.event === null) {
        this.#waitingReplies--;
      } else {
        this.#waitingEvents.delete(message.event);
        this.#waitingEventBytes -= message.bytes.length + MESSAGE_OVERHEAD;
      }
    }
    if (done > 0) this.#outgoing.splice(0, done);
  }

  #reconnect(): void {
    this.restart();
    this.#store(XENSTORE_RING_CONNECTION, XENSTORE_CONNECTED);
    this.#moved = false;
    this.#ring.notify();
  }

  #fail(error: number): void {
    this.#drop();
    this.#error = error;
    this.#store(XENSTORE_RING_ERROR, error);
    this.#moved = true;
  }

  #drop(): void {
    this.resetState();
    this.#received = 0;
    this.#outgoing = [];
    this.#sent = 0;
    this.#waitingReplies = 0;
    this.#waitingEventBytes = 0;
    this.#waitingEvents.clear();
  }

  #load(at: number): number {
    return Atomics.load(this.#words, at >>> 2) >>> 0;
  }

  #store(at: number, value: number): void {
    Atomics.store(this.#words, at >>> 2, value | 0);
  }
}

function copyFromRing(page: Uint8Array, ring: number, index: number, target: Uint8Array, at: number, count: number): void {
  const start = index & (XENSTORE_RING_SIZE - 1);
  const first = Math.min(count, XENSTORE_RING_SIZE - start);
  target.set(page.subarray(ring + start, ring + start + first), at);
  if (count > first) target.set(page.subarray(ring, ring + count - first), at + first);
}

function copyToRing(page: Uint8Array, ring: number, index: number, source: Uint8Array, at: number, count: number): void {
  const start = index & (XENSTORE_RING_SIZE - 1);
  const first = Math.min(count, XENSTORE_RING_SIZE - start);
  page.set(source.subarray(at, at + first), ring + start);
  if (count > first) page.set(source.subarray(at + first, at + count), ring);
}
