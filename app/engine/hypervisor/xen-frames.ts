// SPDX-License-Identifier: Apache-2.0
/**
 * Which of the frames behind the guest's own memory serve which purpose.
 *
 * Frames `guestFrames .. frameCount-1` belong to the hypervisor. The first ones are shared with the guest for reading and
 * writing (shared info, grant table); what follows (`firstFree`) belongs to the PV MMU (machine-to-physical table).
 */
import { type Mfn, mfn } from '../memory/frames.ts';
import type { MemoryShape } from '../memory/layout.ts';

/** Most frames of the shared grant table, as Xen's tools configure a guest by default. */
export const MAX_GRANT_FRAMES = 64;
/** Status frames for a version 2 table of that size: 256 entries a frame, two bytes each. */
export const MAX_GRANT_STATUS_FRAMES = (MAX_GRANT_FRAMES * 256 * 2) / 4096;

export interface XenFrames {
  readonly sharedInfo: Mfn;
  /** First of `MAX_GRANT_FRAMES` consecutive frames. */
  readonly grantTable: Mfn;
  /** First of `MAX_GRANT_STATUS_FRAMES` consecutive frames. */
  readonly grantStatus: Mfn;
  /** First frame that this plan does not use. */
  readonly firstFree: Mfn;
}

/** Hypervisor frames that every guest needs beside the PV MMU's. */
export const SHARED_XEN_FRAMES = 1 + MAX_GRANT_FRAMES + MAX_GRANT_STATUS_FRAMES;

export function xenFrames(shape: Pick<MemoryShape, 'guestFrames'>): XenFrames {
  const first = shape.guestFrames;
  return {
    sharedInfo: mfn(first),
    grantTable: mfn(first + 1),
    grantStatus: mfn(first + 1 + MAX_GRANT_FRAMES),
    firstFree: mfn(first + SHARED_XEN_FRAMES),
  };
}

/** May the guest map `frame` for reading and writing although it belongs to the hypervisor? */
export function isSharedXenFrame(shape: Pick<MemoryShape, 'guestFrames'>, frame: number): boolean {
  return frame >= shape.guestFrames && frame < shape.guestFrames + SHARED_XEN_FRAMES;
}
