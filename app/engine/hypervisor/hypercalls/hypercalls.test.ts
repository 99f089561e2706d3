// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { VMEXIT } from '../../accel/accelerator.ts';
import { CTX, REG, SEGREG } from '../../memory/vcpu-context.ts';
import * as xen from '../abi/xen.ts';
import { LIFECYCLE } from '../shared-state.ts';
import { type FakeMachine, fakeMachine, hypercallStep, peek32, poke, poke32, words } from '../testing/fake-machine.ts';
import { PageWalk } from '../mm/walk.ts';
import { handleExit } from '../run-loop.ts';
import { FRAMES, L4, tableMachine } from '../testing/table-machine.ts';
import { writeHypercallPage } from './hypercall-page.ts';

const ARG = 0x3000;

describe('entry', () => {
  it('clobbers RCX and R11 as SYSCALL does and answers -ENOSYS for what there is not', () => {
    const m = fakeMachine();
    m.run((ctx) => {
      ctx.rip = 0x5002;
      ctx.rflags = 0x1_0246;
      return hypercallStep(ctx, 60, []);
    });
    const { ctx } = m.cpu;
    expect([ctx.gpr(REG.rax), ctx.gpr(REG.rcx), ctx.gpr(REG.r11), ctx.rip]).toEqual([-38, 0x5002, 0x246, 0x5002]);
    for (const number of [11, 27, 31, 38, 43, 64, 1000, -1]) expect(m.call(number)).toBe(-38);
    for (const number of [7, 35, 36, 48]) expect(m.call(number)).toBe(-1);
    expect(m.call(xen.__HYPERVISOR_xenpmu_op, 4, 0)).toBe(-95);
  });

  it('the hypercall page holds a stub for each number', () => {
    const page = new Uint8Array(4096);
    writeHypercallPage(page);
    expect([...page.subarray(24 * 32, 24 * 32 + 14)]).toEqual([0x51, 0x41, 0x53, 0xb8, 24, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3]);
    expect([...page.subarray(23 * 32, 23 * 32 + 12)]).toEqual([0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 0x05, 0xcc]);
  });
});

describe('xen_version', () => {
  const text = (m: FakeMachine, length: number): string => {
    const bytes = m.memory.read(ARG, length);
    return String.fromCharCode(...bytes.subarray(0, bytes.indexOf(0)));
  };
  it('describes Xen 4.17 as an unprivileged guest sees it', () => {
    const m = fakeMachine();
    expect(m.call(xen.__HYPERVISOR_xen_version, 0, 0)).toBe(0x0004_0011);
    expect(m.call(xen.__HYPERVISOR_xen_version, 3, ARG)).toBe(0);
    expect(text(m, 1024)).toBe('xen-3.0-x86_64 ');
    expect(m.call(xen.__HYPERVISOR_xen_version, 5, ARG)).toBe(0);
    expect(words(m, ARG, 1)[0]).toBe(0xffff_8000_0000_0000n);
    expect(m.call(xen.__HYPERVISOR_xen_version, 7, 0)).toBe(4096);
    expect(m.call(xen.__HYPERVISOR_xen_version, 8, ARG)).toBe(0);
    expect(words(m, ARG, 1)[0]).toBe(0x5a5a_5a5a_5a5a_5a5an);
    expect(m.call(xen.__HYPERVISOR_xen_version, 9, ARG)).toBe(0);
    expect(text(m, 1024)).toBe('<denied>');
    expect(m.call(xen.__HYPERVISOR_xen_version, 10, 0)).toBe(-1);
    expect(m.call(xen.__HYPERVISOR_xen_version, 1, 0x100_0000)).toBe(-14);
  });

  it('reports the features Linux insists on, and pae_pgdir_above_4gb with its assist', () => {
    const m = fakeMachine();
    poke32(m, ARG, 0, 0);
    expect(m.call(xen.__HYPERVISOR_xen_version, 6, ARG)).toBe(0);
    expect(peek32(m, ARG + 4)).toBe((1 << 5) | (1 << 6) | (1 << 7) | (1 << 13) | (1 << 17));
    expect(m.call(xen.__HYPERVISOR_vm_assist, 0, 3)).toBe(0);
    m.call(xen.__HYPERVISOR_xen_version, 6, ARG);
    expect(peek32(m, ARG + 4) & 16).toBe(16);
    poke32(m, ARG, 1, 0);
    expect(m.call(xen.__HYPERVISOR_xen_version, 6, ARG)).toBe(-22);
  });
});

