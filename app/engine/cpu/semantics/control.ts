// SPDX-License-Identifier: Apache-2.0
/** Stack and near control transfers (Intel SDM volume 1, chapter 6; volume 2). */
import { type Expr, I64, i32, i64 } from '../../wasm/expr.ts';
import { CTX, RFLAGS } from '../../memory/vcpu-context.ts';
import { ARITHMETIC_FLAGS, type SemContext, type SemanticsTable, VECTOR } from './context.ts';

const RSP = 4;
const RBP = 5;

/** Bits of the stack pointer in use. Leaves out 32-bit stacks of 16-bit code (the emulated PC brings them). */
const stackBits = (c: SemContext): number => c.mode;

function stackPointer(c: SemContext): Expr {
  const value = c.gpr(RSP, stackBits(c));
  return value.type === I64 ? value : c.let(value.extU());
}

/** Linear address of an offset in the stack segment. */
function stackAddress(c: SemContext, offset: Expr): Expr {
  if (c.mode === 64) return offset;
  return c.let(
    offset
      .and(c.mode === 32 ? 0xffff_ffff : 0xffff)
      .add(c.get64(CTX.segBase + 2 * 8))
      .and(0xffff_ffff),
  );
}

function setStackPointer(c: SemContext, value: Expr): void {
  c.setGpr(RSP, stackBits(c), c.mode === 64 ? value : value.wrap());
}

export function push(c: SemContext, bits: number, value: Expr): void {
  const bound = c.let(value);
  const sp = c.let(stackPointer(c).sub(bits / 8));
  c.store(bits, stackAddress(c, sp), bound);
  setStackPointer(c, sp);
}

export function pop(c: SemContext, bits: number): Expr {
  const sp = stackPointer(c);
  const value = c.load(bits, stackAddress(c, sp));
  setStackPointer(c, sp.add(bits / 8));
  return value;
}

/** Instruction pointers are truncated to the operand size. */
function target(c: SemContext, value: Expr): Expr {
  const wide = value.type === I64 ? value : value.extU();
  return c.let(c.form.operandSize === 64 ? wide : wide.and(c.form.operandSize === 32 ? 0xffff_ffff : 0xffff));
}

const nextIp = (c: SemContext): Expr => (c.form.operandSize === 64 ? c.nextRip() : c.nextRip().wrap());

