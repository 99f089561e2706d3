// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { CTX, REG, SEGREG } from '../../memory/vcpu-context.ts';
import { VMEXIT } from '../../accel/accelerator.ts';
import { __HYPERVISOR_iret, __HYPERVISOR_set_trap_table, __HYPERVISOR_stack_switch, VCPU_INFO } from '../abi/xen.ts';
import { exceptionStep, type FakeMachine, fakeMachine, hypercallStep, poke, words } from '../testing/fake-machine.ts';
import { LIFECYCLE } from '../shared-state.ts';
import { DomainControl } from '../dom0/domain-control.ts';
import { TRAP } from './deliver.ts';

const HANDLER = 0xffff_ffff_8100_0000n;
const handler = Number(BigInt.asIntN(64, HANDLER));

function machineWithTraps(): FakeMachine {
  const m = fakeMachine();
  m.state.u8[m.domain.vcpu.info + VCPU_INFO.upcallMask] = 0;
  m.domain.vcpu.traps.set(TRAP.gpFault, 0, 0xe033, handler);
  m.domain.vcpu.traps.set(TRAP.pageFault, 4, 0xe033, handler + 0x10);
  m.domain.vcpu.traps.set(TRAP.invalidOp, 0, 0xe033, handler + 0x20);
  m.domain.vcpu.kernelSp = 0x9000;
  return m;
}

function inUser(m: FakeMachine): void {
  m.domain.vcpu.userRoot = 2 as never;
  m.domain.vcpu.toggleMode();
}

describe('bounce frame', () => {
  it('from kernel mode: current stack aligned down, RPL cleared in CS, error code between R11 and RIP', () => {
    const m = machineWithTraps();
    m.run((ctx) => {
      ctx.rip = 0x5000;
      ctx.setGpr(REG.rsp, 0x8007);
      ctx.setGpr(REG.rcx, 0x111);
      ctx.setGpr(REG.r11, 0x222);
      ctx.rflags = 0x1_0346;
      return exceptionStep(ctx, TRAP.gpFault, 0x5a);
    });
    const { ctx } = m.cpu;
    expect(ctx.gpr(REG.rsp)).toBe(0x8000 - 64);
    expect(words(m, 0x8000 - 64, 8)).toEqual([0x111n, 0x222n, 0x5an, 0x5000n, 0xe030n, 0x1_0346n, 0x8007n, 0xe02bn]);
    expect(ctx.big(CTX.rip)).toBe(HANDLER);
    expect(ctx.selector(SEGREG.cs)).toBe(0xe033);
    expect(ctx.selector(SEGREG.ss)).toBe(0xe02b);
    // RF and TF do not reach the handler, IF of the processor stays.
    expect(ctx.rflags).toBe(0x246);
    expect(m.domain.vcpu.upcallMask).toBe(0);
  });

  it('from user mode: kernel stack, GS bases and address space switched, user CS, U bit in the page-fault code, cr2 in vcpu_info', () => {
    const m = machineWithTraps();
    inUser(m);
    const kernelGs = m.cpu.ctx.num(CTX.kernelGsBase);
    m.run((ctx) => {
      ctx.rip = 0x40_0000;
      ctx.setGpr(REG.rsp, 0x7000);
      ctx.setBig(CTX.cr2, 0xdead_beef_000n);
      return exceptionStep(ctx, TRAP.pageFault, 2);
    });
    const { ctx } = m.cpu;
    expect(words(m, 0x9000 - 64, 8)).toEqual([0n, 0n, 6n, 0x40_0000n, 0xe033n, 0x202n, 0x7000n, 0xe02bn]);
    expect(m.domain.vcpu.inKernelMode).toBe(true);
    expect(ctx.segBase(SEGREG.gs)).toBe(kernelGs);
    expect(m.state.u8[m.domain.vcpu.info + VCPU_INFO.upcallMask]).toBe(1);
    const view = new DataView(m.memory.buffer, m.domain.vcpu.info);
    expect(view.getBigUint64(VCPU_INFO.cr2, true)).toBe(0xdead_beef_000n);
  });

  it('clears the U bit of a kernel-mode page fault and keeps a set event mask in the frame', () => {
    const m = machineWithTraps();
    m.domain.vcpu.upcallMask = 1;
    m.run((ctx) => {
      ctx.setGpr(REG.rsp, 0x8000);
      ctx.rip = 0x5000;
      return exceptionStep(ctx, TRAP.pageFault, 6);
    });
    const frame = words(m, 0x8000 - 64, 8);
    expect(frame[2]).toBe(2n);
    expect(frame[4]).toBe(0x1_0000_e030n);
    expect(frame[5] & 0x200n).toBe(0n);
  });

  it('spans two pages', () => {
    const m = machineWithTraps();
    m.run((ctx) => {
      ctx.setGpr(REG.rsp, 0x8010);
      ctx.rip = 0x5000;
      return exceptionStep(ctx, TRAP.invalidOp);
    });
    expect(words(m, 0x8010 - 56, 7)).toEqual([0n, 0n, 0x5000n, 0xe030n, 0x202n, 0x8010n, 0xe02bn]);
  });

  it.each([
    ['an unwritable stack', (m: FakeMachine) => m.cpu.readonly.add(7), 0x8000],
    ["a stack in the hypervisor's range", () => {}, -(2 ** 47) + 0x1000],
    ['a stack that is no address', () => {}, 2 ** 50],
  ])('%s ends the domain with a report', (_what, prepare, rsp) => {
    const m = machineWithTraps();
    prepare(m);
    expect(
      m.run((ctx) => {
        ctx.setGpr(REG.rsp, rsp);
        return exceptionStep(ctx, TRAP.gpFault, 0x10);
      }),
    ).toBe('ended');
    const end = new DomainControl(m.state).end;
    expect(end?.kind).toBe('crashed');
    expect(end?.kind === 'crashed' && end.report[0]).toMatch(/exception 13 could not be delivered: the kernel stack/);
  });

  it('a missing handler ends the domain', () => {
    const m = machineWithTraps();
    m.run((ctx) => {
      ctx.setGpr(REG.rsp, 0x8000);
      return exceptionStep(ctx, TRAP.divide);
    });
    expect(m.state.lifecycle).toBe(LIFECYCLE.crashed);
  });
});

