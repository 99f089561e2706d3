// SPDX-License-Identifier: Apache-2.0
/**
 * System instructions as a processor at CPL 3 sees them, and the exits through which a hypervisor takes over
 * (Intel SDM volume 2; volume 3A, chapters 5 and 6).
 *
 * Segment loads and far transfers work on descriptors and are rare: they are host functions (`segment-functions.ts`).
 * Leaves out so far: what privileged instructions do at CPL 0 (an emulated PC needs it; PV guests never run there).
 */
import { VMEXIT } from '../../accel/accelerator.ts';
import { CTX, SEG } from '../../memory/vcpu-context.ts';
import { type Expr, I64, i32 } from '../../wasm/expr.ts';
import { load } from '../../wasm/function-builder.ts';
import { type SemContext, type SemanticsTable, VECTOR } from './context.ts';
import { pop, push } from './control.ts';

const CR4_TSD = 1 << 2;
const CR4_UMIP = 1 << 11;
const CR4_FSGSBASE = 1 << 16;
const CR4_OSXSAVE = 1 << 18;
const EFER_SCE = 1;
const FS = 4;
const GS = 5;

/** #GP(0) outside of CPL 0. */
function privileged(c: SemContext): void {
  c.faultIf(c.get32(CTX.cpl).ne(0), VECTOR.GP, i32(0));
  c.exit(VMEXIT.engineFault, true);
}

/** A trap: reported after the instruction. */
function trap(c: SemContext, vector: number): void {
  c.set32(CTX.exitVector, i32(vector));
  c.set32(CTX.exitHasError, i32(0));
  c.exit(VMEXIT.exception);
}

const selectorOffset = (segment: number): number => CTX.seg + segment * SEG.stride + SEG.selector;

