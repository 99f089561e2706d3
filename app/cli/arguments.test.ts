// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { type CommandSpec, parseArguments } from './arguments.ts';

const SPEC: CommandSpec = {
  name: 'paint',
  usage: '[THING]',
  summary: '',
  details: [],
  positionals: ['THING'],
  options: [
    { name: 'colour', value: 'C', summary: '' },
    { name: 'coat', value: 'N', summary: '', repeatable: true },
    { name: 'gloss', summary: '' },
  ],
};

const parsed = (...args: string[]) => {
  const result = parseArguments(SPEC, args);
  if (!result.ok) throw new Error(result.error);
  return result.value;
};
const failure = (...args: string[]) => {
  const result = parseArguments(SPEC, args);
  return result.ok ? null : result.error;
};

describe('parseArguments', () => {
  it('takes values after a space or an equals sign, switches and positionals in any order', () => {
    const args = parsed('--colour', 'red', 'door', '--gloss', '--coat=2');
    expect(args.get('colour')).toBe('red');
    expect(args.get('coat')).toBe('2');
    expect(args.has('gloss')).toBe(true);
    expect(args.positionals).toEqual(['door']);
  });

  it('takes an empty value, and one that begins with dashes after an equals sign', () => {
    expect(parsed('--colour', '').get('colour')).toBe('');
    expect(parsed('--colour=--red').get('colour')).toBe('--red');
    expect(parsed('--colour=a=b').get('colour')).toBe('a=b');
  });

  it('takes everything after -- as positional', () => {
    expect(parsed('--', '--gloss').positionals).toEqual(['--gloss']);
  });

  it('notices --help between other arguments', () => {
    expect(parsed('--colour', 'red', '--help').help).toBe(true);
    expect(parsed('-h').help).toBe(true);
  });

  it.each([
    [['--color', 'red'], /no option --color; did you mean --colour\?/],
    [['--weight'], /no option --weight; "paravane paint --help"/],
    [['-x'], /no option -x/],
    [['--colour'], /--colour needs a value: --colour C/],
    [['--colour', '--gloss'], /--colour needs a value, but --gloss follows/],
    [['--gloss=1'], /--gloss takes no value/],
    [['--colour', 'red', '--colour=blue'], /--colour is given twice/],
    [['door', 'window'], /does not know what to do with "window"/],
  ])('refuses %j', (args, message) => {
    expect(failure(...args)).toMatch(message);
  });

  it('takes a repeatable option twice', () => {
    expect(failure('--coat', '1', '--coat', '2')).toBeNull();
  });
});
