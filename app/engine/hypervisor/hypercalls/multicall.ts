// SPDX-License-Identifier: Apache-2.0
/**
 * Several hypercalls in one (xen public/xen.h multicall_entry): executed in order, each with its own result.
 *
 * GUEST: a long list is done in pieces: after BATCH entries, or when somebody wants this vCPU's attention, the arguments move on and the
 * guest issues the rest again. PERF: entries that are aligned are read straight from guest memory.
 *
 * @abi hypercall multicall
 */
import { ACCESS } from '../../accel/accelerator.ts';
import { type Mfn, PAGE_SIZE } from '../../memory/frames.ts';
import { CTX } from '../../memory/vcpu-context.ts';
import { __HYPERVISOR_iret, __HYPERVISOR_multicall, isGuestRange, NR_HYPERCALLS } from '../abi/xen.ts';
import type { Domain } from '../domain.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';
import { EFAULT, EINVAL, ENOSYS } from '../errno.ts';
import { HYPERCALL_RESTART } from '../mmu-port.ts';
import { type HypercallArgs, setArgumentRegister } from './hypercall-args.ts';
import type { Handler } from './table.ts';

const ENTRY_BYTES = 64;
const RESULT = 8;
const ARGS = 16;
const BATCH = 512;

export function multicall(d: Domain, dv: DomainVcpu, a: HypercallArgs, handlers: readonly (Handler | undefined)[]): number {
  if (a.inMulticall) return -EINVAL;
  const va = a.num[0];
  const count = a.lo[1];
  for (let i = 0; i < count; i++) {
    if (i >= BATCH || (i > 0 && dv.ctx.u32(CTX.kick) !== 0)) {
      setArgumentRegister(dv.ctx, 0, va + i * ENTRY_BYTES);
      setArgumentRegister(dv.ctx, 1, count - i);
      a.inMulticall = false;
      return HYPERCALL_RESTART;
    }
    const entry = va + i * ENTRY_BYTES;
    const number = fetch(d, dv, a, entry);
    if (number === FAULT) {
      a.inMulticall = false;
      return -EFAULT;
    }
    const result = call(d, dv, a, number, handlers);
    a.inMulticall = false;
    if (!putResult(d, dv, entry + RESULT, result)) return -EFAULT;
    if (d.ended) return 0;
  }
  return 0;
}

const FAULT = -1;
const NO_CALL = NR_HYPERCALLS;

/** Reads an entry into the arguments; its hypercall number, or FAULT. */
function fetch(d: Domain, dv: DomainVcpu, a: HypercallArgs, entry: number): number {
  a.inMulticall = true;
  if ((entry & 7) === 0 && isGuestRange(entry, ENTRY_BYTES) && ((entry % PAGE_SIZE) + PAGE_SIZE) % PAGE_SIZE <= PAGE_SIZE - ENTRY_BYTES) {
    const host = dv.access.word(entry, ACCESS.read);
    if (host < 0) return FAULT;
    const u32 = d.state.memory.u32;
    const at = host >>> 2;
    for (let i = 0; i < 6; i++) a.set(i, u32[at + ARGS / 4 + i * 2], u32[at + ARGS / 4 + i * 2 + 1]);
    return u32[at + 1] === 0 && u32[at] < NR_HYPERCALLS ? u32[at] : NO_CALL;
  }
  if (!d.copy.in(dv, entry, ENTRY_BYTES)) return FAULT;
  for (let i = 0; i < 6; i++) a.set(i, d.copy.u32(ARGS + i * 8), d.copy.u32(ARGS + i * 8 + 4));
  return d.copy.u32(4) === 0 && d.copy.u32(0) < NR_HYPERCALLS ? d.copy.u32(0) : NO_CALL;
}

function call(d: Domain, dv: DomainVcpu, a: HypercallArgs, number: number, handlers: readonly (Handler | undefined)[]): number {
  // A return from an exception and a nested list have no place in a list.
  if (number === __HYPERVISOR_iret || number === __HYPERVISOR_multicall) return -EINVAL;
  const handler = number === NO_CALL ? undefined : handlers[number];
  if (handler === undefined) return -ENOSYS;
  dv.stats.hypercalls[number]++;
  return handler(d, dv, a);
}

function putResult(d: Domain, dv: DomainVcpu, va: number, result: number): boolean {
  if ((va & 7) === 0) {
    const host = dv.access.word(va, ACCESS.write);
    if (host < 0) return false;
    const memory = d.state.memory;
    memory.u32[host >>> 2] = result >>> 0;
    memory.u32[(host >>> 2) + 1] = Math.floor(result / 0x1_0000_0000);
    const ram = host - memory.layout.ramBase;
    memory.wrote(Math.floor(ram / PAGE_SIZE) as Mfn, ram % PAGE_SIZE, 8);
    return true;
  }
  d.copy.setNum(0, result);
  return d.copy.out(dv, va, 8);
}
