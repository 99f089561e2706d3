// SPDX-License-Identifier: Apache-2.0
/**
 * What every client of the store has, whether it talks through a ring or inside this process: an identity, watches and
 * open transactions.
 */
import type { Actor } from './permissions.ts';
import type { TransactionView } from './store-view.ts';
import { WatchList } from './watches.ts';

export abstract class Connection implements Actor {
  readonly domid: number;
  readonly privileged: boolean;
  /** The domain on whose behalf this one may act as well (SET_TARGET). */
  target: number | null = null;
  readonly watches = new WatchList();
  readonly transactions = new Map<number, TransactionView>();
  #nextTransactionId = 1;

  constructor(domid: number, privileged: boolean) {
    this.domid = domid;
    this.privileged = privileged;
  }

  /** Queues a watch event; `flush` sends what is queued. */
  abstract deliver(path: string, token: string): void;

  /** Sends queued events as far as the other side has room. */
  abstract flush(): void;

  get nextTransactionId(): number {
    return this.#nextTransactionId;
  }

  /** Adds a transaction under a fresh number (never 0). */
  addTransaction(transaction: TransactionView): number {
    while (this.#nextTransactionId === 0 || this.transactions.has(this.#nextTransactionId)) this.#advance();
    const id = this.#nextTransactionId;
    this.#advance();
    this.transactions.set(id, transaction);
    return id;
  }

  /** For restored connections: the number that the next transaction gets. */
  continueTransactionIds(next: number): void {
    this.#nextTransactionId = next >>> 0;
  }

  /** Drops watches and transactions, as RESET_WATCHES and a lost connection do. */
  resetState(): void {
    this.watches.clear();
    this.transactions.clear();
  }

  #advance(): void {
    this.#nextTransactionId = (this.#nextTransactionId + 1) >>> 0;
  }
}
