// SPDX-License-Identifier: Apache-2.0
/** The arguments of `paravane run`, and what they ask for. */
import { err, ok, type Result } from '../base/result.ts';
import { MAX_MEMORY_MIB, MIN_MEMORY_MIB } from '../engine/index.ts';
import type { CommandSpec, ParsedArguments } from './arguments.ts';
import type { ReadyMade } from './ready-made.ts';

export const RUN: CommandSpec = {
  name: 'run',
  usage: '[GUEST] [--kernel F] [OPTIONS]',
  summary: 'boot one virtual machine, its console on this terminal',
  details: [
    'GUEST is the name of a guest that "npm run guests" made; options add to it or replace what it says. On a terminal, Ctrl-] opens a menu ' +
      "(q there quits); all other keys, Ctrl-C included, are the guest's. From a pipe or a file every byte is typed into the guest.",
    'A PV console has no message for the size of the window: it is given on the kernel command line (paravane.rows, paravane.cols), which ' +
      "the ready-made guests heed; after a change, w in the menu types the stty command into the guest's shell.",
    'Exit status: 0 the guest powered off or was quit from the menu, 1 usage, 2 bad input (image, kernel, configuration), 3 the guest crashed, ' +
      '4 time-out, 5 engine fault, 128+N ended by signal N.',
  ],
  positionals: ['GUEST'],
  options: [
    { name: 'mode', value: 'pv', summary: 'how the guest is virtualized: pv (pvh, pvhvm and hvm are not in this version)' },
    { name: 'kernel', value: 'F', summary: 'kernel file: bzImage or ELF' },
    { name: 'initrd', value: 'F', summary: 'initial RAM disk' },
    { name: 'append', value: 'S', summary: 'kernel command line; for a ready-made guest, words to add to its own' },
    { name: 'memory', value: 'SIZE', summary: `memory, with unit K, M or G (default 512M; ${MIN_MEMORY_MIB}M to ${MAX_MEMORY_MIB}M)` },
    { name: 'vcpus', value: 'N', summary: 'number of processors (1 in this version)' },
    { name: 'accel', value: 'auto|interp', summary: 'how guest code is run (default auto)' },
    { name: 'console', value: 'stdio|none|file:F', summary: 'where the console is (default stdio)' },
    { name: 'timeout', value: 'S', summary: 'end after S seconds with status 4' },
    { name: 'stats', value: 'F|-', summary: 'write one JSON object of measurements to a file or standard output at the end' },
    { name: 'name', value: 'S', summary: 'the name of the machine' },
    { name: 'no-reboot', summary: 'end with status 0 when the guest reboots, instead of starting it again' },
    { name: 'no-size', summary: 'keep the size of the window off the kernel command line' },
    { name: 'verbose', summary: "show the engine's log on standard error" },
    { name: 'disk', value: 'F', summary: 'not in this version', repeatable: true },
    { name: 'nic', value: 'KIND', summary: 'not in this version', repeatable: true },
    { name: 'share', value: 'DIR', summary: 'not in this version', repeatable: true },
  ],
};

export type ConsoleChoice = { readonly kind: 'stdio' | 'none' } | { readonly kind: 'file'; readonly path: string };

export interface RunRequest {
  readonly name: string;
  readonly kernel: string;
  readonly initrd?: string;
  readonly commandLine: string;
  readonly memoryMib: number;
  readonly console: ConsoleChoice;
  readonly timeoutMs: number | null;
  /** A path, or `-` for standard output. */
  readonly stats: string | null;
  readonly reboot: boolean;
  readonly windowSize: boolean;
  readonly verbose: boolean;
}

/** A usage error is a mistake in the arguments; any other concerns a guest that is not there. */
export interface RequestError {
  readonly usage: boolean;
  readonly message: string;
}

const LATER_MODES = ['pvh', 'pvhvm', 'hvm'];
const LATER_ACCELERATORS = ['jit', 'kvm'];
const LATER_OPTIONS: Readonly<Record<string, string>> = {
  disk: 'disks are not in this version; boot from --initrd',
  nic: 'network cards are not in this version',
  share: 'shared folders are not in this version',
};
const MAX_VCPUS = 64;
/** What a timer of Node can wait, about 24 days. */
const MAX_TIMEOUT_S = 2_000_000;
const MAX_NAME = 64;
const UNIT_KIB: Readonly<Record<string, number>> = { K: 1, M: 1024, G: 1024 * 1024 };

const usage = (message: string): Result<never, RequestError> => err({ usage: true, message });

