// SPDX-License-Identifier: Apache-2.0
/** Entry of the `paravane` command. The rest is loaded once it is known that this Node can run it. */
import { assertNodeVersion } from '../tools/node-version.mjs';

try {
  assertNodeVersion();
} catch (error) {
  console.error(`paravane: ${error instanceof Error ? error.message : String(error)}`);
  process.exit(1);
}

const { keepCompiledCode } = await import('../node/compile-cache.ts');
keepCompiledCode();
const { execute, fault } = await import('./execute.ts');
const { nodeHost } = await import('./node-host.ts');
const host = nodeHost();
process.on('uncaughtException', (error) => {
  // First the terminal, so that what follows can be read.
  if (process.stdin.isTTY) process.stdin.setRawMode(false);
  process.exit(fault(host, error));
});
await execute(host, process.argv.slice(2));
