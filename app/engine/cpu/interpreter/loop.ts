// SPDX-License-Identifier: Apache-2.0
/**
 * The interpreter's loop: one WebAssembly function with a switch over pre-decoded records.
 *
 * Frequent instruction forms are cases of the switch; all others are functions called through a table (`OP.call`). Linked branches
 * inside a page go straight to the target's record; everything else looks the address up in the jump cache, whose entries hold
 * only while the TLB still maps the address to the same page.
 *
 * PERF: `bench/cpu-interpreter.ts`. The function is left every few tens of thousands of instructions, because V8 replaces baseline by
 * optimized code only at a new call.
 */
import { ACCESS, VMEXIT } from '../../accel/accelerator.ts';
import { JUMP_CACHE } from '../../memory/layout.ts';
import { CTX, RFLAGS } from '../../memory/vcpu-context.ts';
import { I32, I64, i32 } from '../../wasm/expr.ts';
import { callExpr, callIndirectExpr, type FunctionBuilder, type Label, load } from '../../wasm/function-builder.ts';
import type { CoreFunctions } from '../functions.ts';
import { TLB_ENTRY, tlbEntry } from '../mmu/translate.ts';
import { CPU, OP, RECORD, STATUS } from '../record.ts';
import type { SemanticsTable } from '../semantics/context.ts';
import type { Form } from '../semantics/context.ts';
import { type HandlerExits, InterpreterContext } from './context.ts';

const PAGE_BITS = -4096;

/** Jump cache entry: +0 i64 address mixed with the mode key, +8 i32 host page, +12 i32 record. */
export const JUMP_ENTRY = { key: 0, host: 8, record: 12 } as const;

/** Slot of the jump cache for an address's low 32 bits; the same formula in TypeScript and in WebAssembly. */
export function jumpSlot(low: number): number {
  return ((low ^ (low >>> 13)) & (JUMP_CACHE.entries - 1)) * JUMP_CACHE.entryBytes;
}

/**
 * Defines `run`: (cpu, budget, first record or 0) → exit reason. `rip` is read from the vCPU block unless a record is given.
 * `inline` are the forms of cases `OP.firstInline` and up. With a `hotAfter`, entries of blocks are counted, and the host function `hot`
 * hears of a block that was entered so often.
 */