describe('system calls and software interrupts', () => {
  it('SYSCALL in user mode enters the callback with RCX and R11 in their slots and DF clear', () => {
    const m = machineWithTraps();
    inUser(m);
    m.domain.vcpu.syscall.address = handler;
    m.domain.vcpu.syscall.maskEvents = true;
    m.run((ctx) => {
      ctx.setSegment(SEGREG.cs, 0x33, 0, 0xffff_ffff, 0xafb);
      ctx.rip = 0x40_1002;
      ctx.rflags = 0x602;
      ctx.setGpr(REG.rsp, 0x7000);
      ctx.setGpr(REG.rcx, 1);
      return VMEXIT.syscall;
    });
    expect(words(m, 0x9000 - 56, 7)).toEqual([0x40_1002n, 0x602n, 0x40_1002n, 0xe033n, 0x602n, 0x7000n, 0xe02bn]);
    expect(m.cpu.ctx.rflags).toBe(0x202);
    expect(m.domain.vcpu.upcallMask).toBe(1);
  });

  it('an unregistered SYSCALL is #UD at the instruction', () => {
    const m = machineWithTraps();
    inUser(m);
    m.run((ctx) => {
      ctx.rip = 0x40_1002;
      ctx.setU32(CTX.exitLength, 2);
      return VMEXIT.syscall;
    });
    expect(words(m, 0x9000 - 56, 3)[2]).toBe(0x40_1000n);
    expect(m.cpu.ctx.rip).toBe(handler + 0x20);
  });

  it('INT n needs the level of its entry: 3 for user mode, 1 for the kernel', () => {
    const m = machineWithTraps();
    m.domain.vcpu.traps.set(0x50, 1, 0xe033, handler + 0x50);
    const int50 = (ctx: FakeMachine['cpu']['ctx']): 5 => {
      ctx.rip = 0x5000;
      ctx.setGpr(REG.rsp, 0x8000);
      ctx.setU32(CTX.exitVector, 0x50);
      ctx.setU32(CTX.exitLength, 2);
      return VMEXIT.softwareInterrupt;
    };
    m.run(int50);
    expect(m.cpu.ctx.rip).toBe(handler + 0x50);
    expect(words(m, 0x8000 - 56, 3)[2]).toBe(0x5002n);
    inUser(m);
    m.run(int50);
    expect(m.cpu.ctx.rip).toBe(handler);
    expect(words(m, 0x9000 - 64, 4)).toEqual([0n, 0n, BigInt(0x50 * 8 + 2), 0x5000n]);
  });

  it('INT 0x80 goes to its own entry from user mode', () => {
    const m = machineWithTraps();
    m.domain.vcpu.traps.set(0x80, 0, 0xe033, handler + 0x80);
    inUser(m);
    m.run((ctx) => {
      ctx.setU32(CTX.exitVector, 0x80);
      ctx.setU32(CTX.exitLength, 2);
      return VMEXIT.softwareInterrupt;
    });
    expect(m.cpu.ctx.rip).toBe(handler + 0x80);
  });
});

