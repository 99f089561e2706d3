// SPDX-License-Identifier: Apache-2.0
/**
 * Access lists of store nodes. The first entry names the owner, who may do everything, and what everybody without an
 * entry of their own may do; further entries name single domains. dom0 is above all lists.
 * Follows docs/misc/xenstore.txt (GET_PERMS, SET_PERMS, SET_TARGET).
 */

export const PERM_NONE = 0;
export const PERM_READ = 1;
export const PERM_WRITE = 2;
export const PERM_BOTH = 3;
/** Asked for by operations that only owners may do. */
export const PERM_OWNER = 4;

export interface Permission {
  readonly domid: number;
  /** PERM_NONE, PERM_READ, PERM_WRITE or PERM_BOTH. */
  readonly access: number;
}

/** Never empty; the first entry is the owner's. */
export type PermissionList = readonly Permission[];

/** Who asks. A device-model domain acts for its `target` as well (SET_TARGET). */
export interface Actor {
  readonly domid: number;
  readonly privileged: boolean;
  readonly target: number | null;
}

const LETTERS = 'nrwb';

/** `n5`, `r0`, … as GET_PERMS sends them. */
export function formatPermission(permission: Permission): string {
  return LETTERS.charAt(permission.access & 3) + permission.domid;
}

/** Parses one `<letter><domid>`; null when it is neither. */
export function parsePermission(text: string): Permission | null {
  const match = /^([nrwb])([0-9]{1,5})$/.exec(text);
  if (match === null) return null;
  const domid = Number(match[2]);
  return domid > 0xffff ? null : { domid, access: LETTERS.indexOf(match[1]) };
}

/** Parses a whole list; null when it is empty or an entry is malformed. */
export function parsePermissions(texts: readonly string[]): PermissionList | null {
  const out: Permission[] = [];
  for (const text of texts) {
    const permission = parsePermission(text);
    if (permission === null) return null;
    out.push(permission);
  }
  return out.length === 0 ? null : out;
}

/** Everything `actor` may do with a node that has these permissions: a mask of PERM_READ, PERM_WRITE, PERM_OWNER. */
export function accessOf(actor: Actor, permissions: PermissionList): number {
  const owner = permissions[0];
  const all = PERM_BOTH | PERM_OWNER;
  if (actor.privileged || owner.domid === actor.domid || owner.domid === actor.target) return all;
  for (let i = 1; i < permissions.length; i++) {
    const { domid, access } = permissions[i];
    if (domid === actor.domid || domid === actor.target) return access;
  }
  return owner.access;
}

/** What a new node gets: the parent's list; an unprivileged creator becomes the owner. */
export function inheritedPermissions(actor: Actor, parent: PermissionList): PermissionList {
  if (actor.privileged || parent[0].domid === actor.domid) return parent;
  return [{ domid: actor.domid, access: parent[0].access }, ...parent.slice(1)];
}

/** The list without the entries of a domain that is gone, so that a later domain of that number does not inherit them. */
export function withoutDomain(permissions: PermissionList, domid: number): PermissionList {
  if (!permissions.some((permission, i) => i > 0 && permission.domid === domid)) return permissions;
  return permissions.filter((permission, i) => i === 0 || permission.domid !== domid);
}
