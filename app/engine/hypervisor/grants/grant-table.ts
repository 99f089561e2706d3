// SPDX-License-Identifier: Apache-2.0
/**
 * A domain's grant table: entries in frames that the guest shares, and our own record of what is in use
 * (xen public/grant_table.h, versions 1 and 2). Used by the vCPU threads and by dom0's side on the I/O thread.
 *
 * A grant in use is pinned: readers in the low half, writers in the high half of a word in shared state. While pins exist the
 * entry shows GTF_reading or GTF_writing (version 2: in the status array), so that the guest knows that it must wait.
 *
 * GUEST: entries change under our feet. An entry is read once into locals and the in-use flags are set by compare-exchange on the
 * word that also holds type and domain, so what was checked is what was marked. References and frames are bounded.
 * Left out: transitive grants and transfers.
 */
import {
  GNTST_bad_gntref,
  GNTST_bad_page,
  GNTST_eagain,
  GNTST_general_error,
  GNTST_okay,
  GNTST_permission_denied,
  GNTTAB_NR_RESERVED_ENTRIES,
  GTF_permit_access,
  GTF_reading,
  GTF_readonly,
  GTF_sub_page,
  GTF_type_mask,
  GTF_writing,
} from '../abi/grant-table.ts';
import { EBUSY, EINVAL } from '../errno.ts';
import { PAGE_SIZE } from '../../memory/frames.ts';
import { MAX_GRANT_ENTRIES, MAX_GRANT_FRAMES, MAX_GRANT_STATUS_FRAMES, type SharedState, STATE } from '../shared-state.ts';

const READERS = 0xffff;
const WRITER = 0x1_0000;
/** Attempts to mark an entry before a guest that keeps changing it is told to try again. */
const ATTEMPTS = 4;

/** What an acquired grant allows. Plain output record, reused by its owner. */
export interface GrantAccess {
  frame: number;
  /** Bytes of the frame that may be touched. */
  offset: number;
  length: number;
  readonly: boolean;
}

export class GrantTable {
  readonly #state: SharedState;
  readonly #i32: Int32Array;
  readonly #u16: Uint16Array;

  constructor(state: SharedState) {
    this.#state = state;
    this.#i32 = state.i32;
    this.#u16 = state.memory.u16;
  }

  get version(): number {
    return this.#state.get(STATE.grantVersion);
  }
  get frames(): number {
    return this.#state.get(STATE.grantFrames);
  }
  get statusFrames(): number {
    return this.#state.get(STATE.grantStatusFrames);
  }
  /** References below this exist. */
  get entries(): number {
    return Math.min(this.frames * (PAGE_SIZE / this.#entryBytes), MAX_GRANT_ENTRIES);
  }

  /** Makes the table at least `frames` long; false when that is more than a domain may have. */
  grow(frames: number): boolean {
    if (!(frames <= MAX_GRANT_FRAMES)) return false;
    this.#locked(() => {
      if (frames > this.frames) this.#state.set(STATE.grantFrames, frames);
      if (this.version === 2) this.#state.set(STATE.grantStatusFrames, this.#statusFramesFor(this.frames));
    });
    return true;
  }

