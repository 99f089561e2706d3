// SPDX-License-Identifier: Apache-2.0
/**
 * The decoder against recorded lengths and names, on which an independent disassembler agreed (`app/tools/vectors/compare-objdump.ts`),
 * and at the edges: the end of the bytes, fifteen bytes, prefixes that cancel.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ADDRESS, DECODE, Decoder, gprOffset } from './decoder.ts';

const decoder = new Decoder();
const bytesOf = (text: string): Uint8Array =>
  Uint8Array.from(text.replaceAll(' ', '').match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));

function decode(text: string, mode: 16 | 32 | 64 = 64): number {
  const bytes = bytesOf(text);
  return decoder.decode(bytes, 0, bytes.length, mode);
}

const golden = readFileSync(join(import.meta.dirname, 'decoder.golden.txt'), 'utf8')
  .trim()
  .split('\n');

describe('recorded instructions', () => {
  it('have the lengths and names that a disassembler agreed on', () => {
    expect(golden.length).toBeGreaterThanOrEqual(2000);
    const wrong: string[] = [];
    for (const line of golden) {
      const [mode, code, length, name] = line.split(' ');
      const status = decode(code, mode === '64' ? 64 : 32);
      const got = status === DECODE.ok ? `${decoder.length} ${decoder.row.name}` : '-';
      const wanted = length === '-' ? '-' : `${length} ${name}`;
      if (got !== wanted) wrong.push(`${line}: ${got}`);
    }
    expect(wrong).toEqual([]);
  });

  it('are truncated anywhere before their end, and only there', () => {
    for (const line of golden) {
      const [mode, code, length] = line.split(' ');
      if (length === '-') continue;
      const bytes = bytesOf(code);
      for (let end = 0; end < Number(length); end++) {
        expect(decoder.decode(bytes, 0, end, mode === '64' ? 64 : 32), `${line} at ${end}`).toBe(DECODE.truncated);
      }
      expect(decoder.decode(bytes, 0, Number(length), mode === '64' ? 64 : 32), line).toBe(DECODE.ok);
    }
  });
});

describe('lengths', () => {
  it('may be fifteen bytes and not sixteen', () => {
    expect(decode(`${'66'.repeat(14)} 90`)).toBe(DECODE.ok);
    expect(decoder.length).toBe(15);
    expect(decode(`${'66'.repeat(15)} 90`)).toBe(DECODE.tooLong);
    expect(decode('66'.repeat(14))).toBe(DECODE.truncated);
  });
});

describe('prefixes', () => {
  it('REX counts only right before the opcode', () => {
    decode('48 66 89 c0');
    expect([decoder.operandSize, decoder.rex]).toEqual([16, 0]);
    decode('66 48 89 c0');
    expect(decoder.operandSize).toBe(64);
    decode('41 48 89 c0');
    expect(decoder.rex).toBe(0x48);
  });

  it('F2 and F3 select rows before 66; the last of them wins', () => {
    decode('66 f3 0f 58 c0');
    expect(decoder.row.name).toBe('addss');
    decode('f3 f2 0f 58 c0');
    expect(decoder.row.name).toBe('addsd');
    decode('f2 f3 0f 58 c0');
    expect(decoder.row.name).toBe('addss');
  });

  it('LOCK needs an instruction that may have it, and memory', () => {
    expect(decode('f0 01 08')).toBe(DECODE.ok);
    expect(decode('f0 01 c8')).toBe(DECODE.undefined);
    expect(decode('f0 8b 00')).toBe(DECODE.undefined);
    expect(decode('f0 39 08')).toBe(DECODE.undefined);
  });

  it('segment overrides other than FS and GS mean nothing in 64-bit mode', () => {
    decode('2e 8b 00');
    expect(decoder.segment).toBe(-1);
    decode('64 2e 8b 00');
    expect(decoder.segment).toBe(4);
    decode('2e 8b 00', 32);
    expect(decoder.segment).toBe(1);
  });
});

describe('addresses', () => {
  it('follow ModRM and SIB', () => {
    decode('43 8b 44 8d 7f');
    expect([decoder.base, decoder.index, decoder.scale, decoder.disp]).toEqual([gprOffset(13), gprOffset(9), 2, 0x7f]);
    decode('8b 05 fc ff ff ff');
    expect([decoder.ripRelative, decoder.disp]).toEqual([true, -4]);
    decode('8b 05 fc ff ff ff', 32);
    expect([decoder.ripRelative, decoder.addressing]).toEqual([false, ADDRESS.a32]);
    decode('4a 8b 04 24');
    expect(decoder.index).toBe(gprOffset(12));
  });

  it('of 16-bit code use pairs of registers', () => {
    decode('8b 42 fe', 16);
    expect([decoder.base, decoder.index, decoder.disp, decoder.segment, decoder.operandSize]).toEqual([
      gprOffset(5),
      gprOffset(6),
      -2,
      2,
      16,
    ]);
  });
});