describe('multicall', () => {
  const entry = (m: FakeMachine, index: number, op: number, ...args: number[]): void =>
    poke(m, ARG + index * 64, op, 0x7777, ...args, ...new Array<number>(6 - args.length).fill(0));
  const result = (m: FakeMachine, index: number): bigint => BigInt.asIntN(64, words(m, ARG + index * 64 + 8, 1)[0]);

  it('executes in order with a result each', () => {
    const m = fakeMachine();
    entry(m, 0, xen.__HYPERVISOR_fpu_taskswitch, 1);
    entry(m, 1, xen.__HYPERVISOR_stack_switch, 0xe02b, 0x9000);
    entry(m, 2, 99);
    entry(m, 3, xen.__HYPERVISOR_update_va_mapping, 0x1000, 0x2067, 0);
    entry(m, 4, xen.__HYPERVISOR_multicall, ARG, 1);
    entry(m, 5, xen.__HYPERVISOR_iret);
    expect(m.call(xen.__HYPERVISOR_multicall, ARG, 6)).toBe(0);
    expect([0, 1, 2, 3, 4, 5].map((i) => result(m, i))).toEqual([0n, 0n, -38n, 0n, -22n, -22n]);
    expect(m.domain.vcpu.kernelSp).toBe(0x9000);
    expect(m.mmu.calls).toEqual(['updateVaMapping 4096 8295 0 0']);
    expect(m.cpu.ctx.lo(CTX.cr0) & 8).toBe(8);
  });

  it('works at odd addresses, across pages, and stops at a fault', () => {
    const m = fakeMachine();
    const at = 0x3fe3;
    poke(m, at, xen.__HYPERVISOR_fpu_taskswitch, 0x7777, 1, 0, 0, 0, 0, 0);
    expect(m.call(xen.__HYPERVISOR_multicall, at, 1)).toBe(0);
    expect(words(m, at + 8, 1)[0]).toBe(0n);
    expect(m.call(xen.__HYPERVISOR_multicall, 63 * 4096 + 4032, 2)).toBe(-14);
    expect(m.call(xen.__HYPERVISOR_multicall, 2 ** 52, 1)).toBe(-14);
  });

  it('a long list is done in pieces', () => {
    const m = fakeMachine();
    for (let i = 0; i < 600; i++) entry(m, i, xen.__HYPERVISOR_fpu_taskswitch, 1);
    m.run((ctx) => {
      ctx.rip = 0x5002;
      return hypercallStep(ctx, xen.__HYPERVISOR_multicall, [ARG, 600]);
    });
    const { ctx } = m.cpu;
    expect([ctx.rip, ctx.gpr(REG.rax), ctx.gpr(REG.rdi), ctx.gpr(REG.rsi)]).toEqual([
      0x5000,
      xen.__HYPERVISOR_multicall,
      ARG + 512 * 64,
      88,
    ]);
    expect([result(m, 511), result(m, 512)]).toEqual([0n, 0x7777n]);
  });
});

