// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { F32, F64, I32, I64, i32, V128 } from './expr.ts';
import { load } from './function-builder.ts';
import { ModuleBuilder } from './module-builder.ts';
import { constantLanes, extractLane, type LaneShape, replaceLane, SIMD_OPERATORS, shuffle, shuffleLanes, simd } from './simd.ts';

const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
const bytes = new Uint8Array(memory.buffer);

/** Runs one function over the memory: two vectors at 0 and 16, the result at 32. */
function run(write: (f: import('./function-builder.ts').FunctionBuilder) => void): void {
  const module = new ModuleBuilder();
  module.importMemory('env', 'memory', 1, 1);
  const { index, f } = module.define('run', [], []);
  module.export('run', index);
  write(f);
  const instance = new WebAssembly.Instance(new WebAssembly.Module(module.build()), { env: { memory } });
  (instance.exports.run as () => void)();
}

const a = load('v128', i32(0));
const b = load('v128', i32(16));

describe('simd', () => {
  it('has operators that WebAssembly accepts with these types', () => {
    for (const name of SIMD_OPERATORS) {
      const scalarType = { i8x16: I32, i16x8: I32, i32x4: I32, i64x2: I64, f32x4: F32, f64x2: F64, v128: V128 }[name.split('.')[0]];
      const scalar =
        { [I32]: load('i32', i32(0)), [I64]: load('i64', i32(0)), [F32]: load('f32', i32(0)), [F64]: load('f64', i32(0)) }[
          scalarType as number
        ] ?? a;
      const operation = name.split('.')[1];
      const one =
        /^(not|abs|neg|popcnt|any_true|all_true|bitmask|ceil|floor|trunc|nearest|sqrt|extend_.*|extadd_.*|demote.*|promote.*|trunc_.*|convert_.*)$/;
      const args =
        operation === 'splat'
          ? [scalar]
          : one.test(operation)
            ? [a]
            : /^sh[lr]/.test(operation)
              ? [a, i32(3)]
              : operation === 'bitselect'
                ? [a, b, a]
                : [a, b];
      expect(() => run((f) => f.drop(simd(name, ...args))), name).not.toThrow();
    }
  });

  it('computes what the names say', () => {
    bytes.set([250, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0x80], 0);
    bytes.set([10, 1, 2, 3, 4, 5, 6, 7, 0xff, 9, 10, 11, 12, 13, 14, 0xff], 16);
    const result = (expr: import('./expr.ts').Expr): number[] => {
      run((f) => f.store('v128', i32(32), expr));
      return [...bytes.slice(32, 48)];
    };
    expect(result(simd('i8x16.add_sat_u', a, b)).slice(0, 2)).toEqual([255, 2]);
    expect(result(simd('i8x16.avgr_u', a, b))[0]).toBe(130);
    expect(result(simd('v128.andnot', a, b))[0]).toBe(250 & ~10);
    expect(result(simd('i16x8.mul', a, b)).slice(2, 4)).toEqual([4, 12]);
    expect(result(simd('i64x2.extmul_low_i32x4_u', constantLanes(4, [0xffff_ffff]), constantLanes(4, [2])))).toEqual([
      0xfe, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 1, 0, 0, 0,
    ]);
    expect(result(shuffleLanes(4, a, b, [7, 0, 1, 4])).slice(0, 5)).toEqual([12, 13, 14, 0xff, 250]);
    expect(result(shuffle(a, b, [31, ...Array<number>(15).fill(0)])).slice(0, 2)).toEqual([0xff, 250]);
    expect(result(replaceLane('i16x8', a, 1, i32(0x1234))).slice(2, 4)).toEqual([0x34, 0x12]);
  });

  it('extracts lanes as zero-extended scalars', () => {
    const first = (shape: LaneShape): number => {
      run((f) => f.store('i32', i32(32), extractLane(shape, constantLanes(1, [0xfe]), 1)));
      return new DataView(memory.buffer).getInt32(32, true);
    };
    expect(first('i8x16')).toBe(0xfe);
    expect(first('i16x8')).toBe(0xfefe);
    expect(first('i32x4')).toBe(0xfefefefe | 0);
  });
});
