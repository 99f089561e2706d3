// SPDX-License-Identifier: Apache-2.0
/**
 * What every npm script starts: `node app/tools/bootstrap.mjs COMMAND [ARGUMENTS]`.
 *
 * Runs on a machine that has nothing but some Node (20 or later) and npm: plain JavaScript, no dependencies. It installs the
 * packages when they are missing or older than the lock file, finds the Node 24 among them, and starts the command under it.
 *
 * INVARIANT: nothing of its own goes to standard output, and the command gets terminal, signals, arguments and exit status as if
 * it had been started directly. Where this Node can replace its process (`process.execve`), it does; otherwise it waits and relays.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { REQUIRED_NODE_MAJOR } from './node-version.mjs';

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const STAMP = join(ROOT, 'node_modules', '.paravane-setup');

/**
 * Each command: the file that Node 24 runs, arguments before the caller's, and whether relative paths are the caller's.
 * @type {Record<string, { entry: string, fixed: string[], callersDirectory: boolean }>}
 */
const COMMANDS = {
  start: { entry: 'app/tools/start.ts', fixed: [], callersDirectory: false },
  test: { entry: 'app/tools/check/main.ts', fixed: ['test'], callersDirectory: false },
  check: { entry: 'app/tools/check/main.ts', fixed: ['check'], callersDirectory: false },
  build: { entry: 'app/tools/build.ts', fixed: [], callersDirectory: false },
  bench: { entry: 'app/bench/main.ts', fixed: [], callersDirectory: false },
  guests: { entry: 'app/tools/guests/main.ts', fixed: [], callersDirectory: false },
  'support-matrix': { entry: 'app/tools/support-matrix/main.ts', fixed: [], callersDirectory: false },
  paravane: { entry: 'app/cli/main.ts', fixed: [], callersDirectory: true },
  format: { entry: 'node_modules/@biomejs/biome/bin/biome', fixed: ['format', '--write'], callersDirectory: false },
};

/**
 * Ends with one sentence on standard error; 70 keeps clear of the statuses that `paravane run` gives a meaning.
 * @param {string} message
 * @returns {never}
 */
function fail(message, status = 70) {
  process.stderr.write(`paravane: ${message}\n`);
  process.exit(status);
}

/** The environment for npm and Node: without this checkout's own programs in front, because npm is about to replace them. */
function outerEnvironment() {
  const own = join(ROOT, 'node_modules');
  const path = (process.env.PATH ?? '').split(delimiter).filter((entry) => !entry.startsWith(own));
  return { ...process.env, PATH: path.join(delimiter) };
}

/** What `node_modules` has to match: the lock file, and the platform whose binaries it holds. */
function wantedStamp() {
  const hash = createHash('sha256');
  hash.update(readFileSync(join(ROOT, 'package-lock.json')));
  hash.update(`${process.platform} ${process.arch}`);
  return hash.digest('hex');
}

/**
 * The Node 24 that npm installed, or null. It is run once to see that it works on this machine.
 * @returns {string | null}
 */
function findNode() {
  const places = [`node-${process.platform}-${process.arch}/bin/node`, '.bin/node', 'node/bin/node'];
  for (const place of places) {
    const candidate = join(ROOT, 'node_modules', place);
    if (!existsSync(candidate)) continue;
    const probe = spawnSync(candidate, ['--version'], { encoding: 'utf8' });
    if (probe.status === 0 && probe.stdout.startsWith(`v${REQUIRED_NODE_MAJOR}.`)) return candidate;
  }
  return null;
}

/** The stamp's content: hash of the lock file on the first line, the Node to use on the second. */
function readStamp() {
  try {
    const [hash, node] = readFileSync(STAMP, 'utf8').split('\n');
    return { hash, node };
  } catch {
    return null;
  }
}

/** Whether somebody ran `npm ci` or `npm install` by hand: npm's own record then lists exactly the locked versions. */
function installedMatchesLock() {
  try {
    const locked = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')).packages;
    const installed = JSON.parse(readFileSync(join(ROOT, 'node_modules', '.package-lock.json'), 'utf8')).packages;
    for (const [path, entry] of Object.entries(locked)) {
      if (path === '') continue;
      if (installed[path] === undefined ? !entry.optional : installed[path].version !== entry.version) return false;
    }
    return true;
  } catch {
    return false;
  }
}

