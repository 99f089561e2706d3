// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { CTX, SEG, SEGREG, VcpuContext } from '../../memory/vcpu-context.ts';
import { type DescriptorReader, flatDescriptor, loadCode, LOADED, loadFlatKernelSegments, loadStack } from './segments.ts';

const context = (): VcpuContext => new VcpuContext(new SharedArrayBuffer(CTX.size), 0);
const reader =
  (lo: number, hi: number): DescriptorReader =>
  () => [lo, hi];
const attributes = (ctx: VcpuContext, seg: number): number => ctx.u32(CTX.seg + seg * SEG.stride + SEG.attributes);

describe('code and stack segments of a guest entry', () => {
  it('flat selectors look as a load of their descriptors would leave them', () => {
    const flat = context();
    const loaded = context();
    loadFlatKernelSegments(flat);
    const [codeLo, codeHi] = flatDescriptor(0xe033) ?? [0, 0];
    const [stackLo, stackHi] = flatDescriptor(0xe02b) ?? [0, 0];
    // Other selectors with the same descriptors take the general path.
    expect(loadCode(loaded, 0x33, reader(codeLo, codeHi))).toBe(LOADED);
    expect(loadStack(loaded, 0x2b, reader(stackLo, stackHi))).toBe(LOADED);
    expect([attributes(flat, SEGREG.cs), attributes(flat, SEGREG.ss)]).toEqual([0xafb, 0xcf3]);
    expect([attributes(loaded, SEGREG.cs), attributes(loaded, SEGREG.ss)]).toEqual([0xafb, 0xcf3]);
    expect(flat.u32(CTX.codeBits)).toBe(64);
    expect(loaded.u32(CTX.codeBits)).toBe(64);
    expect(flatDescriptor(0xe034)).toBeUndefined();
    expect(flatDescriptor(0x33)).toBeUndefined();
  });

  it('a 32-bit code segment keeps base and limit', () => {
    const ctx = context();
    expect(loadCode(ctx, 0x23, reader(0x5678_ffff, 0x12cf_fb34))).toBe(LOADED);
    expect([ctx.segBase(SEGREG.cs), ctx.u32(CTX.codeBits)]).toEqual([0x1234_5678, 32]);
    expect(ctx.u32(CTX.seg + SEGREG.cs * SEG.stride + SEG.limit)).toBe(0xffff_ffff);
  });

  it.each([
    ['not present', 0x00af_7b00, 11],
    ['a data segment', 0x00cf_f300, 13],
    ['a system segment', 0x00af_eb00, 13],
    ['ring 0', 0x00af_9b00, 13],
    ['both 64-bit and 32-bit', 0x00ef_fb00, 13],
  ])('code: %s is refused', (_what, hi, vector) => expect(loadCode(context(), 0x33, reader(0xffff, hi))).toBe((vector << 16) | 0x30));

  it.each([
    ['not present', 0x00cf_7300, 12],
    ['read-only', 0x00cf_f100, 13],
    ['code', 0x00cf_fb00, 13],
    ['ring 0', 0x00cf_9300, 13],
  ])('stack: %s is refused', (_what, hi, vector) => expect(loadStack(context(), 0x2b, reader(0xffff, hi))).toBe((vector << 16) | 0x28));

  it('null selectors and selectors outside of their table are refused', () => {
    expect(loadCode(context(), 3, reader(0xffff, 0x00af_fb00))).toBe(13 << 16);
    expect(loadStack(context(), 3, reader(0xffff, 0x00cf_f300))).toBe(13 << 16);
    expect(loadCode(context(), 0x33, () => null)).toBe((13 << 16) | 0x30);
  });
});
