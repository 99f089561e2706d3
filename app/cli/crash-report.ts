// SPDX-License-Identifier: Apache-2.0
/** What is shown of a guest that crashed: the engine's report, and the end of what the guest printed. */

const LAST_LINES = 24;
const MAX_LINE = 200;
const ESC = '\x1b';
const BEL = '\x07';
/** CSI, OSC, and the short ones. */
const ESCAPE_SEQUENCES = new RegExp(`${ESC}(?:\\[[0-9;?]*[ -/]*[@-~]|\\][^${BEL}${ESC}]*(?:${BEL}|${ESC}\\\\)?|[ -/]*[0-~])`, 'g');

/** Lines to print below the sentence that says that the guest crashed. */
export function crashLines(report: readonly string[], scrollback: Uint8Array): string[] {
  const last = lastConsoleLines(scrollback);
  const shown = report.map((line) => `  ${line}`);
  if (last.length > 0) shown.push('last lines of its console:', ...last.map((line) => `  ${line}`));
  return shown;
}

/** The last lines of a console as plain text: without control sequences and other bytes that a terminal would act on. */
export function lastConsoleLines(scrollback: Uint8Array): string[] {
  const plain = new TextDecoder().decode(scrollback).replace(ESCAPE_SEQUENCES, '');
  return plain
    .split(/\r*\n\r*/)
    .map((line) =>
      line
        .slice(line.lastIndexOf('\r') + 1)
        .replace(/(?!\t)\p{Cc}/gu, '')
        .slice(0, MAX_LINE)
        .trimEnd(),
    )
    .filter((line) => line !== '')
    .slice(-LAST_LINES);
}
