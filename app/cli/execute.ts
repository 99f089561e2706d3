// SPDX-License-Identifier: Apache-2.0
/**
 * Runs a command as a process: whatever goes wrong ends with a sentence and a status, after everything written has left.
 */
import { runCli } from './cli.ts';
import { flushed } from './console-output.ts';
import type { CliHost } from './host.ts';
import { signalStatus, STATUS } from './status.ts';

/** How long the last words may take when their reader is slow. */
const LAST_WORDS_MS = 5000;

/** Never returns to its caller with the process still meant to live: calls `host.exit` in the end. */
export async function execute(host: CliHost, args: readonly string[]): Promise<void> {
  // A reader that went away ends the command as SIGPIPE would; `run` hears of it first and stops its guest.
  const onOutputError = (error: NodeJS.ErrnoException): void => {
    if (host.stdout.listenerCount('error') > 1) return;
    host.exit(error.code === 'EPIPE' ? signalStatus('SIGPIPE') : STATUS.badInput);
  };
  host.stdout.on('error', onOutputError);
  // Nobody can be told that standard error is closed.
  host.stderr.on('error', () => {});
  let status: number;
  try {
    status = await runCli(host, args);
  } catch (error) {
    status = fault(host, error);
  }
  await flushed(host.stdout, status === STATUS.ok ? undefined : LAST_WORDS_MS);
  await flushed(host.stderr, LAST_WORDS_MS);
  host.exit(status);
}

/** Says that the program itself is wrong; gives the status. */
export function fault(host: Pick<CliHost, 'stderr'>, error: unknown): number {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  host.stderr.write(`paravane: internal error; this is a defect of Paravane:\n${text}\n`);
  return STATUS.engineFault;
}
