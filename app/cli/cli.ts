// SPDX-License-Identifier: Apache-2.0
/** The `paravane` command: finds the command that is meant, checks its arguments, runs it. */
import { readFileSync } from 'node:fs';
import { type CommandSpec, nearest, type ParsedArguments, parseArguments } from './arguments.ts';
import { commandHelp, overview } from './help.ts';
import type { CliHost } from './host.ts';
import { INSPECT, inspect } from './inspect.ts';
import { run } from './run.ts';
import { RUN } from './run-options.ts';
import { SELFTEST, selftest } from './selftest.ts';
import { STATUS } from './status.ts';

interface Command {
  readonly spec: CommandSpec;
  readonly execute: (host: CliHost, args: ParsedArguments) => Promise<number>;
}

const HELP: CommandSpec = {
  name: 'help',
  usage: '[COMMAND]',
  summary: 'describe a command',
  details: [],
  positionals: ['COMMAND'],
  options: [],
};

const COMMANDS: readonly Command[] = [
  { spec: RUN, execute: run },
  { spec: INSPECT, execute: inspect },
  { spec: SELFTEST, execute: selftest },
  { spec: HELP, execute: help },
];

/** Runs the command that `args` (without the program's own name) ask for; gives its exit status. */
export async function runCli(host: CliHost, args: readonly string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === undefined) return usageError(host, 'a command is missing; "paravane --help" lists them');
  if (name === '--version' || name === '-V') {
    host.stdout.write(`paravane ${version()}\n`);
    return STATUS.ok;
  }
  if (name === '--help' || name === '-h') return help(host, undefined);
  const command = COMMANDS.find(({ spec }) => spec.name === name);
  if (command === undefined) return usageError(host, unknownCommand(name));
  const parsed = parseArguments(command.spec, rest);
  if (!parsed.ok) return usageError(host, parsed.error);
  if (parsed.value.help) {
    host.stdout.write(commandHelp(command.spec));
    return STATUS.ok;
  }
  return command.execute(host, parsed.value);
}

async function help(host: CliHost, args: ParsedArguments | undefined): Promise<number> {
  const name = args?.positionals[0];
  const specs = COMMANDS.map(({ spec }) => spec);
  const command = specs.find((spec) => spec.name === name);
  if (name !== undefined && command === undefined) return usageError(host, unknownCommand(name));
  host.stdout.write(command === undefined ? overview(specs) : commandHelp(command));
  return STATUS.ok;
}

function unknownCommand(name: string): string {
  const near = nearest(
    name,
    COMMANDS.map(({ spec }) => spec.name),
  );
  const kind = name.startsWith('-') ? 'option' : 'command';
  return `there is no ${kind} ${JSON.stringify(name)}; ${near === undefined ? '"paravane --help" lists the commands' : `did you mean ${near}?`}`;
}

function usageError(host: CliHost, message: string): number {
  host.stderr.write(`paravane: ${message}\n`);
  return STATUS.usage;
}

/** As package.json has it. */
export function version(): string {
  const manifest = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };
  return manifest.version;
}
