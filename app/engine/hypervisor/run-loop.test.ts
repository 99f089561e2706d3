// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { VMEXIT } from '../accel/accelerator.ts';
import { CTX, REG, SEGREG } from '../memory/vcpu-context.ts';
import {
  __HYPERVISOR_sched_op,
  __HYPERVISOR_set_timer_op,
  __HYPERVISOR_vcpu_op,
  GUEST_CONTEXT,
  SHARED_INFO,
  USER_REGS,
  VCPU_INFO,
  VGCF_in_kernel,
  VIRQ_TIMER,
} from './abi/xen.ts';
import { DomainControl } from './dom0/domain-control.ts';
import { STATE, VCPU_INITIALISED, VCPU_STATE, VCPU_UP } from './shared-state.ts';
import { type FakeMachine, fakeMachine, furtherVcpu, hypercallStep, peek32, poke, poke32, words } from './testing/fake-machine.ts';

const ARG = 0x3000;
const EVENT = 0x4_0000;

function withTimer(onWait?: (m: FakeMachine, ms: number) => void): FakeMachine {
  const m = fakeMachine(onWait === undefined ? {} : { onWait });
  m.domain.events.bindVirq(VIRQ_TIMER, 0);
  m.domain.vcpu.event.address = EVENT;
  m.cpu.ctx.setGpr(REG.rsp, 0x8000);
  m.domain.vcpu.upcallMask = 1;
  return m;
}

describe('blocking and timers', () => {
  it('SCHEDOP_block unmasks, sleeps until the single-shot timer, and enters the event callback', () => {
    const m = withTimer();
    m.domain.vcpu.timers.singleShot = 5_001_000;
    let ripAfter = 0;
    m.run(
      (ctx) => {
        ctx.rip = 0x5002;
        return hypercallStep(ctx, __HYPERVISOR_sched_op, [1, 0]);
      },
      (ctx) => {
        ripAfter = ctx.rip;
        return VMEXIT.budget;
      },
    );
    expect(m.waits).toEqual([5]);
    expect(ripAfter).toBe(EVENT);
    expect(m.cpu.ctx.gpr(REG.rax)).toBe(0);
    expect(words(m, 0x8000 - 56, 4)[2]).toBe(0x5002n);
    expect(m.domain.vcpu.stats.blocks).toBe(1);
  });

  it('does not sleep when an event is pending already', () => {
    const m = withTimer();
    m.state.u8[m.domain.vcpu.info] = 1;
    m.run(
      (ctx) => hypercallStep(ctx, __HYPERVISOR_sched_op, [1, 0]),
      () => VMEXIT.budget,
    );
    expect(m.waits).toEqual([]);
    expect(m.domain.vcpu.stats.upcalls).toBe(1);
  });

  it('set_timer_op in the past fires at once; 0 stops', () => {
    const m = withTimer();
    m.domain.vcpu.upcallMask = 0;
    m.clock.now = 9_000;
    m.run(
      (ctx) => hypercallStep(ctx, __HYPERVISOR_set_timer_op, [100]),
      () => VMEXIT.budget,
    );
    expect(m.cpu.ctx.rip).toBe(EVENT);
    m.call(__HYPERVISOR_set_timer_op, 99_999);
    expect(m.domain.vcpu.timers.deadline).toBe(99_999);
    m.call(__HYPERVISOR_set_timer_op, 0);
    expect(m.domain.vcpu.timers.deadline).toBe(Number.POSITIVE_INFINITY);
  });

  it('a periodic timer counts missed periods once and stays in step', () => {
    const { timers } = fakeMachine().domain.vcpu;
    timers.setPeriodic(10, 100);
    expect(timers.expire(109)).toBe(false);
    expect(timers.expire(135)).toBe(true);
    expect(timers.deadline).toBe(140);
    expect(timers.expire(135)).toBe(false);
  });

  it('SCHEDOP_poll returns for a pending port, for its timeout, and refuses hostile lists', () => {
    const m = withTimer();
    const poll = (count: number, timeout: number, ports = 0x3100): number => {
      poke(m, ARG, ports, count, timeout);
      return m.call(__HYPERVISOR_sched_op, 3, ARG);
    };
    poke32(m, 0x3100, 1);
    expect(poll(1, 3_001_000)).toBe(0);
    expect(m.waits).toEqual([3]);
    expect(m.domain.vcpu.blocked).toBe(false);
    m.domain.events.sendVirq(0, VIRQ_TIMER);
    expect(poll(1, 0)).toBe(0);
    expect(m.waits).toEqual([3]);
    expect(poll(129, 0)).toBe(-22);
    expect(poll(4, 0, 0x100_0000)).toBe(-14);
    poke32(m, 0x3100, 4096);
    expect(poll(1, 0)).toBe(-22);
    expect(m.state.get(STATE.pollers)).toBe(0);
  });

  it('a poll on a masked port ends when another thread sends to it', () => {
    const m = withTimer((machine) => machine.domain.events.delivery.raise(1, 0));
    m.state.i32[(m.state.sharedInfo + SHARED_INFO.evtchnMask) >>> 2] = 2;
    poke32(m, 0x3100, 1);
    poke(m, ARG, 0x3100, 1, 0);
    expect(m.call(__HYPERVISOR_sched_op, 3, ARG)).toBe(0);
    expect(m.waits).toEqual([Number.POSITIVE_INFINITY]);
  });

  it('accounts run states and keeps the registered area up to date', () => {
    const m = withTimer();
    poke(m, ARG, 0x7000);
    expect(m.call(__HYPERVISOR_vcpu_op, 5, 0, ARG)).toBe(0);
    m.domain.vcpu.timers.singleShot = 5_001_000;
    m.clock.now = 2_001_000;
    m.run(
      (ctx) => hypercallStep(ctx, __HYPERVISOR_sched_op, [1, 0]),
      () => VMEXIT.budget,
    );
    const [state, entered, running, , blocked] = words(m, 0x7000, 5);
    expect([state, entered, running, blocked]).toEqual([0n, 5_001_000n, 2_000_000n, 3_000_000n]);
  });
});

