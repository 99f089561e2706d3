// SPDX-License-Identifier: Apache-2.0
/**
 * Finds Ctrl-] in what is typed on a terminal, and the keys that answer the menu. Everything else is the guest's.
 *
 * Works on bytes, because that is what a guest gets; a chunk may hold several keys, and a key of several bytes (an arrow, a letter
 * outside ASCII) comes in one chunk. Such a key closes the menu and is dropped whole.
 */

export const ESCAPE_BYTE = 0x1d;
const ESC = 0x1b;

export type MenuChoice = 'quit' | 'reset' | 'shutdown' | 'sysrq' | 'statistics' | 'window-size' | 'literal' | 'back';

export type KeyEvent =
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  | { readonly kind: 'open' }
  /** `sysrq` opens a second question; the menu stays open. */
  | { readonly kind: 'choice'; readonly choice: MenuChoice }
  /** The answer to `sysrq`; null: none that could be meant. */
  | { readonly kind: 'sysrq-key'; readonly key: string | null };

const CHOICES: Readonly<Record<string, MenuChoice>> = {
  q: 'quit',
  r: 'reset',
  p: 'shutdown',
  b: 'sysrq',
  s: 'statistics',
  w: 'window-size',
  ']': 'literal',
  '\x1d': 'literal',
};

export class EscapeKeys {
  #state: 'guest' | 'menu' | 'sysrq' = 'guest';

  feed(chunk: Uint8Array): KeyEvent[] {
    const events: KeyEvent[] = [];
    let at = 0;
    while (at < chunk.length) {
      if (this.#state === 'guest') {
        const escapeAt = chunk.indexOf(ESCAPE_BYTE, at);
        const end = escapeAt < 0 ? chunk.length : escapeAt;
        if (end > at) events.push({ kind: 'bytes', bytes: chunk.subarray(at, end) });
        at = end;
        if (escapeAt < 0) break;
        this.#state = 'menu';
        events.push({ kind: 'open' });
        at++;
        continue;
      }
      const byte = chunk[at];
      events.push(this.#answer(byte));
      at = byte === ESC || byte >= 0x80 ? chunk.length : at + 1;
    }
    return events;
  }

  #answer(byte: number): KeyEvent {
    const key = String.fromCharCode(byte);
    if (this.#state === 'sysrq') {
      this.#state = 'guest';
      return { kind: 'sysrq-key', key: /^[0-9A-Za-z]$/.test(key) ? key : null };
    }
    const choice = CHOICES[key.toLowerCase()] ?? 'back';
    this.#state = choice === 'sysrq' ? 'sysrq' : 'guest';
    return { kind: 'choice', choice };
  }
}
