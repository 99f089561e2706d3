// SPDX-License-Identifier: Apache-2.0
/**
 * The inverse of the XZ format's x86 branch filter (filter id 4).
 *
 * The encoder replaced the relative target of CALL (E8) and JMP (E9) by an absolute one where the target's top byte is 00 or FF. To
 * undo it in step, the decoder keeps which of the last bytes were such opcodes (`prevMask`), because those decide whether a candidate
 * inside another instruction's operand was converted. Format facts: the XZ file format specification and its public-domain reference.
 */

/** Indexed by the low three bits of the mask: may an opcode with such neighbours have been converted? */
const ALLOWED = [true, true, true, false, true, false, false, false] as const;
/** Which byte of the operand an earlier opcode's operand shares, by the same index. */
const BIT_NUMBER = [0, 1, 2, 2, 3, 3, 3, 3] as const;

const isSignByte = (byte: number): boolean => byte === 0 || byte === 0xff;

/** Undoes the filter in place over `bytes[from..to)`; addresses count from `from` plus `startOffset`. */
export function undoBcjX86(bytes: Uint8Array, from: number, to: number, startOffset = 0): void {
  if (to - from < 5) return;
  const end = to - 4;
  let mask = 0;
  // Position of the last opcode byte; far enough back at first not to matter.
  let last = from - 5;
  for (let at = from; at < end; at++) {
    if ((bytes[at] & 0xfe) !== 0xe8) continue;
    const distance = at - last;
    last = at;
    if (distance > 3) {
      mask = 0;
    } else {
      mask = (mask << (distance - 1)) & 7;
      if (mask !== 0) {
        const index = BIT_NUMBER[mask];
        if (!ALLOWED[mask] || isSignByte(bytes[at + 4 - index])) {
          mask = (mask << 1) | 1;
          continue;
        }
      }
    }
    if (!isSignByte(bytes[at + 4])) {
      mask = (mask << 1) | 1;
      continue;
    }
    let source = bytes[at + 1] | (bytes[at + 2] << 8) | (bytes[at + 3] << 16) | (bytes[at + 4] << 24);
    const next = at - from + startOffset + 5;
    let target: number;
    for (;;) {
      target = (source - next) | 0;
      if (mask === 0) break;
      const shift = BIT_NUMBER[mask] * 8;
      if (!isSignByte((target >>> (24 - shift)) & 0xff)) break;
      source = target ^ (2 ** (32 - shift) - 1);
    }
    // The top byte is the sign extension of bit 24.
    bytes[at + 1] = target;
    bytes[at + 2] = target >>> 8;
    bytes[at + 3] = target >>> 16;
    bytes[at + 4] = (target & 0x1000000) !== 0 ? 0xff : 0;
    at += 4;
    last = at;
    mask = 0;
  }
}