describe('vcpu_op', () => {
  it('counts vCPUs: up, existing, not existing', () => {
    const m = fakeMachine({ vcpus: 2 });
    expect([0, 1, 2, 8191].map((id) => m.call(__HYPERVISOR_vcpu_op, 3, id, 0))).toEqual([1, 0, -2, -2]);
    expect(m.call(__HYPERVISOR_vcpu_op, 1, 1, 0)).toBe(-22);
  });

  it('registers vcpu_info once, with everything pending, and the clock in it', () => {
    const m = fakeMachine();
    poke(m, ARG, 6, 0x40);
    expect(m.call(__HYPERVISOR_vcpu_op, 10, 0, ARG)).toBe(0);
    expect(m.state.vcpuInfo(0)).toBe(m.memory.frameOffset(6 as never) + 0x40);
    expect(words(m, 0x6040, 2)).toEqual([0x101n, 0xffff_ffff_ffff_ffffn]);
    expect(words(m, 0x6040 + VCPU_INFO.time + 24, 1)[0]).toBe(0x0101_8000_0000n);
    expect(m.call(__HYPERVISOR_vcpu_op, 10, 0, ARG)).toBe(-22);
    expect(m.mmu.held.get(6)).toBe(1);
  });

  it.each([
    ['crossing the page', 6, 4096 - 60, -6],
    ['misaligned', 6, 2, -6],
    ["a frame of the hypervisor's", 70, 0, -22],
    ['far away', 2 ** 40, 0, -22],
  ])('refuses a vcpu_info %s', (_what, frame, offset, error) => {
    const m = fakeMachine();
    poke(m, ARG, frame, offset);
    expect(m.call(__HYPERVISOR_vcpu_op, 10, 0, ARG)).toBe(error);
  });

  it('timers: periodic limits, single-shot in the future, and only of the calling vCPU', () => {
    const m = fakeMachine({ vcpus: 2 });
    poke(m, ARG, 999_999);
    expect(m.call(__HYPERVISOR_vcpu_op, 6, 0, ARG)).toBe(-22);
    poke(m, ARG, 1_000_000);
    expect(m.call(__HYPERVISOR_vcpu_op, 6, 0, ARG)).toBe(0);
    expect(m.domain.vcpu.timers.periodNs).toBe(1_000_000);
    expect(m.call(__HYPERVISOR_vcpu_op, 7, 0, 0)).toBe(0);
    poke(m, ARG, 10, 1);
    expect(m.call(__HYPERVISOR_vcpu_op, 8, 0, ARG)).toBe(-62);
    expect(m.call(__HYPERVISOR_vcpu_op, 8, 1, ARG)).toBe(-22);
    expect(m.call(__HYPERVISOR_vcpu_op, 12, 0, ARG)).toBe(-22);
  });

  it('sends an NMI once until the next iret', () => {
    const m = fakeMachine();
    m.domain.vcpu.traps.set(2, 0, 0xe033, 0x4_0200);
    m.cpu.ctx.setGpr(REG.rsp, 0x8000);
    m.run(
      (ctx) => hypercallStep(ctx, __HYPERVISOR_vcpu_op, [11, 0, 0]),
      (ctx) => {
        expect(ctx.rip).toBe(0x4_0200);
        ctx.rip = 0x5000;
        return hypercallStep(ctx, __HYPERVISOR_vcpu_op, [11, 0, 0]);
      },
      (ctx) => {
        expect(ctx.rip).toBe(0x5000);
        return VMEXIT.budget;
      },
    );
    expect(m.domain.vcpu.nmiMasked).toBe(true);
  });

  it('an NMI without a handler is lost, not kept for a later one', () => {
    const m = fakeMachine();
    m.cpu.ctx.setGpr(REG.rsp, 0x8000);
    expect(m.call(__HYPERVISOR_vcpu_op, 11, 0, ARG)).toBe(-22);
    expect(m.call(__HYPERVISOR_vcpu_op, 11, 0, 0)).toBe(0);
    m.domain.vcpu.traps.set(2, 0, 0xe033, 0x4_0200);
    m.run((ctx) => {
      expect(ctx.rip).not.toBe(0x4_0200);
      return VMEXIT.budget;
    });
    expect(m.domain.vcpu.nmiMasked).toBe(false);
  });

  /** A vcpu_guest_context for a kernel at 0xffffffff81000000 with its stack at 0x9000. */
  const pokeContext = (m: FakeMachine, at: number): void => {
    const put = (offset: number, value: number | bigint): void => poke(m, at + offset, value);
    const regs = GUEST_CONTEXT.userRegs;
    put(GUEST_CONTEXT.flags, VGCF_in_kernel);
    put(regs + USER_REGS.rdi, 0x77);
    put(regs + USER_REGS.rip, 0xffff_ffff_8100_0000n);
    put(regs + USER_REGS.cs, 0xe033);
    put(regs + USER_REGS.rflags, 0x1000);
    put(regs + USER_REGS.rsp, 0x9000);
    put(regs + USER_REGS.ss, 0xe02b);
    put(GUEST_CONTEXT.trapCtxt, 0xe033_0000_000en);
    put(GUEST_CONTEXT.trapCtxt + 8, 0x4_0e00);
    put(GUEST_CONTEXT.kernelSs, 0xe02b);
    put(GUEST_CONTEXT.kernelSp, 0xa000);
    put(GUEST_CONTEXT.ctrlreg + 3 * 8, 9 * 4096);
    put(GUEST_CONTEXT.eventCallback, EVENT);
    put(GUEST_CONTEXT.fsBase, 0x1111);
    put(GUEST_CONTEXT.gsBaseKernel, 0x1234);
    put(GUEST_CONTEXT.gsBaseUser, 0x5678);
  };

  it('VCPUOP_initialise stores a context once; VCPUOP_up needs one', () => {
    const m = fakeMachine({ vcpus: 2 });
    pokeContext(m, 0x1_0000);
    expect(m.call(__HYPERVISOR_vcpu_op, 1, 1, 0)).toBe(-22);
    expect(m.call(__HYPERVISOR_vcpu_op, 0, 1, 0x1_0000)).toBe(0);
    expect(m.call(__HYPERVISOR_vcpu_op, 0, 1, 0x1_0000)).toBe(-17);
    expect(m.call(__HYPERVISOR_vcpu_op, 3, 1, 0)).toBe(0);
    expect(m.call(__HYPERVISOR_vcpu_op, 1, 1, 0)).toBe(0);
    expect(m.state.getVcpu(1, VCPU_STATE.flags)).toBe(VCPU_INITIALISED | VCPU_UP);
    expect(m.call(__HYPERVISOR_vcpu_op, 3, 1, 0)).toBe(1);
  });

  it.each([
    ['nothing for a vCPU that does not exist', 2, -2],
    ['nothing for a vCPU that runs', 0, -17],
  ])('VCPUOP_initialise: %s', (_what, id, error) => {
    const m = fakeMachine({ vcpus: 2 });
    pokeContext(m, 0x1_0000);
    expect(m.call(__HYPERVISOR_vcpu_op, 0, id, 0x1_0000)).toBe(error);
  });

  it('a second vCPU sleeps until it is up, then starts with the context it was initialised with', () => {
    const first = fakeMachine({ vcpus: 2 });
    pokeContext(first, 0x1_0000);
    first.call(__HYPERVISOR_vcpu_op, 0, 1, 0x1_0000);
    const second = furtherVcpu(first, 1, {
      // While the second sleeps, the first overwrites the structure, which is no business of the second's any more, and brings it up.
      onWait: () => {
        poke(first, 0x1_0000 + GUEST_CONTEXT.userRegs + USER_REGS.rip, 0);
        expect(first.call(__HYPERVISOR_vcpu_op, 1, 1, 0)).toBe(0);
      },
    });
    second.run((ctx) => {
      expect(ctx.big(CTX.rip)).toBe(0xffff_ffff_8100_0000n);
      expect([ctx.gpr(REG.rsp), ctx.gpr(REG.rdi), ctx.rflags]).toEqual([0x9000, 0x77, 0x202]);
      expect([ctx.selector(SEGREG.cs), ctx.selector(SEGREG.ss)]).toEqual([0xe033, 0xe02b]);
      expect([ctx.segBase(SEGREG.fs), ctx.segBase(SEGREG.gs), ctx.num(CTX.kernelGsBase)]).toEqual([0x1111, 0x1234, 0x5678]);
      expect([ctx.u16(CTX.fcw), ctx.u32(CTX.mxcsr)]).toEqual([0x37f, 0x1f80]);
      return VMEXIT.budget;
    });
    expect(second.waits).toEqual([Number.POSITIVE_INFINITY]);
    const { vcpu } = second.domain;
    expect([vcpu.id, vcpu.kernelRoot, vcpu.kernelSp, vcpu.event.address, vcpu.traps.address[14]]).toEqual([1, 9, 0xa000, EVENT, 0x4_0e00]);
    expect(vcpu.inKernelMode).toBe(true);
    expect(second.state.getVcpu(1, VCPU_STATE.runstate)).toBe(0);
  });

  it('a second vCPU whose page tables are refused takes the domain with it', () => {
    const first = fakeMachine({ vcpus: 2 });
    pokeContext(first, 0x1_0000);
    first.call(__HYPERVISOR_vcpu_op, 0, 1, 0x1_0000);
    first.call(__HYPERVISOR_vcpu_op, 1, 1, 0);
    first.mmu.initializeVcpu = () => -22;
    expect(furtherVcpu(first, 1).run(() => VMEXIT.budget)).toBe('ended');
    const end = new DomainControl(first.state).end;
    expect(end?.kind === 'crashed' ? end.report[0] : '').toContain('vCPU 1: its page tables');
  });

  it('a data selector that cannot be loaded enters the failsafe callback with the selectors', () => {
    const first = fakeMachine({ vcpus: 2 });
    pokeContext(first, 0x1_0000);
    poke(first, 0x1_0000 + GUEST_CONTEXT.userRegs + USER_REGS.ds, 0x73);
    poke(first, 0x1_0000 + GUEST_CONTEXT.failsafeCallback, 0x4_0700);
    first.call(__HYPERVISOR_vcpu_op, 0, 1, 0x1_0000);
    first.call(__HYPERVISOR_vcpu_op, 1, 1, 0);
    const second = furtherVcpu(first, 1);
    second.run((ctx) => {
      expect(ctx.rip).toBe(0x4_0700);
      return VMEXIT.budget;
    });
    // RCX, R11, DS, ES, FS, GS, RIP
    expect(words(second, 0x9000 - 88, 7)).toEqual([0n, 0n, 0x73n, 0n, 0n, 0n, 0xffff_ffff_8100_0000n]);
  });

  it('the last vCPU that goes down powers the domain off', () => {
    const m = fakeMachine();
    expect(m.run((ctx) => hypercallStep(ctx, __HYPERVISOR_vcpu_op, [2, 0, 0]))).toBe('ended');
    expect(new DomainControl(m.state).end).toEqual({ kind: 'shutdown', reason: 'poweroff' });
  });
});

