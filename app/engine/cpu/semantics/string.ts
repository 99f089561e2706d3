// SPDX-License-Identifier: Apache-2.0
/**
 * String instructions with their repeat prefixes (Intel SDM volume 2: MOVS, STOS, LODS, SCAS, CMPS, REP).
 *
 * Registers are stored after every element or chunk, so that a fault in the middle leaves the state of a restartable instruction.
 * Forward MOVS and STOS move whole pieces of pages; a repetition looks for events after each piece.
 */
import { type Expr, I32, I64, i32 } from '../../wasm/expr.ts';
import { CTX, RFLAGS } from '../../memory/vcpu-context.ts';
import { CPU, FLAGS } from '../record.ts';
import type { SemContext, SemanticsTable } from './context.ts';

const RAX = 0;
const RCX = 1;
const RSI = 6;
const RDI = 7;

/** Elements of a repetition between two looks for events. */
const CHUNK = 4096;

const mask = (c: SemContext): number | null => (c.form.addressSize === 64 ? null : c.form.addressSize === 32 ? 0xffff_ffff : 0xffff);

function index(c: SemContext, register: number): Expr {
  const value = c.gpr(register, c.form.addressSize);
  return value.type === I64 ? value : c.let(value.extU());
}
function setIndex(c: SemContext, register: number, value: Expr): void {
  c.setGpr(register, c.form.addressSize, c.form.addressSize === 64 ? value : value.wrap());
}
function advance(c: SemContext, register: number, by: Expr): void {
  setIndex(c, register, index(c, register).add(by));
}
function linear(c: SemContext, offset: Expr, base: Expr): Expr {
  const m = mask(c);
  const sum = (m === null ? offset : offset.and(m)).add(base);
  return c.let(c.mode === 64 ? sum : sum.and(0xffff_ffff));
}
const sourceAddress = (c: SemContext): Expr => linear(c, index(c, RSI), c.sourceSegmentBase());
/** The destination is in ES, which has base zero in 64-bit mode. */
const targetAddress = (c: SemContext): Expr =>
  c.mode === 64 ? linear(c, index(c, RDI), c.get64(CTX.zero)) : linear(c, index(c, RDI), c.get64(CTX.segBase));

/** Bytes from one element to the next: negative when DF is set. */
function stride(c: SemContext, bytes: number): Expr {
  const down = c.get32(CTX.rflags).and(RFLAGS.DF).ne(0);
  return c.let(down.select(c.constant(64, -bytes), c.constant(64, bytes)));
}

/**
 * Runs `element` under the form's repeat prefix. `until`: for REPE and REPNE, what ends the repetition (0 or 1) after an element.
 * `chunk`: tries to do several elements at once and gives how many it did (i64); 0: none.
 */
function repeated(c: SemContext, element: () => void, until: (() => Expr) | null, chunk: (() => Expr) | null): void {
  if (c.form.rep === 0) {
    element();
    return;
  }
  const f = c.f;
  const left = f.local(I32);
  f.set(left, CHUNK);
  f.block((out) => {
    f.brIf(out, index(c, RCX).eqz());
    if (chunk) {
      const did = chunk();
      f.if(did.ne(0), () => {
        advance(c, RCX, did.neg());
        f.brIf(out, index(c, RCX).eqz());
        c.repeat();
      });
    }
    f.loop((again) => {
      element();
      advance(c, RCX, c.constant(64, -1));
      f.brIf(out, index(c, RCX).eqz());
      if (until) f.brIf(out, until());
      f.set(left, left.sub(1));
      // A trap after every element while single-stepping, and after one that touched watched data.
      f.if(left.eqz().or(c.get32(CTX.rflags).and(RFLAGS.TF)).or(c.get32(CPU.watchHits)), () => c.repeat());
      f.br(again);
    });
  });
}

/** Elements that fit before the ends of the pages of both addresses, at most RCX. */
function fitting(c: SemContext, bytes: number, addresses: readonly Expr[]): Expr {
  let room: Expr | null = null;
  for (const address of addresses) {
    const here = c.let(c.constant(64, 4096).sub(address.and(4095)));
    room = room ? c.let(room.ltU(here).select(room, here)) : here;
  }
  const count = c.let((room as Expr).shrU(Math.log2(bytes)));
  const wanted = index(c, RCX);
  return c.let(count.ltU(wanted).select(count, wanted));
}

