// SPDX-License-Identifier: Apache-2.0
/** x87 and SSE floating point by example: deferred and immediate exceptions, faulting stores, images of the state, functions. */
import { beforeEach, describe, expect, it } from 'vitest';
import type { Mfn } from '../../memory/frames.ts';
import { CTX, REG } from '../../memory/vcpu-context.ts';
import { createFlatMachine } from '../flat-machine.ts';
import { piFixed } from './transcendental.ts';

const DATA = 0x2000;
const UNMAPPED = 0x3000;
const INVALID_OPCODE = 6;
const PAGE_FAULT = 14;
const X87_EXCEPTION = 16;
const SIMD_EXCEPTION = 19;
const BREAKPOINT = 3;
const machine = createFlatMachine(0x80000);
const { ctx } = machine.vcpu;
const block = new DataView(machine.memory.buffer, ctx.base, CTX.size);
const memory = new DataView(machine.memory.buffer, machine.memory.frameOffset(0 as Mfn) + DATA, 0x1000);
machine.setPage(UNMAPPED, 0);
let codeAt = 0x10000;

/** Runs machine code up to an INT3 and gives the vector of the exception that ended it. RBX points at `memory`. */
function run(hex: string): number {
  const code = hex.replaceAll(' ', '').match(/../g) as string[];
  machine.memory.write(codeAt, Uint8Array.from([...code.map((byte) => Number.parseInt(byte, 16)), 0xcc]));
  ctx.rip = codeAt;
  codeAt += 64;
  machine.vcpu.run(1000);
  return ctx.u32(CTX.exitVector);
}
const register = (n: number): number => CTX.fpr + ((ctx.u16(CTX.ftop) + n) & 7) * 16;
const st = (n: number): string =>
  `${block.getUint16(register(n) + 8, true).toString(16)}:${block.getBigUint64(register(n), true).toString(16)}`;
function push(significand: bigint, exponent: number): void {
  memory.setBigUint64(0, significand, true);
  memory.setUint16(8, exponent, true);
  expect(run('db 2b')).toBe(BREAKPOINT); // fld tbyte [rbx]
}

beforeEach(() => {
  ctx.setGpr(REG.rbx, DATA);
  ctx.setU32(CTX.mxcsr, 0x1f80);
  run('db e3'); // fninit
});

describe('rounding', () => {
  it.each([
    ['to nearest, 64 bits', 0x37f, '3ffd:aaaaaaaaaaaaaaab'],
    ['down, 64 bits', 0x77f, '3ffd:aaaaaaaaaaaaaaaa'],
    ['up, 53 bits', 0xa7f, '3ffd:aaaaaaaaaaaab000'],
    ['towards zero, 24 bits', 0xc7f, '3ffd:aaaaaa0000000000'],
  ])('divides 1 by 3 %s', (_name, control, expected) => {
    memory.setUint16(0, control, true);
    memory.setUint16(2, 3, true);
    run('d9 2b  d9 e8  de 73 02'); // fldcw, fld1, fidiv word [rbx+2]
    expect(st(0)).toBe(expected);
  });
});

describe('x87 exceptions', () => {
  it('are deferred to the next waiting instruction', () => {
    memory.setUint16(0, 0x37b, true); // zero divide unmasked
    expect(run('d9 2b  d9 e8  d9 ee  de f9')).toBe(BREAKPOINT); // 1 / 0
    expect(ctx.u16(CTX.fsw) & 0x80bf).toBe(0x8084);
    expect(st(1)).toBe('3fff:8000000000000000');
    expect(run('df e0')).toBe(BREAKPOINT); // fnstsw ax does not wait
    expect(run('9b')).toBe(X87_EXCEPTION);
    expect(run('db e2  9b')).toBe(BREAKPOINT); // fnclex
  });
  it('report stack overflow with C1 and give the default NaN', () => {
    expect(run(`${'d9 e8 '.repeat(9)}`)).toBe(BREAKPOINT);
    expect(ctx.u16(CTX.fsw) & 0x27f).toBe(0x241);
    expect(st(0)).toBe('ffff:c000000000000000');
  });
  it('leave the stack as it is when a store faults', () => {
    run('d9 e8');
    const before = ctx.u16(CTX.fsw);
    ctx.setGpr(REG.rbx, UNMAPPED - 4);
    expect(run('db 3b')).toBe(PAGE_FAULT); // fstp tbyte over the page's end
    expect(ctx.u16(CTX.ftop)).toBe(7);
    expect(ctx.u16(CTX.fsw)).toBe(before);
    expect(memory.getUint32(0xffc, true)).toBe(0);
  });
});

