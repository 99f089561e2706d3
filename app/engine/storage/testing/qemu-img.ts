// SPDX-License-Identifier: Apache-2.0
/** The independent judge: `qemu-img` of the package qemu-utils, where it is installed. */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestFiles, withFolder } from './test-host.ts';

/** Tests that need the judge say so by name: `it.skipIf(!hasQemuImg)('… (needs qemu-img)')`. */
export const hasQemuImg = spawnSync('qemu-img', ['--version']).status === 0;

/** Runs the judge in a folder; throws what it says when it is not content. */
export function qemuImg(folder: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync('qemu-img', args, { cwd: folder, encoding: 'utf8' });
  if (status !== 0) throw new Error(`qemu-img ${args.join(' ')} ended with ${status}:\n${stdout}${stderr}`);
  return stdout;
}

/** Our names of formats in its words. */
export const judgeFormat = (format: string): string => (format === 'vhd' ? 'vpc' : format);

/** Throws unless the judge finds `image` sound (where it can check the format) and equal to the raw twin. */
export async function judge(files: TestFiles, format: string, twin: Uint8Array, checked: boolean, image = 'image'): Promise<void> {
  await withFolder(files, (folder) => {
    if (checked) qemuImg(folder, 'check', '-f', judgeFormat(format), image);
    writeFileSync(join(folder, 'twin.raw'), twin);
    qemuImg(folder, 'compare', '-f', judgeFormat(format), '-F', 'raw', image, 'twin.raw');
  });
}
