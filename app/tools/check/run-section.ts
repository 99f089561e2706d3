// SPDX-License-Identifier: Apache-2.0
/**
 * Runs one section as a process group of its own, its output passing straight through.
 *
 * INVARIANT: nothing a section started outlives it; the whole group is killed when the section ends, times out or is interrupted.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Section } from './sections.ts';
import { sectionFault, type TestRecord } from './test-tally.ts';

interface Ending {
  readonly status: number | null;
  readonly timedOut: boolean;
}

/** Kills what is left of a process group; there is usually nothing. */
function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // The group is gone already.
  }
}

function runProcess(section: Section, root: string, env: NodeJS.ProcessEnv): Promise<Ending> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [section.script, ...section.args], {
      cwd: root,
      env,
      detached: true,
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    let timedOut = false;
    const stop = (): void => {
      if (child.pid !== undefined) killGroup(child.pid);
    };
    const timer = setTimeout(() => {
      timedOut = true;
      stop();
    }, section.timeoutMs);
    const interrupted = (): void => {
      stop();
      process.exit(130);
    };
    process.on('SIGINT', interrupted).on('SIGTERM', interrupted);
    const finish = (): void => {
      clearTimeout(timer);
      process.removeListener('SIGINT', interrupted).removeListener('SIGTERM', interrupted);
    };
    child.on('error', (error) => {
      finish();
      reject(error);
    });
    child.on('exit', (status) => {
      finish();
      stop();
      resolve({ status, timedOut });
    });
  });
}

function readRecords(path: string): TestRecord[] {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as TestRecord[];
  } catch {
    // A run that died before its end wrote nothing; the fault of the section says so.
    return [];
  }
}

/** Runs a section and returns its tests. A section that failed as a whole contributes one failed test with its name. */
export async function runSection(section: Section, root: string): Promise<TestRecord[]> {
  const scratch = mkdtempSync(join(tmpdir(), 'paravane-check-'));
  const recordsFile = join(scratch, 'records.json');
  try {
    const { status, timedOut } = await runProcess(section, root, { ...process.env, PARAVANE_TEST_RECORDS: recordsFile });
    const late: TestRecord = { name: section.name, state: 'failed', note: `not done after ${section.timeoutMs / 1000} s` };
    if (section.kind === 'static') {
      if (timedOut) return [late];
      return [{ name: section.name, state: status === 0 ? 'passed' : 'failed', note: status === 0 ? '' : `status ${status}` }];
    }
    const records = readRecords(recordsFile);
    if (timedOut) return [...records, late];
    const fault = sectionFault(records, status);
    return fault === null ? records : [...records, { name: section.name, state: 'failed', note: fault }];
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