  /** GNTTABOP_set_version: 0 or a negated error number. Reserved entries survive; all others must be unused and are cleared. */
  setVersion(version: number): number {
    if (version !== 1 && version !== 2) return -EINVAL;
    return this.#locked(() => {
      if (version === this.version) return 0;
      for (let ref = GNTTAB_NR_RESERVED_ENTRIES; ref < this.entries; ref++) if (this.#pins(ref) !== 0) return -EBUSY;
      const kept: { flags: number; domid: number; frame: number }[] = [];
      for (let ref = 0; ref < GNTTAB_NR_RESERVED_ENTRIES; ref++) {
        const head = this.#i32[this.#head(ref)];
        const status = this.version === 2 ? this.#u16[this.#statusHalf(ref)] : 0;
        kept.push({ flags: (head & 0xffff) | status, domid: head >>> 16, frame: this.#frameOf(ref) });
      }
      for (let i = 0; i < MAX_GRANT_FRAMES; i++) this.#state.memory.frame(this.#state.grantFrame(i)).fill(0);
      for (let i = 0; i < MAX_GRANT_STATUS_FRAMES; i++) this.#state.memory.frame(this.#state.grantStatusFrame(i)).fill(0);
      this.#state.set(STATE.grantVersion, version);
      this.#state.set(STATE.grantStatusFrames, version === 2 ? this.#statusFramesFor(this.frames) : 0);
      kept.forEach((entry, ref) => {
        const permitted = (entry.flags & GTF_type_mask) === GTF_permit_access && (entry.flags & GTF_sub_page) === 0;
        if (permitted && Number.isFinite(entry.frame)) this.#write(ref, entry.flags, entry.domid, entry.frame);
      });
      return 0;
    });
  }

  /** Fills an entry on behalf of the domain builder: full access to `frame` for `domid`. */
  grant(ref: number, domid: number, frame: number): void {
    if (ref >= 0 && ref < this.entries) this.#write(ref, GTF_permit_access, domid, frame);
  }

  /**
   * Takes `ref` into use for domain `domid`: GNTST_okay and `out`, or an error status. Every success is paired with one `release`.
   * `whole` asks for the whole frame, as a mapping does; a copy may use a part.
   */
  acquire(ref: number, domid: number, write: boolean, whole: boolean, out: GrantAccess): number {
    if (!(ref >= 0 && ref < this.entries)) return GNTST_bad_gntref;
    return this.#locked(() => {
      const pins = this.#pins(ref);
      if ((pins & READERS) === READERS || pins >>> 16 === READERS) return GNTST_eagain;
      const marked = this.#mark(ref, domid, write, whole);
      if (marked !== GNTST_okay) return marked;
      const frame = this.#frameOf(ref);
      if (!(frame >= 0 && frame < this.#state.memory.layout.shape.guestFrames)) {
        this.#unmark(ref, pins);
        return GNTST_bad_page;
      }
      const head = this.#i32[this.#head(ref)];
      out.frame = frame;
      out.readonly = (head & GTF_readonly) !== 0;
      out.offset = 0;
      out.length = PAGE_SIZE;
      if (this.version === 2 && (head & GTF_sub_page) !== 0) {
        const range = this.#i32[this.#head(ref) + 1];
        out.offset = range & 0xffff;
        out.length = range >>> 16;
        if (out.offset + out.length > PAGE_SIZE) {
          this.#unmark(ref, pins);
          return GNTST_general_error;
        }
      }
      this.#setPins(ref, pins + (write ? WRITER : 1));
      return GNTST_okay;
    });
  }

