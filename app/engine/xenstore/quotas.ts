// SPDX-License-Identifier: Apache-2.0
/**
 * How much of the store one unprivileged domain may take. dom0 is exempt. Names follow xenstored's quotas; the numbers are
 * its defaults, except for the two byte limits, which stand in for its per-domain memory quota.
 */
export interface XenstoreQuotas {
  /** Nodes that a domain owns. */
  readonly nodes: number;
  /** Bytes of one node: fixed part, permissions, value and names of children (see `nodeSize`). */
  readonly nodeSize: number;
  readonly permissionsPerNode: number;
  readonly watches: number;
  /** Transactions open at once. */
  readonly transactions: number;
  /** Distinct nodes that one transaction may touch. */
  readonly transactionNodes: number;
  /** Bytes of paths and values that one transaction may gather. */
  readonly transactionBytes: number;
  /** Replies the guest has not yet taken; above it no further request is read. */
  readonly outstanding: number;
  /** Bytes of unsent watch events; further events are dropped, as xenstored drops them over its memory quota. */
  readonly eventBytes: number;
}

export const DEFAULT_QUOTAS: XenstoreQuotas = {
  nodes: 1000,
  nodeSize: 2048,
  permissionsPerNode: 5,
  watches: 128,
  transactions: 10,
  transactionNodes: 1024,
  transactionBytes: 1 << 20,
  outstanding: 20,
  eventBytes: 1 << 20,
};
