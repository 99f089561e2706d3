// SPDX-License-Identifier: Apache-2.0
/** `paravane inspect`: what a file is, and which modes it can boot in. */
import { BOOT_MODES, inspectImage, type ImageReport } from '../engine/index.ts';
import type { CommandSpec, ParsedArguments } from './arguments.ts';
import { readHead } from './files.ts';
import type { CliHost } from './host.ts';
import { withProgress } from './progress.ts';
import { STATUS } from './status.ts';

export const INSPECT: CommandSpec = {
  name: 'inspect',
  usage: 'F [--json]',
  summary: 'say what a kernel or image is and which modes it can boot in',
  details: [
    'The verdicts speak of the file; "paravane run --help" says which modes this version has. Exit status: 0 the file was recognized, ' +
      '1 usage, 2 it cannot be read, is damaged, or is nothing that is known.',
  ],
  positionals: ['F'],
  options: [{ name: 'json', summary: 'print one JSON object' }],
};

const MIB = 1024 * 1024;
/** No kernel and no initrd is larger; of what is, the start tells its kind. */
const MAX_WHOLE = 512 * MIB;
const HEAD = MIB;

export async function inspect(host: CliHost, args: ParsedArguments): Promise<number> {
  const [path] = args.positionals;
  if (path === undefined || path === '') {
    host.stderr.write('paravane: inspect needs a file: paravane inspect F\n');
    return STATUS.usage;
  }
  const contents = await readHead('the file', path, MAX_WHOLE, HEAD);
  if (!contents.ok) {
    host.stderr.write(`paravane: ${contents.error}\n`);
    return STATUS.badInput;
  }
  const { bytes, tail } = contents.value;
  const report = await withProgress(host.stderr, 'unpacking', () =>
    inspectImage(bytes, host.decompressors, tail === undefined ? {} : { tail }),
  );
  host.stdout.write(args.has('json') ? `${JSON.stringify({ file: path, ...report }, plainBigints)}\n` : reportText(path, report));
  if (report.problem !== undefined) {
    host.stderr.write(`paravane: ${path}: ${report.problem.message}\n`);
    return STATUS.badInput;
  }
  if (report.kind === 'unknown') {
    host.stderr.write(`paravane: ${path}: the file is neither a kernel nor an image that is known here\n`);
    return STATUS.badInput;
  }
  return STATUS.ok;
}

/** JSON has no large integers; they become hexadecimal text. */
function plainBigints(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `0x${BigInt.asUintN(64, value).toString(16)}` : value;
}

export function reportText(path: string, report: ImageReport): string {
  const width = Math.max(...BOOT_MODES.map((mode) => mode.length));
  const verdicts = BOOT_MODES.map((mode) => {
    const { possible, reason } = report.modes[mode];
    return `  ${mode.padEnd(width)}  ${possible ? 'yes' : 'no '}  ${reason}\n`;
  });
  return `${path}: ${report.description}\n${verdicts.join('')}`;
}
