// SPDX-License-Identifier: Apache-2.0
import { beforeEach, describe, expect, it } from 'vitest';
import { VMEXIT } from '../../accel/accelerator.ts';
import { CTX, REG, RFLAGS, SEGREG } from '../../memory/vcpu-context.ts';
import { __HYPERVISOR_physdev_op } from '../abi/xen.ts';
import { type FakeMachine, fakeMachine, hypercallStep, peek32, poke, words } from '../testing/fake-machine.ts';

const CODE = 0x5000;
const GP = 0x4_0000;
const UD = 0x4_0600;
const PF = 0x4_0e00;
const DB = 0x4_0100;

let m: FakeMachine;

beforeEach(() => {
  m = fakeMachine();
  const { traps } = m.domain.vcpu;
  traps.set(13, 0, 0xe033, GP);
  traps.set(6, 0, 0xe033, UD);
  traps.set(14, 0, 0xe033, PF);
  traps.set(1, 0, 0xe033, DB);
  m.domain.vcpu.kernelSp = 0x9000;
  m.domain.vcpu.iopl = 1;
  m.cpu.ctx.setGpr(REG.rsp, 0x8000);
});

/** Executes `bytes` as an instruction that faults with `vector` (13: with error code 0). Returns RIP afterwards relative to the code. */
function execute(bytes: number[], vector = 13): number {
  m.memory.write(CODE, Uint8Array.from(bytes));
  m.run((ctx) => {
    ctx.rip = CODE;
    ctx.setU32(CTX.exitVector, vector);
    ctx.setU32(CTX.exitHasError, vector === 13 ? 1 : 0);
    ctx.setU32(CTX.exitError, 0);
    return VMEXIT.exception;
  });
  return m.cpu.ctx.rip - CODE;
}
const set = (reg: number, value: number): void => m.cpu.ctx.setGpr(reg, value);
const get = (reg: number): number => m.cpu.ctx.gpr(reg);
const faulted = (): boolean => m.cpu.ctx.rip === GP;

function rdmsr(index: number): bigint | null {
  set(REG.rcx, index);
  execute([0x0f, 0x32]);
  if (faulted()) return null;
  return (BigInt(get(REG.rdx)) << 32n) | BigInt(get(REG.rax));
}
function wrmsr(index: number, value: bigint): boolean {
  set(REG.rcx, index);
  set(REG.rax, Number(value & 0xffff_ffffn));
  set(REG.rdx, Number(value >> 32n));
  execute([0x0f, 0x30]);
  return !faulted();
}