export function defineControl(table: SemanticsTable): void {
  for (let cc = 0; cc < 16; cc++) {
    const names = ['o', 'no', 'b', 'nb', 'z', 'nz', 'be', 'nbe', 's', 'ns', 'p', 'np', 'l', 'nl', 'le', 'nle'];
    table.define(`j${names[cc]}`, (c) => c.branch(c.condition(cc)));
  }
  table.define('jmp', (c) => c.branch(null));
  table.define('jmpi', (c) => c.jump(target(c, c.read(0))));
  table.define('call', (c) => {
    push(c, c.form.operandSize, nextIp(c));
    c.branch(null);
  });
  table.define('calli', (c) => {
    const to = target(c, c.read(0));
    push(c, c.form.operandSize, nextIp(c));
    c.jump(to);
  });
  table.define('ret', (c) => {
    const bits = c.form.operandSize;
    const sp = stackPointer(c);
    const to = c.load(bits, stackAddress(c, sp));
    const extra = c.form.row.operands.length > 0 ? c.immediate(0).extU() : i64(0);
    setStackPointer(c, sp.add(extra.add(bits / 8)));
    c.jump(target(c, to));
  });
  const loop = (name: string, extra: number | null): void => {
    table.define(name, (c) => {
      const bits = c.form.addressSize;
      const count = c.let(c.zeroExtend(c.gpr(1, bits).sub(1), bits));
      c.setGpr(1, bits, count);
      const more = count.ne(0);
      c.branch(extra === null ? more : more.and(c.condition(extra).ne(0)));
    });
  };
  loop('loop', null);
  loop('loope', 4);
  loop('loopne', 5);
  table.define('jcxz', (c) => c.branch(c.gpr(1, c.form.addressSize).eqz()));

  table.define('push', (c) => push(c, c.form.operandSize, fit(c, c.read(0))));
  table.define('pop', (c) => {
    const bits = c.form.operandSize;
    const sp = stackPointer(c);
    const value = c.load(bits, stackAddress(c, sp));
    const after = c.let(sp.add(bits / 8));
    if (!c.isMemory(0)) {
      setStackPointer(c, after);
      c.write(0, value);
      return;
    }
    // The destination's address is formed with the new stack pointer, but a fault leaves the old one.
    setStackPointer(c, after);
    const address = c.linearAddress();
    setStackPointer(c, sp);
    c.store(bits, address, value);
    setStackPointer(c, after);
  });
  table.define('pushf', (c) => {
    const flags = c.eflags().and(~(RFLAGS.RF | RFLAGS.VM));
    push(c, c.form.operandSize, c.form.operandSize === 64 ? flags.extU() : flags);
  });
  table.define('popf', (c) => {
    const bits = c.form.operandSize;
    const value = pop(c, bits);
    const low = value.wrap();
    const always = ARITHMETIC_FLAGS | RFLAGS.TF | RFLAGS.DF | RFLAGS.NT | (bits === 16 ? 0 : RFLAGS.AC | RFLAGS.ID);
    const cpl = c.let(c.get32(CTX.cpl));
    const iopl = c.let(c.get32(CTX.rflags).shrU(12).and(3));
    // IF changes when CPL <= IOPL, IOPL at CPL 0 only.
    const mask = c.let(
      i32(always)
        .or(cpl.leU(iopl).select(i32(RFLAGS.IF), i32(0)))
        .or(cpl.eqz().select(i32(RFLAGS.IOPL), i32(0))),
    );
    c.set32(CTX.ccOp, i32(0));
    c.set32(CTX.rflags, c.get32(CTX.rflags).and(mask.not()).or(low.and(mask)).and(~RFLAGS.RF));
  });
  table.define('leave', (c) => {
    const bits = c.form.operandSize;
    const frame = c.gpr(RBP, stackBits(c));
    const sp = c.let(frame.type === I64 ? frame : frame.extU());
    const value = c.load(bits, stackAddress(c, sp));
    setStackPointer(c, sp.add(bits / 8));
    c.setGpr(RBP, bits, value);
  });
  table.define('enter', (c) => {
    const bits = c.form.operandSize;
    const bytes = bits / 8;
    const packed = c.immediate(0);
    const size = c.let(packed.and(0xffff));
    const level = c.let(packed.shrU(16).and(31));
    const sp = c.f.local(I64);
    c.f.set(sp, stackPointer(c).sub(bytes));
    c.store(bits, stackAddress(c, sp), c.gpr(RBP, bits));
    const frame = c.let(sp);
    c.f.if(level.ne(0), () => {
      const link = c.f.local(I64);
      const rbp = c.gpr(RBP, stackBits(c));
      c.f.set(link, rbp.type === I64 ? rbp : rbp.extU());
      const left = c.f.local(level.type);
      c.f.set(left, level.sub(1));
      c.f.block((out) => {
        c.f.loop((again) => {
          c.f.brIf(out, left.eqz());
          c.f.set(link, link.sub(bytes));
          c.f.set(sp, sp.sub(bytes));
          c.store(bits, stackAddress(c, sp), c.load(bits, stackAddress(c, link)));
          c.f.set(left, left.sub(1));
          c.f.br(again);
        });
      });
      c.f.set(sp, sp.sub(bytes));
      c.store(bits, stackAddress(c, sp), bits === 64 ? frame : frame.wrap());
    });
    const end = c.let(sp.sub(size.extU()));
    // The new stack must be writable, although nothing is written there.
    c.probeWrite(stackAddress(c, end), 1);
    setStackPointer(c, end);
    c.setGpr(RBP, bits, bits === 64 ? frame : frame.wrap());
  });
  table.define('pusha', (c) => {
    const bits = c.form.operandSize;
    const sp = stackPointer(c);
    for (let n = 0; n < 8; n++) c.store(bits, stackAddress(c, c.let(sp.sub(((n + 1) * bits) / 8))), n === RSP ? sp.wrap() : c.gpr(n, bits));
    setStackPointer(c, sp.sub(bits));
  });
  table.define('popa', (c) => {
    const bits = c.form.operandSize;
    const sp = stackPointer(c);
    const values: Expr[] = [];
    for (let n = 7; n >= 0; n--) values[n] = c.load(bits, stackAddress(c, c.let(sp.add(((7 - n) * bits) / 8))));
    for (let n = 0; n < 8; n++) if (n !== RSP) c.setGpr(n, bits, values[n]);
    setStackPointer(c, sp.add(bits));
  });
  table.define('bound', (c) => {
    const bits = c.width(0);
    const address = c.linearAddress();
    const index = c.signExtend(c.read(0), bits);
    const low = c.signExtend(c.load(bits, address), bits);
    const high = c.signExtend(c.load(bits, c.let(address.add(bits / 8))), bits);
    c.faultIf(index.ltS(low).or(index.gtS(high)), VECTOR.BR);
  });
}

/** Immediates of PUSH come at their own width; the stack wants the operand size. */
function fit(c: SemContext, value: Expr): Expr {
  return c.form.operandSize === 64 && value.type !== I64 ? value.extS() : value;
}
