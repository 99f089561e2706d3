// SPDX-License-Identifier: Apache-2.0
/**
 * Where the engine's own decoders write: a buffer that grows on demand up to a limit.
 *
 * Inside `compression/` decoders report bad input by throwing `DecodeFailure` or `PrefixComplete`; `runDecoder` is the only place that
 * catches, so nothing of it reaches the rest of the engine.
 */
import { err, ok, type Result } from '../../../base/result.ts';
import type { DecompressError } from '../../host/decompress.ts';

export class DecodeFailure extends Error {
  readonly kind: DecompressError['kind'];

  constructor(kind: DecompressError['kind'], message: string) {
    super(message);
    this.kind = kind;
  }
}

/** Thrown when only a prefix was asked for and it is complete. */
class PrefixComplete extends Error {}

export const truncated = (format: string): DecodeFailure =>
  new DecodeFailure('truncated', `the ${format} data ends too early; the file is truncated`);
export const corrupt = (format: string, what: string): DecodeFailure =>
  new DecodeFailure('corrupt', `the ${format} data is damaged (${what})`);
export const unsupported = (format: string, what: string): DecodeFailure =>
  new DecodeFailure('unsupported', `the ${format} data uses ${what}`);

const FIRST_CAPACITY = 1 << 16;
/** PERF: below this many bytes a loop is faster than making a view. */
const SHORT_COPY = 32;

export class Output {
  /** May be replaced by `reserve`; bytes from `length` on are scratch. */
  buffer: Uint8Array;
  length = 0;
  readonly limit: number;
  readonly #prefix: boolean;

  /** `prefix`: stop without error when `limit` bytes are there. `expected`: a size to allocate at once when it is within the limit. */
  constructor(limit: number, prefix: boolean, expected = 0) {
    this.limit = limit;
    this.#prefix = prefix;
    this.buffer = new Uint8Array(Math.min(limit, Math.max(expected, FIRST_CAPACITY)));
  }

  /**
   * Makes room for up to `count` bytes behind `length` and returns how many may be written: fewer than `count` only when a prefix was
   * asked for. Fails when the limit does not allow them.
   */
  reserve(count: number): number {
    const room = this.limit - this.length;
    if (count > room && !this.#prefix) {
      throw new DecodeFailure('too-large', `the data decompresses to more than the ${this.limit} bytes that it may have`);
    }
    if (room === 0 && count > 0) throw new PrefixComplete();
    const granted = Math.min(count, room);
    const needed = this.length + granted;
    if (needed > this.buffer.length) {
      const grown = new Uint8Array(Math.min(this.limit, Math.max(needed, this.buffer.length * 2)));
      grown.set(this.buffer.subarray(0, this.length));
      this.buffer = grown;
    }
    return granted;
  }

  /** Appends `bytes[from..to)`. */
  append(bytes: Uint8Array, from: number, to: number): void {
    const granted = this.reserve(to - from);
    if (granted < SHORT_COPY) {
      const { buffer, length } = this;
      for (let index = 0; index < granted; index++) buffer[length + index] = bytes[from + index];
    } else {
      this.buffer.set(bytes.subarray(from, from + granted), this.length);
    }
    this.length += granted;
    if (granted < to - from) throw new PrefixComplete();
  }

  /** Call after writing what `reserve` granted. */
  advance(count: number): void {
    this.length += count;
    if (this.#prefix && this.length === this.limit) throw new PrefixComplete();
  }

  get bytes(): Uint8Array {
    return this.buffer.subarray(0, this.length);
  }
}

/** Runs a decoder into a fresh output. With `prefix`, whatever was decoded before damage counts. */
export function runDecoder(
  decode: (output: Output) => void,
  limit: number,
  options: { readonly prefix?: boolean; readonly expected?: number } = {},
): Result<Uint8Array, DecompressError> {
  const prefix = options.prefix === true;
  const output = new Output(limit, prefix, options.expected);
  try {
    decode(output);
  } catch (failure) {
    if (failure instanceof PrefixComplete) return ok(output.bytes);
    if (!(failure instanceof DecodeFailure)) throw failure;
    if (prefix && output.length > 0) return ok(output.bytes);
    return err({ kind: failure.kind, message: failure.message });
  }
  return ok(output.bytes);
}
