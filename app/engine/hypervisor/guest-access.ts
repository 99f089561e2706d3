// SPDX-License-Identifier: Apache-2.0
/**
 * Copies between the hypervisor and a guest's virtual memory, in the vCPU's current address space.
 *
 * GUEST: every address and length comes from the guest. A copy either succeeds whole or reports failure (the caller answers
 * -EFAULT); lengths must be bounded by the caller. Accesses follow the guest's own page tables, so the hypervisor can reach
 * nothing that the guest could not.
 */
import { ACCESS, type Vcpu } from '../accel/accelerator.ts';
import { type GuestMemory, PAGE_SIZE } from '../memory/guest-memory.ts';
import type { Mfn } from '../memory/frames.ts';

export class GuestAccess {
  readonly #memory: GuestMemory;
  readonly #vcpu: Vcpu;

  constructor(memory: GuestMemory, vcpu: Vcpu) {
    this.#memory = memory;
    this.#vcpu = vcpu;
  }

  /** Byte offset in the shared buffer of an aligned 4- or 8-byte word (never crosses a page), or -1. PERF: hypercall fast paths use this and read the raw views. */
  word(va: number, access: number): number {
    return this.#vcpu.translate(va, access);
  }

  /** Reads `length` bytes at `va` into `out` (from its start); false on a fault. */
  copyIn(va: number, out: Uint8Array, length: number = out.length): boolean {
    let done = 0;
    while (done < length) {
      const at = va + done;
      const host = this.#vcpu.translate(at, ACCESS.read);
      if (host < 0) return false;
      const chunk = Math.min(length - done, PAGE_SIZE - pageOffset(at));
      out.set(this.#memory.u8.subarray(host, host + chunk), done);
      done += chunk;
    }
    return true;
  }

  /** Writes `length` bytes of `bytes` at `va`; false on a fault (bytes before the faulting page may have been written). */
  copyOut(va: number, bytes: Uint8Array, length: number = bytes.length): boolean {
    let done = 0;
    while (done < length) {
      const at = va + done;
      const host = this.#vcpu.translate(at, ACCESS.write);
      if (host < 0) return false;
      const chunk = Math.min(length - done, PAGE_SIZE - pageOffset(at));
      this.#memory.u8.set(bytes.subarray(done, done + chunk), host);
      const ram = host - this.#memory.layout.ramBase;
      this.#memory.wrote(Math.floor(ram / PAGE_SIZE) as Mfn, ram % PAGE_SIZE, chunk);
      done += chunk;
    }
    return true;
  }
}

/** Offset in its page of a virtual address given as a signed number. */
export function pageOffset(va: number): number {
  return ((va % PAGE_SIZE) + PAGE_SIZE) % PAGE_SIZE;
}
