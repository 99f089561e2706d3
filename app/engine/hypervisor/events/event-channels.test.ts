// SPDX-License-Identifier: Apache-2.0
import { beforeEach, describe, expect, it } from 'vitest';
import { VMEXIT } from '../../accel/accelerator.ts';
import { CTX } from '../../memory/vcpu-context.ts';
import {
  EVTCHNOP_alloc_unbound,
  EVTCHNOP_bind_interdomain,
  EVTCHNOP_bind_ipi,
  EVTCHNOP_bind_pirq,
  EVTCHNOP_bind_vcpu,
  EVTCHNOP_bind_virq,
  EVTCHNOP_close,
  EVTCHNOP_expand_array,
  EVTCHNOP_init_control,
  EVTCHNOP_reset,
  EVTCHNOP_send,
  EVTCHNOP_set_priority,
  EVTCHNOP_status,
  EVTCHNOP_unmask,
  FIFO_BUSY,
  FIFO_LINKED,
  FIFO_MASKED,
  FIFO_PENDING,
} from '../abi/event-channel.ts';
import { __HYPERVISOR_event_channel_op, DOMID_SELF, SHARED_INFO, VIRQ_DEBUG, VIRQ_TIMER } from '../abi/xen.ts';
import { Dom0Events } from '../dom0/dom0-events.ts';
import { type FakeMachine, fakeMachine, hypercallStep, peek32, poke32 } from '../testing/fake-machine.ts';
import { EventChannels } from './event-channels.ts';

const ARG = 0x3000;
const NR = __HYPERVISOR_event_channel_op;

/** One event-channel operation with its structure as 32-bit words; the result and the words afterwards. */
function op(m: FakeMachine, cmd: number, ...fields: number[]): { rc: number; out: number[] } {
  poke32(m, ARG, ...fields, 0, 0, 0, 0, 0, 0);
  const rc = m.call(NR, cmd, ARG);
  return { rc, out: Array.from({ length: 6 }, (_, i) => peek32(m, ARG + i * 4)) };
}

const bindVirq = (m: FakeMachine, virq: number, vcpu = 0): { rc: number; port: number } => {
  const { rc, out } = op(m, EVTCHNOP_bind_virq, virq, vcpu);
  return { rc, port: out[2] };
};
const bindIpi = (m: FakeMachine, vcpu = 0): number => op(m, EVTCHNOP_bind_ipi, vcpu).out[1];
const info = (m: FakeMachine): number => m.domain.vcpu.info;
const pendingWord = (m: FakeMachine, port: number): number =>
  m.state.i32[((m.state.sharedInfo + SHARED_INFO.evtchnPending) >>> 2) + (port >>> 5)];
const setMask = (m: FakeMachine, port: number): void => {
  m.state.i32[((m.state.sharedInfo + SHARED_INFO.evtchnMask) >>> 2) + (port >>> 5)] |= 1 << (port & 31);
};
const pendingSel = (m: FakeMachine): number => m.state.i32[(info(m) + 8) >>> 2];

