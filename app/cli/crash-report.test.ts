// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { crashLines, lastConsoleLines } from './crash-report.ts';

const bytes = (text: string) => new TextEncoder().encode(text);

describe('lastConsoleLines', () => {
  it('gives the last lines as plain text', () => {
    const text = Array.from({ length: 40 }, (_, i) => `line ${i}`).join('\r\n');
    const lines = lastConsoleLines(bytes(text));
    expect(lines).toHaveLength(24);
    expect(lines.at(-1)).toBe('line 39');
  });

  it('removes what a terminal would act on', () => {
    expect(lastConsoleLines(bytes('\x1b[1;31mred\x1b[0m \x1b]0;title\x07x\x1b(B\x07y\x00\n\x9b31mz'))).toEqual(['red xy', '31mz']);
  });

  it('keeps what a line shows in the end when it was overwritten, and cuts long ones', () => {
    expect(lastConsoleLines(bytes(`10%\r20%\n${'a'.repeat(500)}`))).toEqual(['20%', 'a'.repeat(200)]);
  });

  it('survives bytes that are no text', () => {
    expect(lastConsoleLines(Uint8Array.of(0xff, 0xfe, 0x41, 0x0a))).toEqual(['\ufffd\ufffdA']);
  });
});

describe('crashLines', () => {
  it('puts the report before the console', () => {
    expect(crashLines(['vCPU 0: triple fault', 'RIP 0'], bytes('Kernel panic\n'))).toEqual([
      '  vCPU 0: triple fault',
      '  RIP 0',
      'last lines of its console:',
      '  Kernel panic',
    ]);
  });

  it('says nothing of a console that stayed empty', () => {
    expect(crashLines(['x'], bytes(''))).toEqual(['  x']);
  });
});