describe('port instructions', () => {
  it('reads all-ones where nothing is, in each size, and leaves the rest of RAX as the size demands', () => {
    m.cpu.ctx.setBig(CTX.gpr, 0x1122_3344_5566_7788n);
    set(REG.rdx, 0x64);
    expect(execute([0xec])).toBe(1);
    expect(m.cpu.ctx.big(CTX.gpr)).toBe(0x1122_3344_5566_77ffn);
    expect(execute([0x66, 0xed])).toBe(2);
    expect(m.cpu.ctx.big(CTX.gpr)).toBe(0x1122_3344_5566_ffffn);
    expect(execute([0xe5, 0x21])).toBe(2);
    expect(m.cpu.ctx.big(CTX.gpr)).toBe(0xffff_ffffn);
  });

  it('has a PCI mechanism without a bus', () => {
    set(REG.rdx, 0xcf8);
    set(REG.rax, 0x8000_0800);
    expect(execute([0xef])).toBe(1);
    set(REG.rax, 0);
    execute([0xed]);
    expect(get(REG.rax)).toBe(0x8000_0800);
    set(REG.rdx, 0xcfc);
    execute([0xed]);
    expect(get(REG.rax)).toBe(0xffff_ffff);
  });

  it('PIT channel 2 counts in step with the clock behind its gate', () => {
    const { ports } = m.domain;
    ports.write(0x61, 1, 1);
    ports.write(0x43, 1, 0xb0);
    ports.write(0x42, 1, 0xff);
    ports.write(0x42, 1, 0xff);
    expect(ports.read(0x61, 1) & 0x20).toBe(0);
    m.clock.now += 10_000_000;
    const count = ports.read(0x42, 1) | (ports.read(0x42, 1) << 8);
    expect(0xffff - count).toBe(Math.floor(1_193_182 / 100));
    m.clock.now += 50_000_000;
    expect(ports.read(0x61, 1) & 0x20).toBe(0x20);
  });

  it('the clock tells the wall-clock time', () => {
    const read = (index: number): number => {
      m.domain.ports.write(0x70, 1, index);
      return m.domain.ports.read(0x71, 1);
    };
    // 2023-11-14 22:13:20 UTC, a Tuesday.
    expect([0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32].map(read)).toEqual([0x20, 0x13, 0x22, 3, 0x14, 0x11, 0x23, 0x20]);
  });

  it('needs virtual privilege: none in user mode, unless the I/O bitmap says so', () => {
    m.domain.vcpu.userRoot = 2 as never;
    m.domain.vcpu.toggleMode();
    set(REG.rdx, 0x70);
    execute([0xec]);
    expect(faulted()).toBe(true);
    poke(m, 0x3000, 0x3100, 0x80);
    m.memory.write(0x3100, new Uint8Array(16).fill(0xff));
    m.memory.write(0x310e, Uint8Array.of(0xfe));
    m.run((ctx) => hypercallStep(ctx, __HYPERVISOR_physdev_op, [7, 0x3000]));
    m.domain.vcpu.toggleMode();
    set(REG.rdx, 0x70);
    expect(execute([0xec])).toBe(1);
    set(REG.rdx, 0x71);
    execute([0xec]);
    expect(faulted()).toBe(true);
  });

  it('INS and OUTS repeat, and stop precisely at a fault', () => {
    set(REG.rdx, 0x300);
    set(REG.rdi, 0x7ff8);
    set(REG.rcx, 4);
    expect(execute([0xf3, 0x66, 0x6d])).toBe(3);
    expect([get(REG.rcx), get(REG.rdi)]).toEqual([0, 0x8000]);
    expect(words(m, 0x7ff8, 1)[0]).toBe(0xffff_ffff_ffff_ffffn);
    set(REG.rsp, 0xa000);
    m.cpu.missing.add(0x7000 >> 12);
    set(REG.rsi, 0x6ff8);
    set(REG.rcx, 4);
    execute([0xf3, 0x6f]);
    expect(m.cpu.ctx.rip).toBe(PF);
    expect([get(REG.rcx), get(REG.rsi)]).toEqual([2, 0x7000]);
  });
});

