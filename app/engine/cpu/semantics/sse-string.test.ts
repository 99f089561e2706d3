// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { VMEXIT } from '../../accel/accelerator.ts';
import { CTX, REG } from '../../memory/vcpu-context.ts';
import { createFlatMachine } from '../flat-machine.ts';

const CODE = 0x1000;
const FLAGS = { cf: 1, zf: 0x40, sf: 0x80, of: 0x800 };

interface Result {
  readonly rcx: number;
  readonly flags: string[];
  readonly mask: number[];
}

/** PCMPISTRI or PCMPISTRM (or, with lengths, PCMPESTRI) of the set in XMM1 and the string in XMM2. */
function compare(kind: 'index' | 'mask', set: string, string: string, imm: number, lengths?: readonly [number, number]): Result {
  const { memory, vcpu } = createFlatMachine(0x10000);
  const { ctx } = vcpu;
  const opcode = lengths ? 0x61 : kind === 'index' ? 0x63 : 0x62;
  memory.write(CODE, Uint8Array.of(0x66, 0x0f, 0x3a, opcode, 0xca, imm, 0xcc));
  [set, string].forEach((text, n) => {
    for (let i = 0; i < 16; i++) ctx.setU8(CTX.xmm + 16 * (n + 1) + i, i < text.length ? text.charCodeAt(i) : 0);
  });
  if (lengths) {
    ctx.setGpr(REG.rax, lengths[0]);
    ctx.setGpr(REG.rdx, lengths[1]);
  }
  ctx.rip = CODE;
  expect(vcpu.run(100)).toBe(VMEXIT.exception);
  const flags = Object.entries(FLAGS).filter(([, bit]) => (ctx.rflags & bit) !== 0);
  return { rcx: ctx.gpr(REG.rcx), flags: flags.map(([name]) => name), mask: Array.from({ length: 16 }, (_, i) => ctx.u8(CTX.xmm + i)) };
}

describe('PCMPISTRI', () => {
  it('finds any of a set', () => {
    expect(compare('index', 'xyz', 'look, a yak', 0x00)).toMatchObject({ rcx: 8, flags: ['cf', 'zf', 'sf'] });
    expect(compare('index', 'xyz', 'nothing here', 0x00)).toMatchObject({ rcx: 16, flags: ['zf', 'sf'] });
  });
  it('finds what is outside of ranges, and the last of them', () => {
    expect(compare('index', 'azAZ', 'Mixed-case_text!', 0x14)).toMatchObject({ rcx: 5, flags: ['cf', 'sf'] });
    expect(compare('index', 'azAZ', 'Mixed-case_text!', 0x54)).toMatchObject({ rcx: 15 });
  });
  it('compares elements, ends included', () => {
    expect(compare('index', 'same', 'same', 0x18)).toMatchObject({ rcx: 16, flags: ['zf', 'sf'] });
    expect(compare('index', 'same', 'sane', 0x18)).toMatchObject({ rcx: 2, flags: ['cf', 'zf', 'sf'] });
    expect(compare('index', 'same', 'sam', 0x18)).toMatchObject({ rcx: 3 });
  });
  it('finds a substring, also one that may go on behind the end', () => {
    expect(compare('index', 'needle', 'a needle in hay!', 0x0c)).toMatchObject({ rcx: 2 });
    expect(compare('index', 'needle', 'hay, more, a nee', 0x0c)).toMatchObject({ rcx: 13, flags: ['cf', 'sf'] });
  });
});

describe('PCMPISTRM', () => {
  it('gives bits or bytes', () => {
    expect(compare('mask', 'a', 'banana', 0x00).mask.slice(0, 3)).toEqual([0b101010, 0, 0]);
    expect(compare('mask', 'a', 'banana', 0x40).mask.slice(0, 7)).toEqual([0, 255, 0, 255, 0, 255, 0]);
  });
});

describe('PCMPESTRI', () => {
  it('takes absolute values of lengths, saturated', () => {
    expect(compare('index', 'a\0b', 'zz\0zzzzzzzzzzzzz', 0x00, [-3, 100])).toMatchObject({ rcx: 2, flags: ['cf', 'sf'] });
    expect(compare('index', 'a\0b', 'zz\0zzzzzzzzzzzzz', 0x00, [1, -0x80000000])).toMatchObject({ rcx: 16, flags: ['sf'] });
  });
});
