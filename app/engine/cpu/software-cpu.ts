// SPDX-License-Identifier: Apache-2.0
/**
 * The software CPU: an `Accelerator` that needs no privileges and no hardware.
 *
 * It interprets pre-decoded x86-64 code in WebAssembly (first tier). Core module, handler modules and host functions of a vCPU
 * share the VM's memory; see `interpreter/loop.ts` for how code runs and `mmu/translate.ts` for how addresses do.
 */
import { type Accelerator, type Space, SPACE, type Vcpu, type VcpuHost, VMEXIT, type VmExitReason } from '../accel/accelerator.ts';
import type { Mfn } from '../memory/frames.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { TLB, WASM_PAGE } from '../memory/layout.ts';
import { CTX, RFLAGS, VcpuContext } from '../memory/vcpu-context.ts';
import { F64, I32, I64, i32, i64 } from '../wasm/expr.ts';
import { callExpr, load } from '../wasm/function-builder.ts';
import { ModuleBuilder } from '../wasm/module-builder.ts';
import { CoreFunctions, type HostFunction, type HostFunctionEnvironment } from './functions.ts';
import { CodeCache } from './interpreter/code-cache.ts';
import { HandlerRegistry, inlineForms } from './interpreter/handlers.ts';
import { defineRun } from './interpreter/loop.ts';
import { defineTranslate, TLB_ENTRY } from './mmu/translate.ts';
import { CPU } from './record.ts';
import { SEGMENT_FUNCTIONS, setCodeBits } from './segment-functions.ts';
import { HOST_FUNCTIONS, defineCoreFunctions, semanticsTable } from './semantics/table.ts';

/** Functions of the core module that TypeScript calls. */
interface CoreExports {
  run(cpu: number, budget: number, record: number): number;
  translate_halves(cpu: number, low: number, high: number, access: number): number;
  translate_number(cpu: number, va: number, access: number): number;
  purge_write(cpu: number, hostPage: number): void;
  flush_bank(cpu: number, bank: number): void;
  invalidate_page(cpu: number, va: number): void;
}

/** Receives a store into a hooked page: offset in the page, size in bytes, the value in halves. False: the store is refused. */
export type StoreHook = (offset: number, bytes: number, lo: number, hi: number) => boolean;

function defineMaintenance(core: CoreFunctions): void {
  core.define('translate_halves', [I32, I32, I32, I32], [I32], (f) => {
    f.return(callExpr(I32, core.index('translate'), [f.param(0), f.param(1).extU().or(f.param(2).extU().shl(32)), f.param(3)]));
  });
  core.define('translate_number', [I32, F64, I32], [I32], (f) => {
    f.return(callExpr(I32, core.index('translate'), [f.param(0), f.param(1).truncSatS(I64), f.param(2)]));
  });
  core.define('purge_write', [I32, I32], [], (f) => {
    const entry = f.let(load('i32', f.param(0), CPU.tlbBanks));
    const end = f.let(entry.add(TLB.banks * TLB.entries * TLB.entryBytes));
    f.loop((again) => {
      f.if(load('i32', entry, TLB_ENTRY.host).eq(f.param(1)), () => f.store('i64', entry, i64(-1), TLB_ENTRY.write));
      f.set(entry, entry.add(TLB.entryBytes));
      f.brIf(again, entry.ltU(end));
    });
  });
  core.define('flush_bank', [I32, I32], [], (f) => {
    const cpu = f.param(0);
    const bank = f.param(1);
    const base = f.let(load('i32', cpu, CPU.tlbBanks).add(bank.mul(TLB.entries * TLB.entryBytes)));
    const countAt = f.let(cpu.add(bank.shl(2)));
    const count = f.let(load('i32', countAt, CPU.tlbLogCount));
    f.store('i32', countAt, i32(0), CPU.tlbLogCount);
    f.if(count.gtU(CPU.tlbLogEntries), () => {
      f.memoryFill(base, i32(0xff), i32(TLB.entries * TLB.entryBytes));
      f.return();
    });
    f.block((out) => {
      f.loop((again) => {
        f.brIf(out, count.eqz());
        f.set(count, count.sub(1));
        const index = load('i32_16u', cpu.add(bank.mul(CPU.tlbLogEntries * 2)).add(count.shl(1)), CPU.tlbLog);
        f.memoryFill(base.add(index.shl(5)), i32(0xff), i32(TLB.entryBytes));
        f.br(again);
      });
    });
  });
  core.define('invalidate_page', [I32, F64], [], (f) => {
    const index = f.let(f.param(1).truncSatS(I64).shrU(12).wrap().and(TLB.entries - 1).shl(5));
    for (let bank = 0; bank < TLB.banks; bank++) {
      const entry = f.let(load('i32', f.param(0), CPU.tlbBanks).add(index));
      for (const tag of [TLB_ENTRY.read, TLB_ENTRY.write, TLB_ENTRY.execute]) f.store('i64', entry, i64(-1), tag + bank * TLB.entries * TLB.entryBytes);
    }
  });
}

