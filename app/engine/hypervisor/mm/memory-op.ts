// SPDX-License-Identifier: Apache-2.0
/**
 * HYPERVISOR_memory_op (xen public/memory.h): the guest's reservation, its memory map, and where the M2P array is.
 *
 * @abi hypercall memory_op — XENMEM_increase_reservation, decrease_reservation, populate_physmap, exchange, maximum_ram_page, current_reservation, maximum_reservation, maximum_gpfn, machphys_mapping, memory_map
 *
 * The reservation operations answer a count of extents, which may be smaller than asked for, never an error: that is their contract.
 * XENMEM_add_to_physmap and its relatives belong to translated guests and are refused with -EACCES; everything else is -ENOSYS.
 */
import { EACCES, EFAULT, ENOSYS, EPERM } from '../errno.ts';
import type { PvVcpu } from '../pv-vcpu.ts';
import { Balloon, type Reservation } from './balloon.ts';
import { checkDomid, type MmContext } from './context.ts';
import { MACH2PHYS_NR_ENTRIES, MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START } from './m2p.ts';

export const XENMEM_increase_reservation = 0;
export const XENMEM_decrease_reservation = 1;
export const XENMEM_maximum_ram_page = 2;
export const XENMEM_current_reservation = 3;
export const XENMEM_maximum_reservation = 4;
export const XENMEM_populate_physmap = 6;
export const XENMEM_add_to_physmap = 7;
export const XENMEM_memory_map = 9;
export const XENMEM_machine_memory_map = 10;
export const XENMEM_exchange = 11;
export const XENMEM_machphys_mapping = 12;
export const XENMEM_maximum_gpfn = 14;
export const XENMEM_remove_from_physmap = 15;
export const XENMEM_add_to_physmap_batch = 23;

/** The operation is in the low bits; the rest is the extent that an interrupted operation goes on with. */
const MEMOP_EXTENT_SHIFT = 6;
const MEMOP_CMD_MASK = 63;
/** More extents than fit into the upper bits of the command are not even begun. */
const MAX_EXTENTS = 0xffff_ffff >>> MEMOP_EXTENT_SHIFT;

const RESERVATION_BYTES = 32;
const EXCHANGE_BYTES = 72;
const E820_ENTRY_BYTES = 20;
const E820_RAM = 1;

export class MemoryOp {
  readonly #context: MmContext;
  readonly #balloon: Balloon;

  constructor(context: MmContext) {
    this.#context = context;
    this.#balloon = new Balloon(context);
  }

  /** `cmd` as the guest passed it, `argVa` the address of the operation's structure. */
  run(pv: PvVcpu, cmd: number, argVa: number): number {
    const { state, frames } = this.#context;
    if (!(cmd >= 0 && cmd <= 0xffff_ffff)) return -ENOSYS;
    const start = cmd >>> MEMOP_EXTENT_SHIFT;
    switch (cmd & MEMOP_CMD_MASK) {
      case XENMEM_increase_reservation:
      case XENMEM_decrease_reservation:
      case XENMEM_populate_physmap:
        return this.#reservation(pv, cmd & MEMOP_CMD_MASK, argVa, start);
      case XENMEM_exchange:
        return this.#exchange(pv, argVa);
      case XENMEM_maximum_ram_page:
        return frames.frameCount;
      case XENMEM_current_reservation:
        return this.#query(pv, argVa, state.reservation);
      case XENMEM_maximum_reservation:
        return this.#query(pv, argVa, state.guestFrames);
      case XENMEM_maximum_gpfn:
        return this.#query(pv, argVa, state.guestFrames - 1);
      case XENMEM_memory_map:
        return this.#memoryMap(pv, argVa);
      case XENMEM_machphys_mapping:
        return this.#machphysMapping(pv, argVa);
      case XENMEM_machine_memory_map:
        return -EPERM;
      case XENMEM_add_to_physmap:
      case XENMEM_add_to_physmap_batch:
      case XENMEM_remove_from_physmap:
        return -EACCES;
      default:
        return -ENOSYS;
    }
  }

  #reservation(pv: PvVcpu, operation: number, argVa: number, start: number): number {
    const { words } = this.#context;
    if (!words.readStruct(pv, argVa, RESERVATION_BYTES)) return start;
    const request = this.#copyReservation(0);
    if (!(request.extents <= MAX_EXTENTS) || start >= request.extents) return start;
    if (checkDomid(this.#context, request.domid) !== 0) return start;
    if (operation === XENMEM_decrease_reservation) return this.#balloon.decrease(pv, request, start);
    return this.#balloon.increase(pv, request, start, operation === XENMEM_populate_physmap);
  }

  #exchange(pv: PvVcpu, argVa: number): number {
    const { words } = this.#context;
    if (!words.readStruct(pv, argVa, EXCHANGE_BYTES)) return -EFAULT;
    const input = this.#copyReservation(0);
    const output = this.#copyReservation(RESERVATION_BYTES);
    const { rc, exchanged } = this.#balloon.exchange(pv, input, output, words.numberAt(2 * RESERVATION_BYTES));
    // NaN: the guest's own count was nonsense and stays as it is.
    if (!Number.isNaN(exchanged) && !words.write64(pv, argVa + 2 * RESERVATION_BYTES, exchanged)) return -EFAULT;
    return rc;
  }

  #query(pv: PvVcpu, argVa: number, answer: number): number {
    const { words } = this.#context;
    if (!words.readStruct(pv, argVa, 2)) return -EFAULT;
    const rc = checkDomid(this.#context, words.u16At(0));
    return rc !== 0 ? rc : answer;
  }

  /** One region of RAM from address 0 that covers what the guest may ever own. */
  #memoryMap(pv: PvVcpu, argVa: number): number {
    const { words, state } = this.#context;
    if (!words.readStruct(pv, argVa, 16)) return -EFAULT;
    const entries = Math.min(words.u32At(0), 1);
    const buffer = words.numberAt(8);
    if (entries === 1) {
      const entry = new DataView(new ArrayBuffer(E820_ENTRY_BYTES));
      const bytes = state.guestFrames * 0x1000;
      entry.setUint32(8, bytes >>> 0, true);
      entry.setUint32(12, Math.floor(bytes / 0x1_0000_0000), true);
      entry.setUint32(16, E820_RAM, true);
      if (!words.writeBytes(pv, buffer, new Uint8Array(entry.buffer))) return -EFAULT;
    }
    return words.write32(pv, argVa, entries) ? 0 : -EFAULT;
  }

  #machphysMapping(pv: PvVcpu, argVa: number): number {
    const { words } = this.#context;
    const written =
      words.write64(pv, argVa, MACH2PHYS_VIRT_START) &&
      words.write64(pv, argVa + 8, MACH2PHYS_VIRT_END) &&
      words.write64(pv, argVa + 16, MACH2PHYS_NR_ENTRIES - 1);
    return written ? 0 : -EFAULT;
  }

  #copyReservation(offset: number): Reservation {
    const { words } = this.#context;
    return {
      extentStart: words.numberAt(offset),
      extents: words.numberAt(offset + 8),
      order: words.u32At(offset + 16),
      memFlags: words.u32At(offset + 20),
      domid: words.u16At(offset + 24),
    };
  }
}