describe('the end of a domain', () => {
  it.each([
    [0, 'poweroff'],
    [1, 'reboot'],
    [2, 'suspend'],
    [4, 'watchdog'],
  ])('SCHEDOP_shutdown %i is %s', async (reason, name) => {
    const m = fakeMachine();
    const control = new DomainControl(m.state);
    const ended = control.ended();
    poke32(m, ARG, reason);
    expect(m.run((ctx) => hypercallStep(ctx, __HYPERVISOR_sched_op, [2, ARG]))).toBe('ended');
    expect(await ended).toEqual({ kind: 'shutdown', reason: name });
  });

  it('a suspend that was cancelled answers 1 and the guest goes on', () => {
    const m = fakeMachine();
    poke32(m, ARG, 2);
    m.run((ctx) => hypercallStep(ctx, __HYPERVISOR_sched_op, [2, ARG]));
    m.domain.continueAfterSuspend(true);
    expect(m.cpu.ctx.gpr(REG.rax)).toBe(1);
    expect(m.run(() => VMEXIT.budget)).toBe('stopped');
    expect(m.domain.vcpu.stats.exits[VMEXIT.budget]).toBe(1);
  });

  it('SHUTDOWN_crash leaves a report with registers and stack', () => {
    const m = fakeMachine();
    poke32(m, ARG, 3);
    poke(m, 0x8000, 0xabcd_ef01_2345n);
    m.run((ctx) => {
      ctx.setGpr(REG.rsp, 0x8000);
      ctx.setBig(CTX.gpr + REG.r15 * 8, 0xfeed_face_cafe_beefn);
      return hypercallStep(ctx, __HYPERVISOR_sched_op, [2, ARG]);
    });
    const end = new DomainControl(m.state).end;
    const text = end?.kind === 'crashed' ? end.report.join('\n') : '';
    expect(text).toContain('SHUTDOWN_crash');
    expect(text).toContain('R15 feedfacecafebeef');
    expect(text).toContain('0000abcdef012345');
  });

  it('an engine fault is a crash, not an exception', () => {
    const m = fakeMachine();
    expect(m.run(() => VMEXIT.engineFault)).toBe('ended');
    expect(new DomainControl(m.state).end?.kind).toBe('crashed');
  });

  it('a watchdog that is not served ends the domain', () => {
    const m = fakeMachine();
    poke32(m, ARG, 0, 2);
    expect(m.call(__HYPERVISOR_sched_op, 6, ARG)).toBe(1);
    poke32(m, ARG, 1, 3);
    expect(m.call(__HYPERVISOR_sched_op, 6, ARG)).toBe(0);
    poke32(m, ARG, 2, 3);
    expect(m.call(__HYPERVISOR_sched_op, 6, ARG)).toBe(-22);
    m.clock.now += 3e9;
    expect(m.run(() => VMEXIT.budget)).toBe('ended');
    expect(new DomainControl(m.state).end).toEqual({ kind: 'shutdown', reason: 'watchdog' });
  });

  it('pause and resume from outside', () => {
    const m = fakeMachine();
    const control = new DomainControl(m.state);
    expect(
      m.run(() => {
        control.pause();
        return VMEXIT.kick;
      }),
    ).toBe('paused');
    control.resume();
    expect(m.state.get(STATE.request)).toBe(0);
  });
});

