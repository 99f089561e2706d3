// SPDX-License-Identifier: Apache-2.0
/**
 * Puts fragmented packets together (RFC 791 §3.2, RFC 8200 §4.5).
 *
 * GUEST: packets in the making are bounded in number, bytes, pieces and time; overlapping pieces void the whole packet (RFC 5722), exact
 * repetitions do not.
 */
import type { IpPacket } from '../packet/ip-packet.ts';
import { formatIp } from '../packet/ip-address.ts';
import { concatBytes } from '../packet/wire.ts';

const MAX_PACKETS = 32;
const MAX_TOTAL_BYTES = 1 << 20;
const MAX_PIECES = 128;
const MAX_PAYLOAD_BYTES = 65_535;
const TIMEOUT_MS = 15_000;

interface Piece {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

interface Partial {
  readonly sinceMs: number;
  /** Sorted, without overlaps. */
  readonly pieces: Piece[];
  bytes: number;
  /** Known once the last piece came. */
  total: number | undefined;
}

export class Reassembly {
  readonly #partials = new Map<string, Partial>();
  #bytes = 0;

  /** Bytes held in unfinished packets. */
  get heldBytes(): number {
    return this.#bytes;
  }

  /** Takes a fragment; returns the packet when it completed one. */
  add(packet: IpPacket, nowMs: number): IpPacket | undefined {
    const { fragment, payload } = packet;
    if (fragment === undefined) return packet;
    this.#expire(nowMs);
    const end = fragment.offset + payload.length;
    if (payload.length === 0 || end > MAX_PAYLOAD_BYTES || (fragment.more && payload.length % 8 !== 0)) return undefined;
    const key = `${formatIp(packet.source)} ${formatIp(packet.destination)} ${packet.protocol} ${fragment.identification}`;
    let partial = this.#partials.get(key);
    if (partial === undefined) {
      partial = { sinceMs: nowMs, pieces: [], bytes: 0, total: undefined };
      this.#partials.set(key, partial);
      while (this.#partials.size > MAX_PACKETS) this.#dropOldest();
    }
    if (!this.#insert(partial, fragment.offset, payload, fragment.more)) {
      this.#drop(key, partial);
      return undefined;
    }
    if (partial.bytes !== partial.total) {
      while (this.#bytes > MAX_TOTAL_BYTES) this.#dropOldest();
      return undefined;
    }
    this.#drop(key, partial);
    const whole = concatBytes(partial.pieces.map((piece) => piece.bytes));
    return { ...packet, payload: whole, fragment: undefined, checksumBlank: false };
  }

  clear(): void {
    this.#partials.clear();
    this.#bytes = 0;
  }

  /** False: the packet can never become right. */
  #insert(partial: Partial, offset: number, bytes: Uint8Array, more: boolean): boolean {
    const end = offset + bytes.length;
    if (!more) {
      if (partial.total !== undefined && partial.total !== end) return false;
      partial.total = end;
    }
    if (partial.total !== undefined && end > partial.total) return false;
    const { pieces } = partial;
    let at = pieces.length;
    while (at > 0 && pieces[at - 1].offset >= offset) at--;
    const same = pieces[at];
    if (same !== undefined && same.offset === offset && same.bytes.length === bytes.length) return true;
    if (at > 0 && pieces[at - 1].offset + pieces[at - 1].bytes.length > offset) return false;
    if (same !== undefined && same.offset < end) return false;
    if (pieces.length >= MAX_PIECES) return false;
    pieces.splice(at, 0, { offset, bytes: bytes.slice() });
    partial.bytes += bytes.length;
    this.#bytes += bytes.length;
    const last = pieces[pieces.length - 1];
    return partial.total === undefined || last.offset + last.bytes.length <= partial.total;
  }

  #expire(nowMs: number): void {
    for (const [key, partial] of this.#partials) {
      if (nowMs - partial.sinceMs < TIMEOUT_MS) return;
      this.#drop(key, partial);
    }
  }

  #dropOldest(): void {
    const [key, partial] = this.#partials.entries().next().value!;
    this.#drop(key, partial);
  }

  #drop(key: string, partial: Partial): void {
    if (this.#partials.delete(key)) this.#bytes -= partial.bytes;
  }
}
