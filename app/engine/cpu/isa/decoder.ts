// SPDX-License-Identifier: Apache-2.0
/**
 * The x86 instruction decoder: bytes to one decoded instruction, in 16-, 32- and 64-bit modes (Intel SDM volume 2, chapter 2).
 *
 * One `Decoder` is reused for every instruction: its fields hold the last result, so decoding allocates nothing.
 * VEX and EVEX encodings are undefined here (x86-64-v2), so C4, C5 and 62 are LES, LDS and BOUND outside of 64-bit mode and #UD inside.
 */
import { CTX } from '../../memory/vcpu-context.ts';
import { type IsaRow, OPERAND_KIND as K, type OperandSpec, type Width } from './row.ts';
import { OPCODES_64, OPCODES_LEGACY, ROWS } from './table.ts';

export const DECODE = {
  ok: 0,
  /** The bytes end inside the instruction. */
  truncated: 1,
  /** No such instruction: #UD. */
  undefined: 2,
  /** More than 15 bytes: #GP(0). */
  tooLong: 3,
} as const;
export type DecodeStatus = (typeof DECODE)[keyof typeof DECODE];

/** How the memory operand's address is formed. */
export const ADDRESS = {
  /** The instruction has no memory operand (ModRM names a register). */ none: 0,
  /** 64-bit address. */ a64: 1,
  /** 32-bit address in 64-bit mode. */ a32in64: 2,
  /** 32-bit address with segmentation. */ a32: 3,
  /** 16-bit address with segmentation. */ a16: 4,
  /** Absolute 64-bit offset in `imm`. */ moffs64: 5,
} as const;

/** Byte offset in the vCPU block of a general register, as records hold it; the index register slots accept these too. */
export const gprOffset = (register: number): number => CTX.gpr + register * 8;

const SEG_ES = 0;
const SEG_CS = 1;
const SEG_SS = 2;
const SEG_DS = 3;

const MAX_LENGTH = 15;

export class Decoder {
  row: IsaRow = ROWS[0];
  length = 0;
  /** 16, 32 or 64. */
  operandSize = 32;
  /** 16, 32 or 64. */
  addressSize = 32;
  mode = 64;
  lock = false;
  /** 0 none, 2 F3 (REP, REPE), 3 F2 (REPNE). */
  rep = 0;
  rex = 0;
  /** One of `ADDRESS`. */
  addressing = 0;
  /** Segment number of the memory operand, also for string instructions; -1: none that matters. */
  segment = -1;
  /** Byte offsets in the vCPU block, `CTX.zero` where absent. */
  base: number = CTX.zero;
  index: number = CTX.zero;
  scale = 0;
  disp = 0;
  /** The address is relative to the end of the instruction. */
  ripRelative = false;
  immLo = 0;
  immHi = 0;
  /** Per operand: what its register field holds (see `#registerField`). */
  readonly fields: [number, number, number] = [0, 0, 0];
  modrm = 0;

  #bytes: Uint8Array = new Uint8Array(0);
  #at = 0;
  #end = 0;
  #overrun = false;