describe('time', () => {
  it('writes clock parameters and wall clock under their versions', () => {
    const m = fakeMachine();
    const at = m.state.sharedInfo;
    const view = new DataView(m.memory.buffer, at, 4096);
    expect(view.getUint32(VCPU_INFO.time, true) % 2).toBe(0);
    expect(view.getUint32(VCPU_INFO.time + 24, true)).toBe(0x8000_0000);
    expect([view.getInt8(VCPU_INFO.time + 28), view.getUint8(VCPU_INFO.time + 29)]).toEqual([1, 1]);
    expect(view.getUint32(SHARED_INFO.wcVersion, true) % 2).toBe(0);
    expect(view.getUint32(SHARED_INFO.wcSec, true)).toBe(1_700_000_000);
    expect(view.getUint32(SHARED_INFO.wcNsec, true)).toBe(250_000_000 - 1_000);
  });

  it('the guest formula gives system time back from the TSC', () => {
    const tsc = 123_456_789_012n;
    expect(((tsc << 1n) * 0x8000_0000n) >> 32n).toBe(tsc);
    expect(((1_000_000_000n << 32n) / 0x8000_0000n) >> 1n).toBe(1_000_000_000n);
  });

  it('registers a second copy of the clock parameters', () => {
    const m = fakeMachine();
    poke(m, ARG, 0x7100);
    expect(m.call(__HYPERVISOR_vcpu_op, 13, 0, ARG)).toBe(0);
    expect([peek32(m, 0x7100), peek32(m, 0x7118), peek32(m, 0x711c)]).toEqual([2, 0x8000_0000, 0x101]);
    poke(m, ARG, -(2 ** 47));
    expect(m.call(__HYPERVISOR_vcpu_op, 13, 0, ARG)).toBe(-14);
  });
});