describe('2-level event channels', () => {
  let m: FakeMachine;
  beforeEach(() => {
    m = fakeMachine();
  });

  it('gives out the lowest free port, and a VIRQ once a vCPU', () => {
    expect(bindVirq(m, VIRQ_TIMER)).toEqual({ rc: 0, port: 1 });
    expect(bindVirq(m, VIRQ_DEBUG)).toEqual({ rc: 0, port: 2 });
    expect(bindVirq(m, VIRQ_TIMER).rc).toBe(-17);
    expect(bindVirq(m, 24).rc).toBe(-22);
    expect(bindVirq(m, VIRQ_TIMER, 5).rc).toBe(-2);
    expect(op(m, EVTCHNOP_close, 1).rc).toBe(0);
    expect(op(m, EVTCHNOP_close, 1).rc).toBe(-22);
    expect(bindIpi(m)).toBe(1);
    expect(bindVirq(m, VIRQ_TIMER).rc).toBe(0);
  });

  it('an IPI sets pending bit, selector and upcall, once', () => {
    const port = bindIpi(m);
    op(m, EVTCHNOP_send, port);
    expect(pendingWord(m, port)).toBe(1 << port);
    expect(pendingSel(m)).toBe(1);
    expect(m.state.u8[info(m)]).toBe(1);
    m.state.u8[info(m)] = 0;
    m.state.i32[(info(m) + 8) >>> 2] = 0;
    op(m, EVTCHNOP_send, port);
    expect(m.state.u8[info(m)]).toBe(0);
  });

  it('a masked event only sets its bit; unmask raises it', () => {
    const port = bindIpi(m);
    setMask(m, port);
    op(m, EVTCHNOP_send, port);
    expect([pendingWord(m, port), pendingSel(m), m.state.u8[info(m)]]).toEqual([1 << port, 0, 0]);
    expect(op(m, EVTCHNOP_unmask, port).rc).toBe(0);
    expect([pendingSel(m), m.state.u8[info(m)]]).toEqual([1, 1]);
  });

  it('refuses ports that are no channels', () => {
    for (const port of [0, 3, 4096, 0xffff_ffff]) expect(op(m, EVTCHNOP_send, port).rc).toBe(-22);
    expect(op(m, EVTCHNOP_unmask, 4096).rc).toBe(-22);
    expect(op(m, EVTCHNOP_bind_pirq, 9, 0).rc).toBe(-22);
    expect(m.call(NR, EVTCHNOP_send, 0x100_0000)).toBe(-14);
    expect(m.call(NR, 77, ARG)).toBe(-38);
  });

  it('connects the domain with itself and reports both ends', () => {
    const self = DOMID_SELF | (DOMID_SELF << 16);
    const { out } = op(m, EVTCHNOP_alloc_unbound, self);
    expect(out[1]).toBe(1);
    const bound = op(m, EVTCHNOP_bind_interdomain, DOMID_SELF, 1);
    expect([bound.rc, bound.out[2]]).toEqual([0, 2]);
    // The new end is pending at once.
    expect(pendingWord(m, 2)).toBe(1 << 2);
    op(m, EVTCHNOP_send, 2);
    expect(pendingWord(m, 1) & 2).toBe(2);
    const status = op(m, EVTCHNOP_status, DOMID_SELF, 2);
    expect([status.rc, status.out[2], status.out[3], status.out[4], status.out[5]]).toEqual([0, 2, 0, 7, 1]);
    op(m, EVTCHNOP_close, 1);
    expect(op(m, EVTCHNOP_status, DOMID_SELF, 2).out[2]).toBe(1);
    expect(op(m, EVTCHNOP_status, 3, 2).rc).toBe(-3);
  });

  it('closes the port again when the guest cannot be told of it', () => {
    m.cpu.readonly.add(ARG >> 12);
    expect(op(m, EVTCHNOP_bind_ipi, 0).rc).toBe(-14);
    m.cpu.readonly.clear();
    expect(bindIpi(m)).toBe(1);
  });

  it('runs out of ports with -ENOSPC and resets', () => {
    for (let i = 1; i < 4096; i++) m.domain.events.bindIpi(0);
    expect(op(m, EVTCHNOP_bind_ipi, 0).rc).toBe(-28);
    expect(m.domain.events.count()).toBe(4095);
    expect(op(m, EVTCHNOP_reset, DOMID_SELF).rc).toBe(0);
    expect(m.domain.events.count()).toBe(0);
  });

  it('rebinds only channels that may move', () => {
    const two = fakeMachine({ vcpus: 2 });
    const ipi = bindIpi(two);
    const timer = bindVirq(two, VIRQ_TIMER).port;
    const { out } = op(two, EVTCHNOP_alloc_unbound, DOMID_SELF);
    expect(op(two, EVTCHNOP_bind_vcpu, ipi, 1).rc).toBe(-22);
    expect(op(two, EVTCHNOP_bind_vcpu, timer, 1).rc).toBe(-22);
    expect(op(two, EVTCHNOP_bind_vcpu, out[1], 1).rc).toBe(0);
    expect(op(two, EVTCHNOP_bind_vcpu, out[1], 2).rc).toBe(-2);
  });

  it('an IPI to another vCPU is left to its thread, which is kicked', () => {
    const two = fakeMachine({ vcpus: 2 });
    const port = bindIpi(two, 1);
    two.run((ctx) => {
      poke32(two, ARG, port);
      return hypercallStep(ctx, NR, [EVTCHNOP_send, ARG]);
    });
    expect(pendingWord(two, port)).toBe(0);
    expect(two.state.contexts[1].u32(CTX.kick)).toBe(1);
    const other = new EventChannels(two.state, 1, two.mmu);
    other.delivery.drain(1);
    expect(pendingWord(two, port)).toBe(1 << port);
    expect(two.state.u8[two.state.vcpuInfo(1)]).toBe(1);
    expect(two.state.u8[info(two)]).toBe(0);
  });
});

