// SPDX-License-Identifier: Apache-2.0
/**
 * The watches of one connection: which paths it listens to and how an event's path is told to it.
 * Follows docs/misc/xenstore.txt, "Watches".
 *
 * INVARIANT: no two watches of a list have the same path and token; the order is the order in which they were set.
 */
import { domainPath, isWithin, type XsPath } from './xs-path.ts';

export interface Watch {
  readonly path: XsPath;
  readonly token: string;
  /** The client named the path relative to its own domain, so events are told the same way. */
  readonly relative: boolean;
}

export class WatchList {
  readonly #watches = new Map<string, Watch>();

  get size(): number {
    return this.#watches.size;
  }

  /** Null when the connection already has this watch. */
  add(watch: Watch): Watch | null {
    const key = keyOf(watch.path, watch.token);
    if (this.#watches.has(key)) return null;
    this.#watches.set(key, watch);
    return watch;
  }

  remove(path: XsPath, token: string): boolean {
    return this.#watches.delete(keyOf(path, token));
  }

  clear(): void {
    this.#watches.clear();
  }

  all(): Iterable<Watch> {
    return this.#watches.values();
  }

  /** The watches that a change of `path` concerns: those on it and, unless `exact`, those on its ancestors. */
  matching(path: XsPath, exact: boolean): Watch[] {
    const out: Watch[] = [];
    for (const watch of this.#watches.values()) {
      if (exact ? watch.path === path : isWithin(path, watch.path)) out.push(watch);
    }
    return out;
  }
}

/** `path` as the owner of `watch`, domain `domid`, is told of it. */
export function toldPath(watch: Watch, path: XsPath, domid: number): string {
  return watch.relative ? path.slice(domainPath(domid).length + 1) : path;
}

// A path holds no NUL, so the first NUL ends it.
function keyOf(path: XsPath, token: string): string {
  return `${path}\0${token}`;
}
