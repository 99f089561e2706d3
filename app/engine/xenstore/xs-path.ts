// SPDX-License-Identifier: Apache-2.0
/**
 * Xenstore paths: which are valid, what a relative one stands for, parents and children.
 * Follows docs/misc/xenstore.txt (permitted characters, no doubled or trailing slash, lengths of io/xs_wire.h).
 *
 * INVARIANT: an XsPath is canonical: it starts with `/` (or `@` for the special watch events), names no empty component
 * and is at most XENSTORE_ABS_PATH_MAX long.
 */
import type { Brand } from '../../base/brand.ts';
import { XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX } from './xs-wire.ts';

/** A canonical, absolute path, or a special event name (`@releaseDomain`). */
export type XsPath = Brand<string, 'XsPath'>;

export const ROOT_PATH = '/' as XsPath;
/** Fired when a domain is introduced to the store. */
export const INTRODUCE_DOMAIN = '@introduceDomain' as XsPath;
/** Fired when a domain is released, shuts down or crashes. */
export const RELEASE_DOMAIN = '@releaseDomain' as XsPath;

const VALID_CHARACTERS = /^[-/_@A-Za-z0-9]+$/;

/** Where relative paths of domain `domid` start. */
export function domainPath(domid: number): XsPath {
  return `/local/domain/${domid}` as XsPath;
}

export function isRelative(text: string): boolean {
  return !text.startsWith('/') && !text.startsWith('@');
}

/**
 * The canonical form of a path that a client of domain `domid` sent; null when it is not valid.
 * `special` admits names that start with `@`, which only watches and permission requests may use.
 */
export function parsePath(text: string, domid: number, special = false): XsPath | null {
  // GUEST: bound the length before anything is built from it.
  if (text.length > XENSTORE_ABS_PATH_MAX || !VALID_CHARACTERS.test(text)) return null;
  if (text.startsWith('@') && !special) return null;
  let path = text;
  if (isRelative(text)) {
    if (text.length > XENSTORE_REL_PATH_MAX) return null;
    path = `${domainPath(domid)}/${text}`;
  }
  if (path.length > XENSTORE_ABS_PATH_MAX) return null;
  if (path !== '/' && (path.endsWith('/') || path.includes('//'))) return null;
  return path as XsPath;
}

export function isSpecial(path: XsPath): boolean {
  return path.charCodeAt(0) === 0x40;
}

/** The components below the root; none for the root itself. */
export function segmentsOf(path: XsPath): string[] {
  return path === '/' ? [] : path.slice(1).split('/');
}

/** The path one level up; the root is its own parent. */
export function parentOf(path: XsPath): XsPath {
  const at = path.lastIndexOf('/');
  return (at <= 0 ? '/' : path.slice(0, at)) as XsPath;
}

export function childOf(path: XsPath, name: string): XsPath {
  return (path === '/' ? `/${name}` : `${path}/${name}`) as XsPath;
}

/** True when `path` is `ancestor` or lies below it. Everything, special events included, lies below the root. */
export function isWithin(path: string, ancestor: string): boolean {
  if (ancestor === '/' || path === ancestor) return true;
  return path.length > ancestor.length && path.startsWith(ancestor) && path.charCodeAt(ancestor.length) === 0x2f;
}
