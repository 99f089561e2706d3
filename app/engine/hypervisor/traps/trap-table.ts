// SPDX-License-Identifier: Apache-2.0
/**
 * A vCPU's virtual interrupt table (HYPERVISOR_set_trap_table, xen public/arch-x86/xen.h trap_info).
 *
 * The code selector of an entry is kept for read-back only: a 64-bit guest's handlers always start on the flat kernel selectors.
 */
export const TRAP_VECTORS = 256;
export const TRAP_INFO_BYTES = 16;

export class TrapTable {
  /** Handler addresses; 0: none. */
  readonly address = new Float64Array(TRAP_VECTORS);
  /** Bits 0-1: lowest privilege that may enter by INT n; bit 2: mask events on entry. */
  readonly flags = new Uint8Array(TRAP_VECTORS);
  readonly selector = new Uint16Array(TRAP_VECTORS);

  set(vector: number, flags: number, selector: number, address: number): void {
    this.address[vector] = address;
    this.flags[vector] = flags;
    this.selector[vector] = selector;
  }
  clear(): void {
    this.address.fill(0);
    this.flags.fill(0);
    this.selector.fill(0);
  }

  dpl(vector: number): number {
    return this.flags[vector] & 3;
  }
  masksEvents(vector: number): boolean {
    return (this.flags[vector] & 4) !== 0;
  }
}
