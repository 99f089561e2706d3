// SPDX-License-Identifier: Apache-2.0
/**
 * Command-line arguments: `--name value`, `--name=value`, switches without a value, `--` before what is never an option.
 *
 * Strict, because a flag that is taken for another or silently ignored boots the wrong machine: unknown flags, missing and superfluous
 * values, and repetitions are errors. Each error is one sentence.
 */
import { err, ok, type Result } from '../base/result.ts';

export interface OptionSpec {
  /** Without the dashes. */
  readonly name: string;
  /** What stands for the value in the help; an option without it is a switch. */
  readonly value?: string;
  readonly summary: string;
  /** May be given more than once. */
  readonly repeatable?: true;
}

export interface CommandSpec {
  readonly name: string;
  /** What follows the command's name in its usage line. */
  readonly usage: string;
  readonly summary: string;
  /** Paragraphs of the command's own help. */
  readonly details: readonly string[];
  /** Names of the arguments that are not options; all may be left out. */
  readonly positionals: readonly string[];
  readonly options: readonly OptionSpec[];
}

export interface ParsedArguments {
  /** `--help` or `-h` was given; nothing else counts then. */
  readonly help: boolean;
  readonly positionals: readonly string[];
  has(name: string): boolean;
  /** The value of an option that is not repeatable. */
  get(name: string): string | undefined;
}

export function parseArguments(spec: CommandSpec, args: readonly string[]): Result<ParsedArguments, string> {
  const found = new Map<string, string>();
  const positionals: string[] = [];
  let help = false;
  for (let at = 0; at < args.length; at++) {
    const arg = args[at];
    if (arg === '--') {
      positionals.push(...args.slice(at + 1));
      break;
    }
    if (arg === '--help' || arg === '-h') {
      help = true;
      continue;
    }
    if (!arg.startsWith('-') || arg === '-') {
      positionals.push(arg);
      continue;
    }
    const equals = arg.indexOf('=');
    const flag = equals < 0 ? arg : arg.slice(0, equals);
    const option = spec.options.find(({ name }) => flag === `--${name}`);
    if (option === undefined) return err(unknownOption(spec, flag));
    if (found.has(option.name) && option.repeatable !== true) return err(`${flag} is given twice; give it once`);
    if (option.value === undefined) {
      if (equals >= 0) return err(`${flag} takes no value`);
      found.set(option.name, '');
    } else if (equals >= 0) {
      found.set(option.name, arg.slice(equals + 1));
    } else {
      const value = args[at + 1];
      if (value === undefined) return err(`${flag} needs a value: ${flag} ${option.value}`);
      if (value.startsWith('--')) return err(`${flag} needs a value, but ${value} follows; write ${flag}=${value} if that is the value`);
      found.set(option.name, value);
      at++;
    }
  }
  if (!help && positionals.length > spec.positionals.length) {
    const extra = JSON.stringify(positionals[spec.positionals.length]);
    return err(`${spec.name} does not know what to do with ${extra}; its usage is: paravane ${spec.name} ${spec.usage}`);
  }
  return ok({ help, positionals, has: (name) => found.has(name), get: (name) => found.get(name) });
}

function unknownOption(spec: CommandSpec, flag: string): string {
  const near = nearest(
    flag,
    spec.options.map(({ name }) => `--${name}`),
  );
  const hint = near === undefined ? `"paravane ${spec.name} --help" lists them` : `did you mean ${near}?`;
  return `${spec.name} has no option ${flag}; ${hint}`;
}

const MAX_TYPING_DISTANCE = 2;

/** The one of `names` that a small slip turns into `word`, if there is one. */
export function nearest(word: string, names: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = MAX_TYPING_DISTANCE + 1;
  for (const name of names) {
    const distance = editDistance(word, name);
    if (distance < bestDistance) {
      best = name;
      bestDistance = distance;
    }
  }
  return best;
}

/** Levenshtein distance. */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, column) => column);
  for (let i = 1; i <= from.length; i++) {
    const next = [i];
    for (let j = 1; j <= to.length; j++) {
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (from[i - 1] === to[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[to.length];
}
