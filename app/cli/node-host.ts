// SPDX-License-Identifier: Apache-2.0
/** The real process, terminal and engine as the commands see them. */
import { spawnSync } from 'node:child_process';
import { createMachine } from '../engine/index.ts';
import { nodeDecompressors } from '../node/decompress.ts';
import { createMachinePorts } from '../node/machine-ports.ts';
import type { CliHost } from './host.ts';

export function nodeHost(): CliHost {
  return {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    signals: process,
    onExit: (handler) => void process.on('exit', handler),
    suspend: () => void process.kill(process.pid, 'SIGSTOP'),
    // Node's raw mode leaves output processing on, which turns a guest's line feeds into new lines: full-screen programs that
    // move the cursor down that way would be garbled. Node restores all of the terminal's modes when it leaves raw mode.
    passOutputThrough: () => void spawnSync('stty', ['-opost'], { stdio: ['inherit', 'ignore', 'ignore'] }),
    exit: (status) => process.exit(status),
    decompressors: nodeDecompressors,
    createMachine: (config, log) => createMachine(config, createMachinePorts(log)),
  };
}
