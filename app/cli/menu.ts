// SPDX-License-Identifier: Apache-2.0
/**
 * What the keys of the Ctrl-] menu do. While the menu is on the screen the guest's output is held, so that nothing is written into it.
 */
import type { MachineStats } from '../engine/index.ts';
import type { MenuEvent } from './console-input.ts';
import { ESCAPE_BYTE, type MenuChoice } from './escape-keys.ts';
import type { CliMachine, OutputStream } from './host.ts';
import type { Screen } from './screen.ts';

const PROMPT = 'paravane: q quit  r reset  p shut down  b SysRq  s statistics  w size  ] Ctrl-]';
const SYSRQ_PROMPT = 'paravane: SysRq key (h lists them): ';

export interface MenuActions {
  /** The machine that runs, if one does. */
  machine(): CliMachine | null;
  type(bytes: Uint8Array): void;
  holdOutput(): void;
  releaseOutput(): void;
  quit(): void;
  reset(): void;
}

export class Menu {
  readonly #screen: Screen;
  readonly #size: Pick<OutputStream, 'columns' | 'rows'>;
  readonly #actions: MenuActions;

  /** `size` knows the window. */
  constructor(screen: Screen, size: Pick<OutputStream, 'columns' | 'rows'>, actions: MenuActions) {
    this.#screen = screen;
    this.#size = size;
    this.#actions = actions;
  }

  handle(event: MenuEvent): void {
    if (event.kind === 'open') {
      this.#actions.holdOutput();
      this.#screen.prompt(PROMPT);
      return;
    }
    if (event.kind === 'choice' && event.choice === 'sysrq') {
      this.#screen.prompt(SYSRQ_PROMPT);
      return;
    }
    this.#screen.closePrompt();
    if (event.kind === 'sysrq-key') this.#sysrq(event.key);
    else this.#choose(event.choice);
    this.#actions.releaseOutput();
  }

  #choose(choice: MenuChoice): void {
    switch (choice) {
      case 'quit':
        this.#actions.quit();
        break;
      case 'reset':
        this.#actions.reset();
        break;
      case 'shutdown':
        this.#shutDown();
        break;
      case 'statistics': {
        const machine = this.#actions.machine();
        if (machine !== null) this.#screen.say(statisticsLine(machine.stats()));
        break;
      }
      case 'window-size':
        this.#windowSize();
        break;
      case 'literal':
        this.#actions.type(Uint8Array.of(ESCAPE_BYTE));
        break;
      case 'sysrq':
      case 'back':
    }
  }

  #shutDown(): void {
    const asked = this.#actions.machine()?.requestShutdown('poweroff', () => this.#screen.note('the guest has taken the request'));
    if (asked === undefined) return;
    this.#screen.say(asked.ok ? 'asked the guest to shut down' : asked.error.message);
  }

  #sysrq(key: string | null): void {
    if (key === null) {
      this.#screen.say('a SysRq key is a letter or a digit; nothing was sent');
      return;
    }
    const sent = this.#actions.machine()?.sendSysrq(key);
    if (sent?.ok === false) this.#screen.say(sent.error.message);
  }

  /** The PV console has no message for a window's size, so the guest's shell is told. */
  #windowSize(): void {
    const { rows, columns } = this.#size;
    if (rows === undefined || columns === undefined) this.#screen.say('the size of this terminal is not known');
    else this.#actions.type(new TextEncoder().encode(`stty rows ${rows} cols ${columns}\r`));
  }
}

/** With thousands separators; `toLocaleString` would take 20 ms to load its data. */
const count = (value: number): string => String(Math.round(value)).replaceAll(/\B(?=(?:\d{3})+$)/g, ',');
const millions = (value: number): string => (value < 1e7 ? (value / 1e6).toFixed(1) : count(value / 1e6));
const sum = (counters: Readonly<Record<string, number>>): number => Object.values(counters).reduce((total, value) => total + value, 0);

/** The most telling counters in one line; those that are not known yet are left out. */
export function statisticsLine(stats: MachineStats): string {
  const parts = [
    `${stats.wallSeconds.toFixed(1)} s`,
    `${millions(stats.instructions)} million instructions (${millions(stats.instructionsPerSecond)} million a second)`,
  ];
  const hypercalls = sum(stats.hypercalls);
  if (hypercalls > 0) parts.push(`${count(hypercalls)} hypercalls`);
  const exits = sum(stats.exits);
  if (exits > 0) parts.push(`${count(exits)} exits`);
  if (stats.secondsToFirstConsoleByte !== null) parts.push(`first output after ${stats.secondsToFirstConsoleByte.toFixed(2)} s`);
  return parts.join(', ');
}
