// SPDX-License-Identifier: Apache-2.0
/**
 * Which handler runs which instruction form.
 *
 * Forms on the inline list are cases of the loop. Every other form gets a function of its own, written and compiled when the
 * form is first decoded (most guests use a few hundred of the thousands there are), and put into the handler table.
 */
import { I32 } from '../../wasm/expr.ts';
import { FunctionBuilder } from '../../wasm/function-builder.ts';
import { ModuleBuilder } from '../../wasm/module-builder.ts';
import type { CoreFunctions } from '../functions.ts';
import { ADDRESS, type Decoder } from '../isa/decoder.ts';
import { type IsaRow, OPERAND_KIND as K, type Width } from '../isa/row.ts';
import { ROWS } from '../isa/table.ts';
import { OP } from '../record.ts';
import { ImportingDirectory } from '../importing-directory.ts';
import type { Form, SemanticsTable } from '../semantics/context.ts';
import { functionExits, InterpreterContext } from './context.ts';
import { emitSemantics } from './loop.ts';

const PAIRS = ['R,R', 'R,M', 'M,R', 'R,I', 'M,I'];
const both = (name: string, shapes: readonly string[]): string[] =>
  ['32', '64'].flatMap((bits) => shapes.map((shape) => `${name}:${shape.replaceAll(/[RMI]/g, (kind) => kind + bits)}`));
const CONDITION_NAMES = ['o', 'no', 'b', 'nb', 'z', 'nz', 'be', 'nbe', 's', 'ns', 'p', 'np', 'l', 'nl', 'le', 'nle'];

/** Canonical names of the forms worth a case of the loop; see `canonicalName`. */
const INLINE: readonly string[] = [
  ...both('mov', PAIRS),
  'mov:R8,M8',
  'mov:M8,R8',
  'mov:R8,R8',
  'mov:R8,I8',
  'mov:M8,I8',
  'mov:M16,R16',
  'movzx:R32,R8',
  'movzx:R32,M8',
  'movzx:R32,R16',
  'movzx:R32,M16',
  'movsx:R64,R32',
  'movsx:R64,M32',
  'movsx:R32,R8',
  'movsx:R32,M8',
  'movsx:R32,M16',
  ...both('lea', ['R,M']),
  ...['add', 'sub', 'and', 'or', 'xor', 'cmp'].flatMap((name) => both(name, PAIRS)),
  'cmp:R8,I8',
  'cmp:M8,I8',
  'cmp:R8,R8',
  'cmp:R8,M8',
  'cmp:M8,R8',
  'cmp:M16,I16',
  ...both('test', ['R,R', 'R,I']),
  'test:R8,R8',
  'test:M8,I8',
  'test:R8,I8',
  ...both('inc', ['R', 'M']),
  ...both('dec', ['R', 'M']),
  ...both('neg', ['R']),
  ...both('not', ['R']),
  ...['shl', 'shr', 'sar'].flatMap((name) => ['32', '64'].flatMap((bits) => [`${name}:R${bits},I8`, `${name}:R${bits},R8`])),
  ...['rol', 'ror'].flatMap((name) => ['32', '64'].map((bits) => `${name}:R${bits},I8`)),
  ...both('imul', ['R,R', 'R,M', 'R,R,I']),
  'push:R64',
  'push:I64',
  'pop:R64',
  'call:J',
  'calli:R64',
  'calli:M64',
  'jmp:J',
  'jmpi:R64',
  'jmpi:M64',
  'ret:',
  ...CONDITION_NAMES.map((name) => `j${name}:J`),
  'nop:',
  'nop:M32',
  'nop:M16',
  'cbw:64',
  'cbw:32',
  'cwd:32',
  'cwd:64',
  ...CONDITION_NAMES.map((name) => `set${name}:R8`),
  ...CONDITION_NAMES.flatMap((name) => both(`cmov${name}`, ['R,R'])),
  ...['adc', 'sbb'].flatMap((name) => both(name, ['R,R', 'R,I'])),
  ...['add', 'and', 'or', 'xor'].map((name) => `${name}:R8,R8`),
  'and:R8,I8',
  'or:R8,I8',
  ...both('test', ['M,I']),
  ...both('bswap', ['R']),
  'bt:R64,I8',
  'bt:R32,I8',
  'movsx:R64,R8',
  'movsx:R64,M8',
];

