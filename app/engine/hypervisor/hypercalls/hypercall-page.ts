// SPDX-License-Identifier: Apache-2.0
/**
 * The page of hypercall stubs that guests may ask for by ELF note or by WRMSR to 0x40000000.
 *
 * Slot n stands at 32*n: save RCX and R11, load the number, SYSCALL, restore, return. The slot of iret saves RAX as well and does not
 * come back (Xen guest ABI, 64-bit PV). The rest of the page stops with INT3.
 */
import { PAGE_SIZE } from '../../memory/frames.ts';
import { __HYPERVISOR_iret } from '../abi/xen.ts';

const SLOT_BYTES = 32;
const INT3 = 0xcc;

/** Fills `page` (4096 bytes) with the stubs. */
export function writeHypercallPage(page: Uint8Array): void {
  page.fill(INT3, 0, PAGE_SIZE);
  for (let slot = 0; slot < PAGE_SIZE / SLOT_BYTES; slot++) {
    const number = [slot & 0xff, 0, 0, 0];
    const body =
      slot === __HYPERVISOR_iret
        ? [0x51, 0x41, 0x53, 0x50, 0xb8, ...number, 0x0f, 0x05]
        : [0x51, 0x41, 0x53, 0xb8, ...number, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3];
    page.set(body, slot * SLOT_BYTES);
  }
}
