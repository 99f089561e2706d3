// SPDX-License-Identifier: Apache-2.0
/**
 * The software CPU: an `Accelerator` that needs no privileges and no hardware.
 *
 * It interprets pre-decoded x86-64 code in WebAssembly (first tier). Core module, handler modules and host functions of a vCPU
 * share the VM's memory; see `interpreter/loop.ts` for how code runs and `mmu/translate.ts` for how addresses do.
 */
import { ACCESS, type Accelerator, type Space, SPACE, type Vcpu, type VcpuHost, VMEXIT, type VmExitReason } from '../accel/accelerator.ts';
import type { Mfn } from '../memory/frames.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { TLB, WASM_PAGE } from '../memory/layout.ts';
import { CTX, RFLAGS, VcpuContext } from '../memory/vcpu-context.ts';
import { F64, I32, I64, i32, i64 } from '../wasm/expr.ts';
import { callExpr, load } from '../wasm/function-builder.ts';
import { ModuleBuilder } from '../wasm/module-builder.ts';
import { Breakpoints, VECTOR_WATCH } from './breakpoints.ts';
import { CoreFunctions, type HostFunction, type HostFunctionEnvironment } from './functions.ts';
import { CodeCache } from './interpreter/code-cache.ts';
import { HandlerRegistry, inlineForms } from './interpreter/handlers.ts';
import { defineRun } from './interpreter/loop.ts';
import { Translator } from './jit/translator.ts';
import { defineTranslate, TLB_ENTRY } from './mmu/translate.ts';
import { CPU, RECORD, WATCH } from './record.ts';
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

function defineMaintenance(core: CoreFunctions): void {
  core.define('break_check', [I32, I32], [I32], (f) => {
    const rip = load('i64', f.param(0), CTX.ripPage).add(load('i64_16u', f.param(1), RECORD.pageOffset));
    f.return(callExpr(I32, core.index('break_at'), [rip.convertS(F64)]));
  });
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
    const index = f.let(
      f
        .param(1)
        .truncSatS(I64)
        .shrU(12)
        .wrap()
        .and(TLB.entries - 1)
        .shl(5),
    );
    for (let bank = 0; bank < TLB.banks; bank++) {
      const entry = f.let(load('i32', f.param(0), CPU.tlbBanks).add(index));
      for (const tag of [TLB_ENTRY.read, TLB_ENTRY.write, TLB_ENTRY.execute])
        f.store('i64', entry, i64(-1), tag + bank * TLB.entries * TLB.entryBytes);
    }
  });
}

/** The core module's bytes for a memory of `pages`, and its function directory. */
function buildCore(
  pages: number,
  hotAfter: number | null,
): { readonly core: CoreFunctions; readonly bytes: Uint8Array<ArrayBuffer>; readonly hostFunctions: readonly HostFunction[] } {
  const module = new ModuleBuilder();
  module.importMemory('env', 'memory', pages, pages);
  module.importTable('env', 'handlers');
  const core = new CoreFunctions(module);
  const hostFunctions = [...SEGMENT_FUNCTIONS, ...HOST_FUNCTIONS];
  const codeWritten = core.importHost('code_written', [I32, I32, I32], []);
  const watch = core.importHost('watch', [F64, I32, I32], [I32]);
  core.importHost('break_at', [F64], [I32]);
  core.importHost('lookup', [I32], [I32]);
  core.importHost('hot', [I32], []);
  core.importHost('read_tsc', [], [F64]);
  core.importHost('cpuid', [I32, I32], []);
  for (const item of hostFunctions) core.importHost(item.name, item.params, item.results);
  const translate = defineTranslate(module, { codeWritten, watch });
  core.adopt('translate', translate.translate, [I32, I64, I32], [I32]);
  core.adopt('read_slow', translate.readSlow, [I32, I64, I32], [I32]);
  core.adopt('write_slow', translate.writeSlow, [I32, I64, I32], [I32]);
  core.adopt('commit', translate.commit, [I32], []);
  defineCoreFunctions(core);
  defineMaintenance(core);
  defineRun(core, inlineForms(), semanticsTable(), hotAfter);
  return { core, bytes: module.build(), hostFunctions };
}

/** Entries of a block before the region around it is translated. */
const HOT_AFTER = 1000;

export interface SoftwareCpuOptions {
  /** Translate hot code to WebAssembly (second tier). */
  readonly translate?: boolean;
  readonly hotAfter?: number;
}

export class SoftwareVcpu implements Vcpu {
  readonly id: number;
  readonly ctx: VcpuContext;
  readonly #core: CoreExports;
  readonly #code: CodeCache;
  readonly #handlers: HandlerRegistry;
  readonly #loadSegment: (segment: number, selector: number) => number;
  readonly #banks: readonly number[];
  readonly #breakpoints: Breakpoints;
  readonly #roots: [number, number] = [-1, -1];

  readonly #translator: Translator | null;
  readonly #environment: HostFunctionEnvironment;
  /** Regions translated so far. */
  regions = 0;

