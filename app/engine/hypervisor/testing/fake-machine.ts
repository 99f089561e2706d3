// SPDX-License-Identifier: Apache-2.0
/**
 * A machine for unit tests: the real `Domain` over a vCPU that executes a script instead of guest code.
 *
 * Virtual addresses are identity-mapped to guest memory (kernel and user alike); single pages can be made missing or read-only. A script
 * step sets registers and exit fields and returns the exit reason, as an accelerator would. When the script is over the domain stops.
 */
import {
  ACCESS,
  type Accelerator,
  SPACE,
  type Space,
  type Vcpu,
  type VcpuHost,
  VMEXIT,
  type VmExitReason,
} from '../../accel/accelerator.ts';
import type { Clock } from '../../host/clock.ts';
import { type Mfn, mfn, PAGE_SIZE } from '../../memory/frames.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { CTX, REG, SEGREG, VcpuContext } from '../../memory/vcpu-context.ts';
import { PV_POLICY } from '../cpuid-policy.ts';
import { Domain, type DomainConfig } from '../domain.ts';
import { EINVAL } from '../errno.ts';
import type { MmuPort } from '../mmu-port.ts';
import { LIFECYCLE, REQUEST_STOP, SharedState, STATE } from '../shared-state.ts';
import { runVcpu, type RunEnd } from '../run-loop.ts';
import { loadFlatKernelSegments } from '../traps/segments.ts';

export type Step = (ctx: VcpuContext, vcpu: FakeVcpu) => VmExitReason;

export const GUEST_FRAMES = 64;
export const DOMID = 7;

export class FakeVcpu implements Vcpu {
  readonly id: number;
  readonly ctx: VcpuContext;
  readonly host: VcpuHost;
  readonly missing = new Set<number>();
  readonly readonly = new Set<number>();
  readonly invalidated: Mfn[] = [];
  readonly invalidatedPages: number[] = [];
  /** Selectors that load, with their bases. */
  readonly selectors = new Map<number, number>();
  script: Step[] = [];
  onScriptEnd: () => void = () => {};
  readonly #memory: GuestMemory;

  constructor(id: number, memory: GuestMemory, host: VcpuHost) {
    this.id = id;
    this.host = host;
    this.#memory = memory;
    this.ctx = new VcpuContext(memory.buffer, memory.layout.vcpuContext(id));
  }

  run(): VmExitReason {
    if (this.ctx.u32(CTX.kick) !== 0) return VMEXIT.kick;
    const step = this.script.shift();
    if (step !== undefined) return step(this.ctx, this);
    this.onScriptEnd();
    return VMEXIT.kick;
  }
  loadRoot(): void {}
  enterSpace(space: Space): void {
    this.ctx.setU32(CTX.space, space);
  }
  flushTlb(): void {}
  invalidatePage(va: number): void {
    this.invalidatedPages.push(va);
  }
  translate(va: number, access: number): number {
    const page = Math.floor(va / PAGE_SIZE);
    const present = va >= 0 && page < GUEST_FRAMES && !this.missing.has(page);
    const denied = access === ACCESS.write && this.readonly.has(page);
    if (present && !denied) return this.#memory.frameOffset(mfn(page)) + (va % PAGE_SIZE);
    this.ctx.setNum(CTX.cr2, Number.isNaN(va) ? 0 : va);
    this.ctx.setU32(CTX.exitError, (present ? 1 : 0) | access | 4);
    return -1;
  }
  invalidateCode(frame: Mfn): void {
    this.invalidated.push(frame);
  }
  loadSegment(seg: number, selector: number): boolean {
    const base = this.selectors.get(selector);
    if (base === undefined && (selector & 0xfffc) !== 0) return false;
    this.ctx.setSegment(seg, selector, base ?? 0, 0xffff_ffff, 0xcf3);
    return true;
  }
  counters(): Record<string, number> {
    return {};
  }
}

export class FakeClock implements Clock {
  now = 1_000;
  wall = { seconds: 1_700_000_000, nanoseconds: 250_000_000 };
  nowNs(): number {
    return this.now;
  }
  wallClock(): { seconds: number; nanoseconds: number } {
    return this.wall;
  }
}

/** An MMU that remembers what it was asked; it holds every guest frame except those in `tables`. */
export class FakeMmu implements MmuPort {
  readonly calls: string[] = [];
  readonly held = new Map<number, number>();
  readonly tables = new Set<number>();
  readonly descriptors = new Map<number, readonly [number, number]>();
  ptwr = false;

