// SPDX-License-Identifier: Apache-2.0
/**
 * The PV MMU of one VM, as one thread sees it: frame types, page tables, descriptor tables, reservation.
 *
 * All state that outlives a call is in the VM's shared memory (frame table, state frame, M2P array), so that each vCPU thread, and the
 * I/O thread for the frames that backends hold, builds its own `PvMmu` over the same memory. The first one built initializes it.
 * Every operation runs under one lock. Results are 0 (or a count) and negative error numbers, as hypercalls answer them.
 *
 * Follows xen public/xen.h, memory.h and arch-x86/xen-x86_64.h. Leaves out: linear page tables, superpages, translated guests,
 * foreign domains, cache attributes.
 */
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { type Mfn, mfn } from '../../memory/frames.ts';
import { EINVAL } from '../errno.ts';
import type { MmuPort } from '../mmu-port.ts';
import type { PvVcpu } from '../pv-vcpu.ts';
import { ASSIST } from './assists.ts';
import type { MmContext } from './context.ts';
import { DescriptorTables, selectsLdt } from './descriptor-tables.ts';
import { FRAME_TYPE, FrameTable, OWNER } from './frame-table.ts';
import { GrantMap, type GrantTarget } from './grant-map.ts';
import { GuestWords } from './guest-words.ts';
import { M2p } from './m2p.ts';
import { MemoryOp } from './memory-op.ts';
import { MmState } from './mm-state.ts';
import { MmuUpdate } from './mmu-update.ts';
import { MmuextOp } from './mmuext.ts';
import { PageTypes } from './page-types.ts';
import { Promotion } from './promote.ts';
import { Ptwr, type WriteEmulator } from './ptwr.ts';
import { Roots } from './roots.ts';
import { TableUpdate } from './table-update.ts';
import { type RemoteTlb, TlbControl } from './tlb.ts';
import { UpdateVaMapping } from './update-va-mapping.ts';
import { EntryRefs } from './validate.ts';
import { PageWalk } from './walk.ts';
import { DEFAULT_WORK_LIMIT, WorkBudget } from './work-budget.ts';
import { XenFrames } from './xen-frames.ts';

export interface PvMmuOptions {
  readonly memory: GuestMemory;
  /** The domain's own id. Default 1. */
  readonly domId?: number;
  /** Guest frames that the guest owns from the start: 0..initialFrames-1. Default: all. Used when the VM is fresh. */
  readonly initialFrames?: number;
  /** How to reach vCPUs of other threads; required when the VM has several. */
  readonly remoteTlb?: RemoteTlb;
  /** Table entries that one hypercall may look at before it ends with -EAGAIN. */
  readonly workLimit?: number;
}

/** The page tables that a domain builder leaves. */
export interface StartState {
  readonly kernelRoot: Mfn;
  /** L4 tables that are pinned before the guest starts; the kernel root usually. */
  readonly pinned: readonly Mfn[];
}

export class PvMmu implements MmuPort {
  readonly context: MmContext;
  readonly xenFrames: XenFrames;
  readonly #types: PageTypes;
  readonly #state: MmState;
  readonly #tlb: TlbControl;
  readonly #work: WorkBudget;
  readonly #mmuUpdate: MmuUpdate;
  readonly #mmuextOp: MmuextOp;
  readonly #updateVaMapping: UpdateVaMapping;
  readonly #memoryOp: MemoryOp;
  readonly #descriptors: DescriptorTables;
  readonly #roots: Roots;
  readonly #ptwr: Ptwr;
  readonly #grantMap: GrantMap;
  readonly #descriptor = new Uint32Array(2);
  readonly #descriptorPair: [number, number] = [0, 0];

  constructor(options: PvMmuOptions) {
    const { memory } = options;
    const frames = new FrameTable(memory);
    const state = new MmState(memory);
    const tlb = new TlbControl(state, frames, options.remoteTlb ?? null);
    const m2p = new M2p(memory, state);
    const types = new PageTypes(frames, state, tlb, m2p);
    const entries = new EntryRefs(frames, types);
    const work = new WorkBudget(options.workLimit ?? DEFAULT_WORK_LIMIT);
    types.checks = new Promotion(memory, state, m2p, entries, work);
    this.#state = state;
    this.#tlb = tlb;
    this.#types = types;
    this.#work = work;
    this.context = {
      memory,
      domId: options.domId ?? 1,
      frames,
      state,
      tlb,
      m2p,
      types,
      tables: new TableUpdate(memory, entries),
      walk: new PageWalk(memory),
      words: new GuestWords(memory),
      work,
    };
    this.xenFrames = new XenFrames(memory, frames, state);
    this.#descriptors = new DescriptorTables(this.context);
    this.#roots = new Roots(this.context, this.#descriptors);
    this.#mmuUpdate = new MmuUpdate(this.context);
    this.#mmuextOp = new MmuextOp(this.context, this.#roots, this.#descriptors);
    this.#updateVaMapping = new UpdateVaMapping(this.context);
    this.#memoryOp = new MemoryOp(this.context);
    this.#ptwr = new Ptwr(this.context);
    this.#grantMap = new GrantMap(this.context);
    if (state.fresh) this.#initialize(options.initialFrames ?? state.guestFrames);
  }

