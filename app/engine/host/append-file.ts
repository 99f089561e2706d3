// SPDX-License-Identifier: Apache-2.0
/** A file that only grows (a capture, a log), as a port. */

export interface AppendFile {
  /** Queues `bytes` for writing, in order; they belong to the file from here on. */
  append(bytes: Uint8Array): void;
  /** Bytes queued and not yet written; who appends too fast stops above a limit of their own. */
  readonly queuedBytes: number;
  /** Writes out what is queued and closes. Rejects when something could not be written. */
  close(): Promise<void>;
}
