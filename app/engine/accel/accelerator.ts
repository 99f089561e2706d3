// SPDX-License-Identifier: Apache-2.0
/**
 * The accelerator seam: what runs guest instructions, seen from the hypervisor.
 *
 * Small on purpose: create a vCPU, run it until something needs the hypervisor, read and write its registers through
 * `VcpuContext`, switch and invalidate address spaces. The hypervisor does not know which accelerator runs.
 *
 * Virtual addresses cross the seam as exact signed numbers (canonical 48-bit addresses fit into a double).
 */
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { Mfn } from '../memory/frames.ts';
import type { VcpuContext } from '../memory/vcpu-context.ts';

/** Why `Vcpu.run` returned (`CTX.exitReason`). */
export const VMEXIT = {
  /** The instruction budget is used up. `rip` is the next instruction. */
  budget: 0,
  /** Another thread kicked the vCPU. */
  kick: 1,
  /**
   * An exception: `exitVector`, `exitError`, `exitHasError`, and CR2 for page faults. `rip` is that of the faulting instruction, or
   * of the next one for traps (#BP, #OF, #DB). Privileged instructions of a PV guest arrive here as #GP(0).
   */
  exception: 2,
  /** SYSCALL: `rip` is the next instruction; RCX and R11 are not changed yet. `exitLength` is 2. */
  syscall: 3,
  /** SYSENTER: `rip` is the next instruction. */
  sysenter: 4,
  /** INT n: `exitVector` is n, `rip` is that of the INT instruction, `exitLength` its length. */
  softwareInterrupt: 5,
  /** HLT at CPL 0 (never for PV guests). */
  halt: 6,
  /** The engine met a state that it cannot continue from (a defect or an unsupported mode); the log says which. */
  engineFault: 7,
} as const;
export type VmExitReason = (typeof VMEXIT)[keyof typeof VMEXIT];

export const VMEXIT_NAMES: readonly string[] = Object.keys(VMEXIT);

/** A PV guest has two roots; translations of each are kept apart. */
export const SPACE = { kernel: 0, user: 1 } as const;
export type Space = 0 | 1;

/** Access kinds for `translate`; also the bits of a page-fault error code. */
export const ACCESS = { read: 0, write: 2, execute: 16 } as const;

/** What a vCPU asks of its owner while it runs. All are called on the vCPU's thread and must not re-enter `run`. */
export interface VcpuHost {
  /** The 8-byte descriptor of `selector` as [low, high] halves, or null when it lies outside of its table (#GP or #NP follow). */
  readDescriptor(selector: number): readonly [number, number] | null;
  /** Time-stamp counter in ticks: nanoseconds since the VM started. */
  readTsc(): number;
  /** What CPUID answers; `out` receives EAX EBX ECX EDX. */
  cpuid(leaf: number, subleaf: number, out: Uint32Array): void;
}

export interface Vcpu {
  readonly id: number;
  readonly ctx: VcpuContext;
  /** Runs until an exit. Returns within about `budget` instructions. */
  run(budget: number): VmExitReason;
  /** Sets the root table of an address space and forgets that space's translations; root -1: the space has none. */
  loadRoot(space: Space, root: Mfn | -1): void;
  /** Makes `space` current (no flush). */
  enterSpace(space: Space): void;
  /** Forgets every translation of both spaces. */
  flushTlb(): void;
  /** Forgets the translation of one page in both spaces. */
  invalidatePage(va: number): void;
  /**
   * Byte offset in the VM's shared buffer of the current space's `va`, or -1 when the access faults (CR2 and `exitError` then
   * describe the fault). Sets accessed and dirty bits as the access would. Valid up to the end of the page.
   */
  translate(va: number, access: number): number;
  /** Bytes of a frame were changed by the host side: drop code made from them. */
  invalidateCode(frame: Mfn, offset: number, length: number): void;
  /** The segment register load of MOV sreg with protection checks; false when it faults. `seg` is one of `SEGREG`. */
  loadSegment(seg: number, selector: number): boolean;
  /** Counters for `--stats`. */
  counters(): Record<string, number>;
}

export interface Accelerator {
  readonly name: string;
  createVcpu(id: number, memory: GuestMemory, host: VcpuHost): Vcpu;
}
