// SPDX-License-Identifier: Apache-2.0
/**
 * Debian's kernel to its userspace: from the start of the process to a line that the initramfs prints, on our engine and on QEMU's TCG,
 * in turns, so that both meet the same machine.
 */
import { debianGuest, qemuVersion, startOurs, startQemu } from './debian-guest.ts';
import { type BenchContext, median, type Suite } from './figure.ts';
import type { GuestProcess } from './guest-process.ts';

/** A test that does not exist: the initramfs says so first thing, then powers off. */
const WORDS = 'paravane.test=bench';
const MARKER = 'paravane.test bench: unknown';
const LIMIT_S = 300;
const BAR = 20;

interface Boot {
  readonly wall: number;
  readonly cpu: number;
}

async function boot(start: () => GuestProcess): Promise<Boot> {
  const process = start();
  try {
    const wall = await process.until(MARKER, LIMIT_S);
    return { wall, cpu: process.cpuSeconds() };
  } finally {
    await process.end();
  }
}

async function run({ runs, say, add, skip }: BenchContext): Promise<void> {
  const guest = await debianGuest(say);
  if (typeof guest === 'string') {
    skip({ suite: 'boot', name: 'Debian', reason: guest });
    return;
  }
  const qemu = qemuVersion();
  if (qemu === null) skip({ suite: 'boot', name: 'QEMU', reason: 'qemu-system-x86_64 is not installed' });
  const ours: Boot[] = [];
  const theirs: Boot[] = [];
  for (let n = 0; n < runs; n++) {
    say(`boot ${n + 1} of ${runs}`);
    ours.push(await boot(() => startOurs(guest, WORDS)));
    if (qemu !== null) theirs.push(await boot(() => startQemu(guest, WORDS)));
  }
  const values = (of: (boot: Boot) => number): { interp: number; 'qemu-tcg'?: number } => ({
    interp: median(ours.map(of)),
    ...(theirs.length > 0 ? { 'qemu-tcg': median(theirs.map(of)) } : {}),
  });
  const title = `${guest.origin.split(' ')[0]} to userspace`;
  add({
    suite: 'boot',
    name: `${title}, wall clock`,
    unit: 's',
    values: values((item) => item.wall),
    bar: { of: 'ratio', rule: 'at most', limit: BAR },
  });
  add({ suite: 'boot', name: `${title}, processor time`, unit: 's', values: values((item) => item.cpu) });
}

export const debianBoot: Suite = { name: 'boot', summary: "Debian's kernel to userspace, against QEMU's TCG", run };