function widthOf(width: Width, form: Form): number {
  if (typeof width === 'number') return width;
  if (width === 'v') return form.operandSize;
  if (width === 'z') return form.operandSize === 16 ? 16 : 32;
  return form.rexW ? 64 : 32;
}

/**
 * A name that is equal for forms with the same meaning and the same record fields, whatever their encoding: `add:R64,I64` stands for
 * 05, 81 /0 and 83 /0. Null for forms that are never inline.
 */
function canonicalName(form: Form): string | null {
  const { row } = form;
  if (form.mode !== 64 || form.addressSize !== 64 || form.lock) return null;
  // Branches have their size from the mode, not from an operand.
  if (row.attributes.has('f64') && form.operandSize !== 64) return null;
  if (row.attributes.has('rep') || (form.addressing !== ADDRESS.none && form.addressing !== ADDRESS.a64)) return null;
  if (row.operands.length === 0) return row.name === 'cbw' || row.name === 'cwd' ? `${row.name}:${form.operandSize}` : `${row.name}:`;
  const parts = row.operands.map((operand) => {
    const bits = widthOf(operand.width, form);
    switch (operand.kind) {
      case K.rm:
        return (form.addressing === ADDRESS.none ? 'R' : 'M') + bits;
      case K.reg:
      case K.opcodeReg:
      case K.fixed:
      case K.rmReg:
        return `R${bits}`;
      case K.imm:
      case K.one:
        return `I${bits}`;
      case K.rel:
        return 'J';
      case K.mem:
        return `M${bits}`;
      default:
        return null;
    }
  });
  return parts.includes(null) ? null : `${row.name}:${parts.join()}`;
}

/** One form for each inline name, in the order of the loop's cases. */
export function inlineForms(): Form[] {
  const wanted = new Set(INLINE);
  const found = new Map<string, Form>();
  for (const row of ROWS) {
    for (const operandSize of [32, 64, 16]) {
      for (const addressing of [ADDRESS.none, ADDRESS.a64]) {
        const form: Form = { row, operandSize, addressing, lock: false, rep: 0, rexW: operandSize === 64, mode: 64, addressSize: 64 };
        const name = canonicalName(form);
        // The constant 1 is an immediate in the record: take the meaning from a row with a true immediate.
        if (
          name !== null &&
          wanted.has(name) &&
          !found.has(name) &&
          !row.operands.some((operand) => operand.kind === K.one) &&
          suits(row, addressing)
        )
          found.set(name, form);
      }
    }
  }
  const missing = INLINE.filter((name) => !found.has(name));
  if (missing.length > 0) throw new Error(`inline forms without an instruction row: ${missing.join(' ')}`);
  return INLINE.map((name) => found.get(name) as Form);
}

function suits(row: IsaRow, addressing: number): boolean {
  const hasMemory = row.operands.some((operand) => operand.kind === K.rm || operand.kind === K.mem);
  return addressing === ADDRESS.none ? row.rmForm !== 1 : hasMemory && row.rmForm !== 2;
}

export interface Handler {
  /** Case of the loop. */
  readonly op: number;
  /** Slot in the handler table when `op` is `OP.call`. */
  readonly slot: number;
}

const SIZE_INDEX: Readonly<Record<number, number>> = { 16: 0, 32: 1, 64: 2 };

