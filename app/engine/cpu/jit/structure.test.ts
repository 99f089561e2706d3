// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { structureOf } from './structure.ts';

/** Nodes that every path from the entry to `node` passes, by search: the definition itself. */
function dominatesBySearch(successors: readonly (readonly number[])[], a: number, node: number): boolean {
  if (a === node) return true;
  const seen = new Set<number>([a]);
  const work = a === 0 ? [] : [0];
  for (const at of work) {
    if (seen.has(at)) continue;
    seen.add(at);
    if (at === node) return false;
    work.push(...successors[at]);
  }
  return true;
}

describe('structureOf', () => {
  it('finds the loop and the merge point of a counted loop with a condition', () => {
    // 0 → 1; 1 → 2, 3; 2 → 4; 3 → 4; 4 → 1, 5
    const structure = structureOf([[1], [2, 3], [4], [4], [1, 5], []]);
    expect(structure.isLoop).toEqual([false, true, false, false, false, false]);
    expect(structure.isMerge).toEqual([false, false, false, false, true, false]);
    expect(structure.dominator).toEqual([0, 0, 1, 1, 1, 4]);
    expect(structure.children[1].toSorted((a, b) => a - b)).toEqual([2, 3, 4]);
  });

  it('refuses the edge into the middle of a loop', () => {
    // Two entries, 1 and 2, into the cycle 1 ⇄ 2.
    const structure = structureOf([[1, 2], [2], [1]]);
    const { order } = structure;
    const back = order[1] > order[2] ? [1, 2] : [2, 1];
    expect(structure.usable(back[0], back[1])).toBe(false);
    expect(structure.usable(0, 1)).toBe(true);
  });

  it('leaves out what the entry does not reach', () => {
    expect(structureOf([[], [0]]).order).toEqual([0, -1]);
  });

  it('agrees with the definition of dominance on random graphs', () => {
    const graph = fc
      .integer({ min: 1, max: 9 })
      .chain((n) => fc.array(fc.array(fc.nat(n - 1), { maxLength: 3 }), { minLength: n, maxLength: n }));
    fc.assert(
      fc.property(graph, (successors) => {
        const { order, dominator } = structureOf(successors);
        for (let node = 1; node < successors.length; node++) {
          if (order[node] < 0) continue;
          expect(dominatesBySearch(successors, dominator[node], node)).toBe(true);
          // No other dominator lies between the immediate one and the node.
          for (let other = 0; other < successors.length; other++) {
            if (other === node || order[other] < 0 || !dominatesBySearch(successors, other, node)) continue;
            expect(dominatesBySearch(successors, other, dominator[node])).toBe(true);
          }
        }
      }),
    );
  });
});