describe('dom0 channels', () => {
  it('carries events both ways, merges notifications and stops at close', async () => {
    const m = fakeMachine();
    const events = new Dom0Events(m.state, new EventChannels(m.state, -1, m.mmu));
    events.start();
    const guestPort = op(m, EVTCHNOP_alloc_unbound, DOMID_SELF).out[1];
    expect(events.bindInterdomain(8, guestPort)).toBeNull();
    const port = events.bindInterdomain(7, guestPort);
    expect(port).not.toBeNull();
    expect(events.bindInterdomain(7, guestPort)).toBeNull();
    expect(events.bindInterdomain(7, 99)).toBeNull();
    let seen = 0;
    const arrived = new Promise<void>((resolve) => {
      port?.onEvent(() => {
        seen++;
        resolve();
      });
    });
    op(m, EVTCHNOP_send, guestPort);
    op(m, EVTCHNOP_send, guestPort);
    await arrived;
    expect(seen).toBe(1);

    port?.notify();
    expect(pendingWord(m, guestPort)).toBe(0);
    expect(m.cpu.ctx.u32(CTX.kick)).toBe(1);
    m.run(() => VMEXIT.budget);
    expect(pendingWord(m, guestPort)).toBe(1 << guestPort);

    port?.close();
    port?.close();
    expect(op(m, EVTCHNOP_status, DOMID_SELF, guestPort).out[2]).toBe(1);
    op(m, EVTCHNOP_send, guestPort);
    expect(events.dispatch()).toBe(0);
    events.stop();
  });

  it('keeps an event that came before its callback', async () => {
    const m = fakeMachine();
    const events = new Dom0Events(m.state, new EventChannels(m.state, -1, m.mmu));
    const guestPort = op(m, EVTCHNOP_alloc_unbound, DOMID_SELF).out[1];
    const port = events.bindInterdomain(7, guestPort);
    op(m, EVTCHNOP_send, guestPort);
    events.dispatch();
    await new Promise<void>((resolve) => port?.onEvent(resolve));
  });
});

