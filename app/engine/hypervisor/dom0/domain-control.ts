// SPDX-License-Identifier: Apache-2.0
/**
 * A domain as its owner on the I/O thread sees it: is it running, how did it end, pause, resume, stop. Works on shared state only, so
 * nothing here waits for a vCPU thread's messages.
 */
import { LIFECYCLE, REQUEST_CONTINUE, REQUEST_PAUSE, REQUEST_STOP, type SharedState, STATE } from '../shared-state.ts';

export const SHUTDOWN_REASONS = ['poweroff', 'reboot', 'suspend', 'crash', 'watchdog', 'soft_reset'] as const;
export type ShutdownReason = (typeof SHUTDOWN_REASONS)[number];

export type DomainEnd =
  | { readonly kind: 'shutdown'; readonly reason: ShutdownReason }
  | { readonly kind: 'crashed'; readonly report: readonly string[] };

export class DomainControl {
  readonly #state: SharedState;
  #stopped = false;

  constructor(state: SharedState) {
    this.#state = state;
  }

  /** How the domain ended, or null while it lives. */
  get end(): DomainEnd | null {
    const lifecycle = this.#state.lifecycle;
    if (lifecycle === LIFECYCLE.crashed) return { kind: 'crashed', report: this.#report() };
    if (lifecycle !== LIFECYCLE.shutdown) return null;
    return { kind: 'shutdown', reason: SHUTDOWN_REASONS[this.#state.get(STATE.shutdownReason)] ?? 'crash' };
  }

  /** The domain suspended itself, and can go on where it stands. */
  get suspended(): boolean {
    return this.#state.lifecycle === LIFECYCLE.shutdown && SHUTDOWN_REASONS[this.#state.get(STATE.shutdownReason)] === 'suspend';
  }

  /** Resolves when the domain has ended; null: its threads were told to stop first. */
  async ended(): Promise<DomainEnd | null> {
    while (this.end === null && !this.#stopped) await this.#changeFrom(this.#state.lifecycle);
    return this.end;
  }

  /** Lets a suspended domain go on as if the suspend had been cancelled; resolves when it does, or was told to stop. */
  async continueSuspended(): Promise<void> {
    this.#request(REQUEST_CONTINUE);
    while (this.suspended && !this.#stopped) await this.#changeFrom(LIFECYCLE.shutdown);
  }

  async #changeFrom(lifecycle: number): Promise<void> {
    const result = Atomics.waitAsync(this.#state.i32, this.#state.word(STATE.lifecycle), lifecycle);
    if (result.async) await result.value;
  }

  /** Asks the vCPU threads to stop executing the guest; their run loops return. */
  pause(): void {
    this.#request(REQUEST_PAUSE);
  }
  /** Takes a pause back and wakes the vCPU threads, whose owners call their run loops again. */
  resume(): void {
    Atomics.and(this.#state.i32, this.#state.word(STATE.request), ~REQUEST_PAUSE);
    this.#state.kickAll();
  }
  /** Asks the vCPU threads to end for good. */
  stop(): void {
    this.#stopped = true;
    this.#request(REQUEST_STOP);
    Atomics.notify(this.#state.i32, this.#state.word(STATE.lifecycle));
  }

  #request(bit: number): void {
    Atomics.or(this.#state.i32, this.#state.word(STATE.request), bit);
    this.#state.kickAll();
  }

  #report(): string[] {
    const length = Math.min(this.#state.get(STATE.crashLength), STATE.crashBytes);
    const at = this.#state.byte(STATE.crashText);
    let text = '';
    for (let i = 0; i < length; i++) text += String.fromCharCode(this.#state.u8[at + i]);
    return text === '' ? [] : text.split('\n');
  }
}
