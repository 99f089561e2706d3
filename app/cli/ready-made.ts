// SPDX-License-Identifier: Apache-2.0
/**
 * The ready-made guests by name, as `npm run guests` left them in the checkout's cache (`guest.json`, one folder each), and the
 * self-test guest, which is part of the package.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { err, ok, type Result } from '../base/result.ts';

const CACHE = new URL('../../.cache/guests/', import.meta.url);
export const SELFTEST_IMAGE = fileURLToPath(new URL('../../resources/selftest.elf', import.meta.url));

export interface ReadyMade {
  readonly name: string;
  readonly mode: string;
  readonly kernel: string;
  readonly initrd?: string;
  readonly append: string;
  readonly memory: string;
}

/** Looks a guest up; the error says what to do. */
export function findReadyMade(name: string, cache: URL = CACHE): Result<ReadyMade, string> {
  if (name === 'selftest') return ok({ name, mode: 'pv', kernel: SELFTEST_IMAGE, append: '', memory: '64M' });
  const known = readyMadeNames(cache);
  if (!known.includes(name)) {
    const list = known.length === 0 ? '' : ` (ready here: ${known.join(', ')})`;
    return err(`there is no ready-made guest ${JSON.stringify(name)}${list}; "npm run -s guests" in a checkout makes them`);
  }
  try {
    const { guest } = JSON.parse(readFileSync(new URL(`${name}/guest.json`, cache), 'utf8')) as { guest: ReadyMade };
    if (isReadyMade(guest)) return ok(guest);
  } catch {
    // Said below.
  }
  return err(`the notes about the ready-made guest ${name} are damaged; "npm run -s guests -- --refresh" makes it anew`);
}

/** Names with a finished guest in the cache, the self-test guest left out. */
function readyMadeNames(cache: URL): string[] {
  if (!existsSync(cache)) return [];
  return readdirSync(cache)
    .filter((name) => existsSync(new URL(`${encodeURIComponent(name)}/guest.json`, cache)))
    .sort();
}

function isReadyMade(guest: ReadyMade): boolean {
  const texts = [guest.name, guest.mode, guest.kernel, guest.append, guest.memory];
  return texts.every((text) => typeof text === 'string') && (guest.initrd === undefined || typeof guest.initrd === 'string');
}
