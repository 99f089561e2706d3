// SPDX-License-Identifier: Apache-2.0
/**
 * Making an event pending in guest memory: the 2-level and the FIFO ABI (xen public/event_channel.h, public/xen.h).
 *
 * INVARIANT: only vCPU threads write event words. Other threads `raise` a port in a bitmap of the shared state and kick the vCPU,
 * whose thread makes it pending before it returns to the guest. So one vCPU never pays for atomic instructions of its guest.
 * GUEST: event words, link fields and control blocks are guest-writable. Ports read from them are never followed; the tail of
 * a queue is our own copy, and every compare-exchange loop is bounded.
 */
import {
  EVTCHN_FIFO_PRIORITY_MIN,
  FIFO_BUSY,
  FIFO_CONTROL_BLOCK,
  FIFO_LINK_MASK,
  FIFO_LINKED,
  FIFO_MASKED,
  FIFO_PENDING,
  FIFO_WORDS_PER_PAGE,
} from '../abi/event-channel.ts';
import { SHARED_INFO, VCPU_INFO } from '../abi/xen.ts';
import { mfn } from '../../memory/frames.ts';
import { MAX_EVTCHN_PORTS, type SharedState, STATE, VCPU_STATE } from '../shared-state.ts';
import { ECS, PORT, type PortTable } from './port-table.ts';

const RAISED_BYTES = MAX_EVTCHN_PORTS / 8;

export class EventDelivery {
  readonly #state: SharedState;
  readonly #table: PortTable;
  readonly #i32: Int32Array;
  readonly #u8: Uint8Array;
  /** The vCPU whose thread this is, or -1. */
  readonly #self: number;

  constructor(state: SharedState, table: PortTable, self: number) {
    this.#state = state;
    this.#table = table;
    this.#i32 = state.i32;
    this.#u8 = state.u8;
    this.#self = self;
  }