  mmuUpdate(_pv: unknown, reqs: number, count: number): number {
    this.calls.push(`mmuUpdate ${reqs} ${count}`);
    return 0;
  }
  mmuextOp(_pv: unknown, ops: number, count: number): number {
    this.calls.push(`mmuextOp ${ops} ${count}`);
    return 0;
  }
  updateVaMapping(_pv: unknown, va: number, lo: number, hi: number, flags: number): number {
    this.calls.push(`updateVaMapping ${va} ${lo} ${hi} ${flags}`);
    return 0;
  }
  updateVaMappingOtherdomain(): number {
    return 0;
  }
  memoryOp(_pv: unknown, cmd: number): number {
    this.calls.push(`memoryOp ${cmd}`);
    return 0;
  }
  setGdt(): number {
    return 0;
  }
  updateDescriptor(): number {
    return 0;
  }
  readDescriptor(_pv: unknown, selector: number): readonly [number, number] | null {
    return this.descriptors.get(selector & ~7) ?? null;
  }
  tryPtwr(): boolean {
    return this.ptwr;
  }
  initializeVcpu(pv: { kernelRoot: number }, kernelRoot: number): number {
    pv.kernelRoot = kernelRoot;
    return 0;
  }
  attachStartState(): number {
    return 0;
  }
  setWritablePagetables(): void {}
  setM2pStrict(): void {}
  setWriteEmulator(): void {}
  mapGrant(): number {
    return -EINVAL;
  }
  unmapGrant(): number {
    return -EINVAL;
  }
  holdFrame(frame: number, writable: boolean): number {
    if (!(frame >= 0 && frame < GUEST_FRAMES) || (writable && this.tables.has(frame))) return -EINVAL;
    this.held.set(frame, (this.held.get(frame) ?? 0) + 1);
    return 0;
  }
  releaseFrame(frame: number): void {
    this.held.set(frame, (this.held.get(frame) ?? 0) - 1);
  }
}

export interface FakeMachine {
  readonly memory: GuestMemory;
  readonly state: SharedState;
  readonly domain: Domain;
  readonly cpu: FakeVcpu;
  readonly mmu: FakeMmu;
  readonly clock: FakeClock;
  /** Milliseconds that the vCPU asked to sleep, in order. */
  readonly waits: number[];
  /** Runs `steps` and comes back when they are over or the domain has ended. */
  run(...steps: Step[]): RunEnd;
  /** Issues one hypercall in kernel mode and returns RAX. */
  call(number: number, ...args: number[]): number;
}

export interface FakeOptions {
  readonly vcpus?: number;
  readonly config?: Partial<DomainConfig>;
  /** What happens when the vCPU sleeps: time passes, or somebody kicks. Default: the whole time passes. */
  readonly onWait?: (machine: FakeMachine, timeoutMs: number) => void;
  readonly mmu?: MmuPort;
}

/** A machine as its vCPU 0 sees it, in the middle of kernel mode. */
export function fakeMachine(options: FakeOptions = {}): FakeMachine {
  const vcpus = options.vcpus ?? 1;
  const memory = new GuestMemory({ guestFrames: GUEST_FRAMES, xenFrames: 96, vcpus, codeArenaBytes: 0x1_0000 });
  const state = new SharedState(memory);
  let next = GUEST_FRAMES;
  const frames = { alloc: () => mfn(next++), shareWithGuest: () => {} };
  state.initialise({ domid: DOMID, maxPorts: 4096, startNs: 0 }, frames);
  state.set(STATE.lifecycle, LIFECYCLE.running);
  const machine = onVcpu({ memory, state, clock: new FakeClock(), mmu: new FakeMmu() }, 0, options);
  const { ctx } = machine.cpu;
  ctx.rflags = 0x202;
  ctx.setU32(CTX.space, SPACE.kernel);
  loadFlatKernelSegments(ctx);
  ctx.setSegment(SEGREG.gs, 0, 0x1111_0000, 0, 0);
  ctx.setNum(CTX.kernelGsBase, 0x2222_0000);
  ctx.setNum(CTX.cr0, 0x8005_0033);
  ctx.setNum(CTX.cr4, 0x660);
  ctx.setNum(CTX.efer, 0xd01);
  machine.domain.vcpu.timers.stopPeriodic();
  machine.domain.vcpu.kernelRoot = mfn(1);
  return machine;
}

