// SPDX-License-Identifier: Apache-2.0
/** Exit statuses of the command line. */
import { constants } from 'node:os';

export const STATUS = {
  /** The command did what it was asked; of `run`: the guest powered off, or the user ended it from the menu. */
  ok: 0,
  usage: 1,
  /** An image, a kernel, a file or the configuration is at fault. */
  badInput: 2,
  guestCrashed: 3,
  timeOut: 4,
  engineFault: 5,
} as const;

/** What a shell reports for a program that this signal ended. */
export function signalStatus(signal: NodeJS.Signals): number {
  return 128 + constants.signals[signal];
}
