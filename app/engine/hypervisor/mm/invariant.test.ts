// SPDX-License-Identifier: Apache-2.0
/**
 * A guest that tries everything at random: after each step all references are recounted from scratch, and no translation that the
 * vCPU still holds may let the guest write to a table.
 */
import { describe, expect, it } from 'vitest';
import { ACCESS, SPACE } from '../../accel/accelerator.ts';
import { type Mfn, mfn } from '../../memory/frames.ts';
import { auditFrames, type Holder } from './audit.ts';
import { DOMID_SELF } from './context.ts';
import { FRAME_TYPE } from './frame-table.ts';
import { XENMEM_decrease_reservation, XENMEM_exchange, XENMEM_populate_physmap } from './memory-op.ts';
import * as ext from './mmuext.ts';
import { UVMF_INVLPG } from './update-va-mapping.ts';
import { L1, L3, L4, pte, REQUESTS, RO, RW, TABLE, TestGuest } from './test-guest.ts';

const GUEST_FRAMES = 32;
/** Frames that most actions are about. */
const FIRST = 8;
const ARENA = 12;
const STEPS = 2000;

/** A small linear congruential generator: the seed of a failing run is in the test's name. */
class Dice {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  below(limit: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * limit);
  }
  of<T>(list: readonly T[]): T {
    return list[this.below(list.length)];
  }
}

const FLAGS = [0, 1, 2, 3, 5, 7, RO, RO, RW, RW, TABLE, TABLE, 0x83, 0x107, 0x0e7];
const HIGH = [0, 0, 0, 0x8000_0000, 0x0010_0000, 0x8000_0001];
const SLOTS = [0, 1, 2, 3, 255, 256, 257, 271, 272, 511];

class RandomGuest {
  readonly guest = TestGuest.running(GUEST_FRAMES);
  readonly holders: Holder[] = [];
  readonly dice: Dice;
  readonly #shared: readonly [Mfn, Mfn];

