// SPDX-License-Identifier: Apache-2.0
/**
 * Carries out one guest instruction whose store must not reach memory unchecked (writes to live page tables, `mm/ptwr.ts`), with nothing
 * but the accelerator's ordinary means.
 *
 * The page that the instruction wants to write is copied to a frame of the hypervisor's own, the guest's mapping of that page is turned to
 * the copy for the time of one single step (TF), and what the instruction changed in the copy is offered to the hook. So every
 * instruction form that can store is covered, and its meaning is written once, in the CPU.
 *
 * INVARIANT: afterwards the mapping is as before, whatever happened. Other vCPUs of the guest could see the copy meanwhile, never a
 * writable page table; they read the same bytes there.
 * GUEST: an instruction that changes more than one 8-byte entry is refused, as are instructions that fault or leave the page alone by
 * going elsewhere; registers are then as before.
 */
import { VMEXIT } from '../../accel/accelerator.ts';
import { type Mfn, PAGE_SIZE } from '../../memory/frames.ts';
import { CTX, RFLAGS } from '../../memory/vcpu-context.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';
import type { StoreHook, WriteEmulator } from '../mm/ptwr.ts';
import { PageWalk } from '../mm/walk.ts';

const WORDS = PAGE_SIZE / 4;
const PTE_RW = 2;
/** Address bits of an entry's high half (bits 32..51). */
const ADDRESS_HI = 0x000f_ffff;
const FLAGS_LO = 0xfff;
/** Architectural registers at the start of the context block. */
const SNAPSHOT_BYTES = CTX.exitReason;
const DR6 = CTX.dr + 48;
const TRAP_DEBUG = 1;
/** A vCPU that is being kicked may leave before it has executed anything. */
const ATTEMPTS = 8;

export class StoreEmulator implements WriteEmulator {
  readonly #dv: DomainVcpu;
  readonly #scratch: Mfn;
  readonly #walk: PageWalk;
  readonly #before = new Uint32Array(WORDS);
  readonly #registers = new Uint8Array(SNAPSHOT_BYTES);

  constructor(dv: DomainVcpu, scratch: Mfn) {
    this.#dv = dv;
    this.#scratch = scratch;
    this.#walk = new PageWalk(dv.shared.memory);
  }

  executeWithStoreHook(va: number, hook: StoreHook): boolean {
    const dv = this.#dv;
    const { memory } = dv.shared;
    const walk = this.#walk;
    if (!walk.find(dv.kernelRoot, va)) return false;
    const { table, index, lo, hi } = walk;
    const page = (Math.floor(lo / PAGE_SIZE) % 0x10_0000) + (hi & ADDRESS_HI) * 0x10_0000;
    if (!memory.has(page)) return false;
    const from = memory.frameOffset(page as Mfn);
    const to = memory.frameOffset(this.#scratch);
    this.#before.set(memory.u32.subarray(from >>> 2, (from >>> 2) + WORDS));
    memory.u32.set(this.#before, to >>> 2);
    const at = dv.ctx.base;
    this.#registers.set(memory.u8.subarray(at, at + SNAPSHOT_BYTES));

    memory.setEntry(table, index, ((this.#scratch % 0x10_0000) * PAGE_SIZE + ((lo & FLAGS_LO) | PTE_RW)) >>> 0, hi & ~ADDRESS_HI);
    dv.vcpu.invalidatePage(va);
    const stepped = this.#step();
    memory.setEntry(table, index, lo, hi);
    dv.vcpu.invalidatePage(va);

    if (stepped && this.#offer(to >>> 2, hook)) return true;
    memory.u8.set(this.#registers, at);
    return false;
  }

  /** Executes one instruction under TF; true when it completed. The guest's own TF and DR6 are as before. */
  #step(): boolean {
    const { ctx, vcpu } = this.#dv;
    const flags = ctx.rflags;
    const dr6Lo = ctx.lo(DR6);
    const kicked = ctx.takeKick();
    let interrupted = kicked;
    let reason: number = VMEXIT.kick;
    ctx.rflags = flags | RFLAGS.TF;
    for (let attempt = 0; attempt < ATTEMPTS && (reason === VMEXIT.kick || reason === VMEXIT.budget); attempt++) {
      reason = vcpu.run(1);
      if (reason === VMEXIT.kick) interrupted = ctx.takeKick() || true;
    }
    if (interrupted) ctx.kick();
    const done = reason === VMEXIT.exception && ctx.u32(CTX.exitVector) === TRAP_DEBUG;
    ctx.rflags = (ctx.rflags & ~RFLAGS.TF) | (flags & RFLAGS.TF);
    ctx.setLoHi(DR6, dr6Lo, 0);
    return done;
  }

  /** Gives the one changed entry to the hook; nothing changed is success. */
  #offer(copy: number, hook: StoreHook): boolean {
    const { u32 } = this.#dv.shared.memory;
    let changed = -1;
    for (let word = 0; word < WORDS; word++) {
      if (u32[copy + word] === this.#before[word]) continue;
      const entry = word >>> 1;
      if (changed >= 0 && changed !== entry) return false;
      changed = entry;
    }
    if (changed < 0) return true;
    return hook(changed * 8, 8, u32[copy + changed * 2], u32[copy + changed * 2 + 1]);
  }
}
