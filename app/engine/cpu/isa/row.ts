// SPDX-License-Identifier: Apache-2.0
/**
 * The form in which the instruction set is written down, and its parser.
 *
 * A row is a line `name | encoding | operands | attributes`:
 *
 * - **name**: the semantics function (`semantics/`). `{cc}` expands to the sixteen conditions, whose opcodes follow each other.
 * - **encoding**: `[NP|66|F3|F2] [0F|0F38|0F3A] OP [/r|/0../7|+r|=MODRM]`. Without one of the first group the row takes any prefix and
 *   66 means operand size. `+r`: the register is in the opcode's low three bits. `=C8`: one exact ModRM byte (mod 3).
 * - **operands**: the SDM's notation (volume 2, appendix A), comma-separated. See `OPERANDS`.
 * - **attributes**: `d64` operand size 64 by default in 64-bit mode; `f64` always 64 there; `i64` invalid in 64-bit mode;
 *   `o64` valid only there; `lock` LOCK allowed with a memory destination; `rep` string instruction; `end` ends a block of code;
 *   `sse` `x87` `mmx` say which unit it uses (the unit's availability is checked before the semantics); `nowait` an x87 instruction
 *   that does not wait for pending exceptions; `unal` a 128-bit memory operand needs no alignment; `w0`/`w1` needs REX.W clear/set;
 *   `modreg`/`modmem` restrict rows whose operands do not say whether ModRM names a register or memory.
 *
 * Rows are matched most specific first: exact ModRM, then mandatory prefix, then any.
 */

/** How an operand is encoded. */
export const OPERAND_KIND = {
  /** Register or memory by ModRM.rm. */ rm: 0,
  /** General register by ModRM.reg. */ reg: 1,
  /** General register by the opcode's low bits. */ opcodeReg: 2,
  /** Immediate. */ imm: 3,
  /** Branch displacement. */ rel: 4,
  /** Memory only, by ModRM.rm. */ mem: 5,
  /** Memory at an absolute offset. */ moffs: 6,
  /** A fixed general register. */ fixed: 7,
  /** The constant 1 */ one: 8,
  segment: 9,
  control: 10,
  debug: 11,
  /** XMM by ModRM.reg · XMM or memory by rm · XMM by rm only. */ xmmReg: 12,
  xmmRm: 13,
  xmmOnly: 14,
  /** MMX likewise. */ mmxReg: 15,
  mmxRm: 16,
  mmxOnly: 17,
  /** ST(i) by ModRM.rm. */ st: 18,
  /** Far pointer in the instruction. */ far: 19,
  /** General register by ModRM.rm only. */ rmReg: 20,
} as const;
export type OperandKind = (typeof OPERAND_KIND)[keyof typeof OPERAND_KIND];

/** An operand's width in bits: a number, or by operand size: `v` 16/32/64, `z` 16/32/32, `y` 32/32/64 (64 with REX.W). */
export type Width = number | 'v' | 'z' | 'y';

export interface OperandSpec {
  readonly kind: OperandKind;
  readonly width: Width;
  /** Register number for `fixed`. */
  readonly register: number;
  /** Bytes in the instruction are sign-extended from this width (immediates). */
  readonly immediate: Width | 0;
}

const K = OPERAND_KIND;
const spec = (kind: OperandKind, width: Width, register = -1, immediate: Width | 0 = 0): OperandSpec => ({
  kind,
  width,
  register,
  immediate,
});

const OPERANDS: Readonly<Record<string, OperandSpec>> = {
  Eb: spec(K.rm, 8),
  Ew: spec(K.rm, 16),
  Ed: spec(K.rm, 32),
  Eq: spec(K.rm, 64),
  Ev: spec(K.rm, 'v'),
  Ey: spec(K.rm, 'y'),
  Gb: spec(K.reg, 8),
  Gw: spec(K.reg, 16),
  Gd: spec(K.reg, 32),
  Gq: spec(K.reg, 64),
  Gv: spec(K.reg, 'v'),
  Gy: spec(K.reg, 'y'),
  Gz: spec(K.reg, 'z'),
  Zb: spec(K.opcodeReg, 8),
  Zv: spec(K.opcodeReg, 'v'),
  Rd: spec(K.rmReg, 32),
  Rq: spec(K.rmReg, 64),
  Rv: spec(K.rmReg, 'v'),
  Ry: spec(K.rmReg, 'y'),
  // Immediates: the second part of the name is the encoded width; sIb is sign-extended to the operand size, Ib is zero-extended.
  Ib: spec(K.imm, 8, -1, 8),
  sIb: spec(K.imm, 'v', -1, 8),
  Iw: spec(K.imm, 16, -1, 16),
  Iz: spec(K.imm, 'v', -1, 'z'),
  Iv: spec(K.imm, 'v', -1, 'v'),
  Jb: spec(K.rel, 'v', -1, 8),
  Jz: spec(K.rel, 'v', -1, 'z'),
  Ap: spec(K.far, 'v'),
  M: spec(K.mem, 'v'),
  Mb: spec(K.mem, 8),
  Mw: spec(K.mem, 16),
  Md: spec(K.mem, 32),
  Mq: spec(K.mem, 64),
  Mt: spec(K.mem, 80),
  Mdq: spec(K.mem, 128),
  My: spec(K.mem, 'y'),
  Mv: spec(K.mem, 'v'),
  Mp: spec(K.mem, 'v'),
  Ob: spec(K.moffs, 8),
  Ov: spec(K.moffs, 'v'),
  AL: spec(K.fixed, 8, 0),
  CL: spec(K.fixed, 8, 1),
  AX: spec(K.fixed, 16, 0),
  DX: spec(K.fixed, 16, 2),
  rAX: spec(K.fixed, 'v', 0),
  eAX: spec(K.fixed, 32, 0),
  1: spec(K.one, 8),
  Sw: spec(K.segment, 16),
  Cy: spec(K.control, 64),
  Dy: spec(K.debug, 64),
  ES: spec(K.fixed, 16, 0),
  CS: spec(K.fixed, 16, 1),
  SS: spec(K.fixed, 16, 2),
  DS: spec(K.fixed, 16, 3),
  FS: spec(K.fixed, 16, 4),
  GS: spec(K.fixed, 16, 5),
  Vdq: spec(K.xmmReg, 128),
  Vq: spec(K.xmmReg, 64),
  Vd: spec(K.xmmReg, 32),
  Wdq: spec(K.xmmRm, 128),
  Wq: spec(K.xmmRm, 64),
  Wd: spec(K.xmmRm, 32),
  Ww: spec(K.xmmRm, 16),
  Udq: spec(K.xmmOnly, 128),
  Uq: spec(K.xmmOnly, 64),
  Pq: spec(K.mmxReg, 64),
  Qq: spec(K.mmxRm, 64),
  Qd: spec(K.mmxRm, 32),
  Nq: spec(K.mmxOnly, 64),
  ST: spec(K.st, 80),
};

