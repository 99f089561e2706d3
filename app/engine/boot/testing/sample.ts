// SPDX-License-Identifier: Apache-2.0
/** Content that the compressed samples were made from: text, runs, and x86 calls to a few absolute targets, so that every coder path is used. */

const FRAGMENTS = [
  'push %rbp; mov %rsp,%rbp; ',
  'paravirtualized ',
  '\0\0\0\0\0\0\0\0',
  'xenbus_probe_frontend ',
  'aaaaaaaaaaaaaaaaaaaaaaaa',
  '\x90\x90\xc3',
];

/** `length` bytes, always the same ones. */
export function sampleContent(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = 12345;
  const random = (bound: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return (state >>> 8) % bound;
  };
  let at = 0;
  while (at < length) {
    if (random(3) === 0) {
      // call target: the operand is relative to the next instruction.
      const operand = 0x1000 * (random(5) + 1) - (at + 5);
      for (const byte of [0xe8, operand, operand >> 8, operand >> 16, operand >> 24]) if (at < length) bytes[at++] = byte;
      continue;
    }
    const fragment = random(9) === 0 ? String.fromCharCode(random(256)) : FRAGMENTS[random(FRAGMENTS.length)];
    for (const character of fragment) if (at < length) bytes[at++] = character.charCodeAt(0);
  }
  return bytes;
}
