// SPDX-License-Identifier: Apache-2.0
/**
 * Stores to L1 page tables: VMASST_TYPE_writable_pagetables (xen public/xen.h).
 *
 * A guest kernel that writes straight to an entry of a validated L1 table faults, because the table is mapped read-only. The store is
 * then carried out here with the same checks as HYPERVISOR_mmu_update. Whether the address maps an L1 table is decided from the
 * kernel's tables. Upper tables are never emulated: such a fault goes to the guest.
 *
 * The instruction itself runs on the accelerator (`WriteEmulator`), which keeps decoding and operand rules in one place; only its
 * store is taken out of its hands.
 */
import type { Mfn } from '../../memory/frames.ts';
import type { PvVcpu } from '../pv-vcpu.ts';
import { ASSIST } from './assists.ts';
import type { MmContext } from './context.ts';
import { FRAME_TYPE } from './frame-table.ts';
import { entryFrame, guestAddressOk, PTE_P, PTE_RW } from './pte.ts';

/**
 * Receives the store of one instruction: `offset` in its page, `size` in bytes, the value in halves (`hi` is 0 for sizes up to 4).
 * False: the store is refused.
 */
export type StoreHook = (offset: number, size: number, lo: number, hi: number) => boolean;

/** What the owner of the accelerator provides for one vCPU. */
export interface WriteEmulator {
  /**
   * Executes the one instruction at RIP. Its store to the page of `va` is given to `hook` in place of memory and writes nothing
   * there; reads (also the read of a locked read-modify-write, of XCHG and CMPXCHG) see memory as it is. A repeated string
   * instruction does one step. Sizes that the hook does not know (16 bytes) are still offered to it.
   *
   * True: the instruction is done, registers and RIP are as after it. False when the hook refused, when the instruction faulted
   * otherwise, or when it stores outside of that page: registers, flags and RIP are as before.
   */
  executeWithStoreHook(va: number, hook: StoreHook): boolean;
}

const ERROR_PRESENT = 1;
const ERROR_WRITE = 2;
const ERROR_RESERVED = 8;
const ERROR_FETCH = 16;

export class Ptwr {
  /** Stores carried out, for `--stats`. */
  emulated = 0;
  readonly #context: MmContext;
  readonly #emulators = new WeakMap<PvVcpu, WriteEmulator>();
  #pv: PvVcpu | null = null;
  #table = 0 as Mfn;
  readonly #hook: StoreHook = (offset, size, lo, hi) => this.#store(offset, size, lo, hi);

  constructor(context: MmContext) {
    this.#context = context;
  }

  setEmulator(pv: PvVcpu, emulator: WriteEmulator): void {
    this.#emulators.set(pv, emulator);
  }

  /** True when the faulting store was carried out and the guest goes on; false: deliver the page fault. Called without the lock. */
  tryPtwr(pv: PvVcpu, va: number, errorCode: number): boolean {
    const { state, walk, frames } = this.#context;
    const relevant = ERROR_PRESENT | ERROR_WRITE | ERROR_RESERVED | ERROR_FETCH;
    if ((errorCode & relevant) !== (ERROR_PRESENT | ERROR_WRITE)) return false;
    if (!pv.inKernelMode || !state.assist(ASSIST.writablePagetables) || !guestAddressOk(va)) return false;
    const emulator = this.#emulators.get(pv);
    if (emulator === undefined || !walk.find(pv.kernelRoot, va)) return false;
    if ((walk.lo & (PTE_P | PTE_RW)) !== PTE_P) return false;
    const frame = entryFrame(walk.lo, walk.hi);
    if (!frames.valid(frame) || frames.type(frame) !== FRAME_TYPE.l1) return false;
    this.#pv = pv;
    this.#table = frame as Mfn;
    const done = emulator.executeWithStoreHook(va, this.#hook);
    this.#pv = null;
    if (done) this.emulated += 1;
    return done;
  }

  /** A naturally aligned store of 1, 2, 4 or 8 bytes, completed to a whole entry from what the table holds. */
  #store(offset: number, size: number, lo: number, hi: number): boolean {
    const { memory, frames, tables, state, tlb } = this.#context;
    const aligned = size === 1 || size === 2 || size === 4 || size === 8;
    if (this.#pv === null || !aligned || !(offset >= 0 && offset + size <= 4096) || (offset & (size - 1)) !== 0) return false;
    state.lock();
    tlb.current = this.#pv;
    try {
      const table = this.#table;
      if (frames.type(table) !== FRAME_TYPE.l1) return false;
      const index = offset >>> 3;
      let newLo = memory.entryLo(table, index);
      let newHi = memory.entryHi(table, index);
      if (size === 8) {
        newLo = lo >>> 0;
        newHi = hi >>> 0;
      } else {
        const shift = (offset & 3) * 8;
        const mask = size === 4 ? 0xffff_ffff : ((1 << (size * 8)) - 1) << shift;
        const bits = lo << shift;
        if ((offset & 4) === 0) newLo = ((newLo & ~mask) | (bits & mask)) >>> 0;
        else newHi = ((newHi & ~mask) | (bits & mask)) >>> 0;
      }
      return tables.modify(1, table, index, newLo, newHi, false) === 0;
    } finally {
      tlb.current = null;
      state.unlock();
    }
  }
}