  constructor(id: number, memory: GuestMemory, host: VcpuHost, options: SoftwareCpuOptions = {}) {
    this.id = id;
    const layout = memory.layout;
    const base = layout.vcpuContext(id);
    const ctx = new VcpuContext(memory.buffer, base);
    this.ctx = ctx;
    this.#banks = [layout.tlb(id, 0), layout.tlb(id, 1)];
    ctx.setU32(CTX.frameLimit, layout.frameCount);
    ctx.setU32(CTX.ramBase, layout.ramBase);
    ctx.setU32(CTX.tlbBase, this.#banks[0]);
    ctx.setU32(CPU.tlbBanks, this.#banks[0]);
    ctx.setU32(CPU.jumpCache, layout.jumpCache(id));
    ctx.setU32(CPU.codeFlags, layout.codeFlags);
    this.#breakpoints = new Breakpoints(ctx);
    ctx.setNum(CTX.temp1, 0x8000_0000);
    setCodeBits(ctx, 64);
    // New banks are zeros, which would be translations of page 0: have them cleared whole.
    for (let bank = 0; bank < TLB.banks; bank++) ctx.setU32(CPU.tlbLogCount + bank * 4, CPU.tlbLogEntries + 1);

    const pages = layout.totalBytes / WASM_PAGE;
    const { core, bytes, hostFunctions } = buildCore(pages, options.translate ? (options.hotAfter ?? HOT_AFTER) : null);
    const table = new WebAssembly.Table({ element: 'anyfunc', initial: 256 });
    const wrote = (hostOffset: number, length: number): void => {
      const ram = hostOffset - layout.ramBase;
      this.#code.invalidate(ram >>> 12, ram & 4095, length);
    };
    const environment: HostFunctionEnvironment = { memory, ctx, host, translate: (va, access) => this.#access(va, access), wrote };
    this.#environment = environment;
    const cpuidOut = new Uint32Array(4);
    const imports: Record<string, (...args: number[]) => number | undefined | void> = {
      code_written: (_cpu, hostOffset, length) => wrote(hostOffset, length),
      lookup: (kind) => this.#code.lookup(kind),
      hot: (record) => this.#translateBlock(record),
      watch: (va, bytes, write) => (this.#breakpoints.touch(va, bytes, write !== 0) ? 1 : 0),
      break_at: (rip) => (this.#breakAt(rip) ? 1 : 0),
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
    this.#code.breakSlot = this.#handlers.adopt(instance.exports.break_check);
    this.#translator = options.translate ? new Translator(core, semanticsTable(), pages) : null;
    this.flushTlb();
  }

  /** A block became hot: translates the region around it and puts it in the block's place. */
  #translateBlock(record: number): void {
    const start = this.#code.startOf(record);
    if (!this.#translator || !start || start.mode !== 64 || this.#breakpoints.code) return;
    const { memory, ctx } = this.#environment;
    const { ramBase } = memory.layout;
    const entry = (start.host - ramBase) % 4096;
    const entryPage = start.host - entry;
    const base = ctx.num(CTX.ripPage);
    const translated = this.#translator.translate(memory.u8, entry, (offset) => {
      if (offset === 0) return entryPage;
      const host = this.#core.translate_number(ctx.base, base + offset, ACCESS.execute) >>> 0;
      return host;
    });
    if (!translated) return;
    const slot = this.#handlers.instantiate(translated.module);
    const ranges = translated.region.pages.map(({ offset, host }) => {
      const inPage = translated.region.blocks
        .flatMap((block) => block.instructions)
        .filter((i) => i.at < offset + 4096 && i.at + i.length > offset);
      const from = Math.max(0, Math.min(...inPage.map((i) => i.at - offset)));
      const to = Math.min(4096, Math.max(...inPage.map((i) => i.at + i.length - offset)));
      return { frame: (host - ramBase) / 4096, from, to };
    });
    this.#code.installRegion(record, slot, ranges);
    this.regions++;
  }

  run(budget: number): VmExitReason {
    const ctx = this.ctx;
    // The owner may have changed the code segment.
    setCodeBits(ctx, ctx.u32(CTX.codeBits));
    ctx.setU32(CPU.nonCanonical, 0);
    const breakpoints = this.#breakpoints;
    if (breakpoints.concerned && breakpoints.update()) this.#breakpointsChanged();
    if ((ctx.rflags & (RFLAGS.TF | RFLAGS.RF)) !== 0) {
      if ((ctx.rflags & RFLAGS.TF) === 0 && !breakpoints.code) ctx.rflags &= ~RFLAGS.RF;
      else {
        const reason = this.#step();
        if (reason !== VMEXIT.budget) return reason;
      }
    }
    if (breakpoints.data) ctx.setU32(CPU.watchMode, WATCH.stop);
    const reason = this.#core.run(ctx.base, budget, 0) as VmExitReason;
    ctx.setU32(CPU.watchMode, WATCH.off);
    if (reason === VMEXIT.kick) ctx.takeKick();
    else if (reason === VMEXIT.exception) {
      if (ctx.u32(CTX.exitVector) === VECTOR_WATCH) return this.#step();
      this.#classifyFault();
    }
    // The trap flag was set on the way: the instruction after that one is stepped.
    else if (reason === VMEXIT.budget && (ctx.rflags & RFLAGS.TF) !== 0) return this.#step();
    return reason;
  }

  #breakpointsChanged(): void {
    this.flushTlb();
    this.#code.breakOffsets = this.#breakpoints.codeOffsets;
    this.#code.flush();
  }

  /** What host functions read and write, byte by byte. */
  #access(va: number, access: number): number {
    const { ctx } = this;
    const host = this.#core.translate_number(ctx.base, va, access);
    if (host === 0 || access === ACCESS.execute || ctx.u32(CPU.watchMode) === WATCH.off) return host;
    return this.#breakpoints.touch(va, 1, access === ACCESS.write) ? 0 : host;
  }

  /** Is there an instruction breakpoint at `rip`? Then its exception is recorded. */
  #breakAt(rip: number): boolean {
    const bits = this.#breakpoints.atInstruction(rip);
    if (bits !== 0) this.#recordDebug(bits);
    return bits !== 0;
  }

  #recordDebug(bits: number): VmExitReason {
    const { ctx } = this;
    ctx.setU32(CTX.dr + 6 * 8, ctx.u32(CTX.dr + 6 * 8) | bits);
    ctx.setU32(CTX.exitVector, VECTOR_DB);
    ctx.setU32(CTX.exitHasError, 0);
    ctx.setU32(CTX.exitReason, VMEXIT.exception);
    return VMEXIT.exception;
  }

