// SPDX-License-Identifier: Apache-2.0
/**
 * Hypervisor state that several threads of one VM touch, inside `layout.domainState` of the shared memory.
 *
 * This descriptor is the only place that knows offsets. Multi-byte fields are 32-bit words accessed with Atomics where more than
 * one thread writes, and 64-bit floats for times (nanoseconds below 2^53, written by one thread each).
 *
 * INVARIANT: guest memory never overlaps this block, so nothing here is guest-writable; indexes into it are still bounded by callers.
 */
import { type Mfn, mfn } from '../memory/frames.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { DOMAIN_STATE_BYTES } from '../memory/layout.ts';
import { VcpuContext } from '../memory/vcpu-context.ts';
import { NR_VIRQS, SHARED_INFO, VCPU_INFO, XEN_LEGACY_MAX_VCPUS } from './abi/xen.ts';

/** Ports a domain may have: all of the 2-level ABI, and as many with the FIFO ABI. */
export const MAX_EVTCHN_PORTS = 4096;
export const MAX_VCPUS = XEN_LEGACY_MAX_VCPUS;
export const EVTCHN_RECORD_WORDS = 8;
export const DOM0_PORT_WORDS = 4;
export const CODE_RING_ENTRIES = 1024;
export const MAX_GRANT_ENTRIES = 32768;
/** Grants that a domain may have mapped at a time; a handle takes 16 bytes. */
export const MAX_GRANT_HANDLES = 8192;
export const FIFO_QUEUES = 16;
/** Most frames of the shared grant table (what Xen's tools give a guest by default), and of a version 2 table's status array. */
export const MAX_GRANT_FRAMES = 64;
export const MAX_GRANT_STATUS_FRAMES = 8;
export const FIFO_MAX_PAGES = MAX_EVTCHN_PORTS / 1024;

const KIB = 1024;

/** Byte offsets from `layout.domainState`. */
export const STATE = {
  lifecycle: 0x00,
  shutdownReason: 0x04,
  request: 0x08,
  evtchnLock: 0x0c,
  grantLock: 0x10,
  fifoEnabled: 0x14,
  fifoPageCount: 0x18,
  pollers: 0x1c,
  maxPorts: 0x20,
  grantVersion: 0x24,
  grantFrames: 0x28,
  grantStatusFrames: 0x2c,
  vmAssistLo: 0x30,
  vmAssistHi: 0x34,
  dom0Wake: 0x38,
  domid: 0x3c,
  codeHead: 0x40,
  codeTail: 0x44,
  codeOverflow: 0x48,
  crashLength: 0x4c,
  shutdownCode: 0x50,
  codeLock: 0x54,
  sharedInfoFrame: 0x58,
  fifoPages: 0x60,
  /** f64 clock value at which the guest's time is 0. */
  startNs: 0x100,
  grantFrameList: 0x200,
  grantStatusList: 0x300,
  crashText: 0x800,
  crashBytes: 0x800,
  vcpus: 4 * KIB,
  raised: 20 * KIB,
  contexts: 36 * KIB,
  contextStride: 6 * KIB,
  ports: 256 * KIB,
  dom0Ports: 384 * KIB,
  dom0Pending: 448 * KIB,
  dom0Summary: 448 * KIB + 512,
  codeRing: 452 * KIB,
  grantPins: 480 * KIB,
  maptrack: 608 * KIB,
  end: 736 * KIB,
} as const;

/** Byte offsets inside one vCPU's record of 512 bytes. */
export const VCPU_STATE = {
  stride: 512,
  flags: 0,
  infoHost: 4,
  infoFrame: 8,
  controlBlock: 12,
  controlFrame: 16,
  raisedSummary: 20,
  nmiPending: 36,
  polling: 40,
  runstate: 44,
  timeRequest: 48,
  virqPorts: 64,
  fifoTails: 64 + NR_VIRQS * 4,
  runstateEntry: 256,
  runstateTimes: 264,
  /** f64 guest addresses that another vCPU registered for this one; 0: none. Taken over by its thread. */
  runstateArea: 304,
  timeArea: 312,
  /** i32: a hypervisor frame of the vCPU's own, see `emulate/store-emulator.ts`. */
  scratchFrame: 320,
} as const;

