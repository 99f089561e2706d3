// SPDX-License-Identifier: Apache-2.0
/**
 * Connections by addresses and ports: a hash table without a string per packet.
 *
 * GUEST: the guest chooses the keys, so the hash starts from a random seed.
 */
import type { IpAddress } from '../packet/ip-address.ts';
import { sameBytes } from '../packet/wire.ts';

/** `guest` is the guest's end, `local` the one we answer for. */
export interface FlowKey {
  readonly guestAddress: IpAddress;
  readonly guestPort: number;
  readonly localAddress: IpAddress;
  readonly localPort: number;
}

interface Entry<T> {
  readonly key: FlowKey;
  readonly value: T;
  next: Entry<T> | undefined;
}

export class FlowTable<T> {
  readonly #buckets = new Map<number, Entry<T>>();
  readonly #seed: number;
  #size = 0;

  constructor(seed: number) {
    this.#seed = seed;
  }

  get size(): number {
    return this.#size;
  }

  get(guestAddress: IpAddress, guestPort: number, localAddress: IpAddress, localPort: number): T | undefined {
    let entry = this.#buckets.get(this.#hash(guestAddress, guestPort, localAddress, localPort));
    while (entry !== undefined) {
      const { key } = entry;
      const samePorts = key.guestPort === guestPort && key.localPort === localPort;
      if (samePorts && sameBytes(key.guestAddress, guestAddress) && sameBytes(key.localAddress, localAddress)) return entry.value;
      entry = entry.next;
    }
    return undefined;
  }

  /** Adds under a key that is not in the table. */
  add(key: FlowKey, value: T): void {
    const hash = this.#hash(key.guestAddress, key.guestPort, key.localAddress, key.localPort);
    this.#buckets.set(hash, { key, value, next: this.#buckets.get(hash) });
    this.#size++;
  }

  /** Removes this very value; what else came under the key stays. */
  delete(key: FlowKey, value: T): void {
    const hash = this.#hash(key.guestAddress, key.guestPort, key.localAddress, key.localPort);
    const kept: T[] = [];
    const keys: FlowKey[] = [];
    for (let entry = this.#buckets.get(hash); entry !== undefined; entry = entry.next) {
      if (entry.value === value) continue;
      kept.push(entry.value);
      keys.push(entry.key);
    }
    let chain: Entry<T> | undefined;
    let length = 0;
    for (let entry = this.#buckets.get(hash); entry !== undefined; entry = entry.next) length++;
    for (let index = kept.length - 1; index >= 0; index--) chain = { key: keys[index], value: kept[index], next: chain };
    if (chain === undefined) this.#buckets.delete(hash);
    else this.#buckets.set(hash, chain);
    this.#size -= length - kept.length;
  }

  *values(): Generator<T> {
    for (const bucket of this.#buckets.values()) {
      for (let entry: Entry<T> | undefined = bucket; entry !== undefined; entry = entry.next) yield entry.value;
    }
  }

  #hash(guestAddress: IpAddress, guestPort: number, localAddress: IpAddress, localPort: number): number {
    let hash = this.#seed ^ ((guestPort << 16) | localPort);
    for (let i = 0; i < localAddress.length; i++) hash = Math.imul(hash ^ localAddress[i], 0x0100_0193);
    for (let i = 0; i < guestAddress.length; i++) hash = Math.imul(hash ^ guestAddress[i], 0x0100_0193);
    hash ^= hash >>> 15;
    // 30 bits: small integers are cheap keys.
    return Math.imul(hash, 0x2c1b_3c6d) & 0x3fff_ffff;
  }
}
