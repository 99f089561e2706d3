// SPDX-License-Identifier: Apache-2.0
/** What can be wrong with a kernel, an initrd or a boot configuration. `message` is one sentence that says what to do. */

export type BootErrorKind =
  /** The file is something else, or nothing known. */
  | 'not-a-kernel'
  /** A kernel, but damaged or self-contradictory. */
  | 'damaged'
  /** The payload does not decompress. */
  | 'decompression'
  /** A kernel without Xen notes, or with notes that do not describe a PV kernel. */
  | 'not-pv'
  /** A PV kernel of a kind that is not supported: 32-bit, another loader or Xen version, required features. */
  | 'unsupported-pv'
  | 'command-line'
  /** Kernel, initrd and tables do not fit. */
  | 'memory';

export interface BootError {
  readonly kind: BootErrorKind;
  readonly message: string;
}

export const bootError = (kind: BootErrorKind, message: string): BootError => ({ kind, message });