export function defineRun(core: CoreFunctions, inline: readonly Form[], semantics: SemanticsTable, hotAfter: number | null): void {
  const handlerType = core.module.type([I32, I32], [I32]);
  core.define('run', [I32, I32, I32], [I32], (f) => {
    const cpu = f.param(0);
    const budget = f.param(1);
    const first = f.param(2);
    const rec = f.local(I32);
    const rip = f.local(I64);
    const left = f.local(I32);
    const reason = f.local(I32);
    f.set(left, budget);
    f.set(rip, load('i64', cpu, CTX.rip));
    const link = (): void => f.store('i32', cpu, rec, CPU.linkFrom);
    const retire = (): void => f.set(left, left.sub(load('i32_16u', rec, RECORD.count)));
    /** Counts an entry of the block whose first record is `rec`. */
    const countEntry = (): void => {
      if (hotAfter === null) return;
      f.scope(() => {
        const count = f.let(load('i32', rec.sub(RECORD.bytes)).add(1));
        f.store('i32', rec.sub(RECORD.bytes), count);
        f.if(count.eq(hotAfter), () => f.call(core.index('hot'), [rec]));
      });
    };
    const here = load('i64', cpu, CTX.ripPage).add(load('i64_16u', rec, RECORD.pageOffset));

    f.block((leave) => {
      f.loop((resolve) => {
        f.block((resolved) => {
          f.if(first, () => {
            f.set(rec, first);
            f.set(first, 0);
            f.br(resolved);
          });
          f.if(load('i32', cpu, CTX.kick), () => {
            f.store('i64', cpu, rip, CTX.rip);
            f.set(reason, VMEXIT.kick);
            f.br(leave);
          });
          f.if(left.leS(0).or(load('i32', cpu, CTX.rflags).and(RFLAGS.TF | RFLAGS.RF)), () => {
            f.store('i64', cpu, rip, CTX.rip);
            f.set(reason, VMEXIT.budget);
            f.br(leave);
          });
          f.scope(() => {
            const low = f.let(rip.wrap());
            const slot = f.let(
              load('i32', cpu, CPU.jumpCache).add(
                low
                  .xor(low.shrU(13))
                  .and(JUMP_CACHE.entries - 1)
                  .shl(4),
              ),
            );
            const entry = f.let(tlbEntry(cpu, rip));
            const page = f.let(rip.and(PAGE_BITS));
            const known = f.let(load('i64', slot, JUMP_ENTRY.key).eq(rip.xor(load('i64', cpu, CPU.modeKey))));
            const host = f.let(load('i32', slot, JUMP_ENTRY.host));
            const hit = known.and(load('i64', entry, TLB_ENTRY.execute).eq(page)).and(load('i32', entry, TLB_ENTRY.host).eq(host));
            f.store('i64', cpu, page, CTX.ripPage);
            f.if(
              hit,
              () => f.set(rec, load('i32', slot, JUMP_ENTRY.record)),
              () => {
                f.store('i64', cpu, rip, CTX.rip);
                f.set(rec, 0);
                // A flushed TLB, most of the time: the page is where it was.
                f.if(known, () => {
                  const at = f.let(callExpr(I32, core.index('translate'), [cpu, rip, i32(ACCESS.execute)]));
                  f.if(at.and(PAGE_BITS).eq(host), () => f.set(rec, load('i32', slot, JUMP_ENTRY.record)));
                });
                f.if(rec.eqz(), () => f.set(rec, callExpr(I32, core.index('lookup'), [i32(0)])));
                f.if(rec.eqz(), () => {
                  f.set(reason, VMEXIT.exception);
                  f.br(leave);
                });
              },
            );
            const from = f.let(load('i32', cpu, CPU.linkFrom));
            f.if(from, () => {
              f.store('i32', from, rec, RECORD.link);
              f.store('i32', cpu, i32(0), CPU.linkFrom);
            });
            countEntry();
          });
        });

        f.loop((dispatch) => {
          f.block((fault) => {
            const branch = (g: FunctionBuilder): void => {
              retire();
              g.scope(() => {
                const to = g.let(load('i32', rec, RECORD.link));
                g.if(
                  to
                    .ne(0)
                    .and(left.gtS(0))
                    .and(load('i32', cpu, CTX.kick).eqz()),
                  () => {
                    g.set(rec, to);
                    countEntry();
                    g.br(dispatch);
                  },
                );
                const target = g.let(load('i64', rec, RECORD.imm));
                // Only targets in the same page can be linked: they share the page's translation.
                g.if(target.ltU(4096).and(to.eqz()), link);
                g.set(rip, load('i64', cpu, CTX.ripPage).add(target));
              });
              g.br(resolve);
            };
            const next = (g: FunctionBuilder): void => {
              g.set(rec, rec.add(RECORD.bytes));
              g.br(dispatch);
            };
            const exits: HandlerExits = {
              next,
              fault: (g) => g.br(fault),
              jump: (g, target) => {
                g.set(rip, target);
                retire();
                g.br(resolve);
              },
              branch,
              exit: (g) => {
                retire();
                g.set(reason, load('i32', cpu, CTX.exitReason));
                g.br(leave);
              },
              repeat: (g) => {
                g.set(rip, here);
                g.set(left, left.sub(256));
                g.br(resolve);
              },
            };
            const cases: (() => void)[] = [
              // OP.dead: the jump cache may still name this record, so it is not asked. What is found replaces the record for good.
              () => {
                f.scope(() => {
                  const to = f.let(load('i32', rec, RECORD.link));
                  f.if(to, () => {
                    f.set(rec, to);
                    f.br(dispatch);
                  });
                  f.store('i64', cpu, here, CTX.rip);
                  f.set(to, callExpr(I32, core.index('lookup'), [i32(0)]));
                  f.if(to.eqz(), () => {
                    f.set(reason, VMEXIT.exception);
                    f.br(leave);
                  });
                  // The arena may have been emptied and filled anew meanwhile.
                  f.if(load('i32_16u', rec, RECORD.op).eqz(), () => f.store('i32', rec, to, RECORD.link));
                  f.set(rec, to);
                  countEntry();
                  f.br(dispatch);
                });
              },
              // OP.call
              () => {
                f.block((onRepeat) => {
                  f.block((onExit) => {
                    f.block((onJump) => {
                      f.block((onNext) => {
                        const handler = load('i32_16u', rec, RECORD.handler);
                        f.brTable(
                          callIndirectExpr(I32, handlerType, 0, [cpu, rec], handler),
                          [onNext, fault, onJump, onExit, onRepeat],
                          fault,
                        );
                      });
                      next(f);
                    });
                    f.set(rip, load('i64', cpu, CTX.rip));
                    retire();
                    f.br(resolve);
                  });
                  exits.exit(f);
                });
                exits.repeat(f);
              },
              // OP.end
              () => branch(f),
              // OP.straddle
              () => {
                f.scope(() => {
                  const following = f.let(load('i64', cpu, CTX.ripPage).add(4096));
                  const entry = f.let(tlbEntry(cpu, following));
                  const holds = load('i64', entry, TLB_ENTRY.execute)
                    .eq(following)
                    .and(load('i32', entry, TLB_ENTRY.host).eq(load('i32', rec, RECORD.imm)));
                  f.if(holds, () => next(f));
                  f.store('i64', cpu, here, CTX.rip);
                  f.if(callExpr(I32, core.index('translate'), [cpu, following, i32(ACCESS.execute)]).eq(load('i32', rec, RECORD.imm)), () =>
                    next(f),
                  );
                  f.set(rec, callExpr(I32, core.index('lookup'), [i32(1)]));
                  f.if(rec, () => f.br(dispatch));
                  f.set(reason, VMEXIT.exception);
                  f.br(leave);
                });
              },
              // OP.region
              () => {
                f.store('i32', cpu, left, CPU.left);
                f.block((onRefused) => {
                  f.block((onInterpret) => {
                    f.block((onFault) => {
                      f.block((onJump) => {
                        f.scope(() => {
                          const handler = load('i32_16u', rec, RECORD.handler);
                          const status = f.let(callIndirectExpr(I32, handlerType, 0, [cpu, rec], handler));
                          f.set(left, load('i32', cpu, CPU.left));
                          f.brTable(status.sub(STATUS.jump), [onJump, onFault, onFault, onFault, onInterpret, onRefused], onFault);
                        });
                      });
                      f.set(rip, load('i64', cpu, CTX.rip));
                      f.br(resolve);
                    });
                    f.set(reason, VMEXIT.exception);
                    f.br(leave);
                  });
                  f.set(rip, load('i64', cpu, CTX.rip));
                  f.store('i64', cpu, rip.and(PAGE_BITS), CTX.ripPage);
                  f.set(rec, callExpr(I32, core.index('lookup'), [i32(2)]));
                  f.if(rec, () => f.br(dispatch));
                  f.set(reason, VMEXIT.exception);
                  f.br(leave);
                });
                f.set(rec, load('i32', rec, RECORD.link));
                f.br(dispatch);
              },
              ...inline.map((form) => () => {
                f.scope(() => {
                  emitSemantics(new InterpreterContext(f, form, cpu, rec, core, exits), semantics);
                  next(f);
                });
              }),
            ];
            const labels: Label[] = [];
            const open = (n: number): void => {
              if (n === cases.length) {
                f.brTable(load('i32_16u', rec, RECORD.op), labels, labels[OP.dead]);
                return;
              }
              f.block((label) => {
                labels.push(label);
                open(n + 1);
              });
              cases[n]();
            };
            open(0);
          });
          // A fault: the instruction did not complete.
          f.store('i64', cpu, here, CTX.rip);
          f.set(reason, VMEXIT.exception);
          retire();
          f.br(leave);
        });
      });
    });
    f.store('i32', cpu, i32(0), CPU.linkFrom);
    f.store('i32', cpu, reason, CTX.exitReason);
    f.store('i64', cpu, load('i64', cpu, CTX.instructions).add(budget.sub(left).extS()), CTX.instructions);
    f.call(core.index('materialize'), [cpu]);
    f.return(reason);
  });
}

/** The availability check and the meaning of one form. */
export function emitSemantics(context: InterpreterContext, semantics: SemanticsTable): void {
  const { row } = context.form;
  const meaning = semantics.get(row.name);
  if (!meaning) throw new Error(`instruction ${row.name} has no semantics (${row.text})`);
  if (row.attributes.has('sse') || row.attributes.has('x87') || row.attributes.has('mmx')) context.checkUnit();
  meaning(context);
}
