// SPDX-License-Identifier: Apache-2.0
/**
 * Advisory locks on image files: one writer, or any number of readers, across processes.
 *
 * Each holder keeps a file of its own beside the image, `.NAME.PID-RANDOM.lock`, which says who it is; whoever wants the image writes its
 * own first and then looks at the others. Names are never used twice, so a holder that died can be cleared away by anyone without a race.
 * Two that come at the same moment see each other: at least one of them gives up. A holder is dead when its process is, or when another
 * process has its number (start times are compared on Linux). Holders on other hosts (a shared folder) count as alive.
 *
 * Where the image's folder cannot be written, readers go without a lock of their own, and writers use the system's folder for temporary
 * files. See ADR 0012 for what was weighed.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { createHash } from 'node:crypto';
import { FileError } from '../engine/index.ts';

export interface FileLock {
  release(): Promise<void>;
}

interface Holder {
  readonly pid: number;
  readonly started: string;
  readonly host: string;
  readonly mode: 'shared' | 'exclusive';
}

const RETRIES = 5;
const MAX_HOLDER_BYTES = 4096;
const held = new Set<string>();

process.on('exit', () => {
  for (const path of held) tryUnlink(path);
});

/** `path` is the image's real path, `name` what the user called it. Rejects with a `FileError` of kind `locked`. */
export async function takeFileLock(path: string, name: string, mode: Holder['mode']): Promise<FileLock | null> {
  const places = [join(dirname(path), `.${basename(path)}.`), fallbackPrefix(path)];
  const token = `${process.pid}-${randomBytes(6).toString('hex')}`;
  const holder: Holder = { pid: process.pid, started: startTime(process.pid), host: hostname(), mode };
  for (let attempt = 0; ; attempt++) {
    const own = writeHolder(places, token, holder, mode === 'exclusive');
    const other = places.map((prefix) => findConflict(prefix, own, mode)).find((found) => found !== null) ?? null;
    if (other === null) return own === null ? null : lockAt(own);
    if (own !== null) tryUnlink(own);
    // Another that is only looking may be gone in a moment.
    if (attempt === RETRIES) throw new FileError('locked', `${name}: ${describe(other)}`);
    await new Promise((resolve) => setTimeout(resolve, 5 + Math.random() * 20));
  }
}

function describe(other: Holder): string {
  const where = other.host === hostname() ? '' : ` on ${other.host}`;
  const what = other.mode === 'exclusive' ? 'uses this image and may write it' : 'uses this image';
  return `process ${other.pid}${where} ${what}; stop it, or work on a copy`;
}

function fallbackPrefix(path: string): string {
  const digest = createHash('sha256').update(path).digest('hex').slice(0, 32);
  return join(tmpdir(), 'paravane-locks', `.${digest}.`);
}

function lockAt(own: string): FileLock {
  held.add(own);
  return {
    release: async () => {
      held.delete(own);
      tryUnlink(own);
    },
  };
}

/** Gives the holder's path; null where nobody may write and the lock is only a reader's. */
function writeHolder(places: readonly string[], token: string, holder: Holder, needed: boolean): string | null {
  let failure: unknown;
  for (const [index, prefix] of places.entries()) {
    const path = `${prefix}${token}.lock`;
    const draft = `${prefix}${token}.draft`;
    try {
      if (index > 0) mkdirSync(dirname(path), { recursive: true, mode: 0o1777 });
      // Renamed into place: nobody sees half of it.
      writeFileSync(draft, JSON.stringify(holder), { flag: 'wx', mode: 0o644 });
      renameSync(draft, path);
      return path;
    } catch (error) {
      failure = error;
      tryUnlink(draft);
      if (!needed) return null;
    }
  }
  throw failure;
}

function findConflict(prefix: string, own: string | null, mode: Holder['mode']): Holder | null {
  const folder = dirname(prefix);
  const start = basename(`${prefix}x`).slice(0, -1);
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return null;
  }
  for (const entry of names) {
    if (!entry.startsWith(start) || !/^\d+-[0-9a-f]{12}\.lock$/.test(entry.slice(start.length))) continue;
    const path = join(folder, entry);
    if (path === own) continue;
    const holder = readHolder(path);
    if (holder === null) continue;
    if (!isAlive(holder)) tryUnlink(path);
    else if (mode === 'exclusive' || holder.mode === 'exclusive') return holder;
  }
  return null;
}

/** Null: it is gone, or no holder's file. */
function readHolder(path: string): Holder | null {
  try {
    const text = readFileSync(path, 'utf8');
    if (text.length > MAX_HOLDER_BYTES) return null;
    const value = JSON.parse(text) as Partial<Holder>;
    const { pid, started, host, mode } = value;
    if (typeof pid !== 'number' || !Number.isSafeInteger(pid) || pid <= 0 || typeof started !== 'string' || typeof host !== 'string')
      return null;
    return { pid, started, host, mode: mode === 'shared' ? 'shared' : 'exclusive' };
  } catch {
    return null;
  }
}

function isAlive(holder: Holder): boolean {
  if (holder.host !== hostname()) return true;
  try {
    process.kill(holder.pid, 0);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ESRCH') return false;
  }
  const now = startTime(holder.pid);
  return now === '' || holder.started === '' || now === holder.started;
}

/** Distinguishes processes that have the same number one after the other, also across reboots; empty where the system does not tell. */
function startTime(pid: number): string {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The second field is the command in parentheses and may contain anything; the start time is the 22nd.
    return `${boot}:${text.slice(text.lastIndexOf(')') + 2).split(' ')[19]}`;
  } catch {
    return '';
  }
}

function tryUnlink(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Somebody else has cleared it away, or may not be: a dead holder's file does no harm.
  }
}