describe('state images', () => {
  it('have the last instruction, operand and opcode in FNSTENV', () => {
    run('dd 03'); // fld qword [rbx]
    const at = codeAt;
    run('d9 fa  d9 73 40'); // fsqrt, fnstenv [rbx+0x40]
    expect(memory.getUint32(0x40 + 12, true)).toBe(at);
    expect(memory.getUint16(0x40 + 18, true)).toBe(0x1fa);
    expect(memory.getUint32(0x40 + 20, true)).toBe(DATA);
  });
  it('survive FNSAVE and FRSTOR', () => {
    run('d9 eb  d9 e8  dd b3 00 01 00 00'); // fldpi, fld1, fnsave [rbx+0x100]
    expect([ctx.u16(CTX.ftag), ctx.u16(CTX.ftop), ctx.u16(CTX.fcw)]).toEqual([0, 0, 0x37f]);
    run('dd a3 00 01 00 00'); // frstor
    expect([st(0), st(1)]).toEqual(['3fff:8000000000000000', '4000:c90fdaa22168c235']);
    expect(ctx.u16(CTX.ftag)).toBe(0xc0);
  });
});

describe('functions', () => {
  // Recorded on a processor; one unit in the last place may differ.
  it.each([
    ['sin 1', 'd9 fe', [[1n << 63n, 0x3fff]], '3ffe', 0xd76aa47848677021n],
    ['cos 1', 'd9 ff', [[1n << 63n, 0x3fff]], '3ffe', 0x8a51407da8345c92n],
    ['tan 1', 'd9 f2 dd d8', [[1n << 63n, 0x3fff]], '3fff', 0xc75922e5f71d2dc6n],
    ['sin 10^10', 'd9 fe', [[0x9502f90000000000n, 0x4020]], 'bffd', 0xf99a63c49c6f2b1an],
    ['sin of the nearest to pi', 'd9 fe', [[0xc90fdaa22168c235n, 0x4000]], 'bfbf', 0x8000000000000000n],
    ['2^-0.75 - 1', 'd9 f0', [[0xc000000000000000n, 0xbffe]], 'bffd', 0xcf901f5ce48ead21n],
    [
      '3 log2 10',
      'd9 f1',
      [
        [0xc000000000000000n, 0x4000],
        [0xa000000000000000n, 0x4002],
      ],
      '4002',
      0x9f73da38d9d4a83fn,
    ],
    [
      'log2 1.25',
      'd9 f9',
      [
        [1n << 63n, 0x3fff],
        [1n << 63n, 0x3ffd],
      ],
      '3ffd',
      0xa4d3c25e68dc57f2n,
    ],
    [
      'atan2(2, -1)',
      'd9 f3',
      [
        [1n << 63n, 0x4000],
        [1n << 63n, 0xbfff],
      ],
      '4000',
      0x82345456726fb083n,
    ],
  ] as const)('%s', (_name, code, operands, exponent, significand) => {
    for (const [sig, se] of operands) push(sig, se);
    run(code);
    const [actualExponent, actual] = st(0).split(':');
    expect(actualExponent).toBe(exponent);
    const error = BigInt(`0x${actual}`) - significand;
    expect(error >= -1n && error <= 1n).toBe(true);
  });
  it('refuse angles from 2^63 on', () => {
    push(1n << 63n, 0x3fff + 63);
    run('d9 fe');
    expect(st(0)).toBe(`${(0x3fff + 63).toString(16)}:8000000000000000`);
    expect(ctx.u16(CTX.fsw) & 0x400).toBe(0x400);
  });
  it('know pi', () => {
    expect(piFixed(128).toString(16)).toBe('3243f6a8885a308d313198a2e03707344');
  });
});

describe('SSE', () => {
  const setDouble = (n: number, value: number): void => block.setFloat64(CTX.xmm + n * 16, value, true);
  it('raises #XM before the register changes', () => {
    ctx.setU32(CTX.mxcsr, 0x1f80 & ~0x200);
    setDouble(0, 1);
    setDouble(1, 0);
    expect(run('f2 0f 5e c1')).toBe(SIMD_EXCEPTION);
    expect(block.getFloat64(CTX.xmm, true)).toBe(1);
    expect(ctx.u32(CTX.mxcsr)).toBe(0x1d84);
  });
  it('reports inexact results, and exact ones not', () => {
    setDouble(0, 0.5);
    setDouble(1, 0.25);
    run('f2 0f 58 c1');
    expect(ctx.u32(CTX.mxcsr)).toBe(0x1f80);
    setDouble(1, 2 ** -60);
    run('f2 0f 58 c1');
    expect(ctx.u32(CTX.mxcsr)).toBe(0x1fa0);
  });
  it.each([3, 1e-30, 7.25e20, 1.7])('approximates the reciprocals of %f within 1.5 * 2^-12', (value) => {
    block.setFloat32(CTX.xmm + 16, value, true);
    const single = Math.fround(value);
    run('f3 0f 53 c1'); // rcpss
    expect(Math.abs(block.getFloat32(CTX.xmm, true) * single - 1)).toBeLessThan(1.5 * 2 ** -12);
    run('f3 0f 52 c1'); // rsqrtss
    expect(Math.abs(block.getFloat32(CTX.xmm, true) * Math.sqrt(single) - 1)).toBeLessThan(1.5 * 2 ** -12);
  });
  it('has no instruction where the table has none', () => {
    expect(run('d9 e2')).toBe(INVALID_OPCODE);
  });
});
