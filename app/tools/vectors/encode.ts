// SPDX-License-Identifier: Apache-2.0
/** Assembles instructions from their rows: the inverse of the decoder, which checks every result. */
import { DECODE, Decoder } from '../../engine/cpu/isa/decoder.ts';
import { type IsaRow, OPERAND_KIND as K } from '../../engine/cpu/isa/row.ts';

/** How ModRM and what follows it name a memory operand. Registers are numbers 0..15, -1: none. */
export interface Address {
  readonly bits: 16 | 32 | 64;
  readonly base: number;
  readonly index: number;
  /** Left shift of the index: 0..3. */
  readonly scale: number;
  readonly disp: bigint;
  /** Bytes of displacement: 0, 1, 2 or 4. */
  readonly dispBytes: number;
  readonly ripRelative: boolean;
}

export interface Encoding {
  readonly row: IsaRow;
  readonly mode: 32 | 64;
  readonly size: 16 | 32 | 64;
  readonly lock: boolean;
  readonly rep: number;
  /** ModRM.reg or the opcode's register. */
  readonly reg: number;
  /** ModRM.rm where it names a register. */
  readonly rm: number;
  readonly address: Address | null;
  /** Segment override prefix byte, or 0. */
  readonly segment: number;
  /** Address-size prefix. */
  readonly address67: boolean;
  /** A REX prefix though no field needs it. */
  readonly spareRex: boolean;
  /** REX.W although the row has one operand size only. */
  readonly spareWide: boolean;
  readonly immediates: readonly bigint[];
}

const dispBytesLe = (value: bigint, bytes: number): number[] =>
  Array.from({ length: bytes }, (_, n) => Number((value >> BigInt(8 * n)) & 0xffn));

/** Bytes of each immediate, displacement, offset or pointer in the instruction, in order. */
export function immediateBytes(row: IsaRow, size: number, addressBits: number): number[] {
  const list: number[] = [];
  for (const operand of row.operands) {
    const width = operand.immediate;
    if (operand.kind === K.imm || operand.kind === K.rel) {
      if (width === 'v') list.push(size / 8);
      else if (width === 'z') list.push(size === 16 ? 2 : 4);
      else list.push(Number(width) / 8);
    } else if (operand.kind === K.moffs) list.push(addressBits / 8);
    else if (operand.kind === K.far) list.push(size === 16 ? 4 : 6);
  }
  return list;
}

function modrmBytes(e: Encoding): { readonly bytes: number[]; readonly rexBits: number } {
  const { row, address } = e;
  if (row.exact >= 0) return { bytes: [row.exact], rexBits: 0 };
  const reg = row.reg >= 0 ? row.reg : e.reg;
  const field = (reg & 7) << 3;
  let rexBits = (reg & 8) >> 1;
  if (!address) return { bytes: [0xc0 | field | (e.rm & 7)], rexBits: rexBits | ((e.rm & 8) >> 3) };
  const tail = dispBytesLe(address.disp, address.dispBytes);
  if (address.bits === 16) {
    const key = `${address.base},${address.index}`;
    const rm = { '3,6': 0, '3,7': 1, '5,6': 2, '5,7': 3, '6,-1': 4, '7,-1': 5, '5,-1': 6, '3,-1': 7, '-1,-1': 6 }[key];
    if (rm === undefined) throw new Error(`no 16-bit address for ${key}`);
    const mod = address.base < 0 ? 0 : address.dispBytes;
    return { bytes: [(mod << 6) | field | rm, ...tail], rexBits };
  }
  const mod = address.base < 0 || address.dispBytes === 0 ? 0 : address.dispBytes === 1 ? 1 : 2;
  if (address.ripRelative || (e.mode === 32 && address.base < 0 && address.index < 0)) return { bytes: [field | 5, ...tail], rexBits };
  rexBits |= address.base > 7 ? 1 : 0;
  rexBits |= address.index > 7 ? 2 : 0;
  const needsSib = address.index >= 0 || address.base < 0 || (address.base & 7) === 4;
  if (!needsSib) return { bytes: [(mod << 6) | field | (address.base & 7), ...tail], rexBits };
  const index = address.index < 0 ? 4 : address.index & 7;
  const base = address.base < 0 ? 5 : address.base & 7;
  return { bytes: [(mod << 6) | field | 4, (address.scale << 6) | (index << 3) | base, ...tail], rexBits };
}

const decoder = new Decoder();

/** The instruction's bytes; null when they would not mean the row (a register that needs a REX which is not there, and the like). */
export function encode(e: Encoding): Uint8Array | null {
  const { row } = e;
  const out: number[] = [];
  if (e.lock) out.push(0xf0);
  if (e.segment !== 0) out.push(e.segment);
  if (e.address67) out.push(0x67);
  const wide = e.mode === 64 && e.size === 64 && !row.attributes.has('f64') && !row.attributes.has('d64');
  const narrow = e.size === 16;
  if (narrow) out.push(0x66);
  if (e.rep === 2) out.push(0xf3);
  if (e.rep === 3) out.push(0xf2);
  if (row.prefix === 1) out.push(0x66);
  if (row.prefix === 2) out.push(0xf3);
  if (row.prefix === 3) out.push(0xf2);
  const modrm = row.modrm ? modrmBytes(e) : { bytes: [], rexBits: row.opcodeReg ? (e.reg & 8) >> 3 : 0 };
  let rex = modrm.rexBits | (wide || e.spareWide ? 8 : 0);
  if (rex !== 0 || e.spareRex) rex |= 0x40;
  if (rex !== 0) {
    if (e.mode !== 64) return null;
    out.push(rex);
  }
  if (row.map > 0) out.push(0x0f);
  if (row.map === 2) out.push(0x38);
  if (row.map === 3) out.push(0x3a);
  out.push(row.opcode + (row.opcodeReg ? e.reg & 7 : 0), ...modrm.bytes);
  const sizes = immediateBytes(row, e.size, e.address?.bits ?? (e.mode === 64 ? 64 : 32));
  for (const [n, bytes] of sizes.entries()) out.push(...dispBytesLe(e.immediates[n], bytes));
  const code = Uint8Array.from(out);
  if (code.length > 15) return null;
  if (decoder.decode(code, 0, code.length, e.mode) !== DECODE.ok || decoder.length !== code.length) return null;
  return decoder.row === row ? code : null;
}