/** The core module's bytes for a memory of `pages`, and its function directory. */
export function buildCore(pages: number): { readonly core: CoreFunctions; readonly bytes: Uint8Array<ArrayBuffer>; readonly hostFunctions: readonly HostFunction[] } {
  const module = new ModuleBuilder();
  module.importMemory('env', 'memory', pages, pages);
  module.importTable('env', 'handlers');
  const core = new CoreFunctions(module);
  const hostFunctions = [...SEGMENT_FUNCTIONS, ...HOST_FUNCTIONS];
  const codeWritten = core.importHost('code_written', [I32, I32, I32], []);
  const storeHook = core.importHost('store_hook', [I32, I32, I32], []);
  core.importHost('lookup', [I32], [I32]);
  core.importHost('read_tsc', [], [F64]);
  core.importHost('cpuid', [I32, I32], []);
  for (const item of hostFunctions) core.importHost(item.name, item.params, item.results);
  const translate = defineTranslate(module, { codeWritten, storeHook });
  core.adopt('translate', translate.translate, [I32, I64, I32], [I32]);
  core.adopt('read_slow', translate.readSlow, [I32, I64, I32], [I32]);
  core.adopt('write_slow', translate.writeSlow, [I32, I64, I32], [I32]);
  core.adopt('commit', translate.commit, [I32], []);
  defineCoreFunctions(core);
  defineMaintenance(core);
  defineRun(core, inlineForms(), semanticsTable());
  return { core, bytes: module.build(), hostFunctions };
}

export class SoftwareVcpu implements Vcpu {
  readonly id: number;
  readonly ctx: VcpuContext;
  readonly #core: CoreExports;
  readonly #code: CodeCache;
  readonly #handlers: HandlerRegistry;
  readonly #loadSegment: (segment: number, selector: number) => number;
  readonly #banks: readonly number[];
  readonly #roots: [number, number] = [-1, -1];
  #hook: ((offset: number, bytes: number) => void) | null = null;
  /** General registers, RIP, flags: what one instruction with a store can change before it faults. */
  readonly #registerBytes: Uint8Array;
  readonly #registers = new Uint8Array(CTX.xmm);

