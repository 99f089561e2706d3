// SPDX-License-Identifier: Apache-2.0
/** Instructions with an immediate take another way when it is known while code is written: both ways have to agree. */
import { describe, expect, it } from 'vitest';
import { CTX } from '../../memory/vcpu-context.ts';
import { type Expr, I32, i32 } from '../../wasm/expr.ts';
import { FunctionBuilder } from '../../wasm/function-builder.ts';
import { ModuleBuilder } from '../../wasm/module-builder.ts';
import { functionExits, InterpreterContext } from '../interpreter/context.ts';
import { ADDRESS } from '../isa/decoder.ts';
import { ROWS } from '../isa/table.ts';
import { RECORD } from '../record.ts';
import { type Form, SemanticsTable } from './context.ts';
import { defineSseInteger } from './sse-integer.ts';
import { defineSseShuffle } from './sse-shuffle.ts';

const CPU_AT = 4096;
const REC_AT = 512;
const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
const bytes = new Uint8Array(memory.buffer);
const table = new SemanticsTable();
defineSseShuffle(table);
defineSseInteger(table);

/** Knows its immediate, as the translator does. */
class ConstantImmediate extends InterpreterContext {
  readonly value: number;
  constructor(value: number, ...rest: ConstructorParameters<typeof InterpreterContext>) {
    super(...rest);
    this.value = value;
  }
  override immediate(): Expr {
    return i32(this.value);
  }
}

/** Executes `name` between registers 0 (bytes 0x10..) and 1 (bytes 0x80..); returns register 0. */
function execute(name: string, unit: 'sse' | 'mmx', imm: number, constant: boolean): number[] {
  const row = ROWS.find((item) => item.name === name && item.attributes.has(unit) && item.operands.some((operand) => operand.width === 8));
  if (!row) throw new Error(`no row ${name}`);
  const form: Form = { row, operandSize: 32, addressing: ADDRESS.none, lock: false, rep: 0, rexW: false, mode: 64, addressSize: 64 };
  const module = new ModuleBuilder();
  module.importMemory('env', 'memory', 1, 1);
  const f = new FunctionBuilder([I32, I32], [I32]);
  const directory = {
    index: (): number => {
      throw new Error('no functions here');
    },
    resultOf: () => null,
  };
  const parts = [f, form, f.param(0), f.param(1), directory, functionExits(f.param(0), f.param(1), 64)] as const;
  const context = constant ? new ConstantImmediate(imm, ...parts) : new InterpreterContext(...parts);
  table.get(name)?.(context);
  f.return(i32(0));
  module.export('handler', module.add(name, f));
  const instance = new WebAssembly.Instance(new WebAssembly.Module(module.build()), { env: { memory } });

  const registers = CPU_AT + (unit === 'mmx' ? CTX.fpr : CTX.xmm);
  for (let n = 0; n < 16; n++) {
    bytes[registers + n] = 0x10 + n;
    bytes[registers + 16 + n] = 0x80 + n;
  }
  bytes[REC_AT + RECORD.a] = 0;
  bytes[REC_AT + RECORD.b] = 16;
  bytes.fill(0, REC_AT + RECORD.imm, REC_AT + RECORD.imm + 8);
  bytes[REC_AT + RECORD.imm] = imm;
  (instance.exports.handler as (cpu: number, rec: number) => number)(CPU_AT, REC_AT);
  return [...bytes.slice(registers, registers + (unit === 'mmx' ? 8 : 16))];
}

describe('immediates', () => {
  const immediates = [0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 0x1b, 31, 32, 33, 0x4e, 0x93, 0xaa, 0xe4, 0xff];
  for (const name of [
    'pshufd',
    'pshuflw',
    'pshufhw',
    'shufps',
    'shufpd',
    'palignr',
    'psrldq',
    'pslldq',
    'pblendw',
    'blendps',
    'blendpd',
    'insertps',
    'mpsadbw',
    'psrlw',
    'psrad',
    'psllq',
  ]) {
    it(`of ${name} give the same result known and unknown`, () => {
      for (const imm of immediates) expect(execute(name, 'sse', imm, true), `imm ${imm}`).toEqual(execute(name, 'sse', imm, false));
    });
  }
  for (const name of ['pshufw', 'palignr', 'psraw']) {
    it(`of ${name} on MMX registers give the same result known and unknown`, () => {
      for (const imm of immediates) expect(execute(name, 'mmx', imm, true), `imm ${imm}`).toEqual(execute(name, 'mmx', imm, false));
    });
  }
  it('select what the manual says', () => {
    expect(execute('pshufd', 'sse', 0x1b, false)).toEqual([12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3].map((n) => 0x80 + n));
    expect(execute('palignr', 'sse', 20, false)).toEqual(
      [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15].map((n) => 0x10 + n).concat([0, 0, 0, 0]),
    );
    expect(execute('shufpd', 'sse', 2, true)).toEqual([
      0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x88, 0x89, 0x8a, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f,
    ]);
    expect(execute('palignr', 'mmx', 7, true)).toEqual([0x87, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16]);
    expect(execute('pslldq', 'sse', 200, false)).toEqual(Array(16).fill(0));
  });
});
