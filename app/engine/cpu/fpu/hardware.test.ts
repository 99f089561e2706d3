// SPDX-License-Identifier: Apache-2.0
/** Floating point against results recorded on a processor: the same seeded states, compared by digest of everything they leave behind. */
import { describe, expect, it } from 'vitest';
import type { Mfn } from '../../memory/frames.ts';
import { CTX, REG } from '../../memory/vcpu-context.ts';
import { createFlatMachine } from '../flat-machine.ts';
import {
  ARITHMETIC_FLAGS,
  CASE,
  CASES_PER_DIGEST,
  CaseSource,
  DIGEST_START,
  digest,
  DIGESTS,
  FLOAT_INSTRUCTIONS,
  type FloatInstruction,
  makeCase,
  SEED,
} from './testing/float-cases.ts';
import { HARDWARE_DIGESTS } from './testing/hardware-digests.ts';

const DATA = 0x2000;
const BREAKPOINT = 3;
const machine = createFlatMachine(0x80000);
const { ctx } = machine.vcpu;
const block = new Uint8Array(machine.memory.buffer, ctx.base, CTX.size);
const memory = new Uint8Array(machine.memory.buffer, machine.memory.frameOffset(0 as Mfn) + DATA, CASE.memoryBytes);
let codeAt = 0x10000;

/** Runs the instruction at `at` on a state and gives the state after it. */
function run(at: number, state: Uint8Array): Uint8Array {
  const input = new DataView(state.buffer);
  const fsw = input.getUint16(CASE.fsw, true);
  ctx.setU16(CTX.fcw, input.getUint16(CASE.fcw, true));
  ctx.setU16(CTX.fsw, fsw & ~0x3800);
  ctx.setU16(CTX.ftop, (fsw >> 11) & 7);
  ctx.setU16(CTX.ftag, input.getUint16(CASE.tags, true));
  ctx.setU32(CTX.mxcsr, input.getUint32(CASE.mxcsr, true));
  const slot = (n: number): number => CTX.fpr + ((ctx.u16(CTX.ftop) + n) & 7) * 16;
  for (let n = 0; n < 8; n++) block.set(state.subarray(CASE.st + n * 16, CASE.st + n * 16 + 10), slot(n));
  block.set(state.subarray(CASE.xmm, CASE.xmm + 48), CTX.xmm);
  memory.set(state.subarray(CASE.memory, CASE.memory + CASE.memoryBytes));
  ctx.setBig(CTX.gpr, input.getBigUint64(CASE.rax, true));
  ctx.setGpr(REG.rbx, DATA);
  ctx.rflags = 0x202 | input.getUint32(CASE.rflags, true);
  ctx.rip = at;
  machine.vcpu.run(1000);

  const out = new Uint8Array(CASE.bytes);
  const view = new DataView(out.buffer);
  view.setUint16(CASE.fcw, ctx.u16(CTX.fcw), true);
  view.setUint16(CASE.fsw, ctx.u16(CTX.fsw) | (ctx.u16(CTX.ftop) << 11), true);
  view.setUint16(CASE.tags, ctx.u16(CTX.ftag), true);
  view.setUint32(CASE.mxcsr, ctx.u32(CTX.mxcsr), true);
  view.setUint32(CASE.rflags, ctx.rflags & ARITHMETIC_FLAGS, true);
  view.setBigUint64(CASE.rax, ctx.big(CTX.gpr), true);
  const vector = ctx.u32(CTX.exitVector);
  view.setUint32(CASE.vector, vector === BREAKPOINT ? 0 : vector, true);
  for (let n = 0; n < 8; n++) out.set(block.subarray(slot(n), slot(n) + 10), CASE.st + n * 16);
  out.set(block.subarray(CTX.xmm, CTX.xmm + 48), CASE.xmm);
  out.set(memory, CASE.memory);
  return out;
}

function digestsOf(instruction: FloatInstruction, index: number): string {
  const code = instruction.code.match(/../g)?.map((byte) => Number.parseInt(byte, 16)) ?? [];
  const at = codeAt;
  codeAt += 32;
  machine.memory.write(at, Uint8Array.from([...code, 0xcc]));
  const source = new CaseSource(SEED + index);
  const digests: string[] = [];
  for (let n = 0; n < DIGESTS; n++) {
    let value = DIGEST_START;
    for (let k = 0; k < CASES_PER_DIGEST; k++) value = digest(run(at, makeCase(source, instruction)), value);
    digests.push(value.toString(16).padStart(8, '0'));
  }
  return digests.join(' ');
}

describe('floating point on a processor and here', () => {
  it('has a recorded result for each instruction', () => {
    expect(FLOAT_INSTRUCTIONS.length).toBeGreaterThan(200);
    expect(Object.keys(HARDWARE_DIGESTS)).toEqual(FLOAT_INSTRUCTIONS.map((instruction) => instruction.name));
  });
  FLOAT_INSTRUCTIONS.forEach((instruction, index) => {
    it(`${instruction.name} (${instruction.code})`, () => {
      expect(digestsOf(instruction, index)).toBe(HARDWARE_DIGESTS[instruction.name]);
    });
  });
});