  /** A non-canonical address is #SS instead of #GP where the stack segment is meant: seen from the instruction, afterwards. */
  #classifyFault(): void {
    const ctx = this.ctx;
    if (ctx.u32(CPU.nonCanonical) === 0) return;
    ctx.setU32(CPU.nonCanonical, 0);
    if (ctx.u32(CTX.exitVector) === VECTOR_GP && this.#code.meansStack()) ctx.setU32(CTX.exitVector, VECTOR_SS);
  }

  /**
   * One instruction: under the trap flag, under RF, or one that touches watched data. `VMEXIT.budget` when no debug exception follows it.
   */
  #step(): VmExitReason {
    const ctx = this.ctx;
    const breakpoints = this.#breakpoints;
    const { rflags } = ctx;
    if (ctx.takeKick()) {
      ctx.setU32(CTX.exitReason, VMEXIT.kick);
      return VMEXIT.kick;
    }
    if ((rflags & RFLAGS.RF) === 0 && this.#breakAt(ctx.rip)) return VMEXIT.exception;
    const record = this.#code.single();
    if (record === 0) {
      ctx.setU32(CTX.exitReason, VMEXIT.exception);
      return VMEXIT.exception;
    }
    ctx.rflags = rflags & ~RFLAGS.RF;
    if (breakpoints.data) ctx.setU32(CPU.watchMode, WATCH.note);
    const reason = this.#core.run(ctx.base, 1, record) as VmExitReason;
    ctx.setU32(CPU.watchMode, WATCH.off);
    const hits = ctx.u32(CPU.watchHits);
    ctx.setU32(CPU.watchHits, 0);
    if (reason === VMEXIT.exception) {
      // A handler that returns to the instruction must not meet its breakpoint again.
      ctx.rflags |= rflags & RFLAGS.RF;
      this.#classifyFault();
    }
    if (reason !== VMEXIT.budget && reason !== VMEXIT.kick) return reason;
    const bits = hits | ((rflags & RFLAGS.TF) !== 0 ? DR6_BS : 0);
    return bits === 0 ? VMEXIT.budget : this.#recordDebug(bits);
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

  counters(): Record<string, number> {
    return {
      instructions: this.ctx.lo(CTX.instructions) + this.ctx.hi(CTX.instructions) * 2 ** 32,
      tlbMisses: this.ctx.lo(CTX.tlbMisses) + this.ctx.hi(CTX.tlbMisses) * 2 ** 32,
      blocksDecoded: this.#code.blocksDecoded,
      instructionsDecoded: this.#code.instructionsDecoded,
      codeInvalidations: this.#code.invalidations,
      codeFlushes: this.#code.flushes,
      handlersCompiled: this.#handlers.compiled,
      regions: this.regions,
    };
  }
}

const DR6_BS = 1 << 14;
const VECTOR_DB = 1;
const VECTOR_SS = 12;
const VECTOR_GP = 13;

/** With the translator. */
export const translatingCpu: Accelerator = {
  name: 'jit',
  createVcpu: (id, memory, host) => new SoftwareVcpu(id, memory, host, { translate: true }),
};

export const softwareCpu: Accelerator = {
  name: 'interp',
  createVcpu: (id, memory, host) => new SoftwareVcpu(id, memory, host),
};