  #initialize(owned: number): void {
    const { frames, m2p, memory, state } = this.context;
    if (!(owned >= 0 && owned <= state.guestFrames))
      throw new RangeError(`the guest cannot start with ${owned} of ${state.guestFrames} frames`);
    for (let frame = 0; frame < memory.frameCount; frame += 1) {
      frames.reset(frame, frame < owned ? OWNER.guest : OWNER.free);
      frames.setStamp(frame, 0);
    }
    frames.reset(state.guestFrames, OWNER.xen);
    state.reservation = owned;
    state.freeHint = owned % state.guestFrames;
    m2p.build(this.xenFrames);
    for (let frame = 0; frame < owned; frame += 1) m2p.set(mfn(frame), frame, 0);
    state.initialized();
  }

  /** Gives the vCPU its way to carry out emulated stores. Without one, stores to page tables fault. */
  setWriteEmulator(pv: PvVcpu, emulator: WriteEmulator): void {
    this.#ptwr.setEmulator(pv, emulator);
  }

  /** HYPERVISOR_vm_assist 2 and 32, for this VM. */
  setWritablePagetables(on: boolean): void {
    this.#state.setAssist(ASSIST.writablePagetables, on);
  }
  setM2pStrict(on: boolean): void {
    this.#state.setAssist(ASSIST.m2pStrict, on);
  }

  /** Checks and pins the builder's tables and loads the kernel root. 0 or the check's error: the builder or the image is at fault. */
  attachStartState(pv: PvVcpu, start: StartState): number {
    return this.#locked(pv, () => {
      for (const root of start.pinned) {
        const rc = this.#mmuextOp.pin(root, FRAME_TYPE.l4);
        if (rc !== 0) return rc;
      }
      const rc = this.#roots.setKernel(pv, start.kernelRoot);
      this.#roots.finish(pv);
      return rc;
    });
  }

  /** Root tables and GDT of a vCPU that VCPUOP_initialise describes; `userRoot` 0: none. Nothing is held after an error. */
  initializeVcpu(pv: PvVcpu, kernelRoot: number, userRoot: number, gdtFrames: readonly number[], gdtEntries: number): number {
    return this.#locked(pv, () => {
      let rc = this.#descriptors.setGdtFrames(pv, gdtFrames, gdtEntries);
      if (rc === 0) rc = this.#roots.setKernel(pv, kernelRoot);
      if (rc === 0) rc = this.#roots.setUser(pv, userRoot);
      this.#roots.finish(pv);
      if (rc !== 0) this.#release(pv);
      return rc;
    });
  }

  /** Drops everything that a vCPU holds: roots, GDT, LDT. */
  detachVcpu(pv: PvVcpu): void {
    this.#locked(pv, () => {
      this.#release(pv);
      return 0;
    });
  }

  #release(pv: PvVcpu): void {
    this.#descriptors.dropLdt(pv);
    pv.ldtEntries = 0;
    pv.ldtBase = 0;
    this.#descriptors.dropGdt(pv);
    this.#roots.drop(pv);
  }

  /** HYPERVISOR_mmu_update; `doneVa` 0: no done-count wanted. */
  mmuUpdate(pv: PvVcpu, reqsVa: number, count: number, doneVa: number, foreigndom: number): number {
    this.#enter(pv);
    try {
      return this.#mmuUpdate.run(pv, reqsVa, count, doneVa, foreigndom);
    } finally {
      this.#leave();
    }
  }

  /** HYPERVISOR_mmuext_op. */
  mmuextOp(pv: PvVcpu, opsVa: number, count: number, doneVa: number, foreigndom: number): number {
    this.#enter(pv);
    try {
      return this.#mmuextOp.run(pv, opsVa, count, doneVa, foreigndom);
    } finally {
      this.#leave();
    }
  }

  /** HYPERVISOR_update_va_mapping; the flags as their low 32 bits and as a whole signed number. */
  updateVaMapping(pv: PvVcpu, va: number, lo: number, hi: number, flagsLo: number, flagsNum: number): number {
    this.#enter(pv);
    try {
      return this.#updateVaMapping.run(pv, va, lo, hi, flagsLo, flagsNum);
    } finally {
      this.#leave();
    }
  }

  updateVaMappingOtherdomain(pv: PvVcpu, va: number, lo: number, hi: number, flagsLo: number, flagsNum: number, domid: number): number {
    return this.#locked(pv, () => this.#updateVaMapping.runOtherdomain(pv, va, lo, hi, flagsLo, flagsNum, domid & 0xffff));
  }

  /** HYPERVISOR_memory_op. */
  memoryOp(pv: PvVcpu, cmd: number, argVa: number): number {
    return this.#locked(pv, () => this.#memoryOp.run(pv, cmd, argVa));
  }

  /** HYPERVISOR_set_gdt. */
  setGdt(pv: PvVcpu, framesVa: number, entries: number): number {
    return this.#locked(pv, () => this.#descriptors.setGdt(pv, framesVa, entries));
  }

  /** HYPERVISOR_update_descriptor: machine address and descriptor in halves. */
  updateDescriptor(pv: PvVcpu, maLo: number, maHi: number, lo: number, hi: number): number {
    return this.#locked(pv, () => this.#descriptors.update(maLo, maHi, lo, hi));
  }

  /** The descriptor of `selector` as [low, high], or null outside of its table. The pair is reused by the next call. */
  readDescriptor(pv: PvVcpu, selector: number): readonly [number, number] | null {
    const found = selectsLdt(selector)
      ? this.#locked(pv, () => (this.#descriptors.readLdt(pv, selector, this.#descriptor) ? 1 : 0)) === 1
      : this.#descriptors.readGdt(pv, selector, this.#descriptor);
    if (!found) return null;
    this.#descriptorPair[0] = this.#descriptor[0];
    this.#descriptorPair[1] = this.#descriptor[1];
    return this.#descriptorPair;
  }

  /** True when the write fault at `faultVa` was a store to an L1 table and is done; false: deliver the fault. */
  tryPtwr(pv: PvVcpu, faultVa: number, errorCode: number): boolean {
    return this.#ptwr.tryPtwr(pv, faultVa, errorCode);
  }

  /** Puts an entry for a granted frame into the guest's tables: see `GrantMap`. */
  mapGrant(pv: PvVcpu, target: GrantTarget, lo: number, hi: number): number {
    return this.#locked(pv, () => this.#grantMap.map(pv, target, lo, hi));
  }
  unmapGrant(pv: PvVcpu, target: GrantTarget, frame: Mfn, from: number): number {
    return this.#locked(pv, () => this.#grantMap.unmap(pv, target, frame, from));
  }

  /**
   * Holds a guest frame for the hypervisor or a backend (granted frames, vcpu_info, event arrays): it stays the guest's, and with
   * `writable` it can be no page table while it is held. 0, or -EINVAL when it is not the guest's or is a table now. Any thread.
   */
  holdFrame(frame: number, writable: boolean): number {
    return this.#locked(null, () => {
      if (writable) return this.#types.getPageAndType(frame, FRAME_TYPE.writable);
      return this.#types.getPage(frame) ? 0 : -EINVAL;
    });
  }

  /** Ends what one successful `holdFrame` with the same arguments began. */
  releaseFrame(frame: Mfn, writable: boolean): void {
    this.#locked(null, () => {
      if (writable) this.#types.putPageAndType(frame);
      else this.#types.putPage(frame);
      return 0;
    });
  }

  /** Frames that the guest owns now, and may ever own. */
  get currentReservation(): number {
    return this.#state.reservation;
  }
  get maximumReservation(): number {
    return this.#state.guestFrames;
  }

  /** Frames held by the vCPU's LDT; for the audit. */
  ldtFrames(pv: PvVcpu): readonly Mfn[] {
    return this.#descriptors.ldtFrames(pv);
  }

  counters(): Record<string, number> {
    return {
      mmuUpdates: this.#mmuUpdate.updates,
      pins: this.#mmuextOp.pins,
      unpins: this.#mmuextOp.unpins,
      rootLoads: this.#mmuextOp.rootLoads,
      ptwrEmulated: this.#ptwr.emulated,
      typeFlushes: this.#tlb.typeFlushes,
      guestFramesOwned: this.#state.reservation,
    };
  }

  #enter(pv: PvVcpu | null): void {
    this.#state.lock();
    this.#tlb.current = pv;
    this.#work.start();
  }

  #leave(): void {
    this.#tlb.current = null;
    this.#state.unlock();
  }

  #locked(pv: PvVcpu | null, run: () => number): number {
    this.#enter(pv);
    try {
      return run();
    } finally {
      this.#leave();
    }
  }
}