describe('FIFO event channels', () => {
  const CONTROL = 5;
  const ARRAY = 6;
  const head = (m: FakeMachine, priority: number): number => peek32(m, CONTROL * 4096 + 8 + priority * 4);
  const ready = (m: FakeMachine): number => peek32(m, CONTROL * 4096);
  const word = (m: FakeMachine, port: number): number => peek32(m, ARRAY * 4096 + port * 4) | 0;
  const setWord = (m: FakeMachine, port: number, value: number): void => poke32(m, ARRAY * 4096 + port * 4, value);
  let m: FakeMachine;

  beforeEach(() => {
    m = fakeMachine();
  });
  const init = (): void => {
    expect(op(m, EVTCHNOP_init_control, CONTROL, 0, 0, 0).rc).toBe(0);
    expect(op(m, EVTCHNOP_expand_array, ARRAY, 0).rc).toBe(0);
  };

  it('answers with the link width and checks its arguments', () => {
    expect(op(m, EVTCHNOP_expand_array, ARRAY, 0).rc).toBe(-95);
    expect(op(m, EVTCHNOP_init_control, CONTROL, 0, 4, 0).rc).toBe(-22);
    expect(op(m, EVTCHNOP_init_control, CONTROL, 0, 4096 - 64, 0).rc).toBe(-22);
    expect(op(m, EVTCHNOP_init_control, CONTROL, 0, 0, 3).rc).toBe(-2);
    expect(op(m, EVTCHNOP_init_control, 9999, 0, 0, 0).rc).toBe(-22);
    m.mmu.tables.add(CONTROL);
    expect(op(m, EVTCHNOP_init_control, CONTROL, 0, 0, 0).rc).toBe(-22);
    m.mmu.tables.clear();
    expect(op(m, EVTCHNOP_init_control, CONTROL, 0, 0, 0).out[4] & 0xff).toBe(17);
    expect(op(m, EVTCHNOP_init_control, CONTROL, 0, 0, 0).rc).toBe(-22);
    expect(m.mmu.held.get(CONTROL)).toBe(1);
    for (let page = 0; page < 4; page++) expect(op(m, EVTCHNOP_expand_array, ARRAY + page, 0).rc).toBe(0);
    expect(op(m, EVTCHNOP_expand_array, ARRAY + 4, 0).rc).toBe(-28);
  });

  it('queues events by priority and links them in order of arrival', () => {
    init();
    const [a, b, c] = [bindIpi(m), bindIpi(m), bindIpi(m)];
    expect(op(m, EVTCHNOP_set_priority, c, 2).rc).toBe(0);
    expect(op(m, EVTCHNOP_set_priority, c, 16).rc).toBe(-22);
    for (const port of [a, b, c]) op(m, EVTCHNOP_send, port);
    expect([head(m, 7), head(m, 2)]).toEqual([a, c]);
    expect(word(m, a)).toBe(FIFO_PENDING | FIFO_LINKED | b);
    expect(word(m, b)).toBe(FIFO_PENDING | FIFO_LINKED);
    expect(ready(m)).toBe((1 << 7) | (1 << 2));
    expect(m.state.u8[info(m)]).toBe(1);
  });

  it('starts a queue anew after the guest emptied it', () => {
    init();
    const [a, b] = [bindIpi(m), bindIpi(m)];
    op(m, EVTCHNOP_send, a);
    setWord(m, a, 0);
    poke32(m, CONTROL * 4096, 0);
    op(m, EVTCHNOP_send, b);
    expect([head(m, 7), word(m, a), word(m, b), ready(m)]).toEqual([b, 0, FIFO_PENDING | FIFO_LINKED | 0, 1 << 7]);
  });

  it('does not link masked events; unmask links them', () => {
    init();
    const a = bindIpi(m);
    setWord(m, a, FIFO_MASKED);
    op(m, EVTCHNOP_send, a);
    expect([word(m, a), ready(m)]).toEqual([FIFO_PENDING | FIFO_MASKED | 0, 0]);
    op(m, EVTCHNOP_unmask, a);
    expect([word(m, a), ready(m)]).toEqual([FIFO_PENDING | FIFO_LINKED | 0, 1 << 7]);
  });

  it('keeps an event for a port that the array does not reach yet, and events of the 2-level time', () => {
    const early = bindIpi(m);
    op(m, EVTCHNOP_send, early);
    expect(op(m, EVTCHNOP_init_control, CONTROL, 0, 0, 0).rc).toBe(0);
    const late = bindIpi(m);
    op(m, EVTCHNOP_send, late);
    expect(op(m, EVTCHNOP_expand_array, ARRAY, 0).rc).toBe(0);
    expect(word(m, early) & FIFO_PENDING).not.toBe(0);
    expect(word(m, late) & FIFO_PENDING).not.toBe(0);
    expect(head(m, 7)).toBe(early);
  });

  it('moves an event that was the tail of its queue when its priority changed', () => {
    init();
    const [a, b] = [bindIpi(m), bindIpi(m)];
    op(m, EVTCHNOP_send, a);
    setWord(m, a, 0);
    op(m, EVTCHNOP_set_priority, a, 1);
    op(m, EVTCHNOP_send, a);
    op(m, EVTCHNOP_send, b);
    expect([head(m, 1), head(m, 7)]).toEqual([a, b]);
    expect(word(m, a)).toBe(FIFO_PENDING | FIFO_LINKED);
  });

  it('a closed port that is still linked is not given out again', () => {
    init();
    const a = bindIpi(m);
    op(m, EVTCHNOP_send, a);
    op(m, EVTCHNOP_close, a);
    expect(word(m, a)).toBe(FIFO_LINKED);
    expect(bindIpi(m)).toBe(a + 1);
    setWord(m, a, 0);
    expect(bindIpi(m)).toBe(a);
  });

  it('survives hostile words: links out of range, BUSY left behind, a control block full of ones', () => {
    init();
    const ports = Array.from({ length: 8 }, () => bindIpi(m));
    for (const port of ports) setWord(m, port, (FIFO_BUSY | FIFO_LINKED | 0x1_ffff) >>> 0);
    poke32(m, CONTROL * 4096, ...new Array<number>(18).fill(0xffff_ffff));
    for (const port of ports) expect(op(m, EVTCHNOP_send, port).rc).toBe(0);
    for (const port of ports) setWord(m, port, 0);
    for (const port of ports) expect(op(m, EVTCHNOP_send, port).rc).toBe(0);
    expect(head(m, 7)).toBe(ports[0]);
  });

  it('reset returns to the 2-level ABI and lets the frames go', () => {
    init();
    const a = bindIpi(m);
    op(m, EVTCHNOP_reset, DOMID_SELF);
    expect([m.mmu.held.get(CONTROL), m.mmu.held.get(ARRAY)]).toEqual([0, 0]);
    const b = bindIpi(m);
    expect(b).toBe(a);
    op(m, EVTCHNOP_send, b);
    expect(pendingWord(m, b)).toBe(1 << b);
  });
});
