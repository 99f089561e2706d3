// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { XENCONS_IN_CONS, XENCONS_IN_PROD, XENCONS_OUT, XENCONS_OUT_CONS, XENCONS_OUT_PROD } from './console-ring.ts';
import { PvConsole, type PvConsoleOptions } from './pv-console.ts';
import { Scrollback } from './scrollback.ts';

function bytesOf(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

function textOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join('');
}

/** The guest's end, as hvc_xen does it. */
class Guest {
  readonly page = new Uint8Array(new SharedArrayBuffer(4096));
  readonly words = new Int32Array(this.page.buffer);
  notifications = 0;

  word(at: number): number {
    return this.words[at >> 2] >>> 0;
  }

  /** Prints as much as fits and says how much that was. */
  print(text: string): number {
    const prod = this.word(XENCONS_OUT_PROD);
    const room = 2048 - ((prod - this.word(XENCONS_OUT_CONS)) >>> 0);
    const count = Math.min(room, text.length);
    for (let i = 0; i < count; i++) this.page[XENCONS_OUT + ((prod + i) & 2047)] = text.charCodeAt(i);
    this.words[XENCONS_OUT_PROD >> 2] = prod + count;
    return count;
  }

  read(): string {
    let text = '';
    let cons = this.word(XENCONS_IN_CONS);
    for (; cons !== this.word(XENCONS_IN_PROD); cons = (cons + 1) >>> 0) text += String.fromCharCode(this.page[cons & 1023]);
    this.words[XENCONS_IN_CONS >> 2] = cons;
    return text;
  }
}

function connected(options: Partial<PvConsoleOptions> = {}) {
  const guest = new Guest();
  const console = new PvConsole({ page: guest.page, notify: () => guest.notifications++, ...options });
  return { guest, console };
}

/** A sink that is full after `room` bytes. */
class Sink {
  text = '';
  room: number;
  constructor(room = Number.POSITIVE_INFINITY) {
    this.room = room;
  }
  write(bytes: Uint8Array): boolean {
    this.text += textOf(bytes);
    return this.text.length < this.room;
  }
}

describe('Scrollback', () => {
  it('keeps the end of whatever came, in whatever pieces (property)', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 20 }), fc.array(fc.uint8Array({ maxLength: 30 })), (capacity, pieces) => {
        const scrollback = new Scrollback(capacity);
        const all: number[] = [];
        for (const piece of pieces) {
          scrollback.push(piece);
          all.push(...piece);
        }
        expect(scrollback.total).toBe(all.length);
        expect([...scrollback.contents()]).toEqual(all.slice(-capacity));
      }),
    );
  });
});

describe('output', () => {
  it('is taken before anyone listens and replayed to who comes', () => {
    const { guest, console } = connected();
    guest.print('early ');
    console.pump();
    expect(guest.word(XENCONS_OUT_CONS)).toBe(6);
    const sink = new Sink();
    console.attach(sink);
    guest.print('late');
    console.pump();
    expect(sink.text).toBe('early late');
    const fresh = new Sink();
    console.attach(fresh, { replay: false });
    expect(fresh.text).toBe('');
  });

  it('keeps the last 64 KiB', () => {
    const { guest, console } = connected();
    for (let i = 0; i < 100; i++) {
      guest.print(String.fromCharCode(65 + (i % 26)).repeat(1000));
      console.pump();
    }
    expect(console.outputBytes).toBe(100_000);
    expect(console.scrollback()).toHaveLength(65536);
    expect(textOf(console.scrollback()).endsWith('V'.repeat(1000))).toBe(true);
  });

  it('passes wrapped and arbitrary bytes unchanged, from any index (property)', () => {
    fc.assert(
      fc.property(fc.nat(0xffffffff), fc.array(fc.string({ unit: 'binary-ascii', maxLength: 700 }), { maxLength: 10 }), (index, texts) => {
        const { guest, console } = connected();
        guest.words[XENCONS_OUT_CONS >> 2] = index;
        guest.words[XENCONS_OUT_PROD >> 2] = index;
        const sink = new Sink();
        console.attach(sink);
        for (const text of texts) {
          guest.print(text);
          console.pump();
        }
        expect(sink.text).toBe(texts.join(''));
      }),
    );
  });

  it('holds the guest up while a sink is full, and goes on when it drained', () => {
    const { guest, console } = connected();
    const sink = new Sink(4);
    const attachment = console.attach(sink);
    guest.print('abcd');
    console.pump();
    expect(guest.print('x'.repeat(5000))).toBe(2048);
    console.pump();
    expect(sink.text).toBe('abcd');
    const before = guest.notifications;
    sink.room = Number.POSITIVE_INFINITY;
    attachment.drained();
    expect(sink.text).toHaveLength(4 + 2048);
    expect(guest.notifications).toBe(before + 1);
  });

  it('tells a guest that filled the ring about the room, and spares one that prints lines the interrupts', () => {
    const { guest, console } = connected();
    guest.print('a line\n');
    console.pump();
    expect(guest.notifications).toBe(0);
    expect(guest.print('x'.repeat(5000))).toBe(2048);
    console.pump();
    expect(guest.notifications).toBe(1);
  });

  it('does not let a dropping sink hold anybody up, and counts what it missed', () => {
    const { guest, console } = connected();
    const slow = new Sink(2);
    const quick = new Sink();
    const attachment = console.attach(slow, { whenFull: 'drop' });
    console.attach(quick);
    for (const text of ['ab', 'cd', 'ef']) {
      guest.print(text);
      console.pump();
    }
    expect([slow.text, quick.text, attachment.missedBytes]).toEqual(['ab', 'abcdef', 4]);
    attachment.drained();
    guest.print('gh');
    console.pump();
    expect(slow.text).toBe('abgh');
  });

  it('goes on when the sink that held it up leaves', () => {
    const { guest, console } = connected();
    const attachment = console.attach(new Sink(1));
    guest.print('ab');
    console.pump();
    guest.print('cd');
    console.pump();
    expect(console.outputBytes).toBe(2);
    attachment.detach();
    expect(textOf(console.scrollback())).toBe('abcd');
  });

  it('takes a bounded amount at a time from a guest that never stops', () => {
    const later: (() => void)[] = [];
    const guest = new Guest();
    const console = new PvConsole({ page: guest.page, notify: () => {}, tasks: { soon: (task) => later.push(task) } });
    const endless = {
      write: () => {
        guest.print('y'.repeat(2048));
        return true;
      },
    };
    console.attach(endless);
    guest.print('y');
    console.pump();
    expect(console.outputBytes).toBeLessThanOrEqual(16 * 2048);
    expect(later).toHaveLength(1);
    const before = console.outputBytes;
    later[0]();
    expect(console.outputBytes).toBeGreaterThan(before);
  });

  it('gives a sink that comes while others are served every byte once', () => {
    const { guest, console } = connected();
    const late = new Sink();
    let came = false;
    console.attach({
      write: () => {
        if (!came) console.attach(late);
        came = true;
        return true;
      },
    });
    guest.print('once');
    console.pump();
    expect(late.text).toBe('once');
  });

  it('takes the last words before it closes, and nothing after', () => {
    const { guest, console } = connected();
    const sink = new Sink();
    console.attach(sink);
    guest.print('Kernel panic');
    console.close();
    guest.print('more');
    console.pump();
    expect(sink.text).toBe('Kernel panic');
    expect(console.input(bytesOf('x'))).toBe(0);
  });
});

