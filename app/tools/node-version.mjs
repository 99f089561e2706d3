// SPDX-License-Identifier: Apache-2.0
/**
 * The Node line that Paravane runs on, and the check of it (decision record 0001).
 *
 * Plain JavaScript without dependencies, because the first to ask is `bootstrap.mjs` under whatever Node the machine has.
 */

export const REQUIRED_NODE_MAJOR = 24;

/** Throws with one sentence that says what to do when this process runs on another line of Node. */
export function assertNodeVersion(version = process.versions.node) {
  const major = Number(version.split('.')[0]);
  if (major === REQUIRED_NODE_MAJOR) return;
  throw new Error(
    `Paravane runs on Node ${REQUIRED_NODE_MAJOR}, this is Node ${version}. ` +
      'From a checkout, use "npm run -s paravane --" and "npm test": they bring the right Node along.',
  );
}