/** The handlers of one vCPU's interpreter. */
export class HandlerRegistry {
  readonly #core: CoreFunctions;
  readonly #semantics: SemanticsTable;
  readonly #imports: WebAssembly.Imports;
  readonly #table: WebAssembly.Table;
  readonly #memoryPages: number;
  readonly #byKey = new Map<number, Handler>();
  readonly #inline = new Map<string, number>();
  #used = 0;
  /** Handler functions compiled so far, for statistics. */
  compiled = 0;

  constructor(core: CoreFunctions, semantics: SemanticsTable, imports: WebAssembly.Imports, table: WebAssembly.Table, memoryPages: number) {
    this.#core = core;
    this.#semantics = semantics;
    this.#imports = imports;
    this.#table = table;
    this.#memoryPages = memoryPages;
    INLINE.forEach((name, n) => {
      this.#inline.set(name, OP.firstInline + n);
    });
  }

  /** The handler for the instruction that `decoder` holds. */
  find(decoder: Decoder): Handler {
    const row = decoder.row;
    const rep = row.attributes.has('rep') ? decoder.rep : 0;
    const key =
      ((((((row.id * 3 + SIZE_INDEX[decoder.operandSize]) * 6 + decoder.addressing) * 2 + (decoder.lock ? 1 : 0)) * 4 + rep) * 2 +
        ((decoder.rex >> 3) & 1)) *
        3 +
        SIZE_INDEX[decoder.mode]) *
        3 +
      SIZE_INDEX[decoder.addressSize];
    const known = this.#byKey.get(key);
    if (known) return known;
    const form: Form = {
      row,
      operandSize: decoder.operandSize,
      addressing: decoder.addressing,
      lock: decoder.lock,
      rep,
      rexW: (decoder.rex & 8) !== 0,
      mode: decoder.mode,
      addressSize: decoder.addressSize,
    };
    const name = canonicalName(form);
    const inline = name === null ? undefined : this.#inline.get(name);
    const handler = inline === undefined ? { op: OP.call, slot: this.#compile(form) } : { op: inline, slot: 0 };
    this.#byKey.set(key, handler);
    return handler;
  }

  /** The handler of bytes that are no instruction: raises what `name` says. */
  faulting(name: 'ud' | 'gp0'): Handler {
    const key = name === 'ud' ? -1 : -2;
    const known = this.#byKey.get(key);
    if (known) return known;
    const row: IsaRow = { ...(ROWS.find((item) => item.name === 'ud') as IsaRow), name };
    const form: Form = { row, operandSize: 32, addressing: ADDRESS.none, lock: false, rep: 0, rexW: false, mode: 64, addressSize: 64 };
    const handler = { op: OP.call, slot: this.#compile(form) };
    this.#byKey.set(key, handler);
    return handler;
  }

  /** Puts a core function with a handler's signature into the table; returns its slot. */
  adopt(handler: unknown): number {
    if (this.#used === this.#table.length) this.#table.grow(256);
    this.#table.set(this.#used, handler as never);
    return this.#used++;
  }

  #compile(form: Form): number {
    const module = new ModuleBuilder();
    module.importMemory('env', 'memory', this.#memoryPages, this.#memoryPages);
    const directory = new ImportingDirectory(this.#core, module);
    const f = new FunctionBuilder([I32, I32], [I32]);
    const cpu = f.param(0);
    const rec = f.param(1);
    const exits = functionExits(cpu, rec, form.operandSize);
    emitSemantics(new InterpreterContext(f, form, cpu, rec, directory, exits), this.#semantics);
    exits.next(f);
    module.export('handler', module.add(form.row.name, f));
    this.compiled++;
    return this.instantiate(module.build());
  }

  /** Puts the function `handler` of a module into the table; returns its slot. */
  instantiate(module: Uint8Array<ArrayBuffer>): number {
    const instance = new WebAssembly.Instance(new WebAssembly.Module(module), this.#imports);
    if (this.#used === this.#table.length) this.#table.grow(256);
    this.#table.set(this.#used, instance.exports.handler as never);
    return this.#used++;
  }
}
