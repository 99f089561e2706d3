// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { VMEXIT } from '../../accel/accelerator.ts';
import { CTX, REG } from '../../memory/vcpu-context.ts';
import { createFlatMachine, type FlatMachine } from '../flat-machine.ts';

const CODE = 0x1000;
const AREA = 0x8000;
const BP = 3;
const [UD, NM, GP] = [6, 7, 13];

/** Runs the instructions `hex` with RSI = `AREA`, up to the INT3 behind them; returns the exception's vector. */
function run(machine: FlatMachine, hex: string): number {
  const code = hex.split(' ').map((byte) => Number.parseInt(byte, 16));
  machine.memory.write(CODE, Uint8Array.from([...code, 0xcc]));
  const { ctx } = machine.vcpu;
  ctx.rip = CODE;
  ctx.setGpr(REG.rsi, AREA);
  expect(machine.vcpu.run(100)).toBe(VMEXIT.exception);
  return ctx.u32(CTX.exitVector);
}
const machine = (): FlatMachine => createFlatMachine(0x10000);
const area = (m: FlatMachine, offset: number, bytes: number): number[] => [...m.memory.read(AREA + offset, bytes)];

const FXSAVE = '0f ae 06';
const FXRSTOR = '0f ae 0e';
const XSAVE = '0f ae 26';
const XRSTOR = '0f ae 2e';

describe('FXSAVE and FXRSTOR', () => {
  it('keep registers in stack order', () => {
    const m = machine();
    const { ctx } = m.vcpu;
    ctx.setU16(CTX.ftop, 6);
    ctx.setU16(CTX.ftag, 0b1100_0000);
    ctx.setU16(CTX.fsw, 0x0100);
    ctx.setLoHi(CTX.fpr + 6 * 16, 0x11223344, 0x80000000);
    ctx.setU16(CTX.fpr + 6 * 16 + 8, 0x4000);
    ctx.setLoHi(CTX.xmm + 15 * 16 + 8, 0xaabbccdd, 0x01020304);
    expect(run(m, FXSAVE)).toBe(BP);
    expect(area(m, 0, 5)).toEqual([0x7f, 0x03, 0x00, 0x31, 0xc0]);
    expect(area(m, 24, 8)).toEqual([0x80, 0x1f, 0, 0, 0xff, 0xff, 0, 0]);
    expect(area(m, 32, 10)).toEqual([0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0x80, 0x00, 0x40]);
    expect(area(m, 160 + 15 * 16 + 8, 8)).toEqual([0xdd, 0xcc, 0xbb, 0xaa, 4, 3, 2, 1]);

    // FNINIT, XORPS XMM15,XMM15, then back.
    for (let n = 0; n < 128; n += 4) ctx.setU32(CTX.fpr + n, 0);
    ctx.setU16(CTX.ftop, 0);
    ctx.setU16(CTX.ftag, 0);
    expect(run(m, `45 0f 57 ff ${FXRSTOR}`)).toBe(BP);
    expect([ctx.u16(CTX.ftop), ctx.u16(CTX.ftag), ctx.u16(CTX.fsw), ctx.lo(CTX.fpr + 6 * 16), ctx.u16(CTX.fpr + 6 * 16 + 8)]).toEqual([
      6, 0xc0, 0x0100, 0x11223344, 0x4000,
    ]);
    expect(ctx.lo(CTX.xmm + 15 * 16 + 8)).toBe(0xaabbccdd);
  });

  it('fault without changing state', () => {
    const m = machine();
    expect(run(m, '0f ae 46 08')).toBe(GP);
    m.memory.write(AREA + 24, Uint8Array.of(0, 0, 1, 0));
    expect(run(m, FXRSTOR)).toBe(GP);
    expect(run(m, '0f ae 56 18')).toBe(GP);
    expect(m.vcpu.ctx.u32(CTX.mxcsr)).toBe(0x1f80);
    m.vcpu.ctx.setU32(CTX.cr0, m.vcpu.ctx.u32(CTX.cr0) | 8);
    expect(run(m, FXSAVE)).toBe(NM);
    expect(run(m, XSAVE)).toBe(NM);
  });
});

describe('XSAVE and XRSTOR', () => {
  const request = (m: FlatMachine, mask: number): void => {
    m.vcpu.ctx.setGpr(REG.rax, mask);
    m.vcpu.ctx.setGpr(REG.rdx, 0);
  };

  it('save what is asked for and keep the other bits of the header', () => {
    const m = machine();
    m.memory.fill(AREA, 576, 0x55);
    m.memory.write(AREA + 512, Uint8Array.of(0x01, 0, 0, 0, 0, 0, 0, 0));
    m.vcpu.ctx.setU32(CTX.xmm, 0x12345678);
    request(m, 2);
    expect(run(m, XSAVE)).toBe(BP);
    expect(area(m, 512, 2)).toEqual([3, 0]);
    expect(area(m, 0, 2)).toEqual([0x55, 0x55]);
    expect(area(m, 160, 4)).toEqual([0x78, 0x56, 0x34, 0x12]);
  });

  it('put components that are absent into their initial state', () => {
    const m = machine();
    const { ctx } = m.vcpu;
    m.memory.write(AREA + 24, Uint8Array.of(0x80, 0x3f));
    ctx.setU16(CTX.fcw, 0x27f);
    ctx.setU16(CTX.ftag, 0xff);
    ctx.setU32(CTX.xmm + 64, 7);
    request(m, 3);
    expect(run(m, XRSTOR)).toBe(BP);
    expect([ctx.u16(CTX.fcw), ctx.u16(CTX.ftag), ctx.u32(CTX.xmm + 64), ctx.u32(CTX.mxcsr)]).toEqual([0x37f, 0, 0, 0x3f80]);
  });

  it('refuse headers that are not of the standard format', () => {
    for (const [offset, value] of [
      [512, 4],
      [520, 1],
      [527, 0x80],
      [535, 1],
    ]) {
      const m = machine();
      request(m, 3);
      m.memory.write(AREA + offset, Uint8Array.of(value));
      expect(run(m, XRSTOR), `byte ${offset}`).toBe(GP);
    }
    const m = machine();
    m.vcpu.ctx.setU32(CTX.cr4, m.vcpu.ctx.u32(CTX.cr4) & ~(1 << 18));
    expect(run(m, XRSTOR)).toBe(UD);
  });
});

describe('MMX state', () => {
  it('is entered by every MMX instruction and left by EMMS', () => {
    const m = machine();
    const { ctx } = m.vcpu;
    ctx.setU16(CTX.ftop, 3);
    ctx.setU16(CTX.ftag, 1);
    ctx.setLoHi(CTX.fpr + 16, 0xff00ff00, 0x00ff00ff);
    // MOVD EAX,MM1 reads only.
    expect(run(m, '0f 7e c8')).toBe(BP);
    expect([ctx.u16(CTX.ftop), ctx.u16(CTX.ftag), ctx.lo(CTX.gpr), ctx.u16(CTX.fpr + 24)]).toEqual([0, 0xff, 0xff00ff00, 0]);
    // PADDB MM1,MM1
    expect(run(m, '0f fc c9')).toBe(BP);
    expect([ctx.lo(CTX.fpr + 16), ctx.hi(CTX.fpr + 16), ctx.u16(CTX.fpr + 24)]).toEqual([0xfe00fe00, 0x00fe00fe, 0xffff]);
    expect(run(m, '0f 77')).toBe(BP);
    expect(ctx.u16(CTX.ftag)).toBe(0);
  });
});
