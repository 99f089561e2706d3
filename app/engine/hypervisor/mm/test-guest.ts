// SPDX-License-Identifier: Apache-2.0
/**
 * A tiny PV guest for tests of the PV MMU: memory, a vCPU that only translates, and a kernel map of all guest frames.
 *
 * The vCPU caches translations as a TLB does and forgets them only when it is told to: a missing flush shows as a stale entry.
 */
import { ACCESS, type Space, SPACE, type Vcpu, VMEXIT, type VmExitReason } from '../../accel/accelerator.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { type Mfn, mfn, PAGE_SIZE } from '../../memory/frames.ts';
import { CTX, VcpuContext } from '../../memory/vcpu-context.ts';
import { PvVcpu } from '../pv-vcpu.ts';
import { DOMID_SELF } from './context.ts';
import { FRAME_TYPE } from './frame-table.ts';
import { entryFrame, PTE_A, PTE_D, PTE_P, PTE_RW, PTE_U } from './pte.ts';
import type { StoreHook, WriteEmulator } from './ptwr.ts';
import { PvMmu } from './pv-mmu.ts';
import { PageWalk } from './walk.ts';
import { xenFramesNeeded } from './xen-frames.ts';

interface Translation {
  readonly host: number;
  readonly writable: boolean;
}

export class TestVcpu implements Vcpu {
  readonly id: number;
  readonly ctx: VcpuContext;
  readonly roots: [Mfn | -1, Mfn | -1] = [-1, -1];
  flushes = 0;
  readonly #memory: GuestMemory;
  readonly #walk: PageWalk;
  readonly #tlb: [Map<number, Translation>, Map<number, Translation>] = [new Map(), new Map()];

  constructor(id: number, memory: GuestMemory) {
    this.id = id;
    this.#memory = memory;
    this.#walk = new PageWalk(memory);
    this.ctx = new VcpuContext(memory.buffer, memory.layout.vcpuContext(id));
  }

