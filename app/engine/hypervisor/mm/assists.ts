// SPDX-License-Identifier: Apache-2.0
/** The HYPERVISOR_vm_assist types that change how the PV MMU behaves; bits of the MMU's shared state. */
export const ASSIST = {
  /** VMASST_TYPE_writable_pagetables (2): stores to L1 tables are emulated. */
  writablePagetables: 1 << 0,
  /** VMASST_TYPE_m2p_strict (32): user page tables never show the machine-to-physical array. */
  m2pStrict: 1 << 1,
} as const;