describe('privileged registers', () => {
  it('reads and writes control registers', () => {
    expect(execute([0x0f, 0x20, 0xc0])).toBe(3);
    expect(get(REG.rax)).toBe(0x8005_0033);
    set(REG.rax, 0x8005_003b);
    expect(execute([0x0f, 0x22, 0xc0])).toBe(3);
    expect(m.cpu.ctx.lo(CTX.cr0)).toBe(0x8005_003b);
    expect(execute([0x0f, 0x06])).toBe(2);
    expect(m.cpu.ctx.lo(CTX.cr0)).toBe(0x8005_0033);
    set(REG.rax, 0x33);
    execute([0x0f, 0x22, 0xc0]);
    expect(faulted()).toBe(true);
    expect(execute([0x41, 0x0f, 0x20, 0xd8])).toBe(4);
    expect(get(REG.r8)).toBe(4096);
    set(REG.rbx, 0x660 | (1 << 16) | (1 << 18) | (1 << 20) | (1 << 7));
    expect(execute([0x0f, 0x22, 0xe3])).toBe(3);
    expect(m.cpu.ctx.lo(CTX.cr4)).toBe(0x660 | (1 << 16) | (1 << 18));
  });

  it('keeps user mode out', () => {
    m.domain.vcpu.userRoot = 2 as never;
    m.domain.vcpu.toggleMode();
    execute([0x0f, 0x20, 0xc0]);
    expect(faulted()).toBe(true);
    expect(m.domain.vcpu.inKernelMode).toBe(true);
  });

  it('reads and writes the MSRs Linux uses', () => {
    expect(rdmsr(0xc000_0080)).toBe(0xd01n);
    expect(rdmsr(0x277)).toBe(0x0000_0501_0007_0406n);
    expect(rdmsr(0x1b)).toBe(0xfee0_0900n);
    m.clock.now = 0x12_3456_789a;
    expect(rdmsr(0x10)).toBe(0x12_3456_789an);
    expect(wrmsr(0xc000_0101, 0xffff_8880_0000_1000n)).toBe(true);
    expect(m.cpu.ctx.big(CTX.segBase + SEGREG.gs * 8)).toBe(0xffff_8880_0000_1000n);
    expect(wrmsr(0xc000_0102, 0x7fff_0000n)).toBe(true);
    expect(rdmsr(0xc000_0102)).toBe(0x7fff_0000n);
    expect(wrmsr(0xc000_0100, 0x8000_0000_0000n)).toBe(false);
    expect(wrmsr(0xc000_0080, 0xd01n)).toBe(true);
    expect(wrmsr(0xc000_0080, 0x501n)).toBe(false);
    expect(wrmsr(0xc000_0103, 3n)).toBe(true);
    expect(rdmsr(0xc000_0103)).toBe(3n);
    for (const index of [0x34, 0x198, 0x606, 0xc001_0015, 0xdead_beef]) expect(rdmsr(index)).toBeNull();
  });

  it('installs a hypercall page on request, in a frame of the guest only', () => {
    expect(wrmsr(0x4000_0000, 0x6001n)).toBe(false);
    expect(wrmsr(0x4000_0000, 0x46000n)).toBe(false);
    m.mmu.tables.add(6);
    expect(wrmsr(0x4000_0000, 0x6000n)).toBe(false);
    m.mmu.tables.clear();
    expect(wrmsr(0x4000_0000, 0x6000n)).toBe(true);
    expect(peek32(m, 0x6000 + 32 + 2)).toBe(0x0001_b853);
    expect(m.mmu.held.get(6)).toBe(0);
  });

  it('XSETBV takes x87 and SSE only', () => {
    const xsetbv = (ecx: number, eax: number): boolean => {
      set(REG.rcx, ecx);
      set(REG.rax, eax);
      set(REG.rdx, 0);
      execute([0x0f, 0x01, 0xd1]);
      return !faulted();
    };
    expect([xsetbv(0, 3), xsetbv(0, 1), xsetbv(0, 2), xsetbv(0, 7), xsetbv(1, 3)]).toEqual([true, true, false, false, false]);
    expect(m.cpu.ctx.lo(CTX.xcr0)).toBe(1);
  });

  it('CLI and STI are accepted with virtual IOPL 1 and change nothing', () => {
    const before = m.cpu.ctx.rflags;
    expect([execute([0xfa]), execute([0xfb])]).toEqual([1, 1]);
    expect(m.cpu.ctx.rflags).toBe(before);
    m.domain.vcpu.iopl = 0;
    execute([0xfa]);
    expect(faulted()).toBe(true);
  });

  it.each([
    ['HLT', [0xf4]],
    ['RDPMC', [0x0f, 0x33]],
    ['LGDT', [0x0f, 0x01, 0x10]],
    ['LTR', [0x0f, 0x00, 0xd8]],
    ['INVLPG', [0x0f, 0x01, 0x38]],
    ['prefixes without end', new Array<number>(15).fill(0x66)],
  ])('%s faults', (_name, bytes) => {
    execute(bytes);
    expect(faulted()).toBe(true);
    expect(words(m, 0x8000 - 64, 4)).toEqual([0n, 0n, 0n, BigInt(CODE)]);
  });

  it('an instruction that ends in a missing page is not decoded', () => {
    m.cpu.missing.add(6);
    m.memory.write(0x5fff, Uint8Array.of(0x0f));
    m.run((ctx) => {
      ctx.rip = 0x5fff;
      ctx.setU32(CTX.exitVector, 13);
      ctx.setU32(CTX.exitHasError, 1);
      ctx.setU32(CTX.exitError, 0);
      return VMEXIT.exception;
    });
    expect(faulted()).toBe(true);
  });

  it('a single step traps after an emulated instruction', () => {
    m.cpu.ctx.rflags = m.cpu.ctx.rflags | RFLAGS.TF;
    execute([0x0f, 0x09]);
    expect(m.cpu.ctx.rip).toBe(DB);
    expect(m.cpu.ctx.lo(CTX.dr + 48) & (1 << 14)).not.toBe(0);
    expect(words(m, 0x8000 - 56, 3)[2]).toBe(BigInt(CODE + 2));
  });
});

