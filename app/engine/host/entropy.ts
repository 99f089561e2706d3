// SPDX-License-Identifier: Apache-2.0
/** Randomness as a port: `fill` overwrites `bytes` with bytes fit for cryptographic use. */
export interface Entropy {
  fill(bytes: Uint8Array): void;
}
