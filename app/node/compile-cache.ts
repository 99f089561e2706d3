// SPDX-License-Identifier: Apache-2.0
/**
 * Keeps what Node makes of our sources (types stripped, code compiled) for the next start: loading the engine in its two threads takes
 * a second of processor time without it and a fifth of that with it.
 *
 * In a folder of the user's own, because whoever can write to it can run code in this process: never the shared temporary folder that is
 * Node's choice. Workers and child processes of Node find it by the environment. Nothing is kept when the folder cannot be made.
 */
import { mkdirSync } from 'node:fs';
import { enableCompileCache } from 'node:module';
import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';

/** The platform's folder for caches of the user; null when the environment names none. */
export function userCacheFolder(platform: NodeJS.Platform, env: Readonly<Record<string, string | undefined>>, home: string): string | null {
  const absolute = (path: string | undefined): string | null => (path !== undefined && isAbsolute(path) ? path : null);
  if (platform === 'win32') return absolute(env.LOCALAPPDATA);
  const inHome = (...parts: string[]): string | null => (isAbsolute(home) ? join(home, ...parts) : null);
  if (platform === 'darwin') return inHome('Library', 'Caches');
  return absolute(env.XDG_CACHE_HOME) ?? inHome('.cache');
}

/** Call it before the modules that are worth it are imported. A folder that the user named by NODE_COMPILE_CACHE is left in place. */
export function keepCompiledCode(): void {
  if (process.env.NODE_COMPILE_CACHE !== undefined || process.env.NODE_DISABLE_COMPILE_CACHE !== undefined) return;
  const folder = userCacheFolder(process.platform, process.env, homedir());
  if (folder === null) return;
  const ours = join(folder, 'paravane', 'code');
  try {
    mkdirSync(ours, { recursive: true, mode: 0o700 });
  } catch {
    return;
  }
  enableCompileCache(ours);
  process.env.NODE_COMPILE_CACHE = ours;
}
