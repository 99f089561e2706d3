// SPDX-License-Identifier: Apache-2.0
/**
 * Cases of bytes that the decoder takes for no instruction: a sample of undefined opcodes and prefixes, and LOCK where it is not allowed.
 *
 * Processors know more instructions than x86-64-v2 has: of these cases, those are kept that the hardware refuses as well.
 */
import { DECODE, Decoder } from '../../engine/cpu/isa/decoder.ts';
import type { VectorCase } from '../../engine/cpu/vectors/case.ts';
import { makeCase, hash } from './cases.ts';
import type { VectorForm } from './forms.ts';

/** One in this many of all undefined combinations of map, opcode, prefix and ModRM. */
const SAMPLE = 61;
const ESCAPES: readonly (readonly number[])[] = [[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]];
const PREFIXES: readonly (readonly number[])[] = [[], [0x66], [0xf3], [0xf2]];

/** Opcodes left alone: they reach the host kernel or a hypervisor below it, change what the recorder needs, or begin VEX, EVEX and XOP. */
function excluded(map: number, opcode: number): boolean {
  if (map === 0) return opcode === 0x8f || opcode === 0xc4 || opcode === 0xc5 || opcode === 0x62;
  return map === 1 && [0x01, 0x05, 0x07, 0x0f, 0x34, 0x35, 0x78, 0x79, 0xae, 0xc7].includes(opcode);
}

const decoder = new Decoder();

function undefinedCase(name: string, mode: 32 | 64, bytes: readonly number[]): VectorCase | null {
  // Room for a displacement and an immediate that never come to matter.
  const code = Uint8Array.from([...bytes, 0, 0, 0, 0, 0, 0, 0, 0]).slice(0, 15);
  if (decoder.decode(code, 0, code.length, mode) !== DECODE.undefined) return null;
  return { name, mode, code, seed: hash(name) % 4096, setup: [], undefinedFlags: 0, ignored: [] };
}

/** A sample of undefined encodings in both modes. */
export function undefinedCases(): VectorCase[] {
  const cases: VectorCase[] = [];
  for (const mode of [64, 32] as const) {
    for (let map = 0; map < 4; map++) {
      for (let opcode = 0; opcode < 256; opcode++) {
        if (excluded(map, opcode)) continue;
        for (let prefix = 0; prefix < 4; prefix++) {
          for (let modrm = 0; modrm < 256; modrm++) {
            const bytes = [...PREFIXES[prefix], ...ESCAPES[map], opcode, modrm];
            const name = `undefined.${Buffer.from(bytes).toString('hex')}.${mode}`;
            // One-byte opcodes are few: keep more of them.
            if (hash(name) % (map < 2 ? SAMPLE : SAMPLE * 16) !== 0) continue;
            const item = undefinedCase(name, mode, bytes);
            if (item) cases.push(item);
          }
        }
      }
    }
  }
  return cases;
}

/** Each form that may not have LOCK, with LOCK. */
export function lockedCases(forms: readonly VectorForm[]): VectorCase[] {
  const cases: VectorCase[] = [];
  const rows = new Set<string>();
  for (const form of forms) {
    const key = `${form.row.id}.${form.mode}.${form.memory}`;
    // With LOCK, moves to and from control registers mean CR8 on some processors.
    if (rows.has(key) || form.lock || (form.row.map === 1 && (form.row.opcode & 0xfc) === 0x20)) continue;
    const item = makeCase(form, 0);
    if (!item || item.code.length > 14) continue;
    const code = Uint8Array.from([0xf0, ...item.code]);
    if (decoder.decode(code, 0, code.length, item.mode) !== DECODE.undefined) continue;
    rows.add(key);
    cases.push({ ...item, code, name: `lock-${form.name}`, undefinedFlags: 0, ignored: [] });
  }
  return cases;
}
