// SPDX-License-Identifier: Apache-2.0
/** What the independent judge says of an image: clean, and equal to a raw twin. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { hasQemuImg, judgeFormat, qemuImg } from './qemu-img.ts';
import { inFolder, type TestFiles } from './test-host.ts';

export { hasQemuImg };

/** Throws what the judge finds. The image is called `image`. */
export async function inFolderCompare(files: TestFiles, format: string, twin: Uint8Array, checked: boolean): Promise<void> {
  const judged = await files.photograph();
  await inFolder(judged, (folder) => {
    if (checked) qemuImg(folder, 'check', '-f', judgeFormat(format), 'image');
    writeFileSync(join(folder, 'twin.raw'), twin);
    qemuImg(folder, 'compare', '-f', judgeFormat(format), '-F', 'raw', 'image', 'twin.raw');
  });
}
