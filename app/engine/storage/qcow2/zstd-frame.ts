// SPDX-License-Identifier: Apache-2.0
/**
 * Where a Zstandard frame ends (RFC 8878 §3.1.1): QCOW2 says only in which sector it does, and decoders take what follows for the next.
 */
import { viewOf } from '../core/bytes.ts';

const MAGIC = 0xfd2fb528;
const WINDOW_DESCRIPTOR_BYTES = [1, 0];
const DICTIONARY_ID_BYTES = [0, 1, 2, 4];

/** The length of the frame that `bytes` begins with; null when there is none or it is cut off. */
export function zstdFrameLength(bytes: Uint8Array): number | null {
  if (bytes.length < 5 || viewOf(bytes).getUint32(0, true) !== MAGIC) return null;
  const descriptor = bytes[4];
  const single = (descriptor >>> 5) & 1;
  const sizeCode = descriptor >>> 6;
  const sizeBytes = sizeCode === 0 ? single : 1 << sizeCode;
  let at = 5 + WINDOW_DESCRIPTOR_BYTES[single] + DICTIONARY_ID_BYTES[descriptor & 3] + sizeBytes;
  for (let last = false; !last; ) {
    if (at + 3 > bytes.length) return null;
    const header = bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16);
    last = (header & 1) === 1;
    const type = (header >>> 1) & 3;
    if (type === 3) return null;
    // A run-length block has one byte, whatever its size says.
    at += 3 + (type === 1 ? 1 : header >>> 3);
  }
  if ((descriptor & 4) !== 0) at += 4;
  return at <= bytes.length ? at : null;
}
