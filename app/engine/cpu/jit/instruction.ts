// SPDX-License-Identifier: Apache-2.0
/** A decoded instruction as the translator keeps it: the decoder's fields, copied, and where it stands in its region. */
import { CTX } from '../../memory/vcpu-context.ts';
import type { Decoder } from '../isa/decoder.ts';
import { OPERAND_KIND as K } from '../isa/row.ts';
import type { Form } from '../semantics/context.ts';

export interface Instruction {
  readonly form: Form;
  /** Byte offset from the start of the region's entry page; may be negative. */
  readonly at: number;
  readonly length: number;
  readonly fields: readonly [number, number, number];
  /** Byte offsets in the vCPU block, `CTX.zero` where absent. */
  readonly base: number;
  readonly index: number;
  readonly scale: number;
  /** Displacement; for RIP-relative operands relative to the entry page. */
  readonly disp: number;
  readonly ripRelative: boolean;
  /** Byte offset in the vCPU block of the segment base, or `CTX.zero`. */
  readonly segment: number;
  readonly immLo: number;
  readonly immHi: number;
  /** Where a direct branch goes, as `at` counts; NaN: no direct branch. */
  readonly target: number;
}

/** Copies what `decoder` holds; the instruction stands at `at`. */
export function captureInstruction(decoder: Decoder, at: number): Instruction {
  const { row } = decoder;
  const branch = row.operands.some((operand) => operand.kind === K.rel);
  return {
    form: {
      row,
      operandSize: decoder.operandSize,
      addressing: decoder.addressing,
      lock: decoder.lock,
      rep: row.attributes.has('rep') ? decoder.rep : 0,
      rexW: (decoder.rex & 8) !== 0,
      mode: decoder.mode,
      addressSize: decoder.addressSize,
    },
    at,
    length: decoder.length,
    fields: [decoder.fields[0], decoder.fields[1], decoder.fields[2]],
    base: decoder.base,
    index: decoder.index,
    scale: decoder.scale,
    disp: decoder.ripRelative ? decoder.disp + at + decoder.length : decoder.disp,
    ripRelative: decoder.ripRelative,
    segment: decoder.segment < 0 ? CTX.zero : CTX.segBase + decoder.segment * 8,
    immLo: decoder.immLo,
    immHi: decoder.immHi,
    target: branch ? at + decoder.length + decoder.immLo : Number.NaN,
  };
}