  constructor(id: number, memory: GuestMemory, host: VcpuHost) {
    this.id = id;
    const layout = memory.layout;
    const base = layout.vcpuContext(id);
    const ctx = new VcpuContext(memory.buffer, base);
    this.ctx = ctx;
    this.#registerBytes = memory.u8.subarray(base, base + CTX.xmm);
    this.#banks = [layout.tlb(id, 0), layout.tlb(id, 1)];
    ctx.setU32(CTX.frameLimit, layout.frameCount);
    ctx.setU32(CTX.ramBase, layout.ramBase);
    ctx.setU32(CTX.tlbBase, this.#banks[0]);
    ctx.setU32(CPU.tlbBanks, this.#banks[0]);
    ctx.setU32(CPU.jumpCache, layout.jumpCache(id));
    ctx.setU32(CPU.codeFlags, layout.codeFlags);
    ctx.setNum(CPU.hookPage, -1);
    ctx.setNum(CTX.temp1, 0x8000_0000);
    setCodeBits(ctx, 64);
    // New banks are zeros, which would be translations of page 0: have them cleared whole.
    for (let bank = 0; bank < TLB.banks; bank++) ctx.setU32(CPU.tlbLogCount + bank * 4, CPU.tlbLogEntries + 1);

    const pages = layout.totalBytes / WASM_PAGE;
    const { core, bytes, hostFunctions } = buildCore(pages);
    const table = new WebAssembly.Table({ element: 'anyfunc', initial: 256 });
    const wrote = (hostOffset: number, length: number): void => {
      const ram = hostOffset - layout.ramBase;
      this.#code.invalidate(ram >>> 12, ram & 4095, length);
    };
    const environment: HostFunctionEnvironment = { memory, ctx, host, translate: (va, access) => this.#core.translate_number(base, va, access), wrote };
    const cpuidOut = new Uint32Array(4);
    const imports: Record<string, (...args: number[]) => number | undefined | void> = {
      code_written: (_cpu, hostOffset, length) => wrote(hostOffset, length),
      store_hook: (_cpu, offset, length) => this.#hook?.(offset, length),
      lookup: (again) => this.#code.lookup(again !== 0),
      read_tsc: () => host.readTsc(),
      cpuid: (leaf, subleaf) => {
        host.cpuid(leaf >>> 0, subleaf >>> 0, cpuidOut);
        for (let n = 0; n < 4; n++) ctx.setU32(CTX.scratch + n * 4, cpuidOut[n]);
      },
    };
    for (const item of hostFunctions) imports[item.name] = item.create(environment);
    const shared: WebAssembly.Imports = { env: { memory: memory.memory, handlers: table }, host: imports };
    const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes), shared);
    this.#core = instance.exports as unknown as CoreExports;
    this.#loadSegment = imports.load_segment as (segment: number, selector: number) => number;
    const forHandlers = { env: shared.env, core: { ...imports, ...instance.exports } };
    this.#handlers = new HandlerRegistry(core, semanticsTable(), forHandlers, table, pages);
    this.#code = new CodeCache(memory, ctx, id, this.#handlers, {
      translate: (cpu, low, high, access) => this.#core.translate_halves(cpu, low, high, access),
      purgeWrite: (cpu, hostPage) => this.#core.purge_write(cpu, hostPage),
    });
    this.flushTlb();
  }

  run(budget: number): VmExitReason {
    const ctx = this.ctx;
    // The owner may have changed the code segment.
    setCodeBits(ctx, ctx.u32(CTX.codeBits));
    ctx.setU32(CPU.nonCanonical, 0);
    if ((ctx.rflags & RFLAGS.TF) === 0) {
      const reason = this.#core.run(ctx.base, budget, 0) as VmExitReason;
      if (reason === VMEXIT.kick) ctx.takeKick();
      else if (reason === VMEXIT.exception) this.#classifyFault();
      // The trap flag was set on the way: the instruction after that one is stepped.
      else if (reason === VMEXIT.budget && (ctx.rflags & RFLAGS.TF) !== 0) return this.#step();
      return reason;
    }
    return this.#step();
  }

  /** A non-canonical address is #SS instead of #GP where the stack segment is meant: seen from the instruction, afterwards. */
  #classifyFault(): void {
    const ctx = this.ctx;
    if (ctx.u32(CPU.nonCanonical) === 0) return;
    ctx.setU32(CPU.nonCanonical, 0);
    if (ctx.u32(CTX.exitVector) === VECTOR_GP && this.#code.meansStack()) ctx.setU32(CTX.exitVector, VECTOR_SS);
  }

  /** One instruction with the trap flag set: a debug exception follows it. */
  #step(): VmExitReason {
    const ctx = this.ctx;
    if (ctx.takeKick()) {
      ctx.setU32(CTX.exitReason, VMEXIT.kick);
      return VMEXIT.kick;
    }
    const record = this.#code.single();
    if (record === 0) {
      ctx.setU32(CTX.exitReason, VMEXIT.exception);
      return VMEXIT.exception;
    }
    const reason = this.#core.run(ctx.base, 1, record) as VmExitReason;
    if (reason === VMEXIT.exception) this.#classifyFault();
    if (reason !== VMEXIT.budget && reason !== VMEXIT.kick) return reason;
    ctx.setU32(CTX.dr + 6 * 8, ctx.u32(CTX.dr + 6 * 8) | DR6_BS);
    ctx.setU32(CTX.exitVector, 1);
    ctx.setU32(CTX.exitHasError, 0);
    ctx.setU32(CTX.exitReason, VMEXIT.exception);
    return VMEXIT.exception;
  }

  loadRoot(space: Space, root: Mfn | -1): void {
    this.#roots[space] = root;
    this.#core.flush_bank(this.ctx.base, space);
    if (this.ctx.u32(CTX.space) === space) this.#selectRoot(space);
  }

  enterSpace(space: Space): void {
    this.ctx.setU32(CTX.space, space);
    this.#selectRoot(space);
  }

  #selectRoot(space: Space): void {
    // A space without a root has frame numbers out of reach: every access faults.
    const root = this.#roots[space];
    this.ctx.setNum(CTX.cr3, root < 0 ? 0xffff_ffff_f000 : root * 4096);
    this.ctx.setU32(CTX.tlbBase, this.#banks[space]);
  }

  flushTlb(): void {
    this.#core.flush_bank(this.ctx.base, SPACE.kernel);
    this.#core.flush_bank(this.ctx.base, SPACE.user);
  }

  invalidatePage(va: number): void {
    this.#core.invalidate_page(this.ctx.base, va);
  }

  translate(va: number, access: number): number {
    const host = this.#core.translate_number(this.ctx.base, va, access);
    return host === 0 ? -1 : host >>> 0;
  }

  invalidateCode(frame: Mfn, offset: number, length: number): void {
    this.#code.invalidate(frame, offset, length);
  }

  loadSegment(segment: number, selector: number): boolean {
    return this.#loadSegment(segment, selector) === 0;
  }

  /**
   * Executes the one instruction at `rip` with its store to the page of `va` given to `hook` in place of memory; a repeated string
   * instruction does one step. True: done, registers are as after it. False when the hook refused or the instruction faulted:
   * registers are as before.
   */
  executeWithStoreHook(va: number, hook: StoreHook): boolean {
    const ctx = this.ctx;
    const saved = this.#registers;
    saved.set(this.#registerBytes);
    let stored = false;
    this.#hook = (offset, bytes) => {
      const lo = ctx.lo(CTX.scratch);
      stored = hook(offset, bytes, bytes === 1 ? lo & 0xff : bytes === 2 ? lo & 0xffff : lo, bytes > 4 ? ctx.hi(CTX.scratch) : 0);
    };
    ctx.setNum(CPU.hookPage, Math.floor(va / 4096) * 4096);
    this.#core.invalidate_page(ctx.base, va);
    // The trap flag makes repetitions stop after one step.
    ctx.rflags |= RFLAGS.TF;
    const record = this.#code.single();
    let reason: VmExitReason = VMEXIT.exception;
    if (record !== 0) reason = this.#core.run(ctx.base, 1, record) as VmExitReason;
    ctx.setNum(CPU.hookPage, -1);
    this.#core.invalidate_page(ctx.base, va);
    this.#hook = null;
    if (stored && (reason === VMEXIT.budget || reason === VMEXIT.kick)) {
      ctx.rflags = (ctx.rflags & ~RFLAGS.TF) | (saved[CTX.rflags + 1] & 1 ? RFLAGS.TF : 0);
      return true;
    }
    this.#registerBytes.set(saved);
    return false;
  }

  counters(): Record<string, number> {
    return {
      instructions: this.ctx.lo(CTX.instructions) + this.ctx.hi(CTX.instructions) * 2 ** 32,
      tlbMisses: this.ctx.lo(CTX.tlbMisses) + this.ctx.hi(CTX.tlbMisses) * 2 ** 32,
      blocksDecoded: this.#code.blocksDecoded,
      instructionsDecoded: this.#code.instructionsDecoded,
      codeInvalidations: this.#code.invalidations,
      codeFlushes: this.#code.flushes,
      handlersCompiled: this.#handlers.compiled,
    };
  }
}

const DR6_BS = 1 << 14;
const VECTOR_SS = 12;
const VECTOR_GP = 13;

export const softwareCpu: Accelerator = {
  name: 'interp',
  createVcpu: (id, memory, host) => new SoftwareVcpu(id, memory, host),
};