  /** Decodes the instruction at `bytes[at]`; reads no byte at or past `end`. `mode` is 16, 32 or 64. */
  decode(bytes: Uint8Array, at: number, end: number, mode: number): DecodeStatus {
    this.#bytes = bytes;
    this.#at = at;
    this.#end = Math.min(end, at + MAX_LENGTH);
    this.#overrun = false;
    this.mode = mode;
    const status = this.#decode();
    this.length = this.#at - at;
    if (this.#overrun) return end - at >= MAX_LENGTH ? DECODE.tooLong : DECODE.truncated;
    return status;
  }

  #u8(): number {
    if (this.#at >= this.#end) {
      this.#overrun = true;
      return 0;
    }
    return this.#bytes[this.#at++];
  }
  #s8(): number {
    return (this.#u8() << 24) >> 24;
  }
  #s16(): number {
    const low = this.#u8();
    return ((low | (this.#u8() << 8)) << 16) >> 16;
  }
  #s32(): number {
    const low = (this.#s16() & 0xffff) >>> 0;
    return low | (this.#s16() << 16);
  }

  #decode(): DecodeStatus {
    const mode = this.mode;
    let operand66 = false;
    let address67 = false;
    let repeat = 0;
    let segment = -1;
    let rex = 0;
    this.lock = false;
    let opcode = 0;
    for (;;) {
      opcode = this.#u8();
      if (this.#overrun) return DECODE.truncated;
      if (mode === 64 && (opcode & 0xf0) === 0x40) {
        rex = opcode;
        opcode = this.#u8();
        // A prefix after REX makes the REX void; loop on with it.
        if (!isPrefix(opcode) && (opcode & 0xf0) !== 0x40) break;
        rex = 0;
        this.#at--;
        continue;
      }
      switch (opcode) {
        case 0x66:
          operand66 = true;
          continue;
        case 0x67:
          address67 = true;
          continue;
        case 0xf0:
          this.lock = true;
          continue;
        case 0xf2:
          repeat = 3;
          continue;
        case 0xf3:
          repeat = 2;
          continue;
        case 0x26:
          segment = mode === 64 ? segment : SEG_ES;
          continue;
        case 0x2e:
          segment = mode === 64 ? segment : SEG_CS;
          continue;
        case 0x36:
          segment = mode === 64 ? segment : SEG_SS;
          continue;
        case 0x3e:
          segment = mode === 64 ? segment : SEG_DS;
          continue;
        case 0x64:
          segment = 4;
          continue;
        case 0x65:
          segment = 5;
          continue;
        default:
          break;
      }
      break;
    }
    this.rex = rex;
    this.rep = repeat;
    let map = 0;
    if (opcode === 0x0f) {
      opcode = this.#u8();
      map = 1;
      if (opcode === 0x38) {
        map = 2;
        opcode = this.#u8();
      } else if (opcode === 0x3a) {
        map = 3;
        opcode = this.#u8();
      }
    }
    const entry = (mode === 64 ? OPCODES_64 : OPCODES_LEGACY)[map * 256 + opcode];
    if (entry === null || this.#overrun) return DECODE.undefined;
    const prefix = repeat !== 0 ? repeat : operand66 ? 1 : 0;
    const rexW = (rex & 8) !== 0;
    let id = -1;
    let modrm = 0;
    if (entry.modrm) {
      modrm = this.#u8();
      const register = modrm >= 0xc0;
      if (register && entry.exact !== null) id = entry.exact[prefix * 64 + (modrm & 63)];
      if (id < 0) {
        // Moves to and from control registers ignore mod.
        const form = register || (map === 1 && opcode >= 0x20 && opcode <= 0x23) ? 8 : 0;
        id = entry.slots[prefix * 16 + form + ((modrm >> 3) & 7)];
      }
      if (id >= 0 && rexW && entry.wide !== null) id = entry.wide.get(id) ?? id;
    } else {
      id = entry.slots[prefix * 16];
      if (map === 0 && opcode === 0x90 && (rex & 1) !== 0) id = XCHG_ROW;
    }
    if (id < 0) return DECODE.undefined;
    const row = ROWS[id];
    this.row = row;
    this.modrm = modrm;
    const attributes = row.attributes;

    // A 66 that selects the row is no size prefix any more.
    const sizePrefix = operand66 && !(row.prefix === 1);
    if (mode === 64) {
      if (attributes.has('f64')) this.operandSize = 64;
      else if (rexW) this.operandSize = 64;
      else if (sizePrefix) this.operandSize = 16;
      else this.operandSize = attributes.has('d64') ? 64 : 32;
      this.addressSize = address67 ? 32 : 64;
    } else {
      this.operandSize = (mode === 32) !== sizePrefix ? 32 : 16;
      this.addressSize = (mode === 32) !== address67 ? 32 : 16;
    }

    this.addressing = ADDRESS.none;
    this.segment = segment;
    this.base = CTX.zero;
    this.index = CTX.zero;
    this.scale = 0;
    this.disp = 0;
    this.ripRelative = false;
    this.immLo = 0;
    this.immHi = 0;
    if (entry.modrm && modrm < 0xc0 && (row.rmForm !== 2 || row.exact < 0) && !isControlMove(row)) this.#memoryOperand(modrm);
    else if (segment < 0 && mode !== 64) this.segment = SEG_DS;

    const operands = row.operands;
    for (let n = 0; n < operands.length; n++) this.#operand(n, operands[n], opcode, modrm);
    if (this.#overrun) return DECODE.truncated;
    if (this.lock && (!attributes.has('lock') || this.addressing === ADDRESS.none)) return DECODE.undefined;
    return DECODE.ok;
  }

  /** ModRM and SIB addressing (SDM volume 2, tables 2-1 to 2-3). */
  #memoryOperand(modrm: number): void {
    const mode = this.mode;
    if (this.addressSize === 16) {
      this.#memoryOperand16(modrm);
      return;
    }
    const mod = modrm >> 6;
    const rm = modrm & 7;
    let defaultSegment = SEG_DS;
    if (rm === 4) {
      const sib = this.#u8();
      const index = ((sib >> 3) & 7) | ((this.rex & 2) << 2);
      const base = (sib & 7) | ((this.rex & 1) << 3);
      if (index !== 4) {
        this.index = gprOffset(index);
        this.scale = sib >> 6;
      }
      if ((sib & 7) === 5 && mod === 0) this.disp = this.#s32();
      else {
        this.base = gprOffset(base);
        if (base === 4 || base === 5) defaultSegment = SEG_SS;
      }
    } else if (rm === 5 && mod === 0) {
      this.disp = this.#s32();
      if (mode === 64) this.ripRelative = true;
    } else {
      this.base = gprOffset(rm | ((this.rex & 1) << 3));
      if (rm === 5) defaultSegment = SEG_SS;
    }
    if (mod === 1) this.disp = this.#s8();
    else if (mod === 2) this.disp = this.#s32();
    if (mode === 64) this.addressing = this.addressSize === 64 ? ADDRESS.a64 : ADDRESS.a32in64;
    else {
      this.addressing = ADDRESS.a32;
      if (this.segment < 0) this.segment = defaultSegment;
    }
  }

  #memoryOperand16(modrm: number): void {
    const mod = modrm >> 6;
    const rm = modrm & 7;
    const BX = gprOffset(3);
    const BP = gprOffset(5);
    const SI = gprOffset(6);
    const DI = gprOffset(7);
    let defaultSegment = SEG_DS;
    if (rm === 6 && mod === 0) this.disp = this.#s16();
    else {
      this.base = rm < 2 || rm === 7 ? BX : rm === 4 ? SI : rm === 5 ? DI : BP;
      if (rm < 4) this.index = rm % 2 === 0 ? SI : DI;
      if (this.base === BP) defaultSegment = SEG_SS;
    }
    if (mod === 1) this.disp = this.#s8();
    else if (mod === 2) this.disp = this.#s16();
    this.addressing = ADDRESS.a16;
    if (this.segment < 0) this.segment = defaultSegment;
  }

  /** Width in bits of an operand under the current operand size. */
  width(width: Width): number {
    if (typeof width === 'number') return width;
    if (width === 'v') return this.operandSize;
    if (width === 'z') return this.operandSize === 16 ? 16 : 32;
    return (this.rex & 8) !== 0 ? 64 : 32;
  }

  #registerField(register: number, width: number): number {
    // Without REX, byte registers 4..7 are AH CH DH BH: the second byte of registers 0..3.
    if (width === 8 && this.rex === 0 && register >= 4 && register < 8) return gprOffset(register - 4) + 1;
    return gprOffset(register);
  }

  #operand(n: number, operand: OperandSpec, opcode: number, modrm: number): void {
    const reg = ((modrm >> 3) & 7) | ((this.rex & 4) << 1);
    const rm = (modrm & 7) | ((this.rex & 1) << 3);
    switch (operand.kind) {
      case K.rm:
      case K.rmReg:
        if (this.addressing === ADDRESS.none) this.fields[n] = this.#registerField(rm, this.width(operand.width));
        return;
      case K.reg:
        this.fields[n] = this.#registerField(reg, this.width(operand.width));
        return;
      case K.opcodeReg:
        this.fields[n] = this.#registerField((opcode & 7) | ((this.rex & 1) << 3), this.width(operand.width));
        return;
      case K.fixed:
        this.fields[n] = gprOffset(operand.register);
        return;
      case K.segment:
        this.fields[n] = (modrm >> 3) & 7;
        return;
      case K.control:
      case K.debug:
        this.fields[n] = reg;
        return;
      case K.xmmReg:
        this.fields[n] = reg * 16;
        return;
      case K.xmmRm:
      case K.xmmOnly:
        this.fields[n] = rm * 16;
        return;
      case K.mmxReg:
        this.fields[n] = (reg & 7) * 16;
        return;
      case K.mmxRm:
      case K.mmxOnly:
        this.fields[n] = (rm & 7) * 16;
        return;
      case K.st:
        this.fields[n] = modrm & 7;
        return;
      case K.imm:
      case K.rel:
        this.#immediate(operand);
        return;
      case K.moffs:
        this.addressing =
          this.mode === 64
            ? this.addressSize === 64
              ? ADDRESS.moffs64
              : ADDRESS.a32in64
            : this.addressSize === 32
              ? ADDRESS.a32
              : ADDRESS.a16;
        if (this.addressSize === 64) {
          this.immLo = this.#s32();
          this.immHi = this.#s32();
        } else this.disp = this.addressSize === 32 ? this.#s32() : this.#s16();
        if (this.mode !== 64 && this.segment < 0) this.segment = SEG_DS;
        return;
      case K.far:
        this.immLo = this.operandSize === 16 ? this.#s16() & 0xffff : this.#s32();
        this.immHi = this.#s16() & 0xffff;
        return;
      default:
        return;
    }
  }

  #immediate(operand: OperandSpec): void {
    const encoded = operand.immediate === 0 ? 8 : operand.immediate;
    const bits = encoded === 'v' ? this.operandSize : encoded === 'z' ? (this.operandSize === 16 ? 16 : 32) : this.width(encoded);
    let value = 0;
    if (bits === 8) {
      value = this.#s8();
      // Ib stands for itself; sIb and Jb are sign-extended.
      if (operand.width === 8 && operand.kind === K.imm) value &= 0xff;
    } else if (bits === 16) {
      value = this.#s16();
      if (operand.width === 16) value &= 0xffff;
    } else value = this.#s32();
    if (bits === 64) {
      this.immLo = value;
      this.immHi = this.#s32();
    } else if (this.row.name === 'enter' && bits === 8) {
      // Level goes above the frame size.
      this.immLo |= value << 16;
    } else {
      this.immLo = value;
      this.immHi = value >> 31;
    }
  }
}

function isPrefix(byte: number): boolean {
  return (
    byte === 0x66 ||
    byte === 0x67 ||
    byte === 0xf0 ||
    byte === 0xf2 ||
    byte === 0xf3 ||
    byte === 0x26 ||
    byte === 0x2e ||
    byte === 0x36 ||
    byte === 0x3e ||
    byte === 0x64 ||
    byte === 0x65
  );
}

function isControlMove(row: IsaRow): boolean {
  return row.map === 1 && row.opcode >= 0x20 && row.opcode <= 0x23;
}

const XCHG_ROW = ROWS.findIndex((row) => row.name === 'xchg' && row.opcodeReg);