export interface IsaRow {
  readonly name: string;
  /** Position in the whole table; part of every handler's key. */
  readonly id: number;
  /** 0: one-byte opcodes, 1: 0F, 2: 0F38, 3: 0F3A. */
  readonly map: number;
  readonly opcode: number;
  /** -1 any, 0 none, 1: 66, 2: F3, 3: F2. */
  readonly prefix: number;
  readonly modrm: boolean;
  /** Required ModRM.reg, or -1. */
  readonly reg: number;
  /** Required whole ModRM byte, or -1. */
  readonly exact: number;
  readonly opcodeReg: boolean;
  readonly operands: readonly OperandSpec[];
  /** 0: rm may be either, 1: memory only, 2: register only. */
  readonly rmForm: number;
  readonly attributes: ReadonlySet<string>;
  /** Condition number for `{cc}` rows, else -1. */
  readonly cc: number;
  readonly text: string;
}

export const CONDITIONS = ['o', 'no', 'b', 'nb', 'z', 'nz', 'be', 'nbe', 's', 'ns', 'p', 'np', 'l', 'nl', 'le', 'nle'] as const;

const PREFIXES: Readonly<Record<string, number>> = { NP: 0, '66': 1, F3: 2, F2: 3 };
const MAPS: Readonly<Record<string, number>> = { '0F': 1, '0F38': 2, '0F3A': 3 };

function rmFormOf(operands: readonly OperandSpec[]): number {
  for (const { kind } of operands) {
    if (kind === K.mem) return 1;
    if (kind === K.xmmOnly || kind === K.mmxOnly || kind === K.rmReg || kind === K.st) return 2;
  }
  return 0;
}

/** Parses rows; the table is the concatenation of the families' lists, in a fixed order. */
export function parseRows(lines: readonly string[]): IsaRow[] {
  const rows: IsaRow[] = [];
  const add = (text: string, cc: number): void => {
    const [name, encoding, operandText = '', attributeText = ''] = text.split('|').map((part) => part.trim());
    const tokens = encoding.split(/\s+/);
    let prefix = -1;
    if (tokens.length > 1 && tokens[0] in PREFIXES && !(tokens[0] === '66' && tokens.length === 1))
      prefix = PREFIXES[tokens.shift() as string];
    let map = 0;
    if (tokens.length > 1 && tokens[0] in MAPS) map = MAPS[tokens.shift() as string];
    let opcode = Number.parseInt(tokens.shift() as string, 16);
    if (cc > 0) opcode += cc;
    const tail = tokens.shift();
    if (Number.isNaN(opcode) || tokens.length > 0) throw new Error(`bad encoding in instruction row '${text}'`);
    const operands = (operandText === '' ? [] : operandText.split(',')).map((key) => {
      const operand = OPERANDS[key.trim()];
      if (!operand) throw new Error(`unknown operand '${key}' in instruction row '${text}'`);
      return operand;
    });
    const attributes = new Set(attributeText === '' ? [] : attributeText.split(/\s+/));
    rows.push({
      name: cc >= 0 ? name.replace('{cc}', CONDITIONS[cc]) : name,
      id: rows.length,
      map,
      opcode,
      prefix,
      modrm: tail !== undefined && tail !== '+r',
      reg: tail && /^\/[0-7]$/.test(tail) ? Number(tail[1]) : -1,
      exact: tail?.startsWith('=') ? Number.parseInt(tail.slice(1), 16) : -1,
      opcodeReg: tail === '+r',
      operands,
      rmForm: attributes.has('modreg') ? 2 : attributes.has('modmem') ? 1 : rmFormOf(operands),
      attributes,
      cc,
      text,
    });
  };
  for (const text of lines) {
    if (text.includes('{cc}')) for (let cc = 0; cc < 16; cc++) add(text, cc);
    else add(text, -1);
  }
  return rows;
}
