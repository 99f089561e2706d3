// SPDX-License-Identifier: Apache-2.0
/** A word on standard error when something takes longer than a moment and somebody is watching. */
import type { OutputStream } from './host.ts';

const PATIENCE_MS = 1000;

/** Does `work`; says `what` if it is not done within a second. */
export async function withProgress<T>(stderr: OutputStream, what: string, work: () => Promise<T>): Promise<T> {
  if (stderr.isTTY !== true) return work();
  let shown = false;
  const timer = setTimeout(() => {
    shown = true;
    stderr.write(`paravane: ${what} …`);
  }, PATIENCE_MS);
  try {
    return await work();
  } finally {
    clearTimeout(timer);
    if (shown) stderr.write('\r\x1b[K');
  }
}
