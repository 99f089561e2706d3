// SPDX-License-Identifier: Apache-2.0
/**
 * Decompression that the host does better than the engine: a port.
 *
 * The engine decodes XZ, LZMA, LZ4 and bzip2 itself (`boot/compression`); deflate and Zstandard come from the host, which has them in
 * native code. See ADR 0010.
 *
 * INVARIANT: the output never grows past `maxOutput`, whatever the input claims; truncated input is an error, never partial output.
 */
import type { Result } from '../../base/result.ts';

export type HostCompression = 'gzip' | 'zstd';

/** `message` is one sentence without the file's name. */
export type DecompressError =
  | { readonly kind: 'truncated'; readonly message: string }
  | { readonly kind: 'corrupt'; readonly message: string }
  | { readonly kind: 'too-large'; readonly message: string }
  | { readonly kind: 'unsupported'; readonly message: string }
  | { readonly kind: 'aborted'; readonly message: string };

export interface Decompressors {
  /** Decompresses `bytes` whole. Bytes behind the compressed stream are ignored where the format can tell. */
  decompress(
    kind: HostCompression,
    bytes: Uint8Array,
    maxOutput: number,
    signal?: AbortSignalLike,
  ): Promise<Result<Uint8Array, DecompressError>>;
  /** The first `length` bytes of the output, or fewer when the stream is shorter or damaged further on. */
  peek(kind: HostCompression, bytes: Uint8Array, length: number): Promise<Result<Uint8Array, DecompressError>>;
}

/** The part of an `AbortSignal` that the engine, which knows neither DOM nor Node, may use. */
export interface AbortSignalLike {
  readonly aborted: boolean;
}
