// SPDX-License-Identifier: Apache-2.0
/**
 * What CPUID tells a guest: a policy as plain data, and the function that answers from it.
 *
 * The processor described is x86-64-v2 (SSE4.2, POPCNT, CMPXCHG16B) with XSAVE, FSGSBASE, RDTSCP, RDPID and ERMS. For a PV guest the
 * features are missing that would need ring 0 or large pages (PSE, PGE, PSE36, MTRR, SMEP, SMAP, PCID, x2APIC …), as Xen hides them
 * (xen public/arch-x86/cpufeatureset.h: letters S and H).
 *
 * Vendor: GenuineIntel by default, because SYSENTER then serves 32-bit programs and no vendor MSRs of AMD are probed. The speculation
 * flaws of that vendor are declared absent (IA32_ARCH_CAPABILITIES), which is true of a software CPU and spares the guest its mitigations.
 *
 * Leaves: Intel SDM 2A "CPUID"; 0x40000000.. xen public/arch-x86/cpuid.h.
 *
 * @abi cpuid 0x0 — vendor and highest leaf
 * @abi cpuid 0x1 — family, model, features (masked for PV)
 * @abi cpuid 0x2 — points to leaf 4
 * @abi cpuid 0x4 — caches
 * @abi cpuid 0x7 — FSGSBASE, ERMS, FSRM, RDPID, speculation controls
 * @abi cpuid 0xd — XSAVE area for x87 and SSE
 * @abi cpuid 0x80000000..0x80000008 — brand, NX, RDTSCP, LM, invariant TSC, address sizes
 * @abi cpuid 0x40000000..0x40000005 — Xen signature, version 4.17, MSR base, TSC, PV machine address width
 */
import { TSC_KHZ, TSC_SHIFT, TSC_TO_SYSTEM_MUL } from './time/vm-time.ts';

export interface CpuidPolicy {
  readonly vendor: 'GenuineIntel' | 'AuthenticAMD';
  readonly family: number;
  readonly model: number;
  readonly stepping: number;
  /** Up to 47 characters. */
  readonly brand: string;
  readonly physicalAddressBits: number;
  /** XCR0 bits that a guest may set. */
  readonly xcr0Mask: number;
  /** RDRAND is offered only when the CPU was given entropy. */
  readonly rdrand: boolean;
  /** Value of IA32_ARCH_CAPABILITIES as halves. */
  readonly archCapabilities: readonly [number, number];
}

export const PV_POLICY: CpuidPolicy = {
  vendor: 'GenuineIntel',
  family: 6,
  model: 0x2c,
  stepping: 2,
  brand: 'Paravane Virtual CPU (x86-64-v2)',
  physicalAddressBits: 40,
  xcr0Mask: 3,
  rdrand: false,
  // RDCL_NO IBRS_ALL SSB_NO MDS_NO IF_PSCHANGE_MC_NO TAA_NO SBDR_SSDP_NO FBSDP_NO PSDP_NO BHI_NO PBRSB_NO GDS_NO RFDS_NO, ITS_NO
  archCapabilities: [bits(0, 1, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27), bits(30)],
};

const LEAF1_ECX = bits(0, 9, 13, 19, 20, 23, 26, 27, 31);
const LEAF1_EDX_COMMON = bits(0, 2, 4, 5, 6, 7, 8, 9, 14, 15, 16, 19, 23, 24, 25, 26);
const SEP = bits(11);
const RDRAND = bits(30);
const LEAF7_EBX = bits(0, 9);
const LEAF7_ECX = bits(22);
const LEAF7_EDX = bits(4);
/** IBRS and IBPB, STIBP, ARCH_CAPABILITIES. */
const LEAF7_EDX_SPECULATION = bits(26, 27, 29);
const EXT1_ECX = bits(0, 8);
const EXT1_EDX = bits(11, 20, 27, 29);
const EXT1_EDX_AMD = bits(0, 2, 4, 5, 6, 7, 8, 9, 14, 15, 16, 23, 24);
/** BHI_CTRL: Linux 6.1 clears the branch history in software at each system call of a CPU without it, whatever BHI_NO says. */
const LEAF7_2_EDX = bits(4);
/** Bytes of an XSAVE area: legacy region and header. */
const XSAVE_BYTES = 576;
/** Leaf 4 by subleaf, as EAX (type, level, self-initializing), EBX (line, ways), ECX (sets): L1 data, L1 instruction, L2, L3. */
const CACHES: readonly (readonly [number, number, number])[] = [
  [0x121, (7 << 22) | 63, 63],
  [0x122, (7 << 22) | 63, 63],
  [0x143, (7 << 22) | 63, 511],
  [0x163, (15 << 22) | 63, 8191],
];
/** Leaf 2: caches are described by leaf 4. */
const LEAF2_EAX = 0xff01;
const MAX_LEAF = 0xd;
const MAX_EXT_LEAF = 0x8000_0008;
export const XEN_LEAF_BASE = 0x4000_0000;
export const XEN_VERSION_MAJOR = 4;
export const XEN_VERSION_MINOR = 17;