/** The same machine as the thread of vCPU `id` sees it, whose registers are all zero so far. */
export function furtherVcpu(machine: FakeMachine, id: number, options: FakeOptions = {}): FakeMachine {
  return onVcpu(machine, id, options);
}

function onVcpu(shared: Pick<FakeMachine, 'memory' | 'state' | 'clock' | 'mmu'>, vcpuId: number, options: FakeOptions): FakeMachine {
  const { memory, state, clock, mmu } = shared;
  const waits: number[] = [];
  let cpu: FakeVcpu | undefined;
  const accelerator: Accelerator = {
    name: 'fake',
    createVcpu: (id, mem, host) => {
      cpu = new FakeVcpu(id, mem, host);
      return cpu;
    },
  };
  const stop = (): void => {
    state.set(STATE.request, REQUEST_STOP);
    state.kickAll();
  };
  const domain = new Domain({
    memory,
    accelerator,
    mmu: options.mmu ?? mmu,
    clock,
    vcpuId,
    config: {
      cpuid: PV_POLICY,
      uuid: new Uint8Array(16).fill(0x5a),
      wait: (_context, timeoutMs) => {
        waits.push(timeoutMs);
        if (waits.length > 1000) throw new Error('the vCPU sleeps forever');
        if (options.onWait !== undefined) options.onWait(machine, timeoutMs);
        else if (timeoutMs !== Number.POSITIVE_INFINITY) clock.now += Math.ceil(timeoutMs * 1e6);
        else stop();
      },
      ...options.config,
    },
  });
  const fake = cpu as FakeVcpu;
  fake.onScriptEnd = stop;
  const machine: FakeMachine = {
    memory,
    state,
    domain,
    cpu: fake,
    mmu,
    clock,
    waits,
    run: (...steps) => {
      fake.script = steps;
      state.set(STATE.request, 0);
      const end = runVcpu(domain);
      state.set(STATE.request, 0);
      return end;
    },
    call: (number, ...args) => {
      machine.run((c) => hypercallStep(c, number, args));
      return fake.ctx.gpr(REG.rax);
    },
  };
  return machine;
}

const ARGUMENTS = [REG.rdi, REG.rsi, REG.rdx, REG.r10, REG.r8, REG.r9];

/** A SYSCALL in kernel mode. */
export function hypercallStep(ctx: VcpuContext, number: number, args: readonly number[]): VmExitReason {
  ctx.setGpr(REG.rax, number);
  for (const [i, value] of args.entries()) ctx.setGpr(ARGUMENTS[i], value);
  ctx.setU32(CTX.exitLength, 2);
  return VMEXIT.syscall;
}

/** An exception; `error` undefined: without an error code. */
export function exceptionStep(ctx: VcpuContext, vector: number, error?: number): VmExitReason {
  ctx.setU32(CTX.exitVector, vector);
  ctx.setU32(CTX.exitHasError, error === undefined ? 0 : 1);
  ctx.setU32(CTX.exitError, error ?? 0);
  return VMEXIT.exception;
}

/** Reads `count` 64-bit words of guest memory as bigints. */
export function words(machine: FakeMachine, va: number, count: number): bigint[] {
  const bytes = machine.memory.read(va, count * 8);
  const view = new DataView(bytes.buffer);
  return Array.from({ length: count }, (_, i) => view.getBigUint64(i * 8, true));
}

/** Writes 64-bit words into guest memory. */
export function poke(machine: FakeMachine, va: number, ...values: (number | bigint)[]): void {
  const bytes = new Uint8Array(values.length * 8);
  const view = new DataView(bytes.buffer);
  for (const [i, value] of values.entries()) view.setBigInt64(i * 8, BigInt(value), true);
  machine.memory.write(va, bytes);
}

/** Writes 32-bit words into guest memory. */
export function poke32(machine: FakeMachine, va: number, ...values: number[]): void {
  const bytes = new Uint8Array(values.length * 4);
  const view = new DataView(bytes.buffer);
  for (const [i, value] of values.entries()) view.setUint32(i * 4, value >>> 0, true);
  machine.memory.write(va, bytes);
}

export function peek32(machine: FakeMachine, va: number): number {
  return new DataView(machine.memory.read(va, 4).buffer).getUint32(0, true);
}
