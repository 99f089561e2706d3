// SPDX-License-Identifier: Apache-2.0
/** `paravane run`: one virtual machine from flags. */
import { createWriteStream, openSync, writeSync } from 'node:fs';
import { err, ok, type Result } from '../base/result.ts';
import type { MachineConfig, MachineError } from '../engine/index.ts';
import type { ParsedArguments } from './arguments.ts';
import { flushed } from './console-output.ts';
import { readWhole, reasonOf } from './files.ts';
import type { CliHost } from './host.ts';
import { findReadyMade } from './ready-made.ts';
import { type RunRequest, runRequest } from './run-options.ts';
import { runSession, type SessionResult } from './session.ts';
import { STATUS } from './status.ts';

const MIB = 1024 * 1024;
const MAX_KERNEL_BYTES = 512 * MIB;
const MAX_INITRD_BYTES = 2048 * MIB;

/** Why a run did not come to a machine. */
interface Refusal {
  readonly status: number;
  readonly message: string;
}

const refuse = (message: string): Result<never, Refusal> => err({ status: STATUS.badInput, message });

export async function run(host: CliHost, args: ParsedArguments): Promise<number> {
  const request = runRequest(args, findReadyMade);
  const status = request.ok
    ? await boot(host, request.value)
    : err({ status: request.error.usage ? STATUS.usage : STATUS.badInput, message: request.error.message });
  if (typeof status === 'number') return status;
  host.stderr.write(`paravane: ${status.error.message}\n`);
  return status.error.status;
}

async function boot(host: CliHost, request: RunRequest): Promise<number | { readonly error: Refusal }> {
  const config = await machineConfig(host, request);
  if (!config.ok) return config;
  // Opened before the boot, so that a path that cannot be written is known before and not after an hour.
  const stats = openFile('the statistics', request.stats === '-' ? null : request.stats);
  if (!stats.ok) return stats;
  const consoleFile = openFile('the console', request.console.kind === 'file' ? request.console.path : null);
  if (!consoleFile.ok) return consoleFile;

  const { kind } = request.console;
  const result = await runSession(host, {
    config: config.value,
    console: kind === 'file' ? createWriteStream('', { fd: consoleFile.value! }) : kind,
    timeoutMs: request.timeoutMs,
    reboot: request.reboot,
    verbose: request.verbose,
    describeError: (error) => describeMachineError(error, request.kernel),
  });
  if (request.stats === null) return result.status;
  const json = `${JSON.stringify(statistics(result))}\n`;
  if (stats.value !== null) writeSync(stats.value, json);
  else if (!host.stdout.destroyed) {
    host.stdout.write(result.endsLine ? json : `\n${json}`);
    await flushed(host.stdout);
  }
  return result.status;
}

/** The object of `--stats`: the machine's own, and how it ended. */
function statistics({ status, end, stats }: SessionResult): object {
  return { status, end, ...stats };
}

function openFile(what: string, path: string | null): Result<number | null, Refusal> {
  if (path === null) return ok(null);
  try {
    return ok(openSync(path, 'w'));
  } catch (error) {
    return refuse(`cannot write ${what} to ${path}: ${reasonOf(error).replace('read', 'write')}`);
  }
}

async function machineConfig(host: CliHost, request: RunRequest): Promise<Result<MachineConfig, Refusal>> {
  const kernel = await readWhole('the kernel', request.kernel, MAX_KERNEL_BYTES);
  if (!kernel.ok) return refuse(kernel.error);
  const initrd = request.initrd === undefined ? null : await readWhole('the initrd', request.initrd, MAX_INITRD_BYTES);
  if (initrd?.ok === false) return refuse(initrd.error);
  return ok({
    name: request.name,
    mode: 'pv',
    kernel: kernel.value,
    ...(initrd === null ? {} : { initrd: initrd.value }),
    commandLine: withWindowSize(host, request),
    memoryMib: request.memoryMib,
    vcpus: 1,
    accel: 'interp',
  });
}

/** The kernel command line with the size of the terminal, when the console is one. */
function withWindowSize(host: CliHost, request: RunRequest): string {
  const { stdin, stdout } = host;
  const onTerminal = request.console.kind === 'stdio' && stdin.isTTY === true && stdout.isTTY === true;
  if (!request.windowSize || !onTerminal || !stdout.rows || !stdout.columns) return request.commandLine;
  return `${request.commandLine} paravane.rows=${stdout.rows} paravane.cols=${stdout.columns}`.trimStart();
}

/** Names the kernel where it is at fault; memory and command line are nobody's file. */
export function describeMachineError(error: MachineError, kernelPath: string): string {
  const ofKernel = error.kind === 'image' && error.cause?.kind !== 'memory' && error.cause?.kind !== 'command-line';
  return ofKernel ? `${kernelPath}: ${error.message}` : error.message;
}
