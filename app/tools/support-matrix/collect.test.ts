// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { collectTags, renderMatrix } from './collect.ts';

const collect = (text: string) => collectTags([{ path: 'app/engine/a.ts', text }]);

describe('support matrix', () => {
  it('reads tags from line, block and single-line comments', () => {
    const { tags, errors } = collect(
      '// @abi hypercall event_channel_op — all of it\n/**\n * @abi msr 0xc0000080 — EFER, writes are ignored\n */\n/** @abi insn ADD */\n',
    );
    expect(errors).toEqual([]);
    expect(tags.map(({ kind, name, note }) => [kind, name, note])).toEqual([
      ['hypercall', 'event_channel_op', 'all of it'],
      ['msr', '0xc0000080', 'EFER, writes are ignored'],
      ['insn', 'ADD', ''],
    ]);
  });

  it.each(['// @abi hypercal x — typo', '// @abi msr 0x10 - plain dash', '// @abi msr 0x10 —', '// @abi'])(
    'reports %j instead of leaving it out',
    (line) => {
      const { tags, errors } = collect(line);
      expect(tags).toEqual([]);
      expect(errors).toEqual([expect.stringContaining('app/engine/a.ts:1: write "@abi KIND NAME"')]);
    },
  );

  it('makes one row of two declarations', () => {
    const files = [
      { path: 'app/engine/table.ts', text: '// @abi hypercall mmu_update\n' },
      { path: 'app/engine/mmu.ts', text: '// @abi hypercall mmu_update — three commands\n' },
    ];
    expect(renderMatrix(collectTags(files).tags)).toContain('| `mmu_update` | three commands | app/engine/table.ts, app/engine/mmu.ts |\n');
  });

  it('sorts by kind and name, and leaves out kinds without entries', () => {
    const { tags } = collect('// @abi msr 0x10a X — b\n// @abi msr 0x17 — a | c\n// @abi hypercall iret — x\n');
    const text = renderMatrix(tags);
    expect(text.match(/^## .*|^\| `.*$/gm)).toEqual([
      '## Hypercalls',
      '| `iret` | x | app/engine/a.ts |',
      '## Model-specific registers',
      '| `0x17` | a \\| c | app/engine/a.ts |',
      '| `0x10a X` | b | app/engine/a.ts |',
    ]);
  });
});
