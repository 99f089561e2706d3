// SPDX-License-Identifier: Apache-2.0
/**
 * Loading CS and SS for a guest entry: the flat selectors that Xen puts into every GDT (xen public/arch-x86/xen-x86_64.h), and
 * selectors of the guest's own tables with the checks that IRET would make for a return within ring 3 (Intel SDM 2A "IRET").
 */
import { CTX, SEGREG, type VcpuContext } from '../../memory/vcpu-context.ts';
import { FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS } from '../abi/xen.ts';

/** Access rights as `SEG.attributes` holds them: bits 40..47 of a descriptor, then bits 52..55. */
const attributesOf = (hi: number): number => ((hi >>> 8) & 0xff) | ((hi >>> 12) & 0xf00);
const PRESENT = 0x80;
const CODE_OR_DATA = 0x10;
const CODE = 0x08;
const CONFORMING = 0x04;
const WRITABLE = 0x02;
const LONG = 0x200;
const DEFAULT_BIG = 0x400;
const GRANULAR = 0x800;

const ATTRIBUTES_CS64 = 0xafb;
const ATTRIBUTES_CS32 = 0xcfb;
const ATTRIBUTES_DATA = 0xcf3;
const FLAT_LIMIT = 0xffff_ffff;

/** Descriptors of the flat selectors, which stand in every guest's GDT behind its own 14 pages. */
const FLAT_DESCRIPTORS: ReadonlyMap<number, readonly [number, number]> = new Map([
  [FLAT_RING3_CS32 & ~7, [0xffff, 0x00cf_fb00]],
  [FLAT_RING3_SS & ~7, [0xffff, 0x00cf_f300]],
  [FLAT_RING3_CS64 & ~7, [0xffff, 0x00af_fb00]],
]);

export type DescriptorReader = (selector: number) => readonly [number, number] | null;

/** The descriptor of a flat selector, or undefined when `selector` is not one. */
export function flatDescriptor(selector: number): readonly [number, number] | undefined {
  return (selector & 4) === 0 ? FLAT_DESCRIPTORS.get(selector & 0xfff8) : undefined;
}

export function loadFlatKernelSegments(ctx: VcpuContext): void {
  loadFlatCode64(ctx);
  loadFlatStack(ctx);
}

export function loadFlatCode64(ctx: VcpuContext): void {
  ctx.setSegment(SEGREG.cs, FLAT_RING3_CS64, 0, FLAT_LIMIT, ATTRIBUTES_CS64);
  ctx.setU32(CTX.codeBits, 64);
}

export function loadFlatCode32(ctx: VcpuContext): void {
  ctx.setSegment(SEGREG.cs, FLAT_RING3_CS32, 0, FLAT_LIMIT, ATTRIBUTES_CS32);
  ctx.setU32(CTX.codeBits, 32);
}

export function loadFlatStack(ctx: VcpuContext): void {
  ctx.setSegment(SEGREG.ss, FLAT_RING3_SS, 0, FLAT_LIMIT, ATTRIBUTES_DATA);
}

/** No fault. Other results of `loadCode` and `loadStack` are the vector, shifted left by 16, and the error code of the exception. */
export const LOADED = 0;
const NO_SEGMENT = 11 << 16;
const STACK_ERROR = 12 << 16;
const GP_FAULT = 13 << 16;

/** Loads CS (selector with RPL 3) as a return in ring 3 does. `LOADED`, or the fault with nothing changed. */
export function loadCode(ctx: VcpuContext, selector: number, read: DescriptorReader): number {
  if (selector === FLAT_RING3_CS64) {
    loadFlatCode64(ctx);
    return LOADED;
  }
  const named = selector & 0xfffc;
  const descriptor = named === 0 ? null : read(selector);
  if (descriptor === null) return GP_FAULT | named;
  const [lo, hi] = descriptor;
  const attributes = attributesOf(hi);
  if ((attributes & (CODE_OR_DATA | CODE)) !== (CODE_OR_DATA | CODE)) return GP_FAULT | named;
  const dpl = (attributes >>> 5) & 3;
  if ((attributes & CONFORMING) === 0 && dpl !== 3) return GP_FAULT | named;
  if ((attributes & (LONG | DEFAULT_BIG)) === (LONG | DEFAULT_BIG)) return GP_FAULT | named;
  if ((attributes & PRESENT) === 0) return NO_SEGMENT | named;
  ctx.setSegment(SEGREG.cs, selector, (attributes & LONG) !== 0 ? 0 : descriptorBase(lo, hi), descriptorLimit(lo, hi), attributes);
  ctx.setU32(CTX.codeBits, (attributes & LONG) !== 0 ? 64 : (attributes & DEFAULT_BIG) !== 0 ? 32 : 16);
  return LOADED;
}

/** Loads SS (selector with RPL 3) as a return in ring 3 does. `LOADED`, or the fault with nothing changed. */
export function loadStack(ctx: VcpuContext, selector: number, read: DescriptorReader): number {
  if (selector === FLAT_RING3_SS) {
    loadFlatStack(ctx);
    return LOADED;
  }
  const named = selector & 0xfffc;
  const descriptor = named === 0 ? null : read(selector);
  if (descriptor === null) return GP_FAULT | named;
  const [lo, hi] = descriptor;
  const attributes = attributesOf(hi);
  if ((attributes & (CODE_OR_DATA | CODE | WRITABLE)) !== (CODE_OR_DATA | WRITABLE)) return GP_FAULT | named;
  if (((attributes >>> 5) & 3) !== 3) return GP_FAULT | named;
  if ((attributes & PRESENT) === 0) return STACK_ERROR | named;
  ctx.setSegment(SEGREG.ss, selector, descriptorBase(lo, hi), descriptorLimit(lo, hi), attributes);
  return LOADED;
}

export function descriptorBase(lo: number, hi: number): number {
  return ((hi & 0xff00_0000) | ((hi & 0xff) << 16) | (lo >>> 16)) >>> 0;
}

export function descriptorLimit(lo: number, hi: number): number {
  const limit = (hi & 0x000f_0000) | (lo & 0xffff);
  return (attributesOf(hi) & GRANULAR) !== 0 ? ((limit << 12) | 0xfff) >>> 0 : limit;
}
