// SPDX-License-Identifier: Apache-2.0
/** What is shown of a guest that crashed: the engine's report, and the end of what the guest printed. */

const LAST_LINES = 24;
const MAX_LINE = 200;

/** Lines to print below the sentence that says that the guest crashed. */
export function crashLines(report: readonly string[], scrollback: Uint8Array): string[] {
  const last = lastConsoleLines(scrollback);
  const shown = report.map((line) => `  ${line}`);
  if (last.length > 0) shown.push('last lines of its console:', ...last.map((line) => `  ${line}`));
  return shown;
}

/** The last lines of a console as plain text: without control sequences and other bytes that a terminal would act on. */
export function lastConsoleLines(scrollback: Uint8Array): string[] {
  const plain = new TextDecoder()
    .decode(scrollback)
    // Escape sequences: CSI, OSC, and those of two characters.
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for.
    .replace(/\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])/g, '');
  return plain
    .split(/\r*\n\r*/)
    .map((line) =>
      line
        .slice(line.lastIndexOf('\r') + 1)
        // biome-ignore lint/suspicious/noControlCharactersInRegex: as above.
        .replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, '')
        .slice(0, MAX_LINE)
        .trimEnd(),
    )
    .filter((line) => line !== '')
    .slice(-LAST_LINES);
}