/** Answers CPUID for vCPU `vcpu`: EAX EBX ECX EDX into `out`. Leaves past the end read as zero. */
export function cpuid(policy: CpuidPolicy, vcpu: number, leaf: number, subleaf: number, out: Uint32Array): void {
  out.fill(0);
  const at = leaf >>> 0;
  if (at >= 0x8000_0000) extendedLeaf(policy, at, out);
  else if (at >= XEN_LEAF_BASE && at <= XEN_LEAF_BASE + 0xff) xenLeaf(at - XEN_LEAF_BASE, subleaf >>> 0, policy, out);
  else basicLeaf(policy, vcpu, at, subleaf >>> 0, out);
}

function basicLeaf(policy: CpuidPolicy, vcpu: number, leaf: number, subleaf: number, out: Uint32Array): void {
  const intel = policy.vendor === 'GenuineIntel';
  switch (leaf) {
    case 0:
      out[0] = MAX_LEAF;
      out[1] = fourCharacters(policy.vendor, 0);
      out[3] = fourCharacters(policy.vendor, 4);
      out[2] = fourCharacters(policy.vendor, 8);
      return;
    case 1:
      out[0] = signature(policy);
      out[1] = ((vcpu * 2) << 24) | (1 << 16) | (8 << 8);
      out[2] = LEAF1_ECX | (policy.rdrand ? RDRAND : 0);
      out[3] = LEAF1_EDX_COMMON | (intel ? SEP : 0);
      return;
    case 2:
      if (intel) out[0] = LEAF2_EAX;
      return;
    case 4:
      if (intel && subleaf < CACHES.length) out.set(CACHES[subleaf]);
      return;
    case 7:
      if (subleaf === 2 && intel) out[3] = LEAF7_2_EDX;
      if (subleaf !== 0) return;
      out[0] = intel ? 2 : 0;
      out[1] = LEAF7_EBX;
      out[2] = LEAF7_ECX;
      out[3] = LEAF7_EDX | (intel ? LEAF7_EDX_SPECULATION : 0);
      return;
    case 0xd:
      if (subleaf !== 0) return;
      out[0] = policy.xcr0Mask;
      out[1] = XSAVE_BYTES;
      out[2] = XSAVE_BYTES;
      return;
    default:
  }
}

function extendedLeaf(policy: CpuidPolicy, leaf: number, out: Uint32Array): void {
  const amd = policy.vendor === 'AuthenticAMD';
  switch (leaf) {
    case 0x8000_0000:
      out[0] = MAX_EXT_LEAF;
      if (!amd) return;
      out[1] = fourCharacters(policy.vendor, 0);
      out[3] = fourCharacters(policy.vendor, 4);
      out[2] = fourCharacters(policy.vendor, 8);
      return;
    case 0x8000_0001:
      if (amd) out[0] = signature(policy);
      out[2] = EXT1_ECX;
      out[3] = EXT1_EDX | (amd ? EXT1_EDX_AMD : 0);
      return;
    case 0x8000_0002:
    case 0x8000_0003:
    case 0x8000_0004:
      for (let i = 0; i < 4; i++) out[i] = fourCharacters(policy.brand.slice(0, 47), (leaf - 0x8000_0002) * 16 + i * 4);
      return;
    case 0x8000_0006:
      out[2] = 0x0100_6040;
      return;
    case 0x8000_0007:
      out[3] = bits(8);
      return;
    case 0x8000_0008:
      out[0] = (48 << 8) | policy.physicalAddressBits;
      return;
    default:
  }
}

function xenLeaf(index: number, subleaf: number, policy: CpuidPolicy, out: Uint32Array): void {
  switch (index) {
    case 0:
      out[0] = XEN_LEAF_BASE + 5;
      out[1] = 0x566e_6558;
      out[2] = 0x6558_4d4d;
      out[3] = 0x4d4d_566e;
      return;
    case 1:
      out[0] = (XEN_VERSION_MAJOR << 16) | XEN_VERSION_MINOR;
      return;
    case 2:
      out[0] = 1;
      out[1] = 0x4000_0000;
      out[2] = 1;
      return;
    case 3:
      if (subleaf === 0) {
        out[0] = bits(1, 2);
        out[2] = TSC_KHZ;
      } else if (subleaf === 1) {
        out[2] = TSC_TO_SYSTEM_MUL;
        out[3] = TSC_SHIFT;
      } else if (subleaf === 2) {
        out[0] = TSC_KHZ;
      }
      return;
    case 5:
      if (subleaf === 0) out[1] = policy.physicalAddressBits;
      return;
    default:
  }
}

function signature(policy: CpuidPolicy): number {
  const family = Math.min(policy.family, 15);
  const extendedFamily = policy.family - family;
  return (extendedFamily << 20) | ((policy.model >> 4) << 16) | (family << 8) | ((policy.model & 15) << 4) | policy.stepping;
}

function fourCharacters(text: string, from: number): number {
  let value = 0;
  for (let i = 3; i >= 0; i--) value = (value << 8) | (from + i < text.length ? text.charCodeAt(from + i) & 0xff : 0);
  return value >>> 0;
}

function bits(...positions: number[]): number {
  return positions.reduce((value, position) => value | (1 << position), 0) >>> 0;
}
