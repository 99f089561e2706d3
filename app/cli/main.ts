// SPDX-License-Identifier: Apache-2.0
/** Entry of the `paravane` command. The rest is loaded once it is known that this Node can run it. */
import { assertNodeVersion } from '../tools/node-version.mjs';

try {
  assertNodeVersion();
} catch (error) {
  console.error(`paravane: ${error instanceof Error ? error.message : String(error)}`);
  process.exit(1);
}

const { execute, fault } = await import('./execute.ts');
const { nodeHost } = await import('./node-host.ts');
const host = nodeHost();
// Leaving runs the exit handlers, which give the terminal back.
process.on('uncaughtException', (error) => process.exit(fault(host, error)));
await execute(host, process.argv.slice(2));
