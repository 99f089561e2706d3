// SPDX-License-Identifier: Apache-2.0
/**
 * The hypervisor's own costs: a hypercall's round trip, measured by a PV guest that does nothing else, and the self-test guest from
 * start to power-off.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { createMachine } from '../engine/index.ts';
import { createMachinePorts } from '../node/machine-ports.ts';
import { type BenchContext, median, type Suite } from './figure.ts';
import { pvKernel } from './pv-kernel.ts';

const SELFTEST = fileURLToPath(new URL('../../resources/selftest.elf', import.meta.url));
const CALLS = 1_000_000;
const MEMORY_MIB = 32;
const SELFTEST_MEMORY_MIB = 64;
const SELFTEST_BAR_S = 1;

/** mov ebp,CALLS; 1: mov eax,17 (xen_version); xor edi,edi; syscall; dec ebp; jnz 1b; then sched_op(SCHEDOP_shutdown, &poweroff). */
function hypercallLoop(calls: number): Uint8Array {
  const count = Buffer.from(new Uint32Array([calls]).buffer).toString('hex');
  return Buffer.from(
    `bd${count} b811000000 31ff 0f05 ffcd 75f3 b81d000000 bf02000000 488d3506000000 0f05 0f0b 9090 00000000`.replaceAll(' ', ''),
    'hex',
  );
}

/** Wall seconds from the start of the vCPU to power-off, or how it ended otherwise. */
async function runToPoweroff(kernel: Uint8Array, memoryMib: number): Promise<number | string> {
  const ports = createMachinePorts({ write: () => {} });
  const made = await createMachine({ name: 'bench', mode: 'pv', kernel, commandLine: '', memoryMib, vcpus: 1, accel: 'interp' }, ports);
  if (!made.ok) throw new Error(made.error.message);
  const machine = made.value;
  machine.console.attach({ write: () => true });
  machine.start();
  const end = await machine.ended;
  const { wallSeconds } = machine.stats();
  await machine.close();
  return end.kind === 'poweroff' ? wallSeconds : `the guest ended with ${end.kind}`;
}

async function run({ runs, say, add, skip }: BenchContext): Promise<void> {
  say('hypercalls');
  const roundTrips: number[] = [];
  for (let n = 0; n < runs; n++) {
    const one = await runToPoweroff(pvKernel(hypercallLoop(1)), MEMORY_MIB);
    const many = await runToPoweroff(pvKernel(hypercallLoop(CALLS)), MEMORY_MIB);
    if (typeof one === 'string' || typeof many === 'string') throw new Error(`hypercall loop: ${one}, ${many}`);
    roundTrips.push((many - one) / CALLS);
  }
  add({ suite: 'hypercalls', name: 'round trip (xen_version)', unit: 'ns', values: { interp: median(roundTrips) * 1e9 } });

  say('self-test');
  const selftests: number[] = [];
  for (let n = 0; n < runs; n++) {
    const seconds = await runToPoweroff(readFileSync(SELFTEST), SELFTEST_MEMORY_MIB);
    if (typeof seconds === 'string') {
      skip({ suite: 'hypercalls', name: 'self-test guest', reason: seconds });
      return;
    }
    selftests.push(seconds);
  }
  const interp = median(selftests);
  add({
    suite: 'hypercalls',
    name: 'self-test guest',
    unit: 's',
    values: { interp },
    bar: { of: 'interp', rule: 'at most', limit: SELFTEST_BAR_S },
  });
}

export const hypercalls: Suite = { name: 'hypercalls', summary: 'hypercalls and the self-test guest', run };
