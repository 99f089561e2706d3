// SPDX-License-Identifier: Apache-2.0
/** The help texts, made from the commands' own descriptions. */
import type { CommandSpec, OptionSpec } from './arguments.ts';

const WIDTH = 100;
const INDENT = '  ';

/** What `paravane --help` prints. */
export function overview(commands: readonly CommandSpec[]): string {
  const width = Math.max(...commands.map(({ name }) => name.length));
  return [
    'usage: paravane COMMAND [ARGUMENTS]',
    '',
    ...commands.map(({ name, summary }) => `${INDENT}${name.padEnd(width)}  ${summary}`),
    '',
    '"paravane COMMAND --help" describes a command; "paravane --version" prints the version.',
    '',
  ].join('\n');
}

/** What `paravane COMMAND --help` prints. */
export function commandHelp(command: CommandSpec): string {
  const options: readonly OptionSpec[] = [...command.options, { name: 'help', summary: 'print this' }];
  const flags = options.map(({ name, value }) => (value === undefined ? `--${name}` : `--${name} ${value}`));
  const width = Math.max(...flags.map((flag) => flag.length));
  const lines = [`usage: paravane ${command.name} ${command.usage}`, '', ...wrap(`${command.summary}.`, '')];
  for (const paragraph of command.details) lines.push('', ...wrap(paragraph, ''));
  lines.push('');
  options.forEach(({ summary }, index) => {
    const [first, ...rest] = wrap(summary, ' '.repeat(INDENT.length + width + 2));
    lines.push(`${INDENT}${flags[index].padEnd(width)}  ${first.trimStart()}`, ...rest);
  });
  return `${lines.join('\n')}\n`;
}

function wrap(text: string, indent: string): string[] {
  const lines: string[] = [];
  let line = indent;
  for (const word of text.split(' ')) {
    if (line.length > indent.length && line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = indent;
    }
    line += line.length > indent.length ? ` ${word}` : word;
  }
  lines.push(line);
  return lines;
}
