// SPDX-License-Identifier: Apache-2.0
/** The machine that was measured on, by its shape only. */
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';

/** For example `2 cores, AuthenticAMD family 25, Node 24.21.0`. */
export function machineShape(): string {
  const text = readCpuinfo();
  const field = (name: string): string | undefined => new RegExp(`^${name}\\s*: (.*)$`, 'm').exec(text)?.[1];
  const vendor = field('vendor_id') ?? process.arch;
  const family = field('cpu family');
  return `${availableParallelism()} cores, ${vendor}${family === undefined ? '' : ` family ${family}`}, Node ${process.versions.node}`;
}

function readCpuinfo(): string {
  try {
    return readFileSync('/proc/cpuinfo', 'utf8');
  } catch {
    return '';
  }
}
