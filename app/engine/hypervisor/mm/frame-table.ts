// SPDX-License-Identifier: Apache-2.0
/**
 * One 16-byte record for each machine frame, in shared memory at `layout.frameTable`.
 *
 * A record says who owns the frame, what it is used as, how many uses of that type there are (type count), and how many
 * references of any kind (reference count). The vocabulary is that of the PV memory-management contract in xen public/xen.h:
 * a frame is a page table, a descriptor table or writable, never two of these at once.
 *
 * INVARIANT: a free frame has reference count 0; an owned frame holds one reference for its allocation (`ALLOCATED`).
 * INVARIANT: type count <= reference count. The type field is meaningful only while the type count is above zero; after that
 * it names the last type, which decides whether a type change needs a TLB flush (`stamp`).
 *
 * Accessors are unchecked: callers bound frame numbers with `valid` first. All writers hold the memory lock of `MmState`.
 */
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { FRAME_INFO_BYTES } from '../../memory/layout.ts';

/** What a frame is used as. L1..L4 are their own level numbers. */
export const FRAME_TYPE = { none: 0, l1: 1, l2: 2, l3: 3, l4: 4, segdesc: 5, writable: 7 } as const;
export type FrameType = (typeof FRAME_TYPE)[keyof typeof FRAME_TYPE];

export const FRAME_TYPE_NAMES: readonly string[] = ['none', 'l1', 'l2', 'l3', 'l4', 'segdesc', '?', 'writable'];

export const OWNER = { free: 0, guest: 1, xen: 2 } as const;
export type Owner = (typeof OWNER)[keyof typeof OWNER];

const TYPE_MASK = 0xf;
/** The content was checked for the type. */
const VALIDATED = 0x10;
/** The guest holds a persistent type reference (MMUEXT_PIN_L*_TABLE). */
const PINNED = 0x20;
/** The allocation's own reference is still held. */
const ALLOCATED = 0x40;
/** A hypervisor frame that the guest may map. */
const SHARED = 0x80;
const OWNER_SHIFT = 8;
const OWNER_MASK = 3 << OWNER_SHIFT;

const WORDS = FRAME_INFO_BYTES / 4;
const INFO = 0;
const TYPE_COUNT = 1;
const REFS = 2;
const STAMP = 3;

export class FrameTable {
  /** Frames below this number have records. */
  readonly frameCount: number;
  readonly #u32: Uint32Array;
  readonly #base: number;

  constructor(memory: GuestMemory) {
    this.frameCount = memory.frameCount;
    this.#u32 = memory.u32;
    this.#base = memory.layout.frameTable >>> 2;
  }

  /** Whether `frame` names a frame at all. False for NaN, fractions excepted: callers pass integers. */
  valid(frame: number): boolean {
    return frame >= 0 && frame < this.frameCount;
  }

  /** Forgets everything about `frame` and gives it to `owner`, with the allocation's reference unless the owner is `free`. */
  reset(frame: number, owner: Owner): void {
    const at = this.#base + frame * WORDS;
    this.#u32[at + INFO] = (owner << OWNER_SHIFT) | (owner === OWNER.free ? 0 : ALLOCATED);
    this.#u32[at + TYPE_COUNT] = 0;
    this.#u32[at + REFS] = owner === OWNER.free ? 0 : 1;
  }

  owner(frame: number): Owner {
    return ((this.#u32[this.#base + frame * WORDS] & OWNER_MASK) >>> OWNER_SHIFT) as Owner;
  }

  /** What the frame is in use as now: `none` when nothing uses it under a type. */
  type(frame: number): FrameType {
    const at = this.#base + frame * WORDS;
    return (this.#u32[at + TYPE_COUNT] === 0 ? 0 : this.#u32[at] & TYPE_MASK) as FrameType;
  }

  /** The type field itself: the type in use, or the last one. */
  lastType(frame: number): FrameType {
    return (this.#u32[this.#base + frame * WORDS] & TYPE_MASK) as FrameType;
  }

  setType(frame: number, type: FrameType): void {
    const at = this.#base + frame * WORDS;
    this.#u32[at] = (this.#u32[at] & ~(TYPE_MASK | VALIDATED)) | type;
  }

  validated(frame: number): boolean {
    return (this.#u32[this.#base + frame * WORDS] & VALIDATED) !== 0;
  }
  setValidated(frame: number, on: boolean): void {
    this.#flag(frame, VALIDATED, on);
  }

  pinned(frame: number): boolean {
    return (this.#u32[this.#base + frame * WORDS] & PINNED) !== 0;
  }
  setPinned(frame: number, on: boolean): void {
    this.#flag(frame, PINNED, on);
  }

  allocated(frame: number): boolean {
    return (this.#u32[this.#base + frame * WORDS] & ALLOCATED) !== 0;
  }
  setAllocated(frame: number, on: boolean): void {
    this.#flag(frame, ALLOCATED, on);
  }

  shared(frame: number): boolean {
    return (this.#u32[this.#base + frame * WORDS] & SHARED) !== 0;
  }
  setShared(frame: number, on: boolean): void {
    this.#flag(frame, SHARED, on);
  }

  typeCount(frame: number): number {
    return this.#u32[this.#base + frame * WORDS + TYPE_COUNT];
  }
  setTypeCount(frame: number, count: number): void {
    this.#u32[this.#base + frame * WORDS + TYPE_COUNT] = count;
  }

  refs(frame: number): number {
    return this.#u32[this.#base + frame * WORDS + REFS];
  }
  setRefs(frame: number, count: number): void {
    this.#u32[this.#base + frame * WORDS + REFS] = count;
  }

  /** Flush clock at the moment the type count last fell to zero. */
  stamp(frame: number): number {
    return this.#u32[this.#base + frame * WORDS + STAMP];
  }
  setStamp(frame: number, stamp: number): void {
    this.#u32[this.#base + frame * WORDS + STAMP] = stamp;
  }

  /** Whether the guest may refer to `frame` at all: its own, or a hypervisor frame that is shared with it. `frame` must be valid. */
  guestMayUse(frame: number): boolean {
    const at = this.#base + frame * WORDS;
    const info = this.#u32[at];
    const owner = (info & OWNER_MASK) >>> OWNER_SHIFT;
    return this.#u32[at + REFS] !== 0 && (owner === OWNER.guest || (owner === OWNER.xen && (info & SHARED) !== 0));
  }

  #flag(frame: number, bit: number, on: boolean): void {
    const at = this.#base + frame * WORDS;
    this.#u32[at] = on ? this.#u32[at] | bit : this.#u32[at] & ~bit;
  }
}