  /** An event arrived for guest port `port` (bounded by the caller). From any thread. */
  notify(port: number): void {
    const vcpu = this.#table.get(port, PORT.notifyVcpu);
    if (vcpu === this.#self) this.setPending(port);
    else this.raise(port, vcpu);
  }

  /** Hands an event to the thread of `vcpu`. */
  raise(port: number, vcpu: number): void {
    const target = vcpu < this.#state.vcpuCount ? vcpu : 0;
    const word = this.#state.word(STATE.raised + target * RAISED_BYTES) + (port >>> 5);
    const bit = 1 << (port & 31);
    if ((Atomics.or(this.#i32, word, bit) & bit) !== 0) return;
    Atomics.or(this.#i32, this.#state.vcpuWord(target, VCPU_STATE.raisedSummary) + (port >>> 10), 1 << ((port >>> 5) & 31));
    this.#state.contexts[target].kick();
  }

  /** Makes pending what other threads raised for `vcpu`. On that vCPU's thread. */
  drain(vcpu: number): void {
    const summaries = this.#state.vcpuWord(vcpu, VCPU_STATE.raisedSummary);
    const words = this.#state.word(STATE.raised + vcpu * RAISED_BYTES);
    for (let s = 0; s < MAX_EVTCHN_PORTS / 1024; s++) {
      if (this.#i32[summaries + s] === 0) continue;
      let summary = Atomics.exchange(this.#i32, summaries + s, 0);
      while (summary !== 0) {
        const index = 31 - Math.clz32(summary & -summary);
        summary &= summary - 1;
        let bits = Atomics.exchange(this.#i32, words + s * 32 + index, 0);
        while (bits !== 0) {
          const bit = 31 - Math.clz32(bits & -bits);
          bits &= bits - 1;
          const port = (s * 32 + index) * 32 + bit;
          if (this.#table.get(port, PORT.state) >= ECS.unbound) this.setPending(port);
        }
      }
    }
  }

  /** Makes `port` pending for the vCPU that it notifies. On a vCPU thread. */
  setPending(port: number): void {
    const was = this.#fifo ? this.#setPendingFifo(port) : this.#setPending2l(port);
    if (!was && this.#i32[this.#state.word(STATE.pollers)] !== 0) this.#wakePollers();
  }

  clearPending(port: number): void {
    if (!this.#fifo) {
      Atomics.and(this.#i32, this.#pendingWord(port), ~(1 << (port & 31)));
      return;
    }
    this.#table.set(port, PORT.savedPending, 0);
    const word = this.#eventWord(port);
    if (word >= 0) Atomics.and(this.#i32, word, ~FIFO_PENDING);
  }

  isPending(port: number): boolean {
    if (!this.#fifo) return (Atomics.load(this.#i32, this.#pendingWord(port)) & (1 << (port & 31))) !== 0;
    const word = this.#eventWord(port);
    return word >= 0 && (Atomics.load(this.#i32, word) & FIFO_PENDING) !== 0;
  }

  /** Is the port still on a queue of the guest, so that it must not be given to somebody else? */
  isBusy(port: number): boolean {
    if (!this.#fifo) return false;
    const word = this.#eventWord(port);
    return word >= 0 && (Atomics.load(this.#i32, word) & FIFO_LINKED) !== 0;
  }

  /** EVTCHNOP_unmask: an event that waited behind the mask is delivered. */
  unmask(port: number): void {
    if (this.#fifo) {
      const word = this.#eventWord(port);
      if (word < 0) return;
      Atomics.and(this.#i32, word, ~FIFO_MASKED);
      if ((Atomics.load(this.#i32, word) & FIFO_PENDING) !== 0) this.#setPendingFifo(port);
      return;
    }
    const bit = 1 << (port & 31);
    const before = Atomics.and(this.#i32, this.#maskWord(port), ~bit);
    if ((before & bit) !== 0 && (Atomics.load(this.#i32, this.#pendingWord(port)) & bit) !== 0) this.#select(port);
  }

  /** Sets a vCPU's `evtchn_upcall_pending`; makes another vCPU look at it. */
  markPending(vcpu: number): void {
    const info = this.#state.vcpuInfo(vcpu);
    if (Atomics.exchange(this.#u8, info + VCPU_INFO.upcallPending, 1) === 0 && vcpu !== this.#self) this.#state.contexts[vcpu].kick();
  }

  /** Index into `i32` of a port's word in the FIFO event array, or -1 while the array does not reach it. */
  #eventWord(port: number): number {
    const page = port >>> 10;
    if (page >= this.#state.get(STATE.fifoPageCount)) return -1;
    const frame = mfn(this.#state.get(STATE.fifoPages + page * 4));
    return (this.#state.memory.frameOffset(frame) >>> 2) + (port % FIFO_WORDS_PER_PAGE);
  }

  get #fifo(): boolean {
    return this.#i32[this.#state.word(STATE.fifoEnabled)] !== 0;
  }

  #notifyVcpu(port: number): number {
    const vcpu = this.#table.get(port, PORT.notifyVcpu);
    return vcpu < this.#state.vcpuCount ? vcpu : 0;
  }

  #pendingWord(port: number): number {
    return ((this.#state.sharedInfo + SHARED_INFO.evtchnPending) >>> 2) + (port >>> 5);
  }
  #maskWord(port: number): number {
    return ((this.#state.sharedInfo + SHARED_INFO.evtchnMask) >>> 2) + (port >>> 5);
  }

  #setPending2l(port: number): boolean {
    const bit = 1 << (port & 31);
    if ((Atomics.or(this.#i32, this.#pendingWord(port), bit) & bit) !== 0) return true;
    if ((Atomics.load(this.#i32, this.#maskWord(port)) & bit) === 0) this.#select(port);
    return false;
  }

  #select(port: number): void {
    const vcpu = this.#notifyVcpu(port);
    const selector = port >>> 6;
    const bit = 1 << (selector & 31);
    const word = ((this.#state.vcpuInfo(vcpu) + VCPU_INFO.pendingSel) >>> 2) + (selector >>> 5);
    if ((Atomics.or(this.#i32, word, bit) & bit) === 0) this.markPending(vcpu);
  }

  #setPendingFifo(port: number): boolean {
    const state = this.#state;
    const word = this.#eventWord(port);
    if (word < 0) {
      this.#table.set(port, PORT.savedPending, 1);
      return true;
    }
    const vcpu = this.#notifyVcpu(port);
    state.lock(STATE.evtchnLock);
    const was = (Atomics.or(this.#i32, word, FIFO_PENDING) & FIFO_PENDING) !== 0;
    const block = state.getVcpu(vcpu, VCPU_STATE.controlBlock);
    let ready = false;
    if (
      block !== 0 &&
      (Atomics.load(this.#i32, word) & FIFO_MASKED) === 0 &&
      (Atomics.or(this.#i32, word, FIFO_LINKED) & FIFO_LINKED) === 0
    ) {
      ready = this.#link(port, vcpu, block);
    }
    state.unlock(STATE.evtchnLock);
    if (ready) this.markPending(vcpu);
    return was;
  }

  /** Appends a freshly LINKED event to its queue; true when the queue was empty and its ready bit was clear. */
  #link(port: number, vcpu: number, block: number): boolean {
    const state = this.#state;
    const priority = this.#table.get(port, PORT.priority) & EVTCHN_FIFO_PRIORITY_MIN;
    const last = this.#table.get(port, PORT.lastQueue);
    const lastTail = state.vcpuWord((last >>> 4) % state.vcpuCount, VCPU_STATE.fifoTails) + (last & 15);
    if (this.#i32[lastTail] === port) this.#i32[lastTail] = 0;
    this.#table.set(port, PORT.lastQueue, vcpu * 16 + priority);
    const tail = state.vcpuWord(vcpu, VCPU_STATE.fifoTails) + priority;
    const tailPort = this.#i32[tail];
    this.#i32[tail] = port;
    if (tailPort !== 0 && this.#setLink(this.#eventWord(tailPort), port)) return false;
    Atomics.store(this.#i32, ((block + FIFO_CONTROL_BLOCK.head) >>> 2) + priority, port);
    const bit = 1 << priority;
    return (Atomics.or(this.#i32, (block + FIFO_CONTROL_BLOCK.ready) >>> 2, bit) & bit) === 0;
  }

  /**
   * Sets the LINK field of a queue's tail while it is LINKED; false when the guest has already taken it off the queue. With the BUSY
   * bit set a well-behaved guest makes no more changes than a few clears, so four attempts are enough; a hostile one loses its event.
   */
  #setLink(word: number, link: number): boolean {
    if (word < 0) return false;
    for (let attempt = 0; attempt < 5; attempt++) {
      const old = Atomics.load(this.#i32, word);
      if ((old & FIFO_LINKED) === 0) {
        if (attempt > 0) Atomics.and(this.#i32, word, ~FIFO_BUSY);
        return false;
      }
      if (Atomics.compareExchange(this.#i32, word, old, (old & ~(FIFO_BUSY | FIFO_LINK_MASK)) | link) === old) return true;
      if (attempt === 0) Atomics.or(this.#i32, word, FIFO_BUSY);
    }
    Atomics.and(this.#i32, word, ~FIFO_BUSY);
    return true;
  }

  #wakePollers(): void {
    const state = this.#state;
    for (let vcpu = 0; vcpu < state.vcpuCount; vcpu++) {
      if (vcpu !== this.#self && state.getVcpu(vcpu, VCPU_STATE.polling) !== 0) state.contexts[vcpu].kick();
    }
  }
}