export function defineStrings(table: SemanticsTable): void {
  /** Whole pieces: upwards, and with neither single-stepping nor data breakpoints, which look at each element. */
  const upwards = (c: SemContext): Expr =>
    c
      .get32(CTX.rflags)
      .and(RFLAGS.DF | RFLAGS.TF)
      .or(c.get32(CPU.watchActive))
      .eqz();

  table.define('movs', (c) => {
    const bits = c.size;
    const bytes = bits / 8;
    const by = stride(c, bytes);
    repeated(
      c,
      () => {
        const value = c.load(bits, sourceAddress(c));
        c.store(bits, targetAddress(c), value);
        advance(c, RSI, by);
        advance(c, RDI, by);
      },
      null,
      () => {
        const done = c.f.local(I64);
        c.f.set(done, 0);
        c.f.if(upwards(c), () => {
          const from = sourceAddress(c);
          const to = targetAddress(c);
          const count = fitting(c, bytes, [from, to]);
          const size = c.let(count.shl(Math.log2(bytes)));
          c.f.if(count.gtU(1), () => {
            const source = c.hostAddress(from, 0);
            const target = c.hostAddress(to, 2);
            // Overlapping upward copies must repeat the pattern: leave them to the elements. Host addresses see aliases too.
            c.f.if(target.sub(source).geU(size.wrap()), () => {
              c.f.memoryCopy(target, source, size.wrap());
              c.wroteHost(target, size.wrap());
              setIndex(c, RSI, index(c, RSI).add(size));
              setIndex(c, RDI, index(c, RDI).add(size));
              c.f.set(done, count);
            });
          });
        });
        return done;
      },
    );
  });

  table.define('stos', (c) => {
    const bits = c.size;
    const bytes = bits / 8;
    const by = stride(c, bytes);
    repeated(
      c,
      () => {
        c.store(bits, targetAddress(c), c.gpr(RAX, bits));
        advance(c, RDI, by);
      },
      null,
      () => {
        const done = c.f.local(I64);
        c.f.set(done, 0);
        // A fill needs equal bytes.
        const value = c.gpr(RAX, bits);
        const byte = value.wrap().and(0xff);
        const uniform =
          bits === 8
            ? i32(1)
            : value.eq(
                bits === 64 ? byte.extU().mul(c.constant(64, 0x0101_0101_0101_0101n)) : byte.mul(bits === 32 ? 0x0101_0101 : 0x0101),
              );
        c.f.if(upwards(c).and(uniform), () => {
          const to = targetAddress(c);
          const count = fitting(c, bytes, [to]);
          c.f.if(count.gtU(1), () => {
            const target = c.hostAddress(to, 2);
            const size = c.let(count.shl(Math.log2(bytes)));
            c.f.memoryFill(target, byte, size.wrap());
            c.wroteHost(target, size.wrap());
            setIndex(c, RDI, index(c, RDI).add(size));
            c.f.set(done, count);
          });
        });
        return done;
      },
    );
  });

  table.define('lods', (c) => {
    const bits = c.size;
    const by = stride(c, bits / 8);
    repeated(
      c,
      () => {
        c.setGpr(RAX, bits, c.load(bits, sourceAddress(c)));
        advance(c, RSI, by);
      },
      null,
      null,
    );
  });

  /** Ends REPE when the elements differ and REPNE when they are equal. */
  const ends = (c: SemContext, a: Expr, b: Expr): Expr => (c.form.rep === 2 ? a.ne(b) : a.eq(b));
  table.define('scas', (c) => {
    const bits = c.size;
    const by = stride(c, bits / 8);
    const a = c.gpr(RAX, bits);
    const b = c.f.local(c.typeOf(bits));
    repeated(
      c,
      () => {
        c.f.set(b, c.load(bits, targetAddress(c)));
        c.setFlags(FLAGS.sub, bits, a.sub(b), a, b);
        advance(c, RDI, by);
      },
      () => ends(c, a, b),
      null,
    );
  });
  table.define('cmps', (c) => {
    const bits = c.size;
    const by = stride(c, bits / 8);
    const a = c.f.local(c.typeOf(bits));
    const b = c.f.local(c.typeOf(bits));
    repeated(
      c,
      () => {
        // Processors fetch the second operand first: it decides which page fault there is when both are missing.
        c.f.set(b, c.load(bits, targetAddress(c)));
        c.f.set(a, c.load(bits, sourceAddress(c)));
        c.setFlags(FLAGS.sub, bits, a.sub(b), a, b);
        advance(c, RSI, by);
        advance(c, RDI, by);
      },
      () => ends(c, a, b),
      null,
    );
  });
}
