// SPDX-License-Identifier: Apache-2.0
/** The engine's growing files over node:fs. A file that exists is replaced. */
import { createWriteStream } from 'node:fs';
import type { AppendFile } from '../engine/index.ts';

export function createAppendFile(path: string): AppendFile {
  const stream = createWriteStream(path);
  let failure: Error | undefined;
  stream.on('error', (error) => {
    failure = error;
  });
  return {
    append: (bytes) => void (failure === undefined && stream.write(bytes)),
    get queuedBytes() {
      return stream.writableLength;
    },
    close: () =>
      new Promise((resolve, reject) => {
        if (failure !== undefined) reject(failure);
        else stream.once('error', reject).end(resolve);
      }),
  };
}