function install() {
  process.stderr.write('paravane: installing packages (npm ci) …\n');
  // The level is set here because `npm run -s` would hand its silence on, and a failure would then say nothing.
  const options = ['ci', '--include=dev', '--include=optional', '--no-audit', '--no-fund', '--loglevel=error'];
  const npm = spawnSync('npm', options, { cwd: ROOT, env: outerEnvironment(), stdio: ['ignore', 2, 2] });
  if (npm.error) fail(`npm could not be started (${npm.error.message}); install npm and try again.`);
  if (npm.status !== 0)
    fail('npm ci failed (see above). It needs the npm registry and a writable checkout; then run "npm run setup" again.');
}

/** Makes `node_modules` current; returns the Node 24 to use. Quick when there is nothing to do. */
function setUp() {
  const wanted = wantedStamp();
  const stamp = readStamp();
  if (stamp !== null && stamp.hash === wanted && stamp.node && existsSync(join(ROOT, stamp.node))) return join(ROOT, stamp.node);

  if (!installedMatchesLock()) install();
  const node = findNode();
  if (node === null) {
    fail(
      `npm installed the packages, but no Node ${REQUIRED_NODE_MAJOR} that runs here. It comes as the optional package ` +
        `node-${process.platform}-${process.arch}; check that npm is not told to omit optional packages and that this system ` +
        'is a Linux with glibc on x64 or arm64, then delete node_modules and run "npm run setup" again.',
    );
  }
  writeFileSync(STAMP, `${wanted}\n${node.slice(ROOT.length + 1)}\n`);
  return node;
}

/**
 * Starts the command as a child and becomes as thin as possible: signals down, exit status up.
 * @param {string} file
 * @param {string[]} args
 * @param {{ cwd: string, env: NodeJS.ProcessEnv }} options
 */
function relay(file, args, options) {
  const child = spawn(file, args, { ...options, stdio: 'inherit' });
  /** @type {Map<NodeJS.Signals, () => void>} */
  const handlers = new Map();
  /** @type {NodeJS.Signals[]} */
  const relayed = ['SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGHUP', 'SIGUSR2', 'SIGCONT'];
  for (const signal of relayed) {
    // The terminal sends its own signals to the whole foreground group; relaying them would deliver them twice.
    const fromTerminal = process.stdin.isTTY && (signal === 'SIGINT' || signal === 'SIGQUIT');
    const handler = () => {
      if (!fromTerminal) child.kill(signal);
    };
    handlers.set(signal, handler);
    process.on(signal, handler);
  }
  child.on('error', (error) => fail(`${file} could not be started: ${error.message}`));
  child.on('exit', (code, signal) => {
    if (signal === null) process.exit(code ?? 70);
    for (const [name, handler] of handlers) process.removeListener(name, handler);
    process.kill(process.pid, signal);
    // Reached when this process survives the signal that ended the child.
    setTimeout(() => process.exit(128 + constants.signals[signal]), 100);
  });
}

function main() {
  const [name = '', ...rest] = process.argv.slice(2);
  if (name === 'setup') {
    const node = setUp();
    process.stderr.write(`paravane: ready (${node.slice(ROOT.length + 1)}).\n`);
    return;
  }
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (command === undefined) {
    fail(`unknown command ${JSON.stringify(name)}; known: setup, ${Object.keys(COMMANDS).join(', ')}`, 1);
  }
  const node = setUp();
  const entry = join(ROOT, command.entry);
  if (!existsSync(entry)) fail(`this checkout has no ${command.entry}, which "${name}" starts.`);

  // npm runs scripts in the checkout; paths on the command line belong to the directory the caller stood in.
  const caller = (process.env.npm_lifecycle_event === name && process.env.INIT_CWD) || process.cwd();
  const cwd = command.callersDirectory ? caller : ROOT;
  const env = { ...process.env, NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE ?? join(ROOT, '.cache', 'compile') };
  const args = [entry, ...command.fixed, ...rest];
  if (typeof process.execve === 'function') {
    process.chdir(cwd);
    process.execve(node, [node, ...args], env);
  }
  relay(node, args, { cwd, env });
}

main();