export function defineSystem(table: SemanticsTable): void {
  table.define('ud', (c) => c.fault(VECTOR.UD));
  // An instruction of more than fifteen bytes.
  table.define('gp0', (c) => c.fault(VECTOR.GP, i32(0)));
  table.define(
    'privileged hlt cli sti clts invd wbinvd invlpg movfromcr movtocr movfromdr movtodr rdmsr wrmsr rdpmc in out ins outs sysret sysexit swapgs',
    privileged,
  );
  table.define('int3', (c) => trap(c, VECTOR.BP));
  table.define('int1', (c) => trap(c, VECTOR.DB));
  table.define('into', (c) => c.f.if(c.condition(0), () => trap(c, VECTOR.OF)));
  table.define('int', (c) => {
    c.set32(CTX.exitVector, c.immediate(0));
    c.exit(VMEXIT.softwareInterrupt, true);
  });
  table.define('syscall', (c) => {
    c.faultIf(c.get32(CTX.efer).and(EFER_SCE).eqz(), VECTOR.UD);
    c.exit(VMEXIT.syscall);
  });
  table.define('sysenter', (c) => c.exit(VMEXIT.sysenter));

  const readTsc = (c: SemContext): void => {
    c.faultIf(c.get32(CTX.cr4).and(CR4_TSD).ne(0).and(c.get32(CTX.cpl).ne(0)), VECTOR.GP, i32(0));
    const tsc = c.let(c.call('read_tsc', []).truncSatU(I64));
    c.setGpr(0, 32, tsc.wrap());
    c.setGpr(2, 32, tsc.shrU(32).wrap());
  };
  table.define('rdtsc', readTsc);
  table.define('rdtscp', (c) => {
    readTsc(c);
    c.setGpr(1, 32, c.get32(CTX.tscAux));
  });
  table.define('rdpid', (c) => c.write(0, c.get32(CTX.tscAux).extU()));
  table.define('cpuid', (c) => {
    const leaf = c.gpr(0, 32);
    const subleaf = c.gpr(1, 32);
    c.callVoid('cpuid', [leaf, subleaf]);
    for (const [register, slot] of [
      [0, 0],
      [3, 1],
      [1, 2],
      [2, 3],
    ])
      c.setGpr(register, 32, c.get32(CTX.scratch + slot * 4));
  });
  table.define('xgetbv', (c) => {
    c.faultIf(c.get32(CTX.cr4).and(CR4_OSXSAVE).eqz(), VECTOR.UD);
    c.faultIf(c.gpr(1, 32).ne(0), VECTOR.GP, i32(0));
    c.setGpr(0, 32, c.get32(CTX.xcr0));
    c.setGpr(2, 32, c.get32(CTX.xcr0 + 4));
  });

  const baseAccess = (name: string, segment: number, write: boolean): void => {
    table.define(name, (c) => {
      c.faultIf(c.get32(CTX.cr4).and(CR4_FSGSBASE).eqz(), VECTOR.UD);
      const offset = CTX.segBase + segment * 8;
      const bits = c.width(0);
      if (!write) {
        c.write(0, bits === 64 ? c.get64(offset) : c.get32(offset));
        return;
      }
      const value = c.read(0);
      const base = c.let(value.type === I64 ? value : value.extU());
      c.faultIf(base.shl(16).shrS(16).ne(base), VECTOR.GP, i32(0));
      c.set64(offset, base);
    });
  };
  baseAccess('rdfsbase', FS, false);
  baseAccess('rdgsbase', GS, false);
  baseAccess('wrfsbase', FS, true);
  baseAccess('wrgsbase', GS, true);

  table.define('clflush', (c) => void c.load(8, c.linearAddress()));
  const storeTable = (name: string, base: number, limit: number): void => {
    table.define(name, (c) => {
      umip(c);
      const address = c.linearAddress();
      const wide = c.mode === 64;
      c.probeWrite(address, wide ? 10 : 6);
      c.store(16, address, c.get32(limit));
      c.store(wide ? 64 : 32, c.let(address.add(2)), wide ? c.get64(base) : c.get32(base));
    });
  };
  storeTable('sgdt', CTX.gdtBase, CTX.gdtLimit);
  storeTable('sidt', CTX.idtBase, CTX.idtLimit);
  const storeWord = (name: string, value: (c: SemContext) => Expr): void => {
    table.define(name, (c) => {
      umip(c);
      writeWord(c, value(c));
    });
  };
  storeWord('sldt', (c) => c.get16(selectorOffset(6)));
  storeWord('str', (c) => c.get16(selectorOffset(7)));
  table.define('smsw', (c) => {
    umip(c);
    if (c.isMemory(0)) c.store(16, c.linearAddress(), c.get32(CTX.cr0));
    else c.write(0, c.width(0) === 64 ? c.get64(CTX.cr0) : c.get32(CTX.cr0));
  });

  defineSegments(table);
}

function umip(c: SemContext): void {
  c.faultIf(c.get32(CTX.cr4).and(CR4_UMIP).ne(0).and(c.get32(CTX.cpl).ne(0)), VECTOR.GP, i32(0));
}

/** Stores 16 bits to memory, or zero-extends them into a register. */
function writeWord(c: SemContext, value: Expr): void {
  if (c.isMemory(0)) c.store(16, c.linearAddress(), value);
  else c.write(0, c.width(0) === 64 ? value.extU() : value);
}

function loadSegment(c: SemContext, segment: Expr, selector: Expr): void {
  c.faultedIf(c.call('load_segment', [segment, selector]));
}

