// SPDX-License-Identifier: Apache-2.0
/**
 * The store's nodes as an immutable tree: a change makes new nodes along one path and shares everything else, so that a
 * snapshot is one reference and an open transaction costs what it changed.
 *
 * The node above the root has the root (named by the empty string) and the special event nodes (`@releaseDomain`) as
 * children; that way the components of a path are `path.split('/')` for both kinds.
 *
 * INVARIANT: a node's `generation` changes when its value, its permissions or the set of its children changes, and never
 * returns to an earlier number. A change further down leaves it alone.
 */
import type { PermissionList } from './permissions.ts';
import { childOf, ROOT_PATH, type XsPath } from './xs-path.ts';

export interface TreeNode {
  readonly value: Uint8Array;
  readonly permissions: PermissionList;
  /** In order of creation. */
  readonly children: ReadonlyMap<string, TreeNode>;
  /** Bytes that the children's names take in a DIRECTORY reply, NULs included. */
  readonly childBytes: number;
  readonly generation: number;
}

const NO_VALUE = new Uint8Array(0);
const NO_CHILDREN: ReadonlyMap<string, TreeNode> = new Map();

export function leaf(value: Uint8Array, permissions: PermissionList, generation: number): TreeNode {
  return { value, permissions, children: NO_CHILDREN, childBytes: 0, generation };
}

/** Components below the top node. */
export function componentsOf(path: XsPath): string[] {
  return path === '/' ? [''] : path.split('/');
}

export function lookup(top: TreeNode, path: XsPath): TreeNode | null {
  let node: TreeNode | undefined = top;
  for (const name of componentsOf(path)) {
    node = node.children.get(name);
    if (node === undefined) return null;
  }
  return node;
}

/** Where the existing part of a path ends. */
export interface NearestNode {
  readonly node: TreeNode;
  readonly path: XsPath;
  /** Names of the components below that do not exist. */
  readonly missing: readonly string[];
}

/** The deepest existing node on the way to `path`. For a special name that does not exist that is the root. */
export function nearest(top: TreeNode, path: XsPath): NearestNode {
  const names = componentsOf(path);
  let node = top;
  let depth = 0;
  for (; depth < names.length; depth++) {
    const next = node.children.get(names[depth]);
    if (next === undefined) break;
    node = next;
  }
  if (depth > 0) return { node, path: (names.slice(0, depth).join('/') || '/') as XsPath, missing: names.slice(depth) };
  return { node: top.children.get('') ?? top, path: ROOT_PATH, missing: names };
}

/** A chain of new, empty nodes with `last` at its end: the node for `names[0]`, where `last` is `names.at(-1)`. */
export function chained(names: readonly string[], last: TreeNode, generation: number): TreeNode {
  let node = last;
  for (let i = names.length - 1; i > 0; i--) {
    const children = new Map([[names[i], node]]);
    node = { value: NO_VALUE, permissions: last.permissions, children, childBytes: names[i].length + 1, generation };
  }
  return node;
}

/**
 * The tree with `node` at `path`, or without anything there when `node` is null. All ancestors must exist.
 * When that adds or removes a child, the parent gets `generation`.
 */
export function replaced(top: TreeNode, path: XsPath, node: TreeNode | null, generation: number): TreeNode {
  const names = componentsOf(path);
  const spine: TreeNode[] = [top];
  for (let i = 0; i < names.length - 1; i++) {
    const next = spine[i].children.get(names[i]);
    if (next === undefined) throw new Error(`no node above ${path}`);
    spine.push(next);
  }
  let current = node;
  for (let i = names.length - 1; i >= 0; i--) {
    current = withChild(spine[i], names[i], current, generation);
  }
  return current as TreeNode;
}

function withChild(parent: TreeNode, name: string, child: TreeNode | null, generation: number): TreeNode {
  const had = parent.children.has(name);
  if (child === null && !had) return parent;
  const children = new Map(parent.children);
  if (child === null) children.delete(name);
  else children.set(name, child);
  if (had && child !== null) return { ...parent, children };
  const childBytes = parent.childBytes + (child === null ? -1 : 1) * (name.length + 1);
  return { ...parent, children, childBytes, generation };
}

/** Every node at and below `path`, children before their parent (the order in which a removal is announced). */
export function* postOrder(node: TreeNode, path: XsPath): Generator<{ readonly path: XsPath; readonly node: TreeNode }> {
  // GUEST: depth is the guest's choice, so the stack is ours and not JavaScript's.
  const stack: { path: XsPath; node: TreeNode; rest: Iterator<[string, TreeNode]> }[] = [{ path, node, rest: node.children.entries() }];
  while (stack.length > 0) {
    const frame = stack[stack.length - 1];
    const next = frame.rest.next();
    if (next.done) {
      stack.pop();
      yield { path: frame.path, node: frame.node };
    } else {
      const [name, child] = next.value;
      stack.push({ path: childOf(frame.path, name), node: child, rest: child.children.entries() });
    }
  }
}

/** Names of children as DIRECTORY sends them: each followed by NUL. */
export function childNames(node: TreeNode): string[] {
  return [...node.children.keys()];
}

/** What a node counts against the quota on node size. */
export function nodeSize(node: TreeNode): number {
  return 24 + node.permissions.length * 8 + node.value.length + node.childBytes;
}
