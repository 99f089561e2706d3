// SPDX-License-Identifier: Apache-2.0
/** A guest's console as text: waited for, typed into, and, in a shell, asked one command at a time. */

/** The prompt of the ready-made guests' shell. */
export const PROMPT = '~ # ';

export interface Answer {
  /** What the command printed, line ends as `\n`. */
  readonly output: string;
  readonly status: number;
}

export class GuestConsole {
  readonly #send: (text: string) => void;
  #text = '';
  #searched = 0;
  #ended = false;
  #changed: () => void = () => {};

  constructor(send: (text: string) => void) {
    this.#send = send;
  }

  hear(text: string): void {
    this.#text += text;
    this.#changed();
  }

  /** No more output comes: waits in progress fail. */
  end(): void {
    this.#ended = true;
    this.#changed();
  }

  /** Everything printed so far, line ends as `\n`. */
  get text(): string {
    return this.#text.replaceAll('\r\n', '\n');
  }

  type(text: string): void {
    this.#send(text);
  }

  /** Waits for text that follows what earlier waits found and returns what stands before it; throws when the guest ends or time is up. */
  async waitFor(wanted: string, timeoutMs: number): Promise<string> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const at = this.#text.indexOf(wanted, this.#searched);
      if (at >= 0) {
        const before = this.#text.slice(this.#searched, at);
        this.#searched = at + wanted.length;
        return before;
      }
      const left = deadline - Date.now();
      if (this.#ended || left <= 0)
        throw new Error(`no ${JSON.stringify(wanted)} ${this.#ended ? 'before the end' : 'in time'}:\n${this.text.slice(-4000)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#changed = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /**
   * Runs one line in the shell and waits until the next prompt is there. What is typed ahead of a prompt can get lost: a shell
   * switches its terminal between its own line editing and the programs' lines, on every Linux.
   */
  async command(line: string, timeoutMs: number): Promise<Answer> {
    // The quotes keep the echo of what was typed from looking like the answer.
    this.type(`echo "<"begin; ${line}; echo "<"end $?\n`);
    await this.waitFor('<begin\r\n', timeoutMs);
    const output = await this.waitFor('<end ', timeoutMs);
    const status = await this.waitFor('\r\n', timeoutMs);
    await this.waitFor(PROMPT, timeoutMs);
    return { output: output.replaceAll('\r\n', '\n'), status: Number(status) };
  }
}
