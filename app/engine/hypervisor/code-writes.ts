// SPDX-License-Identifier: Apache-2.0
/**
 * How the I/O thread tells a vCPU thread that it wrote into frames from which code was translated: a ring of frame numbers in shared
 * memory. When the ring is full, the order is to drop the code of every frame.
 *
 * INVARIANT: an entry is in the ring before the event that tells the guest of the write, and the vCPU drains the ring before it makes
 * events pending. So the guest cannot learn of new code and run the old.
 * Left out: machines with several vCPUs need one ring each; today the first vCPU's thread drains.
 */
import type { Vcpu } from '../accel/accelerator.ts';
import { mfn, PAGE_SIZE } from '../memory/frames.ts';
import { CODE_RING_ENTRIES, type SharedState, STATE } from './shared-state.ts';

/** Connects a non-vCPU thread's writes through `GuestMemory` to the ring. */
export function reportCodeWrites(state: SharedState): void {
  state.memory.onCodeWrite = (frame) => queueCodeWrite(state, frame);
}

export function queueCodeWrite(state: SharedState, frame: number): void {
  state.lock(STATE.codeLock);
  const head = state.get(STATE.codeHead);
  const next = (head + 1) % CODE_RING_ENTRIES;
  if (next === state.get(STATE.codeTail)) {
    state.set(STATE.codeOverflow, 1);
  } else {
    state.set(STATE.codeRing + head * 4, frame);
    state.set(STATE.codeHead, next);
  }
  state.unlock(STATE.codeLock);
  state.contexts[0].kick();
}

/** Drops the code of every frame in the ring. On the vCPU's thread, before events are made pending. */
export function drainCodeWrites(state: SharedState, vcpu: Vcpu): void {
  if (state.get(STATE.codeHead) === state.get(STATE.codeTail) && state.get(STATE.codeOverflow) === 0) return;
  state.lock(STATE.codeLock);
  if (Atomics.exchange(state.i32, state.word(STATE.codeOverflow), 0) !== 0) {
    state.set(STATE.codeTail, state.get(STATE.codeHead));
    dropAll(state, vcpu);
  }
  let tail = state.get(STATE.codeTail);
  while (tail !== state.get(STATE.codeHead)) {
    vcpu.invalidateCode(mfn(state.get(STATE.codeRing + tail * 4)), 0, PAGE_SIZE);
    tail = (tail + 1) % CODE_RING_ENTRIES;
  }
  state.set(STATE.codeTail, tail);
  state.unlock(STATE.codeLock);
}

function dropAll(state: SharedState, vcpu: Vcpu): void {
  const { codeFlags } = state.memory.layout;
  for (let frame = 0; frame < state.memory.frameCount; frame++) {
    if (state.u8[codeFlags + frame] !== 0) vcpu.invalidateCode(mfn(frame), 0, PAGE_SIZE);
  }
}
