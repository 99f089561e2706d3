// SPDX-License-Identifier: Apache-2.0
/**
 * Runs the hostile guest of `e2e/guests/fuzz` and recounts every memory reference while it runs and after it.
 *
 *   node app/fuzz/pv-guest.ts [--seeds 1-4] [--count 250000] [--append 'only=N trace=N'] [--memory 16] [--accel interp] [--verbose]
 *
 * Status 1 when the engine faulted, an audit found a difference, or a run did not end with the guest's last line.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { auditDomain } from '../engine/hypervisor/audit.ts';
import { createMachine, silentLog } from '../engine/index.ts';
import { type Mfn, mfn } from '../engine/memory/frames.ts';
import { createMachinePorts } from '../node/machine-ports.ts';
import { inProcessVcpu } from './in-process.ts';

const GUEST = new URL('../../resources/fuzz.elf', import.meta.url);
/** Time between two audits of a run. */
const AUDIT_EVERY_MS = 500;

export interface FuzzRun {
  readonly seed: number;
  readonly count: number;
  readonly append?: string;
  readonly memoryMib?: number;
  readonly accel?: 'interp' | 'jit';
  readonly onConsole?: (text: string) => void;
}

export interface FuzzResult {
  /** The guest reached its last line and powered off. */
  readonly complete: boolean;
  /** How the machine ended, and its report. */
  readonly end: string;
  readonly report: readonly string[];
  readonly audits: number;
  readonly seconds: number;
  readonly console: string;
}

/** One run of the fuzz guest. Rejects when the machine cannot be made. */
export async function runFuzzGuest(run: FuzzRun): Promise<FuzzResult> {
  const ports = createMachinePorts(silentLog);
  const dom0Frames: Mfn[] = [];
  let audits = 0;
  let nextAudit = 0;
  const threads = inProcessVcpu(ports.clock, (domain, mmu, ended) => {
    if (!ended && performance.now() < nextAudit) return null;
    audits++;
    const problems = auditDomain(domain, mmu, dom0Frames);
    nextAudit = performance.now() + AUDIT_EVERY_MS;
    return problems.length === 0 ? null : `the memory audit found: ${problems.slice(0, 10).join('; ')}`;
  });
  const made = await createMachine(
    {
      name: 'fuzz',
      mode: 'pv',
      kernel: readFileSync(GUEST),
      commandLine: `seed=${run.seed} count=${run.count} ${run.append ?? ''}`,
      memoryMib: run.memoryMib ?? 16,
      vcpus: 1,
      accel: run.accel ?? 'interp',
    },
    { ...ports, threads },
  );
  if (!made.ok) throw new Error(made.error.message);
  const machine = made.value;
  for (const path of ['/local/domain/1/store/ring-ref', '/local/domain/1/console/ring-ref']) {
    const ring = machine.xenstore.read(path);
    if (ring === null) throw new Error(`the store has no ${path}`);
    dom0Frames.push(mfn(Number(ring)));
  }
  let console = '';
  machine.console.attach({
    write: (bytes) => {
      const text = Buffer.from(bytes).toString('latin1');
      console += text;
      run.onConsole?.(text);
      return true;
    },
  });
  const begun = performance.now();
  machine.start();
  const end = await machine.ended;
  await machine.close();
  return {
    complete: end.kind === 'poweroff' && console.includes(`fuzz: ${run.count} operations done`),
    end: end.kind,
    report: 'report' in end ? end.report : [],
    audits,
    seconds: (performance.now() - begun) / 1000,
    console,
  };
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string', default: '1-4' },
      count: { type: 'string', default: '250000' },
      append: { type: 'string', default: '' },
      memory: { type: 'string', default: '16' },
      accel: { type: 'string', default: 'interp' },
      verbose: { type: 'boolean', default: false },
    },
  });
  const [first, last = first] = values.seeds.split('-').map(Number);
  let failed = 0;
  for (let seed = first; seed <= last; seed++) {
    const result = await runFuzzGuest({
      seed,
      count: Number(values.count),
      append: values.append,
      memoryMib: Number(values.memory),
      accel: values.accel === 'jit' ? 'jit' : 'interp',
      ...(values.verbose ? { onConsole: (text: string) => void process.stdout.write(text) } : {}),
    });
    console.log(
      `seed ${seed}: ${result.complete ? 'complete' : `NOT COMPLETE (${result.end})`}, ${result.audits} audits, ${result.seconds.toFixed(1)} s`,
    );
    if (result.complete) continue;
    failed++;
    console.log(result.report.join('\n'));
    if (!values.verbose) console.log(result.console.slice(-1000));
  }
  return failed === 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = await main();