describe('HYPERVISOR_iret', () => {
  const RAX = 0x1234n;
  const iret = (m: FakeMachine, frame: (number | bigint)[]): void => {
    poke(m, 0x6000, ...frame);
    m.run((ctx) => {
      ctx.setGpr(REG.rsp, 0x6000);
      return hypercallStep(ctx, __HYPERVISOR_iret, []);
    });
  };

  it('returns to user mode as SYSRET with VGCF_in_syscall', () => {
    const m = machineWithTraps();
    m.domain.vcpu.userRoot = 2 as never;
    const userGs = m.cpu.ctx.num(CTX.kernelGsBase);
    iret(m, [RAX, 0x11, 0x22, 0x100, 0x40_0000, 0x33, 0x10246, 0x7000, 0x2b]);
    const { ctx } = m.cpu;
    expect(m.domain.vcpu.inKernelMode).toBe(false);
    expect(ctx.segBase(SEGREG.gs)).toBe(userGs);
    expect([ctx.big(CTX.rip), ctx.gpr(REG.rcx), ctx.gpr(REG.rsp), ctx.big(CTX.gpr)]).toEqual([0x40_0000n, 0x40_0000, 0x7000, RAX]);
    expect(ctx.gpr(REG.r11)).toBe(ctx.rflags);
    expect([ctx.selector(SEGREG.cs), ctx.selector(SEGREG.ss)]).toEqual([0xe033, 0xe02b]);
    expect(m.domain.vcpu.upcallMask).toBe(0);
  });

  it('returns as IRETQ otherwise: selectors of the frame, IF becomes the event mask, IOPL is dropped', () => {
    const m = machineWithTraps();
    m.domain.vcpu.userRoot = 2 as never;
    m.mmu.descriptors.set(0x30, [0xffff, 0x00af_fb00]);
    m.mmu.descriptors.set(0x28, [0xffff, 0x00cf_f300]);
    iret(m, [0, 0x11, 0x22, 0, 0x40_0000, 0x33, 0x3046, 0x7000, 0x2b]);
    const { ctx } = m.cpu;
    expect([ctx.selector(SEGREG.cs), ctx.selector(SEGREG.ss), ctx.gpr(REG.rcx), ctx.gpr(REG.r11)]).toEqual([0x33, 0x2b, 0x22, 0x11]);
    expect(ctx.u32(CTX.codeBits)).toBe(64);
    expect(ctx.rflags).toBe(0x246);
    expect(m.domain.vcpu.upcallMask).toBe(1);
  });

  it('returns to kernel mode for CS with RPL 0', () => {
    const m = machineWithTraps();
    iret(m, [0, 0, 0, 0, 0x5000, 0xe030, 0x202, 0x6100, 0xe02b]);
    expect(m.domain.vcpu.inKernelMode).toBe(true);
    expect(m.cpu.ctx.selector(SEGREG.cs)).toBe(0xe033);
  });

  it('reads a frame that crosses a page', () => {
    const m = machineWithTraps();
    poke(m, 0x6fe0, RAX, 0, 0, 0, 0x5000, 0xe030, 0x202, 0x6100, 0xe02b);
    m.run((ctx) => {
      ctx.setGpr(REG.rsp, 0x6fe0);
      return hypercallStep(ctx, __HYPERVISOR_iret, []);
    });
    expect([m.cpu.ctx.rip, m.cpu.ctx.gpr(REG.rsp), m.cpu.ctx.big(CTX.gpr)]).toEqual([0x5000, 0x6100, RAX]);
  });

  it.each([
    ['a code selector outside of its table', 0x73, 0x2b, 13, 0x70],
    ['a stack selector outside of its table', 0x33, 0x7b, 13, 0x78],
    ['a null stack selector', 0x33, 0x3, 13, 0],
    ['a code segment that is not present', 0x43, 0x2b, 11, 0x40],
    ['a stack segment that is not present', 0x33, 0x4b, 12, 0x48],
  ])('%s faults with the state of the frame', (_what, cs, ss, vector, error) => {
    const m = machineWithTraps();
    m.domain.vcpu.userRoot = 2 as never;
    for (const trap of [TRAP.noSegment, TRAP.stackError]) m.domain.vcpu.traps.set(trap, 0, 0xe033, handler + trap * 16);
    m.mmu.descriptors.set(0x30, [0xffff, 0x00af_fb00]).set(0x28, [0xffff, 0x00cf_f300]);
    m.mmu.descriptors.set(0x40, [0xffff, 0x00af_7b00]).set(0x48, [0xffff, 0x00cf_7300]);
    iret(m, [0, 0x11, 0x22, 0, 0x40_0000, cs, 0x202, 0x7000, ss]);
    expect(m.cpu.ctx.rip).toBe(m.domain.vcpu.traps.address[vector]);
    expect(words(m, 0x9000 - 64, 8)).toEqual([0x22, 0x11, error, 0x40_0000, cs, 0x202, 0x7000, ss].map(BigInt));
    expect(m.domain.vcpu.inKernelMode).toBe(true);
  });

  it('to user mode without user tables, or from an unreadable frame, ends the domain', () => {
    const m = machineWithTraps();
    iret(m, [0, 0, 0, 0, 0x40_0000, 0x33, 0x202, 0x7000, 0x2b]);
    expect(m.state.lifecycle).toBe(LIFECYCLE.crashed);
    const n = machineWithTraps();
    n.run((ctx) => {
      ctx.setGpr(REG.rsp, 0x400_0000);
      return hypercallStep(ctx, __HYPERVISOR_iret, []);
    });
    expect(n.state.lifecycle).toBe(LIFECYCLE.crashed);
  });

  it('delivers a pending event right after events were unmasked', () => {
    const m = machineWithTraps();
    m.domain.vcpu.event.address = handler + 0x300;
    m.domain.vcpu.upcallMask = 1;
    m.state.u8[m.domain.vcpu.info] = 1;
    poke(m, 0x6000, 0, 0, 0, 0, 0x5000, 0xe030, 0x202, 0x6100, 0xe02b);
    m.run((ctx) => {
      ctx.setGpr(REG.rsp, 0x6000);
      return hypercallStep(ctx, __HYPERVISOR_iret, []);
    });
    expect(m.cpu.ctx.rip).toBe(handler + 0x300);
    expect(words(m, 0x6100 - 56, 5)).toEqual([0n, 0n, 0x5000n, 0xe030n, 0x202n]);
    expect(m.domain.vcpu.upcallMask).toBe(1);
  });
});