describe('processor state', () => {
  it('sets segment bases, of both modes', () => {
    const m = fakeMachine();
    const call = (which: number, base: number): number => m.call(xen.__HYPERVISOR_set_segment_base, which, base);
    expect([call(0, 0x1000), call(1, 0x2000), call(2, -0x3000), call(4, 0), call(0, 2 ** 47)]).toEqual([0, 0, 0, -22, -22]);
    expect([m.cpu.ctx.segBase(SEGREG.fs), m.cpu.ctx.num(CTX.kernelGsBase), m.cpu.ctx.segBase(SEGREG.gs)]).toEqual([
      0x1000, 0x2000, -0x3000,
    ]);
    m.cpu.selectors.set(0x63, 0xcafe_0000);
    expect(call(3, 0x60)).toBe(0);
    expect([m.cpu.ctx.selector(SEGREG.gs), m.cpu.ctx.num(CTX.kernelGsBase), m.cpu.ctx.segBase(SEGREG.gs)]).toEqual([
      0x63, 0xcafe_0000, -0x3000,
    ]);
    expect(call(3, 0x99)).toBe(0);
    expect([m.cpu.ctx.selector(SEGREG.gs), m.cpu.ctx.num(CTX.kernelGsBase)]).toEqual([0, 0]);
  });

  it.each([
    [0, 0x1234, 0],
    [3, -(2 ** 47) + 0x1000, -1],
    [1, 2 ** 47, -1],
    [4, 0xffff_0ff0, 0],
    [6, 0xffff_0ff0, 0],
    [7, 0x2400, -1],
    [7, 0x2_0002, -1],
    [7, 0x3_0402, 0],
    [8, 0, -22],
  ])('set_debugreg %i = %i answers %i', (reg, value, expected) => {
    const m = fakeMachine();
    expect(m.call(xen.__HYPERVISOR_set_debugreg, reg, value)).toBe(expected);
    if (expected === 0) expect(m.call(xen.__HYPERVISOR_get_debugreg, reg)).toBe(value);
  });

  it('vm_assist knows its types', () => {
    const m = fakeMachine();
    expect([0, 2, 3, 4, 5, 32].map((type) => m.call(xen.__HYPERVISOR_vm_assist, 0, type))).toEqual([0, 0, 0, 0, 0, 0]);
    expect([6, 31, 33, 64, -1].map((type) => m.call(xen.__HYPERVISOR_vm_assist, 0, type))).toEqual([-22, -22, -22, -22, -22]);
    expect(m.call(xen.__HYPERVISOR_vm_assist, 2, 2)).toBe(-38);
    expect([m.state.vmAssist(5), m.state.vmAssist(32), m.state.vmAssist(1)]).toEqual([true, true, false]);
  });

  it('callback_op and set_callbacks', () => {
    const m = fakeMachine();
    const register = (type: number, flags: number, address: number | bigint): number => {
      poke(m, ARG, type | (flags << 16), address);
      return m.call(xen.__HYPERVISOR_callback_op, 0, ARG);
    };
    expect([
      register(0, 0, 0x1000),
      register(1, 1, 0x2000),
      register(2, 1, 0x3000),
      register(5, 0, 0x4000),
      register(7, 0, 0x5000),
    ]).toEqual([0, 0, 0, 0, 0]);
    const { event, failsafe, syscall, sysenter, syscall32 } = m.domain.vcpu;
    expect([event.address, failsafe.maskEvents, syscall.maskEvents, sysenter.address, syscall32.address]).toEqual([
      0x1000,
      true,
      true,
      0x4000,
      0x5000,
    ]);
    expect([register(3, 0, 0), register(6, 0, 0), register(0, 0, 2n ** 47n)]).toEqual([-22, -38, -22]);
    poke32(m, ARG, 5);
    expect(m.call(xen.__HYPERVISOR_callback_op, 1, ARG)).toBe(0);
    expect(sysenter.address).toBe(0);
    expect(m.call(xen.__HYPERVISOR_set_callbacks, 1, 2, 3)).toBe(0);
    expect([event.address, failsafe.address, syscall.address]).toEqual([1, 2, 3]);
  });

  it('console_io hands over bytes within its limit', () => {
    const out: number[] = [];
    const m = fakeMachine({ config: { onConsoleIo: (bytes) => out.push(...bytes) } });
    m.memory.write(ARG, Uint8Array.of(0x68, 0x69));
    expect(m.call(xen.__HYPERVISOR_console_io, 0, 2, ARG)).toBe(0);
    expect(out).toEqual([0x68, 0x69]);
    expect(m.call(xen.__HYPERVISOR_console_io, 0, 0x7fff_ffff, ARG)).toBe(-22);
    expect(m.call(xen.__HYPERVISOR_console_io, 0, -1, ARG)).toBe(-22);
    expect(m.call(xen.__HYPERVISOR_console_io, 1, 4, ARG)).toBe(0);
  });
});

/** Values that a hostile guest would try. */
const hostile = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 0, max: 40 }) },
  { weight: 4, arbitrary: fc.integer({ min: 0, max: 64 * 4096 + 64 }) },
  fc.constantFrom(
    -1,
    0x7fff_ffff,
    0xffff_ffff,
    2 ** 47 - 8,
    2 ** 47,
    -(2 ** 47),
    -(2 ** 47) + 2 ** 43 - 4,
    -8,
    2 ** 52,
    2 ** 60,
    -(2 ** 62),
    0x7ff0,
  ),
  fc.integer(),
);

