// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { EscapeKeys } from './escape-keys.ts';

const bytes = (text: string) => new TextEncoder().encode(text);
const typed = (...chunks: string[]) => {
  const keys = new EscapeKeys();
  return chunks
    .flatMap((chunk) => keys.feed(bytes(chunk)))
    .map((event) => (event.kind === 'bytes' ? { kind: 'bytes', text: new TextDecoder().decode(event.bytes) } : event));
};

describe('EscapeKeys', () => {
  it('hands everything but Ctrl-] to the guest, Ctrl-C and Ctrl-Z included', () => {
    expect(typed('ls\r\x03\x1a\x1b[Aé')).toEqual([{ kind: 'bytes', text: 'ls\r\x03\x1a\x1b[Aé' }]);
  });

  it('takes the menu key and its answer out of the middle of a chunk', () => {
    expect(typed('ab\x1dqcd')).toEqual([
      { kind: 'bytes', text: 'ab' },
      { kind: 'open' },
      { kind: 'choice', choice: 'quit' },
      { kind: 'bytes', text: 'cd' },
    ]);
  });

  it.each([
    ['r', 'reset'],
    ['P', 'shutdown'],
    ['s', 'statistics'],
    ['w', 'window-size'],
    [']', 'literal'],
    ['\x1d', 'literal'],
    ['x', 'back'],
    ['\r', 'back'],
  ])('answers %j with %s, in a chunk of its own', (key, choice) => {
    expect(typed('\x1d', key)).toEqual([{ kind: 'open' }, { kind: 'choice', choice }]);
  });

  it('asks a second question for SysRq', () => {
    expect(typed('\x1dbh', 'x')).toEqual([
      { kind: 'open' },
      { kind: 'choice', choice: 'sysrq' },
      { kind: 'sysrq-key', key: 'h' },
      { kind: 'bytes', text: 'x' },
    ]);
    expect(typed('\x1db\r').at(-1)).toEqual({ kind: 'sysrq-key', key: null });
  });

  it('drops a key of several bytes whole', () => {
    expect(typed('\x1d\x1b[A', 'x')).toEqual([{ kind: 'open' }, { kind: 'choice', choice: 'back' }, { kind: 'bytes', text: 'x' }]);
  });
});
