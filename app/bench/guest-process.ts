// SPDX-License-Identifier: Apache-2.0
/** A program that runs a guest, as a child process: waits for text on its output, types into it, and reads what the system knows of it. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';

/** Clock ticks a second in /proc (USER_HZ). */
const TICKS = 100;
const PAGE = 4096;

export class GuestProcess {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #started = performance.now();
  #text = '';
  #errors = '';
  #onOutput: () => void = () => {};

  constructor(command: string, args: readonly string[]) {
    this.#child = spawn(command, args);
    // A guest that is gone takes no more input.
    this.#child.stdin.on('error', () => {});
    this.#child.on('error', (error) => {
      this.#errors += String(error);
      this.#onOutput();
    });
    this.#child.on('close', () => this.#onOutput());
    this.#child.stdout.on('data', (bytes: Buffer) => {
      this.#text += bytes.toString('latin1');
      this.#onOutput();
    });
    this.#child.stderr.on('data', (bytes: Buffer) => {
      this.#errors += bytes.toString('latin1');
    });
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  /** Seconds from the start of the process until `marker` was printed after what was waited for before. Throws when it does not come. */
  async until(marker: string, limitSeconds: number): Promise<number> {
    const deadline = performance.now() + limitSeconds * 1000;
    for (;;) {
      const at = this.#text.indexOf(marker);
      if (at >= 0) {
        this.#text = this.#text.slice(at + marker.length);
        return (performance.now() - this.#started) / 1000;
      }
      const left = deadline - performance.now();
      if (left <= 0 || this.#child.exitCode !== null || this.#errors.includes('ENOENT')) {
        throw new Error(`"${marker}" did not come; last output: ${(this.#text + this.#errors).slice(-400)}`);
      }
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, left);
      this.#onOutput = resolve;
      await promise;
      clearTimeout(timer);
    }
  }

  type(text: string): void {
    this.#child.stdin.write(text);
  }

  /** Seconds of processor time that all threads used so far. */
  cpuSeconds(): number {
    const stat = readFileSync(`/proc/${this.pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / TICKS;
  }

  /** Largest resident size so far, in bytes. */
  peakResident(): number {
    const status = readFileSync(`/proc/${this.pid}/status`, 'latin1');
    return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
  }

  /**
   * Resident bytes in a part of the one mapping that has exactly `mappingBytes` accessible bytes: `from` and `bytes` count from its start.
   * Null when there is no such mapping.
   */
  residentWithin(mappingBytes: number, from: number, bytes: number): number | null {
    for (const line of readFileSync(`/proc/${this.pid}/maps`, 'latin1').split('\n')) {
      const found = /^([0-9a-f]+)-([0-9a-f]+) rw/.exec(line);
      if (!found) continue;
      const start = Number.parseInt(found[1], 16);
      if (Number.parseInt(found[2], 16) - start !== mappingBytes) continue;
      return this.#presentPages(start + from, bytes) * PAGE;
    }
    return null;
  }

  /** Counts pages that are in memory (Linux admin-guide/mm/pagemap: bit 63 of an entry). */
  #presentPages(address: number, bytes: number): number {
    const entries = Buffer.alloc((bytes / PAGE) * 8);
    const file = openSync(`/proc/${this.pid}/pagemap`, 'r');
    const length = readSync(file, entries, 0, entries.length, (address / PAGE) * 8);
    closeSync(file);
    let present = 0;
    for (let at = 7; at < length; at += 8) present += entries[at] >> 7;
    return present;
  }

  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const closed = new Promise((resolve) => this.#child.once('close', resolve));
    this.#child.kill('SIGKILL');
    await closed;
  }
}