  constructor(dice: Dice) {
    this.dice = dice;
    const xen = this.guest.mmu.xenFrames;
    this.#shared = [xen.alloc(), xen.alloc()];
    xen.shareWithGuest(this.#shared[0], { writable: true });
    xen.shareWithGuest(this.#shared[1], { writable: false });
    this.guest.mmu.setWritablePagetables(true);
  }

  /** False once the guest has unmapped the page that its requests stand in: nothing more can come of it. */
  get alive(): boolean {
    return this.guest.vcpu.translate(this.guest.va(REQUESTS), ACCESS.write) >= 0;
  }
  own(): number {
    return FIRST + this.dice.below(ARENA);
  }
  /** Any frame number: mostly a few of the guest's own, so that paths cross; sometimes one that is not its own or does not exist. */
  frame(): number {
    const kind = this.dice.below(40);
    if (kind === 0) return this.dice.of([GUEST_FRAMES, GUEST_FRAMES + 1, 0xffff0, 0xfffff]);
    if (kind === 1) return this.dice.of(this.#shared);
    return kind < 5 ? this.dice.below(FIRST) : this.own();
  }
  entry(): number {
    return pte(this.frame(), this.dice.of(FLAGS));
  }
  high(): number {
    return this.dice.of(HIGH);
  }

  /** struct xen_memory_reservation at word `at` of the request page, its list (also there) at word `list`. */
  reservation(at: number, list: number, count: number, order: number): void {
    const { guest } = this;
    const va = guest.va(REQUESTS) + list * 8;
    guest.set(REQUESTS, at, va >>> 0, Math.floor(va / 2 ** 32) >>> 0);
    guest.set(REQUESTS, at + 1, count);
    guest.set(REQUESTS, at + 2, order);
    guest.set(REQUESTS, at + 3, DOMID_SELF);
    for (let i = 0; i < count; i += 1) guest.set(REQUESTS, list + i, this.frame());
  }
  memory(command: number): number {
    this.reservation(0, 64, this.dice.below(3), this.dice.of([0, 0, 1]));
    return this.guest.mmu.memoryOp(this.guest.pv, command, this.guest.va(REQUESTS));
  }
}

/** What the guest may do; each answers whether it worked, so that the test can see that every path was taken. */
const ACTIONS: Record<string, (run: RandomGuest) => boolean> = {
  store: (run) => run.guest.guestStore(run.guest.va(run.own()) + run.dice.of(SLOTS) * 8, pte(run.own(), run.dice.of(FLAGS))),
  // Tables that have a chance: frames in a row, each naming the next.
  storeChain: ({ guest, dice }) => {
    const base = FIRST + dice.below(ARENA - 3);
    let done = true;
    for (let i = 0; i < 3; i += 1) done = guest.guestStore(guest.va(base + i) + dice.below(2) * 8, pte(base + i + 1, TABLE)) && done;
    return done;
  },
  // The whole way to a new address space: build, protect, pin; sometimes with the last mapping left writable.
  addressSpace: (run) => {
    const { guest, dice } = run;
    const base = FIRST + dice.below(ARENA - 4);
    for (let i = 0; i < 4; i += 1) {
      guest.remap(base + i, pte(base + i, RW));
      guest.ext(ext.MMUEXT_CLEAR_PAGE, base + i);
      guest.guestStore(guest.va(base + i), pte(base + i + 1, i === 3 ? RW : TABLE));
    }
    for (let i = 0; i < 4; i += 1) if (i < 3 || dice.below(4) !== 0) guest.remap(base + i, pte(base + i, RO), 0, dice.of([0, 0, 0, 1]));
    return guest.ext(ext.MMUEXT_PIN_L4_TABLE, base) === 0 && guest.ext(ext.MMUEXT_NEW_USER_BASEPTR, base) === 0;
  },
  clear: (run) => run.guest.ext(ext.MMUEXT_CLEAR_PAGE, run.own()) === 0,
  copy: (run) => run.guest.ext(ext.MMUEXT_COPY_PAGE, run.own(), run.frame()) === 0,
  unmap: (run) => run.guest.remap(run.own(), 0, 0, run.dice.of([0, 0, 1, 2])) === 0,
  protect: (run) => {
    const base = run.own();
    let done = true;
    for (let frame = base; frame < base + run.dice.below(5); frame += 1) done = run.guest.remap(frame, pte(frame, RO)) === 0 && done;
    return done;
  },
  unprotect: (run) => {
    const frame = run.own();
    return run.guest.remap(frame, pte(frame, RW), 0, UVMF_INVLPG) === 0;
  },
  remap: (run) => run.guest.remap(run.own(), run.entry(), run.high()) === 0,
  update: (run) => run.guest.update(run.frame(), run.dice.of(SLOTS), run.entry(), run.high(), run.dice.of([0, 2, 3])) === 0,
  updateMap: (run) => run.guest.update(L1, 40 + run.dice.below(8), run.entry()) === 0,
  machphys: (run) => run.guest.update(run.frame(), 0, 77, 0, 1) === 0,
  pin: (run) => run.guest.ext(run.dice.below(4), run.frame()) === 0,
  pinL4: (run) => run.guest.ext(ext.MMUEXT_PIN_L4_TABLE, run.frame()) === 0,
  unpin: (run) => run.guest.ext(ext.MMUEXT_UNPIN_TABLE, run.own()) === 0,
  userRoot: (run) => run.guest.ext(ext.MMUEXT_NEW_USER_BASEPTR, run.dice.below(4) === 0 ? 0 : run.frame()) === 0,
  // A root that keeps the kernel's map, so that the guest can go on.
  kernelRoot: (run) => {
    const { guest } = run;
    const frame = run.dice.below(3) === 0 ? L4 : run.own();
    if (guest.type(frame) === FRAME_TYPE.none) guest.set(frame, 272, pte(L3, TABLE));
    if (guest.lo(frame, 272) >>> 12 !== L3 || (guest.lo(frame, 272) & 1) === 0) return false;
    return guest.ext(ext.MMUEXT_NEW_BASEPTR, frame) === 0;
  },
  touchUser: ({ guest, dice }) => {
    guest.vcpu.enterSpace(SPACE.user);
    const touched = guest.vcpu.translate(dice.below(3) * 4096, dice.of([ACCESS.read, ACCESS.write])) >= 0;
    guest.vcpu.enterSpace(SPACE.kernel);
    return touched;
  },
  gdt: (run) => {
    const count = run.dice.below(3);
    for (let i = 0; i < count; i += 1) run.guest.set(REQUESTS, i, run.frame());
    return run.guest.mmu.setGdt(run.guest.pv, run.guest.va(REQUESTS), count * 512) === 0;
  },
  descriptor: (run) =>
    run.guest.mmu.updateDescriptor(run.guest.pv, run.frame() * 4096 + run.dice.of(SLOTS) * 8, 0, 0xffff, 0x00af_9b00) === 0,
  ldt: (run) => run.guest.ext(ext.MMUEXT_SET_LDT, run.guest.va(run.own()), run.dice.of([0, 512, 1024])) === 0,
  readLdt: (run) => run.guest.mmu.readDescriptor(run.guest.pv, (run.dice.below(1100) << 3) | 4) !== null,
  decrease: (run) => run.memory(XENMEM_decrease_reservation) > 0,
  populate: (run) => run.memory(XENMEM_populate_physmap) > 0,
  exchange: (run) => {
    run.reservation(0, 64, 2, 0);
    run.reservation(4, 80, 1, 1);
    // The two frames stand side by side and nothing maps them, more often than chance would have it.
    const base = FIRST + run.dice.below(ARENA / 2) * 2;
    for (let i = 0; i < 2; i += 1) {
      run.guest.remap(base + i, 0);
      run.guest.set(REQUESTS, 64 + i, base + i);
    }
    run.guest.set(REQUESTS, 8, 0);
    return run.guest.mmu.memoryOp(run.guest.pv, XENMEM_exchange, run.guest.va(REQUESTS)) === 0;
  },
  hold: (run) => {
    const frame = run.frame();
    const writable = run.dice.below(2) === 0;
    if (run.guest.mmu.holdFrame(frame, writable) !== 0) return false;
    run.holders.push({ frame: mfn(frame), writable });
    return true;
  },
  release: (run) => {
    const held = run.holders.shift();
    if (held !== undefined) run.guest.mmu.releaseFrame(held.frame, held.writable);
    return held !== undefined;
  },
  ptwr: (run) => {
    const size = run.dice.of([8, 8, 8, 4, 2, 1]);
    Object.assign(run.guest.store, {
      offset: run.dice.of(SLOTS) * 8 + (size === 8 ? 0 : run.dice.of([0, 4])),
      size,
      lo: run.entry(),
      hi: run.high(),
    });
    return run.guest.mmu.tryPtwr(run.guest.pv, run.guest.va(run.dice.of([L1, run.own()])), 3);
  },
};

const worked = new Map<string, number>();

describe('a guest that tries everything', () => {
  it.each(Array.from({ length: 8 }, (_, i) => i + 1))('finds no way around the frame types (seed %d)', (seed) => {
    const dice = new Dice(seed * 7919);
    const names = Object.keys(ACTIONS);
    let run = new RandomGuest(dice);
    for (let step = 0; step < STEPS; step += 1) {
      if (!run.alive) run = new RandomGuest(dice);
      const name = dice.of(names);
      if (ACTIONS[name](run)) worked.set(name, (worked.get(name) ?? 0) + 1);
      const problems = auditFrames(run.guest.mmu, [run.guest.pv], run.holders);
      const stale = run.guest.staleTables();
      if (problems.length > 0 || stale.length > 0) expect({ step, name, problems, stale }).toBeNull();
    }
    // Let everything go: no frame may stay a table, and none may stay referred to.
    const { guest, holders } = run;
    for (const { frame, writable } of holders) guest.mmu.releaseFrame(frame, writable);
    for (let frame = 0; frame < GUEST_FRAMES; frame += 1) guest.ext(ext.MMUEXT_UNPIN_TABLE, frame);
    guest.mmu.detachVcpu(guest.pv);
    const { frames } = guest.mmu.context;
    for (let frame = 0; frame < GUEST_FRAMES; frame += 1) {
      if (frames.pinned(frame)) continue;
      expect([frame, frames.type(frame)]).toEqual([frame, FRAME_TYPE.none]);
      expect(frames.refs(frame)).toBeLessThanOrEqual(1);
    }
  });

  it('has taken every path with success', () => {
    expect(Object.keys(ACTIONS).filter((name) => (worked.get(name) ?? 0) === 0)).toEqual([]);
  });
});
