// SPDX-License-Identifier: Apache-2.0
/**
 * Collects `@abi` tags from source text and prints the support matrix made of them.
 *
 * A tag is a comment line `@abi KIND NAME — NOTE`; the note may be left out when there is nothing to add. A line that starts like a tag and is none is an error, not a gap in the table.
 */

/** The kinds of tags, in the order of the document, with the heading of each. */
export const KINDS = {
  hypercall: 'Hypercalls',
  subop: 'Sub-operations of hypercalls',
  msr: 'Model-specific registers',
  cpuid: 'CPUID leaves',
  insn: 'Instruction families',
  port: 'I/O ports',
  xenbus: 'Xenbus devices and nodes',
} as const;
export type AbiKind = keyof typeof KINDS;

export interface AbiTag {
  readonly kind: AbiKind;
  readonly name: string;
  readonly note: string;
  /** Path from the root of the repository. */
  readonly file: string;
}

export interface Collected {
  readonly tags: readonly AbiTag[];
  /** One sentence for each line that cannot be used. */
  readonly errors: readonly string[];
}

const COMMENT_LINE = /^\s*(?:\/\/|\/\*\*?|\*)\s*@abi\b(.*?)(?:\s*\*\/)?$/;
const TAG = /^ ([a-z]+) (\S+(?: (?![-—])\S+)*)(?: — (\S.*))?$/;

export function collectTags(files: readonly { readonly path: string; readonly text: string }[]): Collected {
  const tags: AbiTag[] = [];
  const errors: string[] = [];
  for (const { path, text } of files) {
    for (const [index, line] of text.split('\n').entries()) {
      const comment = COMMENT_LINE.exec(line.trimEnd());
      if (comment === null) continue;
      const where = `${path}:${index + 1}`;
      const match = TAG.exec(comment[1]);
      if (match === null || !Object.hasOwn(KINDS, match[1])) {
        errors.push(`${where}: write "@abi KIND NAME" or "@abi KIND NAME — NOTE", KIND one of ${Object.keys(KINDS).join(', ')}`);
        continue;
      }
      tags.push({ kind: match[1] as AbiKind, name: match[2], note: match[3] ?? '', file: path });
    }
  }
  return { tags, errors };
}

const cell = (text: string): string => text.replaceAll('|', '\\|');

/** By number where a name starts with one (registers, leaves, ports), else by code unit. */
function compareNames(a: string, b: string): number {
  const byNumber = Number.parseInt(a, 16) - Number.parseInt(b, 16);
  if (a.startsWith('0x') && b.startsWith('0x') && byNumber !== 0) return byNumber;
  return a < b ? -1 : 1;
}

/** One row for each name: a dispatcher and the module that does the work may both declare a hypercall. */
function mergeByName(tags: readonly AbiTag[]): { readonly name: string; readonly notes: string; readonly files: string }[] {
  const unique = (values: readonly string[], separator: string): string =>
    [...new Set(values)].filter((value) => value !== '').join(separator);
  return [...new Set(tags.map(({ name }) => name))].sort(compareNames).map((name) => {
    const same = tags.filter((tag) => tag.name === name);
    return {
      name,
      notes: unique(
        same.map(({ note }) => note),
        '; ',
      ),
      files: unique(
        same.map(({ file }) => file),
        ', ',
      ),
    };
  });
}

/** The document; ends with a newline. */
export function renderMatrix(tags: readonly AbiTag[]): string {
  const lines = [
    '# Support matrix',
    '',
    'What a guest finds, generated from the `@abi` comments in `app/engine` by `app/tools/support-matrix/main.ts`. Do not edit by hand.',
    'What is not listed is answered as absent: `-ENOSYS` for hypercalls, #GP or #UD for registers and instructions.',
  ];
  for (const [kind, heading] of Object.entries(KINDS)) {
    const rows = mergeByName(tags.filter((tag) => tag.kind === kind));
    if (rows.length === 0) continue;
    lines.push('', `## ${heading}`, '', '| name | what it does here | source |', '|---|---|---|');
    for (const { name, notes, files } of rows) lines.push(`| \`${cell(name)}\` | ${cell(notes)} | ${files} |`);
  }
  return `${lines.join('\n')}\n`;
}
