// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { Screen } from './screen.ts';
import { FakeOutput } from './testing/fake-host.ts';

const bytes = (text: string) => new TextEncoder().encode(text);
function screen(terminal: boolean) {
  const stderr = new FakeOutput(terminal);
  const made = new Screen(stderr, true);
  made.raw = terminal;
  return { screen: made, stderr };
}

describe('Screen', () => {
  it('ends an unfinished line of the guest before it speaks', () => {
    const { screen: shared, stderr } = screen(true);
    shared.observe(bytes('login: '));
    shared.say('hello');
    shared.say('again');
    expect(stderr.text).toBe('\r\nparavane: hello\r\nparavane: again\r\n');
  });

  it.each(['line\n', 'line\r\n', 'line\n\r'])('starts no further line after %j', (text) => {
    const { screen: shared, stderr } = screen(true);
    shared.observe(bytes(text));
    shared.say('hello');
    expect(stderr.text).toBe('paravane: hello\r\n');
  });

  it('keeps notes until the guest has ended its line, in order and bounded', () => {
    const { screen: shared, stderr } = screen(true);
    shared.observe(bytes('\x1b[3'));
    for (let i = 0; i < 150; i++) shared.note(`n${i}`);
    expect(stderr.text).toBe('');
    shared.observe(bytes('1mred\r\n'));
    const lines = stderr.text.split('\r\n');
    expect(lines[0]).toBe('paravane: n0');
    expect(lines.slice(-3)).toEqual(['paravane: n99', 'paravane: 50 further messages are not shown', '']);
  });

  it('shows waiting notes at the end at the latest', () => {
    const { screen: shared, stderr } = screen(true);
    shared.observe(bytes('~ # '));
    shared.note('late');
    shared.finish();
    expect(stderr.text).toBe('\r\nparavane: late\r\n');
  });

  it('does not care about the console when standard error is a file', () => {
    const { screen: apart, stderr } = screen(false);
    apart.observe(bytes('login: '));
    apart.note('hello');
    expect(stderr.text).toBe('paravane: hello\n');
  });
});
