// SPDX-License-Identifier: Apache-2.0
/**
 * From a control-flow graph to WebAssembly's structured control: dominators, loop headers and merge points, after N. Ramsey,
 * "Beyond Relooper" (2022).
 *
 * Edges that enter a loop otherwise than through its header (irreducible graphs) are reported: the emitter lets them leave the region.
 */

export interface Structure {
  /** Reverse postorder number of each node; -1: not reachable. */
  readonly order: readonly number[];
  /** Immediate dominator of each node; the entry's is itself. */
  readonly dominator: readonly number[];
  /** Nodes that each node dominates immediately, in reverse postorder. */
  readonly children: readonly (readonly number[])[];
  /** The node is the target of a backward edge. */
  readonly isLoop: readonly boolean[];
  /** The node has several forward predecessors. */
  readonly isMerge: readonly boolean[];
  /** Is this edge one that structured control can express? */
  readonly usable: (from: number, to: number) => boolean;
}

/** `successors[n]` are the nodes after node n; node 0 is the entry. */
export function structureOf(successors: readonly (readonly number[])[]): Structure {
  const count = successors.length;
  const order = new Array<number>(count).fill(-1);
  const sequence = reversePostorder(successors);
  sequence.forEach((node, n) => {
    order[node] = n;
  });
  const predecessors: number[][] = Array.from({ length: count }, () => []);
  for (const node of sequence) for (const next of successors[node]) predecessors[next].push(node);
  const dominator = dominators(sequence, order, predecessors);
  const dominates = (a: number, b: number): boolean => {
    let node = b;
    while (node !== a && node !== 0) node = dominator[node];
    return node === a;
  };
  const usable = (from: number, to: number): boolean => order[to] > order[from] || dominates(to, from);
  const isLoop = new Array<boolean>(count).fill(false);
  const isMerge = new Array<boolean>(count).fill(false);
  for (const node of sequence) {
    let forward = 0;
    for (const from of new Set(predecessors[node])) {
      if (order[node] > order[from]) forward += successors[from].filter((next) => next === node).length;
      else if (dominates(node, from)) isLoop[node] = true;
    }
    isMerge[node] = forward > 1;
  }
  const children: number[][] = Array.from({ length: count }, () => []);
  for (const node of sequence) if (node !== 0) children[dominator[node]].push(node);
  return { order, dominator, children, isLoop, isMerge, usable };
}

function reversePostorder(successors: readonly (readonly number[])[]): number[] {
  const seen = new Set<number>([0]);
  const postorder: number[] = [];
  // An explicit stack: regions are small, but guests choose their shape.
  const stack: { readonly node: number; next: number }[] = [{ node: 0, next: 0 }];
  while (stack.length > 0) {
    const top = stack[stack.length - 1];
    if (top.next < successors[top.node].length) {
      const to = successors[top.node][top.next++];
      if (!seen.has(to)) {
        seen.add(to);
        stack.push({ node: to, next: 0 });
      }
    } else {
      postorder.push(top.node);
      stack.pop();
    }
  }
  return postorder.reverse();
}

/** Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm". */
function dominators(sequence: readonly number[], order: readonly number[], predecessors: readonly (readonly number[])[]): number[] {
  const dominator = new Array<number>(order.length).fill(-1);
  dominator[0] = 0;
  let changed = true;
  while (changed) {
    changed = false;
    for (const node of sequence) {
      if (node === 0) continue;
      let best = -1;
      for (const from of predecessors[node]) {
        if (dominator[from] < 0) continue;
        best = best < 0 ? from : intersect(best, from, dominator, order);
      }
      if (best !== dominator[node]) {
        dominator[node] = best;
        changed = true;
      }
    }
  }
  return dominator;
}

function intersect(a: number, b: number, dominator: readonly number[], order: readonly number[]): number {
  let x = a;
  let y = b;
  while (x !== y) {
    while (order[x] > order[y]) x = dominator[x];
    while (order[y] > order[x]) y = dominator[y];
  }
  return x;
}
