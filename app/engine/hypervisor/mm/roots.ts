// SPDX-License-Identifier: Apache-2.0
/**
 * The two root tables of a vCPU: the kernel's and the user's (MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR).
 *
 * A loaded root is held by a typed reference, so that it stays a validated L4 table. Loading a kernel root shows the M2P array in
 * slot 256 (unless VMASST_m2p_strict fixed that at validation) and forgets the translations of both spaces, as a CR3 load does.
 */
import { SPACE } from '../../accel/accelerator.ts';
import type { Mfn } from '../../memory/frames.ts';
import { EINVAL } from '../errno.ts';
import type { PvVcpu } from '../pv-vcpu.ts';
import { ASSIST } from './assists.ts';
import type { MmContext } from './context.ts';
import type { DescriptorTables } from './descriptor-tables.ts';
import { FRAME_TYPE } from './frame-table.ts';

export class Roots {
  readonly #context: MmContext;
  readonly #descriptors: DescriptorTables;
  /** A kernel root was loaded and the user space still has old translations. */
  #userFlushDue = false;

  constructor(context: MmContext, descriptors: DescriptorTables) {
    this.#context = context;
    this.#descriptors = descriptors;
  }

  /** 0, or -EINVAL and what validation answers; nothing changes then. `finish` must follow in the same hypercall. */
  setKernel(pv: PvVcpu, frame: number): number {
    const { types, tlb, m2p, state } = this.#context;
    if (!(frame >= 0)) return -EINVAL;
    const old = pv.kernelRoot;
    if (old !== frame) {
      const rc = types.getPageAndType(frame, FRAME_TYPE.l4);
      if (rc !== 0) return rc;
      this.#descriptors.dropLdt(pv);
      if (!state.assist(ASSIST.m2pStrict)) m2p.insert(frame as Mfn);
      pv.kernelRoot = frame as Mfn;
    }
    tlb.loadRoot(pv, SPACE.kernel, pv.kernelRoot);
    this.#userFlushDue = true;
    if (old !== frame && old >= 0) types.putPageAndType(old as Mfn);
    return 0;
  }

  /** As `setKernel`; frame 0 means: no user root. */
  setUser(pv: PvVcpu, frame: number): number {
    const { types, tlb, m2p, state } = this.#context;
    if (!(frame >= 0)) return -EINVAL;
    const old = pv.userRoot;
    const wanted = frame === 0 ? -1 : frame;
    if (old === wanted) return 0;
    if (wanted !== -1) {
      const rc = types.getPageAndType(frame, FRAME_TYPE.l4);
      if (rc !== 0) return rc;
      if (state.assist(ASSIST.m2pStrict)) m2p.remove(frame as Mfn);
    }
    pv.userRoot = wanted as Mfn | -1;
    tlb.loadRoot(pv, SPACE.user, pv.userRoot);
    this.#userFlushDue = false;
    if (old >= 0) types.putPageAndType(old as Mfn);
    return 0;
  }

  /** Ends a batch: the user space forgets its translations unless a new user root came with the kernel's. */
  finish(pv: PvVcpu): void {
    if (!this.#userFlushDue) return;
    this.#userFlushDue = false;
    if (pv.userRoot !== -1) this.#context.tlb.loadRoot(pv, SPACE.user, pv.userRoot);
  }

  /** Drops both roots: the vCPU goes away. */
  drop(pv: PvVcpu): void {
    const { types, tlb, state } = this.#context;
    const kernel = pv.kernelRoot;
    const user = pv.userRoot;
    pv.kernelRoot = -1;
    pv.userRoot = -1;
    tlb.loadRoot(pv, SPACE.kernel, -1);
    tlb.loadRoot(pv, SPACE.user, -1);
    if (kernel !== -1) types.putPageAndType(kernel);
    if (user !== -1) types.putPageAndType(user);
    state.recordNoTranslations(pv.id);
  }
}