describe('input', () => {
  it('waits for room and keeps its order', () => {
    const { guest, console } = connected();
    const text = Array.from({ length: 3000 }, (_, i) => String.fromCharCode(97 + (i % 26))).join('');
    expect(console.input(bytesOf(text.slice(0, 1500)))).toBe(1500);
    expect(console.input(bytesOf(text.slice(1500)))).toBe(1500);
    expect(console.queuedInputBytes).toBe(3000 - 1024);
    let drained = 0;
    console.onInputDrained(() => drained++);
    let got = '';
    for (let i = 0; i < 4; i++) {
      got += guest.read();
      console.pump();
    }
    expect(got).toBe(text);
    expect(drained).toBe(1);
  });

  it('is accepted up to its limit', () => {
    const { console } = connected({ inputBytes: 2000 });
    expect(console.input(new Uint8Array(5000))).toBe(2000);
    expect(console.input(new Uint8Array(5000))).toBe(1024);
    expect(console.input(new Uint8Array(1))).toBe(0);
  });

  it('tells the guest once for each step', () => {
    const { guest, console } = connected();
    console.input(bytesOf('a'));
    expect(guest.notifications).toBe(1);
    console.pump();
    expect(guest.notifications).toBe(1);
  });
});

describe('a hostile guest', () => {
  it('loses what impossible indices claim, and can go on', () => {
    const { guest, console } = connected();
    guest.words[XENCONS_OUT_PROD >> 2] = 5000;
    console.pump();
    expect([console.outputBytes, console.inconsistencies, guest.word(XENCONS_OUT_CONS)]).toEqual([0, 1, 5000]);
    guest.print('ok');
    console.pump();
    expect(textOf(console.scrollback())).toBe('ok');
    guest.words[XENCONS_IN_CONS >> 2] = 9;
    console.input(bytesOf('abc'));
    console.pump();
    expect(guest.read()).toBe('abc');
  });

  it('can write anything into the page without harm (property)', () => {
    const step = fc.record({
      at: fc.constantFrom(XENCONS_IN_CONS, XENCONS_IN_PROD, XENCONS_OUT_CONS, XENCONS_OUT_PROD),
      value: fc.oneof(fc.nat(4096), fc.nat(0xffffffff)),
      input: fc.nat(3000),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const { guest, console } = connected({ scrollbackBytes: 1000, inputBytes: 5000 });
        console.attach(new Sink());
        for (const { at, value, input } of steps) {
          guest.words[at >> 2] = value;
          console.input(new Uint8Array(input));
          console.pump();
          expect(console.scrollback().length).toBeLessThanOrEqual(1000);
          expect(console.queuedInputBytes).toBeLessThanOrEqual(5000);
        }
      }),
    );
  });
});
