// SPDX-License-Identifier: Apache-2.0
/** A Debian guest after its boot: what it costs while idle, and how much memory the engine needs beside the guest's own. */
import { computeLayout } from '../engine/memory/layout.ts';
import { PAGE_SIZE } from '../engine/memory/frames.ts';
import { xenFramesNeeded } from '../engine/hypervisor/mm/xen-frames.ts';
import { debianGuest, MEMORY_MIB, startOurs } from './debian-guest.ts';
import type { BenchContext, Suite } from './figure.ts';

const MIB = 1024 * 1024;
const MB = 1_000_000;
const LIMIT_S = 300;
const SETTLE_MS = 3000;
const IDLE_MS = 10_000;
const IDLE_BAR = 2;
const OVERHEAD_BAR_MB = 250;
const PROMPT = '# ';
/** Programs, pipes, files and page faults; the quotes keep the echo of the line from looking like its result. */
const MIX =
  'for i in 1 2 3; do find / -xdev -type f | xargs md5sum > /tmp/sums; sort /tmp/sums | gzip | gunzip | wc -l > /tmp/lines; ' +
  'dd if=/dev/zero of=/tmp/zeros bs=64k count=400 2> /dev/null; sha256sum /tmp/zeros > /dev/null; rm /tmp/zeros; ' +
  'for j in 1 2 3 4 5 6 7 8 9 10; do ls -lR /sys/kernel > /dev/null; done; done; echo mix""ture finished\n';

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function run({ say, add, skip }: BenchContext): Promise<void> {
  const guest = await debianGuest(say);
  if (typeof guest === 'string') {
    skip({ suite: 'life', name: 'Debian', reason: guest });
    return;
  }
  const process = startOurs(guest, '');
  try {
    await process.until(PROMPT, LIMIT_S);
    await pause(SETTLE_MS);
    say('idle guest');
    const before = process.cpuSeconds();
    await pause(IDLE_MS);
    const idle = ((process.cpuSeconds() - before) / (IDLE_MS / 1000)) * 100;
    add({
      suite: 'life',
      name: 'idle guest',
      unit: '% of a core',
      values: { interp: idle },
      bar: { of: 'interp', rule: 'at most', limit: IDLE_BAR },
    });

    const layout = computeLayout({
      guestFrames: (MEMORY_MIB * MIB) / PAGE_SIZE,
      xenFrames: xenFramesNeeded((MEMORY_MIB * MIB) / PAGE_SIZE, 1),
      vcpus: 1,
    });
    const overhead = (): number | null => {
      const guestResident = process.residentWithin(layout.totalBytes, layout.ramBase, MEMORY_MIB * MIB);
      return guestResident === null ? null : (process.peakResident() - guestResident) / MB;
    };
    const report = (name: string): void => {
      const interp = overhead();
      if (interp === null) skip({ suite: 'life', name, reason: "the guest's memory was not found among the process's mappings" });
      else add({ suite: 'life', name, unit: 'MB', values: { interp }, bar: { of: 'interp', rule: 'at most', limit: OVERHEAD_BAR_MB } });
    };
    report('memory beside the guest, after boot');
    say('mixed programs');
    process.type(MIX);
    await process.until('mixture finished', LIMIT_S);
    report('memory beside the guest, after mixed programs');
  } finally {
    await process.end();
  }
}

export const debianLife: Suite = { name: 'life', summary: 'a Debian guest after its boot', run };
