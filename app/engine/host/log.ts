// SPDX-License-Identifier: Apache-2.0
/** Where the engine reports; a port. `fields` are plain data, ready to be written as JSON. */
export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

export interface Log {
  write(level: LogLevel, message: string, fields?: Readonly<Record<string, unknown>>): void;
}

export const silentLog: Log = { write: () => {} };
