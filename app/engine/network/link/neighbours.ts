// SPDX-License-Identifier: Apache-2.0
/**
 * Which MAC address stands behind a guest's IP address, and the packets that wait until that is known.
 *
 * GUEST: a guest may claim any number of addresses; the table keeps the MAX_NEIGHBOURS that were heard last, and a few packets wait for
 * few addresses for a short time.
 */
import { formatIp, type IpAddress } from '../packet/ip-address.ts';
import type { MacAddress } from '../packet/mac-address.ts';
import { sameBytes } from '../packet/wire.ts';
import type { Offload } from '../network-port.ts';

const MAX_NEIGHBOURS = 256;
const MAX_UNRESOLVED = 16;
const MAX_WAITING_FRAMES = 4;
const ASK_AGAIN_MS = 500;
const GIVE_UP_MS = 3000;

interface WaitingFrame {
  readonly frame: Uint8Array;
  readonly offload: Offload;
}

interface Unresolved {
  readonly sinceMs: number;
  askedMs: number;
  readonly frames: WaitingFrame[];
}

export class Neighbours {
  /** Insertion order is order of use. */
  readonly #known = new Map<string, MacAddress>();
  readonly #unresolved = new Map<string, Unresolved>();
  #lastAddress: IpAddress = new Uint8Array(0);
  #lastMac: MacAddress = new Uint8Array(0);

  lookup(address: IpAddress): MacAddress | undefined {
    // PERF: nearly every packet goes to the same guest (network bench).
    if (sameBytes(address, this.#lastAddress)) return this.#lastMac;
    const mac = this.#known.get(formatIp(address));
    if (mac !== undefined) this.#remember(address, mac);
    return mac;
  }

  /** The address was heard from `mac`; returns the frames that waited for that. */
  learn(address: IpAddress, mac: Uint8Array): readonly WaitingFrame[] {
    if (sameBytes(address, this.#lastAddress) && sameBytes(mac, this.#lastMac)) return NOTHING;
    const key = formatIp(address);
    const own = mac.slice();
    this.#known.delete(key);
    this.#known.set(key, own);
    this.#remember(address, own);
    if (this.#known.size > MAX_NEIGHBOURS) this.#known.delete(this.#known.keys().next().value!);
    const unresolved = this.#unresolved.get(key);
    if (unresolved === undefined) return NOTHING;
    this.#unresolved.delete(key);
    return unresolved.frames;
  }

  /** Keeps a copy of the frame until the address is known. True: it is time to ask for the address. */
  wait(address: IpAddress, frame: Uint8Array, offload: Offload, nowMs: number): boolean {
    const key = formatIp(address);
    let entry = this.#unresolved.get(key);
    if (entry !== undefined && nowMs - entry.sinceMs > GIVE_UP_MS) {
      this.#unresolved.delete(key);
      entry = undefined;
    }
    if (entry === undefined) {
      if (this.#unresolved.size >= MAX_UNRESOLVED) this.#unresolved.delete(this.#unresolved.keys().next().value!);
      entry = { sinceMs: nowMs, askedMs: Number.NEGATIVE_INFINITY, frames: [] };
      this.#unresolved.set(key, entry);
    }
    if (entry.frames.length >= MAX_WAITING_FRAMES) entry.frames.shift();
    entry.frames.push({ frame: frame.slice(), offload });
    if (nowMs - entry.askedMs < ASK_AGAIN_MS) return false;
    entry.askedMs = nowMs;
    return true;
  }

  clear(): void {
    this.#known.clear();
    this.#unresolved.clear();
    this.#lastAddress = new Uint8Array(0);
  }

  #remember(address: IpAddress, mac: MacAddress): void {
    this.#lastAddress = address.slice();
    this.#lastMac = mac;
  }
}

const NOTHING: readonly WaitingFrame[] = [];
