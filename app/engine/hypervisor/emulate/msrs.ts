// SPDX-License-Identifier: Apache-2.0
/**
 * Model-specific registers as a PV guest's kernel sees them. An unknown register, a reserved bit and a value that may not be set are a
 * #GP, for which guests are prepared (Intel SDM 4; xen public/arch-x86/cpuid.h for 0x40000000).
 *
 * @abi msr 0x10 IA32_TIME_STAMP_COUNTER — read
 * @abi msr 0x17 IA32_PLATFORM_ID — reads 0
 * @abi msr 0x1b IA32_APIC_BASE — read
 * @abi msr 0x3a IA32_FEATURE_CONTROL — locked
 * @abi msr 0x48 IA32_SPEC_CTRL — stored, without effect
 * @abi msr 0x49 IA32_PRED_CMD — write, without effect
 * @abi msr 0x79 IA32_BIOS_UPDT_TRIG — write, ignored
 * @abi msr 0x8b IA32_BIOS_SIGN_ID — reads 0
 * @abi msr 0xce MSR_PLATFORM_INFO — reads 0
 * @abi msr 0x10a IA32_ARCH_CAPABILITIES — from the CPUID policy
 * @abi msr 0x140 MSR_MISC_FEATURES_ENABLES — 0
 * @abi msr 0x179 IA32_MCG_CAP — two banks
 * @abi msr 0x17a IA32_MCG_STATUS — 0
 * @abi msr 0x1a0 IA32_MISC_ENABLE
 * @abi msr 0x1d9 IA32_DEBUGCTL — 0
 * @abi msr 0x277 IA32_PAT — Xen's value
 * @abi msr 0x280..0x281 IA32_MCi_CTL2 — 0
 * @abi msr 0x345 IA32_PERF_CAPABILITIES — 0
 * @abi msr 0x400..0x407 IA32_MCi — 0
 * @abi msr 0x40000000 — hypercall page
 * @abi msr 0xc0000080 IA32_EFER — read; writes that change nothing
 * @abi msr 0xc0000100 IA32_FS_BASE
 * @abi msr 0xc0000101 IA32_GS_BASE
 * @abi msr 0xc0000102 IA32_KERNEL_GS_BASE — GS base of the other mode
 * @abi msr 0xc0000103 IA32_TSC_AUX
 */
import { mfn } from '../../memory/frames.ts';
import { CTX, SEGREG, type VcpuContext } from '../../memory/vcpu-context.ts';
import { isCanonical } from '../abi/xen.ts';
import type { Domain } from '../domain.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';
import { signed } from '../hypercalls/hypercall-args.ts';
import { writeHypercallPage } from '../hypercalls/hypercall-page.ts';

const FS_BASE = CTX.segBase + SEGREG.fs * 8;
const GS_BASE = CTX.segBase + SEGREG.gs * 8;
const EFER_SCE = 1;
/** IBRS, STIBP, BHI_DIS_S. */
const SPEC_CTRL_BITS = 0x403;
/** Fast strings; no branch trace store, no event-based sampling, no xTPR messages. */
const MISC_ENABLE = 0x1 | (1 << 11) | (1 << 12) | (1 << 23);
/** WB WT UC- UC WC WP UC UC, as Xen programs it for itself and therefore for every PV guest. */
export const PAT = [0x0007_0406, 0x0000_0501] as const;
/** Two banks, threshold status, software error recovery. */
const MCG_CAP = 2 | (1 << 11) | (1 << 24);
const APIC_BASE = 0xfee0_0800;
const APIC_BASE_BSP = 0x100;

/** The value of the last successful read, as halves. */
export interface MsrValue {
  lo: number;
  hi: number;
}