describe('set_trap_table and stack_switch', () => {
  it('takes entries up to the terminator and refuses addresses that are none', () => {
    const m = fakeMachine();
    poke(m, 0x3000, 0xe033_0000n | 0x030en, HANDLER, 0, 0);
    expect(m.call(__HYPERVISOR_set_trap_table, 0x3000)).toBe(0);
    expect(m.domain.vcpu.traps.address[14]).toBe(handler);
    expect(m.domain.vcpu.traps.dpl(14)).toBe(3);
    poke(m, 0x3000, 0x0en, 0x8000_0000_0000n);
    expect(m.call(__HYPERVISOR_set_trap_table, 0x3000)).toBe(-22);
    expect(m.call(__HYPERVISOR_set_trap_table, 0x100_0000)).toBe(-14);
    expect(m.call(__HYPERVISOR_stack_switch, 0xe02b, 0x9100)).toBe(0);
    expect(m.domain.vcpu.kernelSp).toBe(0x9100);
  });
});

describe('SYSENTER', () => {
  it('enters its callback with a frame of nulls, and is #GP while there is none', () => {
    const m = machineWithTraps();
    inUser(m);
    m.cpu.ctx.setU32(CTX.exitLength, 2);
    m.run((ctx) => {
      ctx.rip = 0x40_1002;
      return VMEXIT.sysenter;
    });
    expect(m.cpu.ctx.rip).toBe(handler);
    inUser(m);
    m.domain.vcpu.sysenter.address = handler + 0x500;
    m.run((ctx) => {
      ctx.rip = 0x40_1002;
      ctx.setGpr(REG.rsp, 0x7000);
      ctx.rflags = 0x246;
      return VMEXIT.sysenter;
    });
    expect(m.cpu.ctx.rip).toBe(handler + 0x500);
    expect(words(m, 0x9000 - 56, 7).slice(2)).toEqual([0n, 3n, 0x246n, 0n, 0xe02bn]);
  });
});