describe('CPUID', () => {
  const forced = (leaf: number, sub = 0): number[] => {
    set(REG.rax, leaf);
    set(REG.rcx, sub);
    expect(execute([0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2], 6)).toBe(7);
    return [REG.rax, REG.rbx, REG.rcx, REG.rdx].map(get);
  };

  it('answers the forced form, and leaves a plain UD2 to the guest', () => {
    expect(forced(0x4000_0000)).toEqual([0x4000_0005, 0x566e_6558, 0x6558_4d4d, 0x4d4d_566e]);
    expect(forced(0x4000_0001)[0]).toBe(0x0004_0011);
    expect(forced(0x4000_0002).slice(0, 3)).toEqual([1, 0x4000_0000, 1]);
    expect(forced(0x4000_0003)[2]).toBe(1_000_000);
    execute([0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x90, 0x90], 6);
    expect(m.cpu.ctx.rip).toBe(UD);
  });

  it('describes x86-64-v2 as a PV guest may see it', () => {
    const [, , ecx, edx] = forced(1);
    const has = (word: number, bit: number): boolean => ((word >>> bit) & 1) === 1;
    for (const bit of [0, 9, 13, 19, 20, 23, 26, 27, 31]) expect(has(ecx, bit), `leaf 1 ecx ${bit}`).toBe(true);
    for (const bit of [3, 5, 12, 15, 17, 21, 24, 28, 29, 30]) expect(has(ecx, bit), `leaf 1 ecx ${bit}`).toBe(false);
    for (const bit of [3, 12, 13, 17]) expect(has(edx, bit), `leaf 1 edx ${bit}`).toBe(false);
    const [, ebx7] = forced(7);
    for (const bit of [3, 5, 7, 8, 10, 20]) expect(has(ebx7, bit), `leaf 7 ebx ${bit}`).toBe(false);
    expect([has(ebx7, 0), has(ebx7, 9)]).toEqual([true, true]);
    const ext = forced(0x8000_0001);
    expect([11, 20, 27, 29].every((bit) => has(ext[3], bit))).toBe(true);
    expect(has(ext[3], 26)).toBe(false);
    expect(forced(0xd)).toEqual([3, 576, 576, 0]);
    const brand = [0x8000_0002, 0x8000_0003, 0x8000_0004].flatMap((leaf) => forced(leaf));
    const text = brand.flatMap((word) => [0, 8, 16, 24].map((shift) => String.fromCharCode((word >>> shift) & 0xff))).join('');
    expect(text.replaceAll('\0', '')).toBe('Paravane Virtual CPU (x86-64-v2)');
    expect(forced(0x1234_5678)).toEqual([0, 0, 0, 0]);
  });
});
