// SPDX-License-Identifier: Apache-2.0
/**
 * `node app/tools/complete-lock.mjs`, after every change of dependencies: adds to package-lock.json the optional packages of other
 * platforms that npm left out.
 *
 * Compilers and linters come as one optional package for each platform. npm leaves those out of the lock file that it cannot find
 * in the registry it asked, and `npm ci` then refuses the lock file, everywhere. An entry with version and platform is enough for it:
 * such a package is neither fetched nor installed on a platform that it is not for. Left out: `integrity`, which is
 * only known of packages one has.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const LOCK = fileURLToPath(new URL('../../package-lock.json', import.meta.url));

/**
 * @typedef {{ version?: string, dev?: boolean, optional?: boolean, cpu?: string[], os?: string[], libc?: string[],
 *   optionalDependencies?: Record<string, string> }} LockEntry
 */

const SYSTEMS = ['android', 'darwin', 'freebsd', 'linux', 'openharmony', 'openbsd', 'netbsd', 'sunos', 'aix', 'win32'];
const PROCESSORS = ['arm64', 'arm', 'x64', 'ia32', 'ppc64', 's390x', 'riscv64', 'loong64', 'mips64el', 'wasm32'];

/**
 * The platform that a package name such as `@swc/core-linux-arm64-musl` speaks of; null when it names none.
 * @param {string} name
 * @returns {{ cpu: string[], os?: string[], libc?: string[] } | null}
 */
export function platformOf(name) {
  const words = name.split(/[/-]/);
  const os = SYSTEMS.find((system) => words.includes(system));
  const cpu = PROCESSORS.find((processor) => words.includes(processor));
  if (cpu === undefined) return null;
  if (os === undefined) return cpu === 'wasm32' ? { cpu: [cpu] } : null;
  if (os !== 'linux') return { cpu: [cpu], os: [os] };
  return { cpu: [cpu], os: [os], libc: [words.some((word) => word.startsWith('musl')) ? 'musl' : 'glibc'] };
}

/**
 * Where Node looks for `name` from the package at `path`, nearest first, as paths in the lock file.
 * @param {string} path
 * @param {string} name
 */
function lookupPaths(path, name) {
  const parts = path.split('/node_modules/');
  return parts
    .map((_part, index) => `${parts.slice(0, parts.length - index).join('/node_modules/')}/node_modules/${name}`)
    .concat(`node_modules/${name}`);
}

/**
 * Exact versions are compared; that an entry npm wrote fits a range is npm's business.
 * @param {LockEntry | undefined} entry
 * @param {string} wanted
 */
const satisfies = (entry, wanted) => entry !== undefined && (/^\d/.test(wanted) ? entry.version === wanted : true);

/**
 * Optional dependencies that some entry names and the lock file does not have in that version, with the path to put them at.
 * @param {Record<string, LockEntry>} packages
 */
export function missingOptional(packages) {
  return Object.entries(packages).flatMap(([path, entry]) =>
    Object.entries(entry.optionalDependencies ?? {})
      .filter(([name, version]) => !lookupPaths(path, name).some((place) => satisfies(packages[place], version)))
      .map(([name, version]) => ({
        path: `${path.slice(0, Math.max(0, path.lastIndexOf('node_modules/')))}node_modules/${name}`,
        name,
        version,
        dev: entry.dev === true,
      })),
  );
}

function main() {
  const lock = JSON.parse(readFileSync(LOCK, 'utf8'));
  const missing = missingOptional(lock.packages);
  for (const { path, name, version, dev } of missing) {
    const platform = platformOf(name);
    if (platform === null) throw new Error(`${name} is an optional package of no known platform; npm should have found it`);
    if (!/^\d/.test(version)) throw new Error(`${name} is asked for as ${version}, which is not one version`);
    lock.packages[path] = { version, ...platform, ...(dev ? { dev } : {}), optional: true };
  }
  const sorted = Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : 1));
  writeFileSync(LOCK, `${JSON.stringify({ ...lock, packages: Object.fromEntries(sorted) }, null, 2)}\n`);
  console.log(`package-lock.json: added ${missing.length} packages of other platforms`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main();
