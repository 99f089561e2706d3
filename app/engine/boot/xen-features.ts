// SPDX-License-Identifier: Apache-2.0
/** The features that a kernel supports or requires: XENFEAT_* of xen public/features.h, and the syntax of XEN_ELFNOTE_FEATURES. */

/** Names without the prefix XENFEAT_, by bit number; a hole is a bit without a name. */
export const XENFEAT_NAMES: readonly string[] = [
  'writable_page_tables',
  'writable_descriptor_tables',
  'auto_translated_physmap',
  'supervisor_mode_kernel',
  'pae_pgdir_above_4gb',
  'mmu_pt_update_preserve_ad',
  'highmem_assist',
  'gnttab_map_avail_bits',
  'hvm_callback_vector',
  'hvm_safe_pvclock',
  'hvm_pirqs',
  'dom0',
  'grant_map_identity',
  'memory_op_vnode_supported',
  'ARM_SMCCC_supported',
  'linux_rsdp_unrestricted',
  'not_direct_mapped',
  'direct_mapped',
];

export const XENFEAT_auto_translated_physmap = 2;
export const XENFEAT_supervisor_mode_kernel = 3;
export const XENFEAT_hvm_callback_vector = 8;
export const XENFEAT_hvm_safe_pvclock = 9;
export const XENFEAT_hvm_pirqs = 10;
export const XENFEAT_dom0 = 11;

/**
 * What a kernel may list but an unprivileged PV guest never has. Everything else may be required: Xen's own builder only asks that the
 * kernel supports what it requires, and kernels require writable_page_tables without getting it.
 */
const NEVER_IN_PV: readonly number[] = [
  XENFEAT_auto_translated_physmap,
  XENFEAT_supervisor_mode_kernel,
  XENFEAT_hvm_callback_vector,
  XENFEAT_hvm_safe_pvclock,
  XENFEAT_hvm_pirqs,
  XENFEAT_dom0,
];

export interface XenFeatures {
  /** Bit sets over `XENFEAT_NAMES`. */
  readonly supported: number;
  readonly required: number;
  /** Required names that nobody knows. */
  readonly unknownRequired: readonly string[];
}

export const NO_FEATURES: XenFeatures = { supported: 0, required: 0, unknownRequired: [] };

/** Parses "name|name|!name"; a name after "!" is required. Unknown names that are not required are ignored. */
export function parseFeatures(text: string): XenFeatures {
  let supported = 0;
  let required = 0;
  const unknownRequired: string[] = [];
  for (const item of text.split('|')) {
    const isRequired = item.startsWith('!');
    const name = isRequired ? item.slice(1) : item;
    const bit = XENFEAT_NAMES.indexOf(name);
    if (bit < 0) {
      if (isRequired) unknownRequired.push(name);
      continue;
    }
    supported |= 1 << bit;
    if (isRequired) required |= 1 << bit;
  }
  return { supported, required, unknownRequired };
}

/** The required features that a PV guest here does not have. */
export function missingFeatures(features: XenFeatures): readonly string[] {
  const missing = NEVER_IN_PV.filter((bit) => (features.required & (1 << bit)) !== 0).map((bit) => XENFEAT_NAMES[bit]);
  return [...missing, ...features.unknownRequired];
}
