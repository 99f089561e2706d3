// SPDX-License-Identifier: Apache-2.0
/** What the hypervisor knows of one vCPU of a PV guest beyond its registers. Lives on that vCPU's thread. */
import { SPACE, type Vcpu } from '../accel/accelerator.ts';
import type { Mfn } from '../memory/frames.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { CTX, type VcpuContext } from '../memory/vcpu-context.ts';
import { GuestAccess } from './guest-access.ts';

export class PvVcpu {
  readonly id: number;
  readonly vcpu: Vcpu;
  readonly ctx: VcpuContext;
  readonly access: GuestAccess;
  /** Root tables (MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR); -1: none. */
  kernelRoot: Mfn | -1 = -1;
  userRoot: Mfn | -1 = -1;
  /** HYPERVISOR_set_gdt: frames of the guest's descriptor table and its number of entries. */
  gdtFrames: Mfn[] = [];
  gdtEntries = 0;
  /** MMUEXT_SET_LDT: linear address and number of entries (0: none). */
  ldtBase = 0;
  ldtEntries = 0;

  constructor(vcpu: Vcpu, memory: GuestMemory) {
    this.id = vcpu.id;
    this.vcpu = vcpu;
    this.ctx = vcpu.ctx;
    this.access = new GuestAccess(memory, vcpu);
  }

  /** A PV guest's kernel and user mode both run at CPL 3; the current address space tells them apart. */
  get inKernelMode(): boolean {
    return this.ctx.u32(CTX.space) === SPACE.kernel;
  }
}
