// SPDX-License-Identifier: Apache-2.0
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkLayers } from './check-layers.ts';

let root: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'paravane-layers-'));
});
afterEach(() => {
  rmSync(root, { recursive: true, force: true });
});

/** Writes a tree of source files, checks it, and returns `rule: from -> to` for each violation. */
async function violationsOf(files: Record<string, string>): Promise<string[]> {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  const report = await checkLayers(root);
  expect(report.modules.length).toBe(Object.keys(files).length);
  return report.violations.map(({ rule, from, to }) => `${rule}: ${from} -> ${to}`);
}

const MEMORY = { 'app/engine/memory/frames.ts': 'export const PAGE = 4096;\nexport type Mfn = number;\n' };
const HYPERVISOR = { 'app/engine/hypervisor/domain.ts': 'export const domain = 1;\nexport type Domain = number;\n' };

describe('layer check', () => {
  it('accepts what the table allows', async () => {
    const found = await violationsOf({
      ...MEMORY,
      'app/engine/cpu/mmu.ts': "import { PAGE } from '../memory/frames.ts';\nexport const size = PAGE;\n",
    });
    expect(found).toEqual([]);
  });

  it.each([
    ['an import', "import { domain } from '../hypervisor/domain.ts';\nexport const x = domain;\n"],
    ['an import of types alone', "import type { Domain } from '../hypervisor/domain.ts';\nexport type X = Domain;\n"],
    ['a re-export', "export { domain } from '../hypervisor/domain.ts';\n"],
    ['a re-export of everything', "export * from '../hypervisor/domain.ts';\n"],
    ['a dynamic import', "export const x = () => import('../hypervisor/domain.ts');\n"],
  ])('finds %s from the CPU to the hypervisor', async (_what, text) => {
    const found = await violationsOf({ ...HYPERVISOR, 'app/engine/cpu/mmu.ts': text });
    expect(found).toEqual(['layer-engine-cpu: app/engine/cpu/mmu.ts -> app/engine/hypervisor/domain.ts']);
  });

  it('finds a Node builtin in the engine', async () => {
    const found = await violationsOf({
      'app/engine/memory/frames.ts': "import { readFileSync } from 'node:fs';\nexport const x = readFileSync;\n",
    });
    expect(found).toEqual(['layer-engine-memory: app/engine/memory/frames.ts -> fs']);
  });

  it('finds a way around the door of the engine', async () => {
    const found = await violationsOf({
      ...MEMORY,
      'app/cli/main.ts': "import { PAGE } from '../engine/memory/frames.ts';\nexport const size = PAGE;\n",
    });
    expect(found).toContain('engine-door: app/cli/main.ts -> app/engine/memory/frames.ts');
  });

  it('finds one backend that imports another', async () => {
    const found = await violationsOf({
      'app/engine/backends/block/ring.ts': 'export const ring = 1;\n',
      'app/engine/backends/net/ring.ts': "import { ring } from '../block/ring.ts';\nexport const x = ring;\n",
    });
    expect(found).toEqual(['layer-engine-backends: app/engine/backends/net/ring.ts -> app/engine/backends/block/ring.ts']);
  });

  it('finds a folder of the engine that no row of the table covers', async () => {
    const found = await violationsOf({
      ...MEMORY,
      'app/engine/misc/a.ts': "import { PAGE } from '../memory/frames.ts';\nexport const size = PAGE;\n",
    });
    expect(found).toEqual(['engine-folder-without-layer: app/engine/misc/a.ts -> app/engine/memory/frames.ts']);
  });

  it('finds a cycle and an import of nothing', async () => {
    const found = await violationsOf({
      'app/base/a.ts': "import { b } from './b.ts';\nexport const a = () => b;\n",
      'app/base/b.ts': "import { a } from './a.ts';\nimport { c } from './gone.ts';\nexport const b = () => [a, c];\n",
    });
    expect(found.filter((line) => line.startsWith('no-circular')).length).toBeGreaterThan(0);
    expect(found.filter((line) => line.startsWith('no-unresolvable: app/base/b.ts')).length).toBe(1);
  });
});