/** Reads `index` into `out`; false: #GP. */
export function readMsr(d: Domain, dv: DomainVcpu, index: number, out: MsrValue): boolean {
  const ctx = dv.ctx;
  out.lo = 0;
  out.hi = 0;
  switch (index >>> 0) {
    case 0xc000_0100:
      return field(ctx, FS_BASE, out);
    case 0xc000_0101:
      return field(ctx, GS_BASE, out);
    case 0xc000_0102:
      return field(ctx, CTX.kernelGsBase, out);
    case 0xc000_0103:
      return field(ctx, CTX.tscAux, out);
    case 0xc000_0080:
      return field(ctx, CTX.efer, out);
    case 0x10: {
      const now = d.time.now();
      return value(out, now >>> 0, Math.floor(now / 0x1_0000_0000));
    }
    case 0x1b:
      return value(out, APIC_BASE | (dv.id === 0 ? APIC_BASE_BSP : 0), 0);
    case 0x3a:
      return value(out, 1, 0);
    case 0x48:
      return value(out, dv.specCtrl, 0);
    case 0x10a:
      return value(out, d.config.cpuid.archCapabilities[0], d.config.cpuid.archCapabilities[1]);
    case 0x179:
      return value(out, MCG_CAP, 0);
    case 0x1a0:
      return value(out, MISC_ENABLE, 0);
    case 0x277:
      return value(out, PAT[0], PAT[1]);
    case 0x17:
    case 0x8b:
    case 0xce:
    case 0x140:
    case 0x17a:
    case 0x1d9:
    case 0x280:
    case 0x281:
    case 0x345:
    case 0x4000_0000:
      return true;
    default:
      return index >= 0x400 && index <= 0x407;
  }
}

/** Writes `index`; false: #GP. */
export function writeMsr(d: Domain, dv: DomainVcpu, index: number, lo: number, hi: number): boolean {
  const ctx = dv.ctx;
  switch (index >>> 0) {
    case 0xc000_0100:
      return setBase(ctx, FS_BASE, lo, hi);
    case 0xc000_0101:
      return setBase(ctx, GS_BASE, lo, hi);
    case 0xc000_0102:
      return setBase(ctx, CTX.kernelGsBase, lo, hi);
    case 0xc000_0103:
      if (hi !== 0) return false;
      ctx.setLoHi(CTX.tscAux, lo, 0);
      return true;
    case 0xc000_0080:
      return hi === 0 && ((lo ^ ctx.lo(CTX.efer)) & ~EFER_SCE) === 0;
    case 0x48:
      if (hi !== 0 || (lo & ~SPEC_CTRL_BITS) !== 0) return false;
      dv.specCtrl = lo;
      return true;
    case 0x49:
      return hi === 0 && (lo & ~1) === 0;
    case 0x79:
    case 0x8b:
      return true;
    case 0x1a0:
      return hi === 0 && lo >>> 0 === MISC_ENABLE;
    case 0x277:
      return lo >>> 0 === PAT[0] && hi >>> 0 === PAT[1];
    case 0x140:
    case 0x17a:
    case 0x1d9:
    case 0x280:
    case 0x281:
      return lo === 0 && hi === 0;
    case 0x4000_0000:
      return installHypercallPage(d, lo, hi);
    default:
      return index >= 0x400 && index <= 0x407 && lo === 0 && hi === 0;
  }
}

/** GUEST: the frame must be the guest's and writable; page index 0 is the only one there is. */
function installHypercallPage(d: Domain, lo: number, hi: number): boolean {
  if ((lo & 0xfff) !== 0) return false;
  const frame = Math.floor(signed(lo, hi) / 4096);
  if (!(frame >= 0 && frame < d.state.memory.layout.shape.guestFrames)) return false;
  if (d.mmu.holdFrame(frame, true) !== 0) return false;
  writeHypercallPage(d.state.memory.frame(mfn(frame)));
  d.state.memory.wrote(mfn(frame), 0, 4096);
  d.mmu.releaseFrame(mfn(frame), true);
  return true;
}

function field(ctx: VcpuContext, offset: number, out: MsrValue): boolean {
  return value(out, ctx.lo(offset), ctx.hi(offset));
}

function value(out: MsrValue, lo: number, hi: number): boolean {
  out.lo = lo >>> 0;
  out.hi = hi >>> 0;
  return true;
}

function setBase(ctx: VcpuContext, offset: number, lo: number, hi: number): boolean {
  if (!isCanonical(signed(lo, hi))) return false;
  ctx.setLoHi(offset, lo, hi);
  return true;
}
