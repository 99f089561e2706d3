// SPDX-License-Identifier: Apache-2.0
/**
 * References and typed references on frames: the heart of PV memory safety.
 *
 * A frame has one type at a time. The first typed reference gives it the type: page tables and descriptor tables are checked then
 * (`TypeChecks.promote`), the last one ends it (`TypeChecks.demote`, which drops what the table's entries held). A frame whose
 * allocation was given up is freed with its last reference.
 *
 * INVARIANT: whoever holds a typed reference also holds a reference.
 * INVARIANT: checking descends through strictly smaller types (L4, L3, L2, L1, writable), so it never meets a frame that is itself
 * being checked under the same type, and nests at most five deep.
 */
import type { Mfn } from '../../memory/frames.ts';
import { EINVAL } from '../errno.ts';
import { FRAME_TYPE, type FrameTable, type FrameType, OWNER } from './frame-table.ts';
import type { M2p } from './m2p.ts';
import type { MmState } from './mm-state.ts';
import type { TlbControl } from './tlb.ts';

/** What makes the content of a frame fit for a type; see `promote.ts`. */
export interface TypeChecks {
  /** Checks every entry and takes the references that they stand for. 0, or a negative error with nothing taken. */
  promote(frame: Mfn, type: FrameType): number;
  /** Drops the references that the entries stand for. */
  demote(frame: Mfn, type: FrameType): void;
}

export class PageTypes {
  /** Set once, right after construction. */
  checks: TypeChecks | null = null;
  readonly #frames: FrameTable;
  readonly #state: MmState;
  readonly #tlb: TlbControl;
  readonly #m2p: M2p;

  constructor(frames: FrameTable, state: MmState, tlb: TlbControl, m2p: M2p) {
    this.#frames = frames;
    this.#state = state;
    this.#tlb = tlb;
    this.#m2p = m2p;
  }

  /** Takes a reference when `frame` exists and the guest may refer to it. GUEST: any number. */
  getPage(frame: number): frame is Mfn {
    const frames = this.#frames;
    if (!frames.valid(frame) || !frames.guestMayUse(frame)) return false;
    frames.setRefs(frame, frames.refs(frame) + 1);
    return true;
  }

  /** Drops a reference; frees the frame with the last one. */
  putPage(frame: Mfn): void {
    const frames = this.#frames;
    const refs = frames.refs(frame) - 1;
    frames.setRefs(frame, refs);
    if (refs === 0) this.#free(frame);
  }

  /** Takes a typed reference; the caller holds a reference already. 0 or -EINVAL (wrong type, content refused) or the check's error. */
  getType(frame: Mfn, type: FrameType): number {
    const frames = this.#frames;
    const count = frames.typeCount(frame);
    if (count !== 0) {
      if (frames.lastType(frame) !== type || !frames.validated(frame)) return -EINVAL;
      frames.setTypeCount(frame, count + 1);
      return 0;
    }
    if (frames.lastType(frame) !== type) {
      this.#tlb.flushIfStale(frames.stamp(frame));
      frames.setType(frame, type);
    }
    frames.setTypeCount(frame, 1);
    if (type !== FRAME_TYPE.writable) {
      // The count is up before the check, so that an entry that points back at this very table under another type is refused.
      const rc = (this.checks as TypeChecks).promote(frame, type);
      if (rc !== 0) {
        frames.setType(frame, FRAME_TYPE.none);
        frames.setTypeCount(frame, 0);
        return rc;
      }
    }
    frames.setValidated(frame, true);
    return 0;
  }

  /** Drops a typed reference; the caller still holds a reference. */
  putType(frame: Mfn): void {
    const frames = this.#frames;
    const count = frames.typeCount(frame) - 1;
    if (count === 0) {
      const type = frames.lastType(frame);
      if (type >= FRAME_TYPE.l1 && type <= FRAME_TYPE.l4) {
        frames.setValidated(frame, false);
        (this.checks as TypeChecks).demote(frame, type);
      } else if (type === FRAME_TYPE.segdesc) {
        frames.setValidated(frame, false);
      }
      frames.setStamp(frame, this.#state.flushClock);
    }
    frames.setTypeCount(frame, count);
  }

  /** Takes a reference and a typed one. 0, -EINVAL, or the check's error. GUEST: any number. */
  getPageAndType(frame: number, type: FrameType): number {
    if (!this.getPage(frame)) return -EINVAL;
    const rc = this.getType(frame, type);
    if (rc !== 0) this.putPage(frame);
    return rc;
  }

  putPageAndType(frame: Mfn): void {
    this.putType(frame);
    this.putPage(frame);
  }

  #free(frame: Mfn): void {
    this.#frames.reset(frame, OWNER.free);
    this.#m2p.invalidate(frame);
    this.#state.reservation -= 1;
  }
}