export function runRequest(
  args: ParsedArguments,
  findGuest: (name: string) => Result<ReadyMade, string>,
): Result<RunRequest, RequestError> {
  for (const [name, message] of Object.entries(LATER_OPTIONS)) if (args.has(name)) return usage(`--${name}: ${message}`);

  let guest: ReadyMade | undefined;
  const [guestName] = args.positionals;
  if (guestName !== undefined) {
    if (guestName.includes('/')) return usage(`${guestName} is not the name of a ready-made guest; a kernel file is given as --kernel F`);
    const found = findGuest(guestName);
    if (!found.ok) return err({ usage: false, message: found.error });
    guest = found.value;
  }

  const machine = checkMachine(args, guest);
  if (!machine.ok) return machine;
  const kernel = args.get('kernel') ?? guest?.kernel;
  if (kernel === undefined) return usage('run needs a kernel: --kernel F, or the name of a ready-made guest such as debian-6.1');
  const memory = parseMemory(args.get('memory') ?? guest?.memory ?? '512M');
  if (!memory.ok) return usage(`--memory: ${memory.error}`);
  const timeout = parseTimeout(args.get('timeout'));
  if (!timeout.ok) return usage(`--timeout: ${timeout.error}`);
  const console = parseConsole(args.get('console') ?? 'stdio');
  if (!console.ok) return usage(`--console: ${console.error}`);
  for (const name of ['kernel', 'initrd', 'stats'])
    if (args.get(name) === '') return usage(`--${name} needs the name of a file, not an empty one`);
  const name = args.get('name') ?? guest?.name ?? 'guest';
  if (name === '' || name.length > MAX_NAME || /[\p{Cc}/]/u.test(name))
    return usage(`--name: a name has 1 to ${MAX_NAME} characters and neither slashes nor control characters`);

  // Another kernel does not go with the initrd that was made for the guest's own.
  const initrd = args.get('initrd') ?? (args.has('kernel') ? undefined : guest?.initrd);
  return ok({
    name,
    kernel,
    ...(initrd === undefined ? {} : { initrd }),
    commandLine: [guest?.append, args.get('append')].filter((words) => words !== undefined && words !== '').join(' '),
    memoryMib: memory.value,
    console: console.value,
    timeoutMs: timeout.value,
    stats: args.get('stats') ?? null,
    reboot: !args.has('no-reboot'),
    windowSize: !args.has('no-size'),
    verbose: args.has('verbose'),
  });
}

/** Mode, accelerator and processors: what this version has, and what a later one will. */
function checkMachine(args: ParsedArguments, guest: ReadyMade | undefined): Result<void, RequestError> {
  const mode = args.get('mode') ?? guest?.mode ?? 'pv';
  if (LATER_MODES.includes(mode)) return usage(`--mode ${mode} is not in this version; only pv is`);
  if (mode !== 'pv') return usage(`--mode ${JSON.stringify(mode)} is unknown; the mode of this version is pv`);
  const accel = args.get('accel') ?? 'auto';
  if (LATER_ACCELERATORS.includes(accel)) return usage(`--accel ${accel} is not in this version; use auto or interp`);
  if (accel !== 'auto' && accel !== 'interp') return usage(`--accel ${JSON.stringify(accel)} is unknown; use auto or interp`);
  const vcpus = args.get('vcpus') ?? '1';
  if (!/^\d{1,4}$/.test(vcpus) || Number(vcpus) < 1 || Number(vcpus) > MAX_VCPUS)
    return usage(`--vcpus: ${JSON.stringify(vcpus)} is not a number from 1 to ${MAX_VCPUS}`);
  if (vcpus !== '1' && Number(vcpus) !== 1) return usage(`--vcpus ${vcpus}: more than one processor is not in this version; use 1`);
  return ok(undefined);
}

/** MiB of a size like 512M, 1G or 65536K. */
export function parseMemory(text: string): Result<number, string> {
  const match = /^(\d{1,12})([KMG])(?:i?B)?$/i.exec(text);
  if (match === null) return err(`${JSON.stringify(text)} is not a size; write a whole number and a unit, such as 512M or 1G`);
  const mib = (Number(match[1]) * UNIT_KIB[match[2].toUpperCase()]) / 1024;
  if (mib < MIN_MEMORY_MIB || mib > MAX_MEMORY_MIB)
    return err(`${text} is outside of what is possible, ${MIN_MEMORY_MIB}M to ${MAX_MEMORY_MIB}M`);
  if (!Number.isInteger(mib)) return err(`${text} is not a whole number of MiB`);
  return ok(mib);
}

function parseTimeout(text: string | undefined): Result<number | null, string> {
  if (text === undefined) return ok(null);
  const seconds = /^\d{1,9}(?:\.\d{1,6})?$/.test(text) ? Number(text) : Number.NaN;
  if (!(seconds > 0 && seconds <= MAX_TIMEOUT_S)) return err(`${JSON.stringify(text)} is not a number of seconds up to ${MAX_TIMEOUT_S}`);
  return ok(Math.max(1, Math.round(seconds * 1000)));
}

function parseConsole(text: string): Result<ConsoleChoice, string> {
  if (text === 'stdio' || text === 'none') return ok({ kind: text });
  if (text.startsWith('file:') && text.length > 'file:'.length) return ok({ kind: 'file', path: text.slice('file:'.length) });
  if (text === 'pty') return err('pty is not in this version; use stdio, none or file:F');
  return err(`${JSON.stringify(text)} is unknown; use stdio, none or file:F`);
}
