// SPDX-License-Identifier: Apache-2.0
/**
 * A disk beside its twin: the same random requests go to a device and to plain bytes in memory, and both must agree.
 *
 * Several requests are in flight at a time; those that write keep off each other's ranges, because the order of overlapping requests is
 * not defined. All randomness comes from the seed.
 */
import type { BlockDevice } from '../block-device.ts';

export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0 || 1;
  }

  /** 0 to `below` - 1. */
  next(below: number): number {
    // xorshift32: enough to choose requests, and the same everywhere.
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return this.#state % below;
  }

  bytes(length: number): Uint8Array {
    const result = new Uint8Array(length);
    // Compressible, but different everywhere.
    for (let i = 0; i < length; i += 16) result[i] = this.next(256);
    result.fill(this.next(255) + 1, 0, Math.min(length, 8));
    return result;
  }
}

export interface TwinOptions {
  readonly seed: number;
  readonly requests: number;
  readonly parallel?: number;
  readonly maxLength?: number;
  /** Requests are multiples of it. */
  readonly unit?: number;
  readonly discard?: boolean;
}

/** Runs random requests on both; throws at the first read that differs. */
export async function exercise(device: BlockDevice, twin: Uint8Array, options: TwinOptions): Promise<void> {
  const { seed, requests, parallel = 4, maxLength = 200_000, unit = 1, discard = true } = options;
  const random = new Random(seed);
  for (let done = 0; done < requests; done += parallel) {
    const busy: { start: number; end: number }[] = [];
    const running: Promise<void>[] = [];
    for (let i = 0; i < parallel; i++) {
      const length = Math.max(unit, Math.floor((random.next(8) === 0 ? random.next(maxLength) : random.next(9000)) / unit) * unit);
      const offset = Math.floor(random.next(Math.max(1, twin.length - length)) / unit) * unit;
      const range = { start: offset, end: Math.min(twin.length, offset + length) };
      if (busy.some(({ start, end }) => start < range.end && range.start < end)) continue;
      busy.push(range);
      running.push(request(device, twin, random, range, discard));
    }
    await Promise.all(running);
  }
}

function request(
  device: BlockDevice,
  twin: Uint8Array,
  random: Random,
  range: { start: number; end: number },
  discard: boolean,
): Promise<void> {
  const length = range.end - range.start;
  const choice = random.next(20);
  if (choice < 9) {
    const bytes = random.bytes(length);
    twin.set(bytes, range.start);
    return device.write(range.start, bytes);
  }
  if (choice < 16) return compareRange(device, twin, range.start, length);
  if (choice === 16) return device.flush();
  if (choice === 17 && discard) {
    return device.discard(range.start, length).then(async () => {
      // A discarded range may read as anything: the twin takes what the device says.
      await device.read(range.start, twin.subarray(range.start, range.end));
    });
  }
  twin.fill(0, range.start, range.end);
  return device.writeZeroes(range.start, length, { mayUnmap: choice !== 18 });
}

async function compareRange(device: BlockDevice, twin: Uint8Array, offset: number, length: number): Promise<void> {
  const bytes = new Uint8Array(length);
  await device.read(offset, bytes);
  for (let i = 0; i < length; i++) {
    if (bytes[i] !== twin[offset + i]) {
      throw new Error(`byte ${offset + i} is ${bytes[i]} instead of ${twin[offset + i]} (read of ${length} bytes at ${offset})`);
    }
  }
}

/** Reads the whole device and compares. */
export async function compareWhole(device: BlockDevice, twin: Uint8Array): Promise<void> {
  for (let at = 0; at < twin.length; at += 1 << 20) await compareRange(device, twin, at, Math.min(1 << 20, twin.length - at));
}