function defineSegments(table: SemanticsTable): void {
  table.define('movfromsreg', (c) => {
    const segment = c.let(c.field(1));
    c.faultIf(segment.geU(6), VECTOR.UD);
    writeWord(c, c.let(loadSelector(c, segment)));
  });
  table.define('movtosreg', (c) => {
    const segment = c.let(c.field(0));
    // CS and the two undefined numbers.
    c.faultIf(segment.geU(6).or(segment.eq(1)), VECTOR.UD);
    loadSegment(c, segment, c.read(1));
  });
  table.define('pushsreg', (c) => {
    const selector = c.get16(selectorOffset(c.form.row.operands[0].register));
    push(c, c.form.operandSize, c.form.operandSize === 64 ? selector.extU() : selector);
  });
  table.define('popsreg', (c) => {
    const before = c.gpr(4, 64);
    const value = pop(c, c.form.operandSize);
    const failed = c.call('load_segment', [i32(c.form.row.operands[0].register), value.wrap().and(0xffff)]);
    c.f.if(failed, () => {
      c.setGpr(4, 64, before);
      c.faultedIf(i32(1));
    });
  });
  table.define('lfar', (c) => {
    const bits = c.form.operandSize;
    const address = c.linearAddress();
    const offset = c.load(bits, address);
    const selector = c.load(16, c.let(address.add(bits / 8)));
    const segment = { 0xc4: 0, 0xc5: 3, 0xb2: 2, 0xb4: FS, 0xb5: GS }[c.form.row.opcode] as number;
    loadSegment(c, i32(segment), selector);
    c.write(0, offset);
  });

  /** Far transfers leave RIP and the stack pointer in the vCPU block. */
  const finish = (c: SemContext, failed: Expr): void => {
    c.faultedIf(failed);
    c.jump(c.get64(CTX.rip));
  };
  table.define('iret', (c) => {
    c.callVoid('materialize', [c.cpu]);
    finish(c, c.call('far_iret', [i32(c.form.operandSize)]));
  });
  table.define('retf', (c) => {
    const extra = c.form.row.operands.length > 0 ? c.immediate(0) : i32(0);
    finish(c, c.call('far_return', [i32(c.form.operandSize), extra]));
  });
  const farTransfer = (name: string, call: boolean, fromMemory: boolean): void => {
    table.define(name, (c) => {
      const bits = c.form.operandSize;
      if (fromMemory) {
        const address = c.linearAddress();
        const offset = c.load(bits, address);
        // Loads over a page end use the scratch area themselves: first both, then store.
        const selector = c.load(16, c.let(address.add(bits / 8)));
        c.set64(CTX.scratch, offset.type === I64 ? offset : offset.extU());
        c.set32(CTX.scratch + 8, selector);
      } else {
        c.set64(CTX.scratch, c.immediateLow().extU());
        c.set32(CTX.scratch + 8, c.immediateHigh());
      }
      c.set64(CTX.rip, c.nextRip());
      finish(c, c.call('far_transfer', [i32(bits), i32(call ? 1 : 0)]));
    });
  };
  farTransfer('callf', true, false);
  farTransfer('jmpf', false, false);
  farTransfer('callfm', true, true);
  farTransfer('jmpfm', false, true);

  const inspect = (name: string, kind: number): void => {
    table.define(name, (c) => {
      const hasResult = kind < 2;
      const selector = c.let(c.read(hasResult ? 1 : 0).and(0xffff));
      const ok = c.call('inspect_selector', [selector, i32(kind)]);
      if (hasResult) {
        c.f.if(ok, () => {
          const value = c.get32(CTX.scratch);
          c.write(0, c.width(0) === 64 ? value.extU() : value);
        });
      }
      c.setEflags(0x40, ok.shl(6));
    });
  };
  inspect('lar', 0);
  inspect('lsl', 1);
  inspect('verr', 2);
  inspect('verw', 3);
  table.define('arpl', (c) => {
    const source = c.let(c.read(1).and(3));
    const old = c.read(0);
    const lower = c.let(old.and(3).ltU(source));
    // Memory is written only when it changes.
    c.f.if(lower, () => c.write(0, old.and(~3).or(source)));
    c.setEflags(0x40, lower.shl(6));
  });
}

function loadSelector(c: SemContext, segment: Expr): Expr {
  return load('i32_16u', c.cpu.add(segment.mul(SEG.stride)), CTX.seg + SEG.selector);
}