  release(ref: number, write: boolean): void {
    if (!(ref >= 0 && ref < MAX_GRANT_ENTRIES)) return;
    this.#locked(() => {
      const pins = this.#pins(ref);
      const left = write ? (pins >>> 16 === 0 ? pins : pins - WRITER) : (pins & READERS) === 0 ? pins : pins - 1;
      this.#setPins(ref, left);
      this.#unmark(ref, left);
    });
  }

  /** GNTTABOP_swap_grant_ref. */
  swap(a: number, b: number): number {
    const limit = this.entries;
    if (!(a < limit) || !(b < limit)) return GNTST_bad_gntref;
    return this.#locked(() => {
      if (this.#pins(a) !== 0 || this.#pins(b) !== 0) return GNTST_eagain;
      for (let word = 0; word < this.#entryBytes / 4; word++) {
        const kept = this.#i32[this.#head(a) + word];
        this.#i32[this.#head(a) + word] = this.#i32[this.#head(b) + word];
        this.#i32[this.#head(b) + word] = kept;
      }
      return GNTST_okay;
    });
  }

  /** How often `ref` is in use. */
  uses(ref: number): number {
    const pins = this.#pins(ref);
    return (pins & READERS) + (pins >>> 16);
  }

  get #entryBytes(): number {
    return this.version === 2 ? 16 : 8;
  }

  #statusFramesFor(frames: number): number {
    return Math.min(Math.ceil((frames * (PAGE_SIZE / 16) * 2) / PAGE_SIZE), MAX_GRANT_STATUS_FRAMES);
  }

  /** Index into `i32` of the word with flags (low half) and domain (high half) of an entry. */
  #head(ref: number): number {
    const perFrame = PAGE_SIZE / this.#entryBytes;
    const frame = this.#state.grantFrame(Math.floor(ref / perFrame));
    return (this.#state.memory.frameOffset(frame) + (ref % perFrame) * this.#entryBytes) >>> 2;
  }

  /** Index into `u16` of the version 2 status of an entry. */
  #statusHalf(ref: number): number {
    const frame = this.#state.grantStatusFrame(Math.floor(ref / (PAGE_SIZE / 2)));
    return (this.#state.memory.frameOffset(frame) >>> 1) + (ref % (PAGE_SIZE / 2));
  }

  #frameOf(ref: number): number {
    const head = this.#head(ref);
    if (this.version === 1) return this.#i32[head + 1] >>> 0;
    const high = this.#i32[head + 3];
    return high === 0 ? this.#i32[head + 2] >>> 0 : Number.POSITIVE_INFINITY;
  }

  #write(ref: number, flags: number, domid: number, frame: number): void {
    const head = this.#head(ref);
    if (this.version === 1) {
      this.#i32[head + 1] = frame;
      this.#i32[head] = (domid << 16) | (flags & 0xffff);
      return;
    }
    this.#i32[head + 1] = 0;
    this.#i32[head + 2] = frame;
    this.#i32[head + 3] = 0;
    this.#u16[this.#statusHalf(ref)] = flags & (GTF_reading | GTF_writing);
    this.#i32[head] = (domid << 16) | (flags & 0xffff & ~(GTF_reading | GTF_writing));
  }

  #pins(ref: number): number {
    return this.#i32[this.#state.word(STATE.grantPins) + ref];
  }
  #setPins(ref: number, pins: number): void {
    this.#i32[this.#state.word(STATE.grantPins) + ref] = pins;
  }

  /** Checks an entry and sets its in-use flags in one atomic step. */
  #mark(ref: number, domid: number, write: boolean, whole: boolean): number {
    const head = this.#head(ref);
    const add = GTF_reading | (write ? GTF_writing : 0);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const seen = Atomics.load(this.#i32, head);
      if ((seen & GTF_type_mask) !== GTF_permit_access || seen >>> 16 !== domid) return GNTST_general_error;
      if (whole && this.version === 2 && (seen & GTF_sub_page) !== 0) return GNTST_general_error;
      if (write && (seen & GTF_readonly) !== 0) return GNTST_permission_denied;
      if (this.version === 2) {
        this.#or16(this.#statusHalf(ref), add);
        // The guest revokes by clearing flags and then reading the status: look again after the status is set.
        if (Atomics.load(this.#i32, head) === seen) return GNTST_okay;
        this.#unmark(ref, this.#pins(ref));
        continue;
      }
      if (Atomics.compareExchange(this.#i32, head, seen, seen | add) === seen) return GNTST_okay;
    }
    return GNTST_eagain;
  }

  /** Takes back the in-use flags that `pins` no longer justify. */
  #unmark(ref: number, pins: number): void {
    const drop = pins === 0 ? GTF_reading | GTF_writing : pins >>> 16 === 0 ? GTF_writing : 0;
    if (drop === 0 || ref >= this.entries) return;
    if (this.version === 2) Atomics.and(this.#u16, this.#statusHalf(ref), ~drop & 0xffff);
    else Atomics.and(this.#i32, this.#head(ref), ~drop);
  }

  #or16(index: number, bits: number): void {
    Atomics.or(this.#u16, index, bits);
  }

  #locked<T>(action: () => T): T {
    this.#state.lock(STATE.grantLock);
    try {
      return action();
    } finally {
      this.#state.unlock(STATE.grantLock);
    }
  }
}
