// SPDX-License-Identifier: Apache-2.0
/**
 * Compression of single disk-image clusters: a port, because the host has it in native code.
 *
 * Unlike `Decompressors` this is about small blocks whose unpacked size is known, and it packs too. `deflate` is raw deflate
 * (RFC 1951), `zlib` has the two-byte header and the checksum (RFC 1950), `zstd` is one frame (RFC 8878).
 *
 * INVARIANT: no output beyond `size` bytes is ever produced, whatever the input says.
 */
export type BlockCompression = 'deflate' | 'zlib' | 'zstd';

export interface BlockCodec {
  /** Exactly `size` bytes, or null when the block is damaged, too short or too long. Bytes behind the block are ignored, except behind `zstd`. */
  unpack(kind: BlockCompression, packed: Uint8Array, size: number): Promise<Uint8Array | null>;
  /** The block packed (deflate with a 4 KiB window, as QCOW2 wants it), or null when that would not make it smaller. */
  pack(kind: BlockCompression, block: Uint8Array): Promise<Uint8Array | null>;
}