describe('hostile guests', () => {
  const numbers = fc.constantFrom(...Array.from({ length: 52 }, (_, i) => i));

  /** Random hypercalls over random memory: every one returns or ends the domain; nothing throws. */
  function storm(make: () => FakeMachine, runs: number): void {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(numbers, fc.array(hostile, { minLength: 6, maxLength: 6 })), { minLength: 1, maxLength: 12 }),
        fc.array(fc.tuple(fc.integer({ min: 0, max: 64 * 512 - 1 }), hostile), { maxLength: 40 }),
        (calls, memory) => {
          const m = make();
          m.cpu.ctx.setGpr(REG.rsp, 0x8000);
          m.domain.vcpu.event.address = 0x5000;
          for (const [index, value] of memory) poke(m, index * 8, BigInt.asIntN(64, BigInt(value)));
          for (const [number, args] of calls) {
            if (m.domain.ended) break;
            m.run((ctx) => {
              ctx.rip = 0x5002;
              return hypercallStep(ctx, number, args);
            });
            expect(
              Number.isInteger(m.cpu.ctx.gpr(REG.rax)) || number === xen.__HYPERVISOR_iret || number === xen.__HYPERVISOR_get_debugreg,
            ).toBe(true);
          }
        },
      ),
      { numRuns: runs, seed: 4711 },
    );
  }

  it('random hypercalls never throw', () => storm(() => fakeMachine(), 300));
  it('nor with two vCPUs', () => storm(() => fakeMachine({ vcpus: 2 }), 100));

  it('nor with the real PV MMU, which keeps page tables unwritable', () => {
    const mmuCalls = fc.constantFrom(1, 2, 10, 12, 13, 14, 18, 20, 24, 26, 32);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(mmuCalls, fc.array(hostile, { minLength: 6, maxLength: 6 })), { minLength: 1, maxLength: 10 }),
        fc.array(fc.tuple(fc.integer({ min: 0, max: 0x1fff }), hostile), { maxLength: 40 }),
        (calls, memory) => {
          const m = tableMachine();
          for (const [index, value] of memory) {
            const bytes = new Uint8Array(8);
            new DataView(bytes.buffer).setBigInt64(0, BigInt.asIntN(64, BigInt(value)), true);
            m.memory.write(index & ~7, bytes);
          }
          for (const [number, args] of calls) {
            if (m.domain.ended) break;
            m.cpu.ctx.setGpr(REG.rax, number);
            hypercallStep(m.cpu.ctx, number, args);
            const failure = handleExit(m.domain, m.domain.vcpu, VMEXIT.syscall);
            if (failure !== null) m.domain.crash(failure);
          }
          const walk = new PageWalk(m.memory);
          for (let table = L4; table < FRAMES; table++) {
            const writable = walk.find(m.domain.vcpu.kernelRoot, table * 4096) && (walk.lo & 1) !== 0 && walk.writable;
            const isTable = m.mmu.context.frames.typeCount(table as never) > 0 && m.mmu.context.frames.type(table as never) <= 4;
            expect(writable && isTable && Math.floor(walk.lo / 4096) === table).toBe(false);
          }
        },
      ),
      { numRuns: 150, seed: 4711 },
    );
  });

  it('random exits never throw', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 7 }), fc.integer({ min: 0, max: 40 }), hostile, hostile), { maxLength: 8 }),
        (exits) => {
          const m = fakeMachine();
          m.cpu.ctx.setGpr(REG.rsp, 0x8000);
          m.domain.vcpu.userRoot = 3 as never;
          m.domain.vcpu.kernelSp = 0x9000;
          for (let v = 0; v < 256; v++) m.domain.vcpu.traps.set(v, v & 7, 0xe033, 0x5000 + v);
          m.run(
            ...exits.map(([reason, vector, rip, reg]) => (ctx: FakeMachine['cpu']['ctx']) => {
              ctx.rip = rip;
              ctx.setGpr(vector & 15, reg);
              ctx.setU32(CTX.exitVector, vector);
              ctx.setU32(CTX.exitHasError, vector & 1);
              ctx.setU32(CTX.exitError, reg >>> 0);
              ctx.setU32(CTX.exitLength, 2);
              return reason as 0;
            }),
          );
        },
      ),
      { numRuns: 500, seed: 4711 },
    );
  });

  it('a crash leaves the domain crashed, not the engine', () => {
    const m = fakeMachine();
    m.run((ctx) => {
      ctx.setGpr(REG.rsp, -8);
      ctx.setU32(CTX.exitVector, 6);
      return VMEXIT.exception;
    });
    expect(m.state.lifecycle).toBe(LIFECYCLE.crashed);
  });
});
