// SPDX-License-Identifier: Apache-2.0
/** Time as the engine sees it; a port, so that tests and reproducible runs can replace it. */
export interface Clock {
  /** Monotonic nanoseconds; the origin is arbitrary but the same on every thread of a VM. */
  nowNs(): number;
  /** Wall-clock nanoseconds since 1970-01-01 UTC, as seconds and the nanoseconds in them. */
  wallClock(): { readonly seconds: number; readonly nanoseconds: number };
}
