// SPDX-License-Identifier: Apache-2.0
/**
 * Address translation of the software CPU: the software TLB, the four-level page walk and the slow paths of memory accesses
 * (Intel SDM volume 3A, §4.5 to §4.8), emitted as WebAssembly.
 *
 * The TLB is direct-mapped by virtual page. An entry holds one tag for each kind of access (the page's address, or -1 for "not
 * allowed without a walk"), and what to add to an address to get a host offset:
 *
 *     +0 i64 read tag   +8 i64 write tag   +16 i64 execute tag   +24 i32 addend   +28 i32 host offset of the page
 *
 * INVARIANT: a write tag is set only for pages that are dirty, hold no translated code, so that every
 * other store comes through `writeSlow`. Pages with a data breakpoint get neither read nor write tags (`breakpoints.ts`).
 * Leaves out so far: paging modes other than four-level (an emulated PC needs them), protection keys.
 */
import { CTX } from '../../memory/vcpu-context.ts';
import { TLB } from '../../memory/layout.ts';
import { type Expr, F64, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import { atomicRmw, callExpr, type FunctionBuilder, load } from '../../wasm/function-builder.ts';
import type { ModuleBuilder } from '../../wasm/module-builder.ts';
import { CPU } from '../record.ts';

export const TLB_ENTRY = { read: 0, write: 8, execute: 16, addend: 24, host: 28 } as const;

const PAGE_BITS = -4096;
const PTE = { P: 1, RW: 2, US: 4, A: 0x20, D: 0x40, PS: 0x80 } as const;
const CR0_WP = 1 << 16;
const CR4_SMEP = 1 << 20;
const CR4_SMAP = 1 << 21;
const EFER_NXE = 1 << 11;
const RFLAGS_AC = 1 << 18;

const VECTOR_GP = 13;
const VECTOR_PF = 14;

/** Host offset of the TLB entry for `va` in the current bank. */
export function tlbEntry(cpu: Expr, va: Expr): Expr {
  return load('i32', cpu, CTX.tlbBase).add(
    va
      .shrU(12)
      .wrap()
      .and(TLB.entries - 1)
      .shl(5),
  );
}

export interface TranslateFunctions {
  /** (cpu, va, access) → host offset, or 0 with the exception recorded in the vCPU block. Access: 0 read, 2 write, 16 execute. */
  readonly translate: number;
  /** (cpu, va, bytes) → host offset that can be read, or 0. */
  readonly readSlow: number;
  /** (cpu, va, bytes) → host offset that can be read and written before `commit`, or 0. */
  readonly writeSlow: number;
  /** (cpu): finishes the write begun with `writeSlow`. */
  readonly commit: number;
}

/** Imports that the slow paths call. */
export interface TranslateImports {
  /** (cpu, host offset, bytes): bytes of a page with translated code are about to be, or were, written. */
  readonly codeWritten: number;
  /** (va as f64, bytes, 1 for a write) → 1 when the access must not happen now: a data breakpoint. */
  readonly watch: number;
}

/** Declares the functions in `module`; call once, before their indices are used. */
export function defineTranslate(module: ModuleBuilder, imports: TranslateImports): TranslateFunctions {
  const walk = module.define('walk', [I32, I64, I32], [I32]);
  const translate = module.define('translate', [I32, I64, I32], [I32]);
  const readSlow = module.define('read_slow', [I32, I64, I32], [I32]);
  const writeSlow = module.define('write_slow', [I32, I64, I32], [I32]);
  const commit = module.define('commit', [I32], []);
  emitWalk(walk.f);
  emitTranslate(translate.f, walk.index);
  emitReadSlow(readSlow.f, translate.index, imports);
  emitWriteSlow(writeSlow.f, translate.index, imports);
  emitCommit(commit.f, imports);
  return { translate: translate.index, readSlow: readSlow.index, writeSlow: writeSlow.index, commit: commit.index };
}

function recordFault(f: FunctionBuilder, cpu: Expr, vector: number, error: Expr): void {
  f.store('i32', cpu, i32(vector), CTX.exitVector);
  f.store('i32', cpu, error, CTX.exitError);
  f.store('i32', cpu, i32(1), CTX.exitHasError);
}

/** The page walk: fills the TLB and returns the host offset of `va`, or records the fault and returns 0. */
function emitWalk(f: FunctionBuilder): void {
  const cpu = f.param(0);
  const va = f.param(1);
  const access = f.param(2);
  const ramBase = f.let(load('i32', cpu, CTX.ramBase));
  const limit = f.let(load('i32', cpu, CTX.frameLimit));
  const user = f.let(load('i32', cpu, CTX.cpl).eq(3));
  const entry = f.local(I64);
  const at = f.local(I32);
  const rights = f.local(I32);
  const noExecute = f.local(I32);
  const offsetMask = f.local(I64);
  const host = f.local(I32);
  const error = f.local(I32);

  // Canonical addresses only.
  f.if(va.shl(16).shrS(16).ne(va), () => {
    recordFault(f, cpu, VECTOR_GP, i32(0));
    f.store('i32', cpu, i32(1), CPU.nonCanonical);
    f.return(i32(0));
  });
  f.store('i64', cpu, load('i64', cpu, CTX.tlbMisses).add(1), CTX.tlbMisses);
  f.set(rights, PTE.RW | PTE.US);
  f.set(entry, load('i64', cpu, CTX.cr3));
  f.set(error, 0);

  f.block((fault) => {
    f.block((leaf) => {
      for (let level = 4; level >= 1; level--) {
        const frame = f.let(entry.shrU(12).and(0xff_ffff_ffff));
        f.if(frame.geU(limit.extU()), () => {
          f.set(error, 9);
          f.br(fault);
        });
        const shift = 12 + 9 * (level - 1);
        f.set(at, ramBase.add(frame.wrap().shl(12)).add(va.shrU(shift).wrap().and(511).shl(3)));
        f.set(entry, load('i64', at));
        f.brIf(fault, entry.and(PTE.P).eqz());
        f.set(rights, rights.and(entry.wrap()));
        f.set(noExecute, noExecute.or(entry.shrU(63).wrap()));
        if (level === 4) {
          f.if(entry.wrap().and(PTE.PS).ne(0), () => {
            f.set(error, 9);
            f.br(fault);
          });
        } else if (level > 1) {
          f.if(entry.wrap().and(PTE.PS).ne(0), () => {
            const mask = 2 ** shift - 1;
            // Bits between the frame and the PAT bit are reserved in large entries.
            f.if(entry.and(mask & ~0x1fff).ne(0), () => {
              f.set(error, 9);
              f.br(fault);
            });
            f.set(offsetMask, mask);
            f.br(leaf);
          });
        }
        if (level > 1) {
          f.if(entry.wrap().and(PTE.A).eqz(), () => f.drop(atomicRmw('or', 32, at, i32(PTE.A))));
        } else {
          f.set(offsetMask, 4095);
        }
      }
    });
    // Permissions of the whole walk.
    f.set(error, 1);
    const isWrite = access.and(2);
    const isFetch = access.and(16);
    const cr4 = f.let(load('i32', cpu, CTX.cr4));
    f.brIf(fault, user.and(rights.and(PTE.US).eqz()));
    f.brIf(
      fault,
      isWrite
        .ne(0)
        .and(rights.and(PTE.RW).eqz())
        .and(user.or(load('i32', cpu, CTX.cr0).and(CR0_WP).ne(0))),
    );
    f.brIf(
      fault,
      isFetch
        .ne(0)
        .and(noExecute)
        .and(load('i32', cpu, CTX.efer).and(EFER_NXE).ne(0)),
    );
    f.if(user.eqz().and(rights.and(PTE.US).ne(0)), () => {
      f.brIf(fault, isFetch.ne(0).and(cr4.and(CR4_SMEP).ne(0)));
      f.brIf(
        fault,
        isFetch
          .eqz()
          .and(cr4.and(CR4_SMAP).ne(0))
          .and(load('i32', cpu, CTX.rflags).and(RFLAGS_AC).eqz()),
      );
    });
    // The frame of the 4 KiB piece that holds the address.
    const frame = f.let(va.and(offsetMask).or(entry.and(0xf_ffff_ffff_f000).and(offsetMask.not())).shrU(12));
    f.if(frame.geU(limit.extU()), () => {
      f.set(error, 9);
      f.br(fault);
    });
    // Accessed, and dirty for writes; `entry` follows what is in memory.
    const wanted = f.let(i32(PTE.A).or(isWrite.ne(0).shl(6)));
    f.if(entry.wrap().and(wanted).ne(wanted), () => {
      f.drop(atomicRmw('or', 32, at, wanted));
      f.set(entry, entry.or(wanted.extU()));
    });
    f.set(host, ramBase.add(frame.wrap().shl(12)));

    // Fill the TLB.
    const page = f.let(va.and(PAGE_BITS));
    const slot = f.let(tlbEntry(cpu, va));
    const hostWas = load('i32', slot, TLB_ENTRY.host);
    const known = load('i64', slot, TLB_ENTRY.read)
      .eq(page)
      .or(load('i64', slot, TLB_ENTRY.execute).eq(page))
      .and(hostWas.eq(host));
    f.if(known.eqz(), () => {
      logFill(f, cpu, va, slot);
      f.store('i64', slot, i64(-1), TLB_ENTRY.read);
      f.store('i64', slot, i64(-1), TLB_ENTRY.write);
      f.store('i64', slot, i64(-1), TLB_ENTRY.execute);
      f.store('i32', slot, host.sub(page.wrap()), TLB_ENTRY.addend);
      f.store('i32', slot, host, TLB_ENTRY.host);
    });
    f.if(
      isFetch.ne(0),
      () => f.store('i64', slot, page, TLB_ENTRY.execute),
      () => {
        const watched = f.local(I32);
        f.set(watched, 0);
        f.if(load('i32', cpu, CPU.watchActive), () => {
          for (let n = 0; n < 4; n++) f.set(watched, watched.or(page.eq(load('i64', cpu, CPU.watchPages + n * 8))));
        });
        f.if(watched.eqz(), () => f.store('i64', slot, page, TLB_ENTRY.read));
        const code = load('i32_8u', load('i32', cpu, CPU.codeFlags).add(frame.wrap()));
        f.if(isWrite.ne(0).and(code.or(watched).eqz()), () => f.store('i64', slot, page, TLB_ENTRY.write));
      },
    );
    f.return(host.add(va.wrap().and(4095)));
  });

  // A page fault: present or reserved from above, then what the access was.
  f.store('i64', cpu, va, CTX.cr2);
  const fetchBit = access
    .and(16)
    .ne(0)
    .and(
      load('i32', cpu, CTX.efer)
        .and(EFER_NXE)
        .ne(0)
        .or(load('i32', cpu, CTX.cr4).and(CR4_SMEP).ne(0)),
    );
  recordFault(f, cpu, VECTOR_PF, error.or(access.and(2)).or(user.shl(2)).or(fetchBit.shl(4)));
  f.return(i32(0));
}

/** Notes the filled slot so that a flush of a little-used bank stays cheap. */
function logFill(f: FunctionBuilder, cpu: Expr, va: Expr, slot: Expr): void {
  const empty = load('i64', slot, TLB_ENTRY.read)
    .and(load('i64', slot, TLB_ENTRY.execute))
    .eq(-1);
  f.if(empty, () => {
    const bank = f.let(load('i32', cpu, CTX.tlbBase).ne(load('i32', cpu, CPU.tlbBanks)));
    const countAt = f.let(cpu.add(bank.shl(2)));
    const count = f.let(load('i32', countAt, CPU.tlbLogCount));
    f.if(count.ltU(CPU.tlbLogEntries), () => {
      f.store(
        'i32_16',
        cpu.add(bank.mul(CPU.tlbLogEntries * 2)).add(count.shl(1)),
        va
          .shrU(12)
          .wrap()
          .and(TLB.entries - 1),
        CPU.tlbLog,
      );
    });
    f.store('i32', countAt, count.add(1), CPU.tlbLogCount);
  });
}

function emitTranslate(f: FunctionBuilder, walk: number): void {
  const cpu = f.param(0);
  const va = f.param(1);
  const access = f.param(2);
  const slot = f.let(tlbEntry(cpu, va));
  // Access 0, 2 and 16 select the tags at 0, 8 and 16.
  const tag = load('i64', slot.add(access.eq(2).select(i32(8), access)));
  f.if(tag.eq(va.and(PAGE_BITS)), () => f.return(load('i32', slot, TLB_ENTRY.addend).add(va.wrap())));
  f.return(callExpr(I32, walk, [cpu, va, access]));
}

function crossesPage(va: Expr, bytes: Expr): Expr {
  return va.wrap().and(4095).add(bytes).gtU(4096);
}

function copyBytes(f: FunctionBuilder, to: Expr, from: Expr, count: Expr): void {
  f.memoryCopy(to, from, count);
}

/** Leaves with 0 when a data breakpoint keeps the access from happening now. */
function askWatch(f: FunctionBuilder, imports: TranslateImports, write: number): void {
  f.if(load('i32', f.param(0), CPU.watchMode), () => {
    f.if(callExpr(I32, imports.watch, [f.param(1).convertS(F64), f.param(2), i32(write)]), () => f.return(i32(0)));
  });
}

function emitReadSlow(f: FunctionBuilder, translate: number, imports: TranslateImports): void {
  const cpu = f.param(0);
  const va = f.param(1);
  const bytes = f.param(2);
  const first = f.let(callExpr(I32, translate, [cpu, va, i32(0)]));
  f.if(first.eqz(), () => f.return(first));
  f.if(crossesPage(va, bytes).eqz(), () => {
    askWatch(f, imports, 0);
    f.return(first);
  });
  const split = f.let(i32(4096).sub(va.wrap().and(4095)));
  const second = f.let(callExpr(I32, translate, [cpu, va.add(split.extU()), i32(0)]));
  f.if(second.eqz(), () => f.return(i32(0)));
  askWatch(f, imports, 0);
  const scratch = f.let(cpu.add(CTX.scratch));
  copyBytes(f, scratch, first, split);
  copyBytes(f, scratch.add(split), second, bytes.sub(split));
  f.return(scratch);
}

function emitWriteSlow(f: FunctionBuilder, translate: number, imports: TranslateImports): void {
  const cpu = f.param(0);
  const va = f.param(1);
  const bytes = f.param(2);
  const scratch = f.let(cpu.add(CTX.scratch));
  const first = f.let(callExpr(I32, translate, [cpu, va, i32(2)]));
  f.if(first.eqz(), () => f.return(i32(0)));
  const isCode = (host: Expr): Expr =>
    load('i32_8u', load('i32', cpu, CPU.codeFlags).add(host.sub(load('i32', cpu, CTX.ramBase)).shrU(12)));
  f.if(crossesPage(va, bytes).eqz(), () => {
    askWatch(f, imports, 1);
    f.if(isCode(first), () => {
      f.store('i32', cpu, i32(1), CPU.pendingKind);
      f.store('i32', cpu, first, CPU.pendingHost);
      f.store('i32', cpu, bytes, CPU.pendingBytes);
    });
    f.return(first);
  });
  const split = f.let(i32(4096).sub(va.wrap().and(4095)));
  const second = f.let(callExpr(I32, translate, [cpu, va.add(split.extU()), i32(2)]));
  f.if(second.eqz(), () => f.return(i32(0)));
  askWatch(f, imports, 1);
  copyBytes(f, scratch, first, split);
  copyBytes(f, scratch.add(split), second, bytes.sub(split));
  f.store('i32', cpu, i32(2), CPU.pendingKind);
  f.store('i32', cpu, first, CPU.pendingHost);
  f.store('i32', cpu, second, CPU.pendingHost2);
  f.store('i32', cpu, bytes, CPU.pendingBytes);
  f.store('i32', cpu, split, CPU.pendingSplit);
  f.return(scratch);
}

function emitCommit(f: FunctionBuilder, imports: TranslateImports): void {
  const cpu = f.param(0);
  const kind = f.let(load('i32', cpu, CPU.pendingKind));
  f.if(kind.eqz(), () => f.return());
  f.store('i32', cpu, i32(0), CPU.pendingKind);
  const host = f.let(load('i32', cpu, CPU.pendingHost));
  const bytes = f.let(load('i32', cpu, CPU.pendingBytes));
  f.if(kind.eq(2), () => {
    const split = f.let(load('i32', cpu, CPU.pendingSplit));
    const second = f.let(load('i32', cpu, CPU.pendingHost2));
    const rest = f.let(bytes.sub(split));
    copyBytes(f, host, cpu.add(CTX.scratch), split);
    copyBytes(f, second, cpu.add(CTX.scratch).add(split), rest);
    f.call(imports.codeWritten, [cpu, host, split]);
    f.call(imports.codeWritten, [cpu, second, rest]);
    f.return();
  });
  f.call(imports.codeWritten, [cpu, host, bytes]);
}