/** Of xen public/vcpu.h; every vCPU is that until it runs. */
const RUNSTATE_offline = 3;

export const VCPU_INITIALISED = 1;
export const VCPU_UP = 2;

export const LIFECYCLE = { building: 0, running: 1, paused: 2, shutdown: 3, crashed: 4 } as const;
export type Lifecycle = (typeof LIFECYCLE)[keyof typeof LIFECYCLE];

/** Bits of the request word. */
export const REQUEST_PAUSE = 1;
export const REQUEST_STOP = 2;
/** To a suspended domain: go on. */
export const REQUEST_CONTINUE = 4;

if (STATE.end > DOMAIN_STATE_BYTES) throw new Error('the shared state block is too small');

/** Where hypervisor frames come from (`mm/xen-frames.ts`). */
export interface SharedFrameSource {
  alloc(): Mfn;
  shareWithGuest(frame: Mfn, share: { readonly writable: boolean }): void;
}

/** One thread's view of the block. */
export class SharedState {
  readonly memory: GuestMemory;
  readonly vcpuCount: number;
  readonly i32: Int32Array;
  readonly u8: Uint8Array;
  readonly contexts: readonly VcpuContext[];
  readonly #base: number;
  readonly #f64: Float64Array;

  constructor(memory: GuestMemory) {
    this.memory = memory;
    this.vcpuCount = Math.min(memory.layout.shape.vcpus, MAX_VCPUS);
    this.i32 = memory.i32;
    this.u8 = memory.u8;
    this.#base = memory.layout.domainState;
    this.#f64 = new Float64Array(memory.buffer, this.#base, DOMAIN_STATE_BYTES / 8);
    this.contexts = Array.from({ length: this.vcpuCount }, (_, id) => new VcpuContext(memory.buffer, memory.layout.vcpuContext(id)));
  }