  run(_budget: number): VmExitReason {
    return VMEXIT.budget;
  }
  loadRoot(space: Space, root: Mfn | -1): void {
    this.roots[space] = root;
    this.#tlb[space].clear();
  }
  enterSpace(space: Space): void {
    this.ctx.setU32(CTX.space, space);
  }
  flushTlb(): void {
    this.flushes += 1;
    for (const space of this.#tlb) space.clear();
  }
  invalidatePage(va: number): void {
    for (const space of this.#tlb) space.delete(Math.floor(va / PAGE_SIZE));
  }
  translate(va: number, access: number): number {
    const space = this.ctx.u32(CTX.space) as Space;
    const page = Math.floor(va / PAGE_SIZE);
    const offset = va - page * PAGE_SIZE;
    const cached = this.#tlb[space].get(page);
    if (cached !== undefined && (cached.writable || access !== ACCESS.write)) return cached.host + offset;
    const walk = this.#walk;
    if (!walk.find(this.roots[space], va) || (walk.lo & PTE_P) === 0 || !walk.user) return -1;
    if (access === ACCESS.write && !walk.writable) return -1;
    const frame = entryFrame(walk.lo, walk.hi);
    if (!this.#memory.has(frame)) throw new Error(`the MMU followed an entry to frame ${frame}`);
    const used = (walk.lo | PTE_A | (access === ACCESS.write ? PTE_D : 0)) >>> 0;
    this.#memory.setEntry(walk.table, walk.index, used, walk.hi);
    const host = this.#memory.frameOffset(frame as Mfn);
    this.#tlb[space].set(page, { host, writable: walk.writable });
    return host + offset;
  }
  invalidateCode(): void {}
  loadSegment(): boolean {
    return false;
  }
  counters(): Record<string, number> {
    return {};
  }

  /** Frames that the vCPU could write to right now through cached translations. */
  writableFrames(): number[] {
    const out: number[] = [];
    for (const space of this.#tlb) {
      for (const { host, writable } of space.values()) if (writable) out.push((host - this.#memory.layout.ramBase) / PAGE_SIZE);
    }
    return out;
  }
}

/** Does one prepared store. */
class PreparedStore implements WriteEmulator {
  offset = 0;
  size = 8;
  lo = 0;
  hi = 0;
  executeWithStoreHook(_va: number, hook: StoreHook): boolean {
    return hook(this.offset, this.size, this.lo, this.hi);
  }
}

/** Kernel map: guest frame f is at KERNEL_MAP + f * 4096 (L4 slot 272). */
export const KERNEL_MAP = -0x7800_0000_0000;
export const L4 = 1;
export const L3 = 2;
export const L2 = 3;
export const L1 = 4;
/** Frames with requests and with the done-count. */
export const REQUESTS = 5;
export const DONE = 6;
/** First frame that nothing uses. */
export const FREE = 8;

export const RO = PTE_P | PTE_U | PTE_A;
export const RW = PTE_P | PTE_U | PTE_A | PTE_RW | PTE_D;
export const TABLE = PTE_P | PTE_RW | PTE_U | PTE_A;

export function pte(frame: number, flags: number): number {
  return (frame * PAGE_SIZE + flags) >>> 0;
}

export class TestGuest {
  readonly memory: GuestMemory;
  readonly mmu: PvMmu;
  readonly vcpu: TestVcpu;
  readonly pv: PvVcpu;
  readonly store = new PreparedStore();

  constructor(guestFrames = 64, initialFrames = guestFrames) {
    this.memory = new GuestMemory({ guestFrames, xenFrames: xenFramesNeeded(guestFrames, 1), vcpus: 1, codeArenaBytes: 0x10000 });
    this.mmu = new PvMmu({ memory: this.memory, initialFrames });
    this.vcpu = new TestVcpu(0, this.memory);
    this.pv = new PvVcpu(this.vcpu, this.memory);
    this.mmu.setWriteEmulator(this.pv, this.store);
    this.set(L4, 272, pte(L3, TABLE));
    this.set(L3, 0, pte(L2, TABLE));
    this.set(L2, 0, pte(L1, TABLE));
    for (let frame = 0; frame < initialFrames; frame += 1) this.set(L1, frame, pte(frame, frame >= L4 && frame <= L1 ? RO : RW));
  }

  /** A guest that runs on its kernel map. */
  static running(guestFrames = 64, initialFrames = guestFrames): TestGuest {
    const guest = new TestGuest(guestFrames, initialFrames);
    const rc = guest.mmu.attachStartState(guest.pv, { kernelRoot: mfn(L4), pinned: [mfn(L4)] });
    if (rc !== 0) throw new Error(`the start state was refused: ${rc}`);
    guest.vcpu.enterSpace(SPACE.kernel);
    return guest;
  }

  va(frame: number): number {
    return KERNEL_MAP + frame * PAGE_SIZE;
  }

  /** Stores an entry behind everybody's back: for building tables before they are used. */
  set(frame: number, index: number, lo: number, hi = 0): void {
    this.memory.setEntry(mfn(frame), index, lo, hi);
  }
  lo(frame: number, index: number): number {
    return this.memory.entryLo(mfn(frame), index);
  }
  hi(frame: number, index: number): number {
    return this.memory.entryHi(mfn(frame), index);
  }

  /** A store by the guest through its own mapping; false when it faults. */
  guestStore(va: number, lo: number, hi = 0): boolean {
    const at = this.vcpu.translate(va, ACCESS.write);
    if (at < 0) return false;
    this.memory.u32[at >>> 2] = lo;
    this.memory.u32[(at >>> 2) + 1] = hi;
    return true;
  }

  /** One HYPERVISOR_mmu_update request: machine address of an entry (with the command in its low bits) and the new value. */
  update(frame: number, index: number, lo: number, hi = 0, command = 0): number {
    this.set(REQUESTS, 0, (frame * PAGE_SIZE + index * 8 + command) >>> 0, Math.floor((frame * PAGE_SIZE) / 0x1_0000_0000));
    this.set(REQUESTS, 1, lo, hi);
    return this.mmu.mmuUpdate(this.pv, this.va(REQUESTS), 1, 0, DOMID_SELF);
  }

  /** One HYPERVISOR_mmuext_op. */
  ext(command: number, arg1: number, arg2 = 0): number {
    this.set(REQUESTS, 0, command, 0);
    this.set(REQUESTS, 1, arg1 >>> 0, Math.floor(arg1 / 0x1_0000_0000) >>> 0);
    this.set(REQUESTS, 2, arg2 >>> 0, Math.floor(arg2 / 0x1_0000_0000) >>> 0);
    return this.mmu.mmuextOp(this.pv, this.va(REQUESTS), 1, 0, DOMID_SELF);
  }

  /** HYPERVISOR_update_va_mapping of the kernel map's page of `frame`. */
  remap(frame: number, lo: number, hi = 0, flags = 0): number {
    return this.mmu.updateVaMapping(this.pv, this.va(frame), lo, hi, flags, flags);
  }

  /** What the frame is in use as. */
  type(frame: number): number {
    return this.mmu.context.frames.type(frame);
  }

  /** Frames that a stale translation would let the guest write although they are tables. */
  staleTables(): number[] {
    return this.vcpu.writableFrames().filter((frame) => {
      const type = this.type(frame);
      return type !== FRAME_TYPE.none && type !== FRAME_TYPE.writable;
    });
  }
}
