// SPDX-License-Identifier: Apache-2.0
/**
 * ICMP echo for programs without privileges: Node has no such sockets, but every system has a `ping` that may.
 *
 * Few at a time, one packet each; the address is numeric and never seen by a shell.
 */
import { execFile } from 'node:child_process';
import { isIP } from 'node:net';
import type { PingAnswer } from '../engine/index.ts';

const MAX_AT_ONCE = 8;
const MAX_PAYLOAD_BYTES = 8192;

let running = 0;

/** The arguments of this system's `ping`. */
export function pingArguments(platform: string, address: string, payloadBytes: number, timeoutMs: number): string[] {
  const seconds = String(Math.max(1, Math.ceil(timeoutMs / 1000)));
  const size = String(Math.min(payloadBytes, MAX_PAYLOAD_BYTES));
  if (platform === 'win32') return ['-n', '1', '-l', size, '-w', String(timeoutMs), address];
  if (platform === 'darwin') return ['-n', '-c', '1', '-s', size, '-t', seconds, address];
  return ['-n', '-q', '-c', '1', '-s', size, '-W', seconds, address];
}

export function ping(address: string, payloadBytes: number, timeoutMs: number): Promise<PingAnswer> {
  if (isIP(address) === 0 || running >= MAX_AT_ONCE) return Promise.resolve('timeout');
  const command = process.platform === 'darwin' && isIP(address) === 6 ? 'ping6' : 'ping';
  running++;
  return new Promise((resolve) => {
    execFile(
      command,
      pingArguments(process.platform, address, payloadBytes, timeoutMs),
      { timeout: timeoutMs + 1000 },
      (error, _out, text) => {
        running--;
        if (error === null) resolve('reply');
        else if (error.code === 'ENOENT' || /permitted|permission/i.test(text)) resolve('unsupported');
        else resolve(/unreachable/i.test(text) ? 'unreachable' : 'timeout');
      },
    );
  });
}