  /** Index into `i32` of a field of `STATE`, for Atomics. */
  word(offset: number): number {
    return (this.#base + offset) >>> 2;
  }
  /** Index into `i32` of a vCPU's field of `VCPU_STATE`. */
  vcpuWord(vcpu: number, offset: number): number {
    return (this.#base + STATE.vcpus + vcpu * VCPU_STATE.stride + offset) >>> 2;
  }
  /** Byte offset in the shared buffer of a field of `STATE`. */
  byte(offset: number): number {
    return this.#base + offset;
  }
  get(offset: number): number {
    return Atomics.load(this.i32, this.word(offset));
  }
  set(offset: number, value: number): void {
    Atomics.store(this.i32, this.word(offset), value);
  }
  getVcpu(vcpu: number, offset: number): number {
    return Atomics.load(this.i32, this.vcpuWord(vcpu, offset));
  }
  setVcpu(vcpu: number, offset: number, value: number): void {
    Atomics.store(this.i32, this.vcpuWord(vcpu, offset), value);
  }
  getF64(offset: number): number {
    return this.#f64[offset >>> 3];
  }
  setF64(offset: number, value: number): void {
    this.#f64[offset >>> 3] = value;
  }
  getVcpuF64(vcpu: number, offset: number): number {
    return this.#f64[(STATE.vcpus + vcpu * VCPU_STATE.stride + offset) >>> 3];
  }
  setVcpuF64(vcpu: number, offset: number, value: number): void {
    this.#f64[(STATE.vcpus + vcpu * VCPU_STATE.stride + offset) >>> 3] = value;
  }

  get lifecycle(): Lifecycle {
    return this.get(STATE.lifecycle) as Lifecycle;
  }
  get sharedInfoFrame(): Mfn {
    return mfn(this.i32[this.word(STATE.sharedInfoFrame)]);
  }
  /** Frame `index` of the grant table (below MAX_GRANT_FRAMES) or of its status array (below MAX_GRANT_STATUS_FRAMES). */
  grantFrame(index: number): Mfn {
    return mfn(this.i32[this.word(STATE.grantFrameList + index * 4)]);
  }
  grantStatusFrame(index: number): Mfn {
    return mfn(this.i32[this.word(STATE.grantStatusList + index * 4)]);
  }
  /** Byte offset in the shared buffer of the shared info frame. */
  get sharedInfo(): number {
    return this.memory.frameOffset(this.sharedInfoFrame);
  }
  /** Byte offset in the shared buffer of a vCPU's `vcpu_info`. */
  vcpuInfo(vcpu: number): number {
    return this.i32[this.vcpuWord(vcpu, VCPU_STATE.infoHost)];
  }
  vmAssist(type: number): boolean {
    return type < 32 ? (this.get(STATE.vmAssistLo) & (1 << type)) !== 0 : (this.get(STATE.vmAssistHi) & (1 << (type - 32))) !== 0;
  }

  /**
   * Sets the block and shared info to the state of a new domain, taking the hypervisor frames it shares with the guest from `frames`.
   * Called once, by the thread that builds the domain.
   */
  initialise(config: { readonly domid: number; readonly maxPorts: number; readonly startNs: number }, frames: SharedFrameSource): void {
    const base = this.#base;
    this.u8.fill(0, base, base + STATE.end);
    const take = (offset: number): void => {
      const frame = frames.alloc();
      frames.shareWithGuest(frame, { writable: true });
      this.set(offset, frame);
    };
    take(STATE.sharedInfoFrame);
    for (let i = 0; i < MAX_GRANT_FRAMES; i++) take(STATE.grantFrameList + i * 4);
    for (let i = 0; i < MAX_GRANT_STATUS_FRAMES; i++) take(STATE.grantStatusList + i * 4);
    const { domid, maxPorts, startNs } = config;
    const info = this.sharedInfo;
    this.u8.fill(0, info, info + 4096);
    this.set(STATE.domid, domid);
    this.set(STATE.maxPorts, Math.min(Math.max(maxPorts, 64), MAX_EVTCHN_PORTS));
    this.set(STATE.shutdownReason, -1);
    this.set(STATE.shutdownCode, -1);
    this.set(STATE.grantVersion, 1);
    this.set(STATE.grantFrames, 1);
    this.setF64(STATE.startNs, startNs);
    for (let id = 0; id < MAX_VCPUS; id++) {
      this.u8[info + SHARED_INFO.vcpuInfo + id * VCPU_INFO.size + VCPU_INFO.upcallMask] = 1;
    }
    for (let id = 0; id < this.vcpuCount; id++) {
      this.setVcpu(id, VCPU_STATE.infoHost, info + SHARED_INFO.vcpuInfo + id * VCPU_INFO.size);
      this.setVcpu(id, VCPU_STATE.infoFrame, -1);
      this.setVcpu(id, VCPU_STATE.controlFrame, -1);
      this.setVcpu(id, VCPU_STATE.scratchFrame, frames.alloc());
      this.setVcpu(id, VCPU_STATE.runstate, RUNSTATE_offline);
    }
    this.setVcpu(0, VCPU_STATE.flags, VCPU_INITIALISED | VCPU_UP);
  }

  /** Makes every vCPU leave guest code and look at the shared state. */
  kickAll(): void {
    for (const context of this.contexts) context.kick();
  }

  /**
   * Takes a lock word of `STATE`. Held for microseconds only, never while guest code runs; a holder that was descheduled is waited for.
   */
  lock(offset: number): void {
    const word = this.word(offset);
    for (let spins = 0; Atomics.compareExchange(this.i32, word, 0, 1) !== 0; spins++) {
      if (spins > 1000) Atomics.wait(this.i32, word, 1, 1);
    }
  }
  unlock(offset: number): void {
    const word = this.word(offset);
    Atomics.store(this.i32, word, 0);
    Atomics.notify(this.i32, word, 1);
  }

  /** Changes the lifecycle to an end state once; the first reason wins. Wakes everybody who waits for it. */
  end(state: Lifecycle, reason: number): boolean {
    if (Atomics.compareExchange(this.i32, this.word(STATE.shutdownReason), -1, reason) !== -1) return false;
    this.set(STATE.lifecycle, state);
    Atomics.notify(this.i32, this.word(STATE.lifecycle));
    this.kickAll();
    return true;
  }
  /** The domain goes on after a suspend (cancelled, or restored). */
  unend(): void {
    this.set(STATE.lifecycle, LIFECYCLE.running);
    this.set(STATE.shutdownReason, -1);
    Atomics.notify(this.i32, this.word(STATE.lifecycle));
  }
}
