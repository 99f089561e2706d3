// SPDX-License-Identifier: Apache-2.0
/**
 * Writes a region as one WebAssembly function: (cpu, record) → `STATUS`.
 *
 * The function keeps general registers and flags in locals, follows the region's control flow with structured control, and counts
 * instructions against the budget; loops look at budget and kicks. Every way out goes through one place that stores everything back.
 *
 * A store into translated code, and a store over a page boundary, is not made here: the region leaves in front of the instruction
 * (`STATUS.interpret`) and the interpreter executes it, with all that follows from it.
 */
import { CTX } from '../../memory/vcpu-context.ts';
import { type Expr, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import { callExpr, type FunctionBuilder, type Label, load } from '../../wasm/function-builder.ts';
import { ACCESS } from '../../accel/accelerator.ts';
import { TLB_ENTRY } from '../mmu/translate.ts';
import { CPU, STATUS } from '../record.ts';
import type { FunctionDirectory, SemanticsTable } from '../semantics/context.ts';
import { JitContext } from './context.ts';
import { flagsNeededAtEntry, setsFlagsConditionally } from './flag-liveness.ts';
import type { Instruction } from './instruction.ts';
import type { BasicBlock, Region } from './region.ts';
import { RegionRegisters } from './registers.ts';
import { type Structure, structureOf } from './structure.ts';
import { TLB } from '../../memory/layout.ts';

/** Return sites that one return instruction compares with. */
const RETURN_SITES = 6;

/** What instruction contexts need of the region. */
export interface RegionExits {
  readonly f: FunctionBuilder;
  readonly pageBase: Expr;
  readonly tlb: Expr;
  fault(): void;
  /** Leaves in front of the instruction, for the interpreter to execute it. */
  interpret(): void;
  jump(target: Expr): void;
  branch(condition: Expr | null): void;
}

export class RegionEmitter implements RegionExits {
  readonly f: FunctionBuilder;
  readonly pageBase: Expr;
  readonly tlb: Expr;
  readonly #cpu: Expr;
  readonly #region: Region;
  readonly #semantics: SemanticsTable;
  readonly #functions: FunctionDirectory;
  readonly #regs: RegionRegisters;
  readonly #structure: Structure;
  readonly #byAddress = new Map<number, BasicBlock>();
  readonly #needsFlags: readonly boolean[];
  readonly #left: Expr;
  readonly #status: Expr;
  readonly #rip: Expr;
  readonly #condition: Expr;
  readonly #loops = new Map<number, Label>();
  readonly #merges = new Map<number, Label>();
  #out: Label | null = null;
  #instruction: Instruction | null = null;

  constructor(f: FunctionBuilder, region: Region, semantics: SemanticsTable, functions: FunctionDirectory) {
    this.f = f;
    this.#cpu = f.param(0);
    this.#region = region;
    this.#semantics = semantics;
    this.#functions = functions;
    this.pageBase = f.local(I64);
    this.tlb = f.local(I32);
    this.#left = f.local(I32);
    this.#status = f.local(I32);
    this.#rip = f.local(I64);
    this.#condition = f.local(I32);
    this.#regs = new RegionRegisters(f, this.#cpu, () => f.call(functions.index('materialize'), [this.#cpu]));
    for (const block of region.blocks) this.#byAddress.set(block.at, block);
    const successors = region.blocks.map((block) => this.#successors(block));
    this.#structure = structureOf(successors);
    this.#needsFlags = flagsNeededAtEntry(region.blocks, successors);
  }

  #successors(block: BasicBlock): number[] {
    const { end } = block;
    const targets =
      end.kind === 'fall'
        ? [end.next]
        : end.kind === 'branch'
          ? [end.taken, end.next]
          : end.kind === 'jump'
            ? [end.taken]
            : end.kind === 'return'
              ? this.#region.returnSites.slice(0, RETURN_SITES)
              : [];
    return targets.flatMap((at) => {
      const target = this.#byAddress.get(at);
      return target ? [target.index] : [];
    });
  }

  emit(): void {
    const f = this.f;
    f.block((out) => {
      this.#out = out;
      this.#tree(0);
    });
    this.#regs.storeAll();
    f.store('i64', this.#cpu, this.#rip, CTX.rip);
    f.store('i32', this.#cpu, this.#left, CPU.left);
    f.return(this.#status);
    f.prologue(() => this.#prologue());
  }

  #prologue(): void {
    const f = this.f;
    const cpu = this.#cpu;
    f.set(this.pageBase, load('i64', cpu, CTX.ripPage));
    f.set(this.tlb, load('i32', cpu, CTX.tlbBase));
    for (const page of this.#region.pages) {
      if (page.offset === 0) continue;
      // The other pages must still be where they were.
      f.scope(() => {
        const va = f.let(this.pageBase.add(page.offset));
        const entry = f.let(
          this.tlb.add(
            va
              .shrU(7)
              .wrap()
              .and((TLB.entries - 1) << 5),
          ),
        );
        const known = load('i64', entry, TLB_ENTRY.execute)
          .eq(va)
          .and(load('i32', entry, TLB_ENTRY.host).eq(page.host));
        f.if(known.eqz(), () => {
          f.if(callExpr(I32, this.#functions.index('translate'), [cpu, va, i32(ACCESS.execute)]).ne(page.host), () =>
            f.return(i32(STATUS.refused)),
          );
        });
      });
    }
    f.set(this.#left, load('i32', cpu, CPU.left));
    this.#regs.loadAll(this.#needsFlags[0]);
  }

  // ---- structured control (see structure.ts)

  #tree(node: number): void {
    const merges = this.#structure.children[node].filter((child) => this.#structure.isMerge[child]);
    // The last merge point is the outermost block.
    merges.sort((a, b) => this.#structure.order[b] - this.#structure.order[a]);
    // Where ways meet, the flags are in the locals.
    if (this.#structure.isMerge[node]) this.#regs.forgetFlags();
    if (this.#structure.isLoop[node]) {
      if (this.#needsFlags[node]) this.#regs.flagsToLocals();
      this.#regs.forgetFlags();
      this.f.loop((label) => {
        this.#loops.set(node, label);
        this.#within(node, merges, 0);
      });
      this.#loops.delete(node);
    } else this.#within(node, merges, 0);
  }

  #within(node: number, merges: readonly number[], n: number): void {
    if (n === merges.length) {
      this.#block(this.#region.blocks[node]);
      return;
    }
    this.f.block((label) => {
      this.#merges.set(merges[n], label);
      this.#within(node, merges, n + 1);
    });
    this.#merges.delete(merges[n]);
    this.#tree(merges[n]);
  }

  #block(block: BasicBlock): void {
    const f = this.f;
    f.set(this.#left, this.#left.sub(block.instructions.length));
    f.scope(() => {
      for (const instruction of block.instructions) this.#emitInstruction(instruction);
      const { end } = block;
      switch (end.kind) {
        case 'fall':
          this.#go(block, end.next);
          return;
        case 'jump':
          this.#go(block, end.taken);
          return;
        case 'branch':
          f.if(
            this.#condition,
            () => this.#edge(() => this.#go(block, end.taken)),
            () => this.#edge(() => this.#go(block, end.next)),
          );
          return;
        case 'return':
          this.#return(block);
          return;
        default:
          // An indirect jump has set the address.
          this.#exit(STATUS.jump);
      }
    });
  }

  /** One of several ways on: what is known about the flags is the same at the start of each. */
  #edge(body: () => void): void {
    const { known, patched } = this.#regs;
    body();
    this.#regs.known = known;
    this.#regs.patched = patched;
  }

  #exit(status: number): void {
    this.#regs.flagsToLocals();
    this.f.set(this.#status, status);
    this.f.br(this.#out as Label);
  }

  #emitInstruction(instruction: Instruction): void {
    const { row } = instruction.form;
    const meaning = this.#semantics.get(row.name);
    if (!meaning) throw new Error(`instruction ${row.name} has no semantics`);
    this.#instruction = instruction;
    if (setsFlagsConditionally(instruction)) {
      this.#regs.flagsToLocals();
      this.#regs.forgetFlags();
    }
    const context = new JitContext(instruction, this.#cpu, this.#regs, this, this.#functions);
    if (row.attributes.has('sse') || row.attributes.has('x87') || row.attributes.has('mmx')) context.checkUnit();
    meaning(context);
  }

  /** Control from the end of `block` to the block at `at`, inside or outside of the region. */
  #go(block: BasicBlock, at: number): void {
    const f = this.f;
    const target = this.#byAddress.get(at);
    const { order, usable, isMerge } = this.#structure;
    if (!target || !usable(block.index, target.index)) {
      this.#leave(at);
      return;
    }
    const back = order[target.index] <= order[block.index];
    if (back) f.if(this.#left.leS(0).or(load('i32', this.#cpu, CTX.kick)), () => this.#leave(at));
    if ((back || isMerge[target.index]) && this.#needsFlags[target.index]) this.#regs.flagsToLocals();
    if (back) f.br(this.#loops.get(target.index) as Label);
    else if (isMerge[target.index]) f.br(this.#merges.get(target.index) as Label);
    else this.#tree(target.index);
  }

  #return(block: BasicBlock): void {
    const f = this.f;
    const offset = f.let(this.#rip.sub(this.pageBase));
    for (const index of this.#successors(block)) {
      const at = this.#region.blocks[index].at;
      f.if(offset.eq(at), () => this.#edge(() => this.#go(block, at)));
    }
    this.#exit(STATUS.jump);
  }

  #leave(at: number): void {
    this.f.set(this.#rip, this.pageBase.add(i64(at)));
    this.#exit(STATUS.jump);
  }

  // ---- exits of instructions

  #leaveAtInstruction(status: number): void {
    this.f.set(this.#rip, this.pageBase.add((this.#instruction as Instruction).at));
    this.#exit(status);
  }
  fault(): void {
    this.#leaveAtInstruction(STATUS.regionFault);
  }
  interpret(): void {
    this.#leaveAtInstruction(STATUS.interpret);
  }
  jump(target: Expr): void {
    this.f.set(this.#rip, target);
  }
  branch(condition: Expr | null): void {
    if (condition) this.f.set(this.#condition, condition);
  }
}
