// SPDX-License-Identifier: Apache-2.0
/** What benchmarks report: figures in columns, with the bar that a figure has to pass. Suites make them, `report.ts` prints them. */

/** Who was measured; more columns come with more tiers. */
export type Column = 'interp' | 'qemu-tcg';

export interface Bar {
  /** `interp` is the value of that column; `ratio` the interpreter's divided by QEMU's. */
  readonly of: 'interp' | 'ratio';
  readonly rule: 'at least' | 'at most';
  readonly limit: number;
}

export interface Figure {
  readonly suite: string;
  readonly name: string;
  readonly unit: string;
  readonly values: Readonly<Partial<Record<Column, number>>>;
  readonly bar?: Bar;
}

/** Something that could not be measured here, and why. */
export interface Skipped {
  readonly suite: string;
  readonly name: string;
  readonly reason: string;
}

export interface BenchContext {
  /** Runs of which the median counts. */
  readonly runs: number;
  /** Progress, for people. */
  readonly say: (message: string) => void;
  readonly add: (figure: Figure) => void;
  readonly skip: (skipped: Skipped) => void;
}

export interface Suite {
  readonly name: string;
  readonly summary: string;
  readonly run: (context: BenchContext) => Promise<void>;
}

export function ratioOf(figure: Figure): number | null {
  const { interp, 'qemu-tcg': qemu } = figure.values;
  return interp === undefined || qemu === undefined ? null : interp / qemu;
}

/** Whether the figure passes its bar; null when it has none, or what the bar is about was not measured. */
export function passes(figure: Figure): boolean | null {
  const { bar } = figure;
  if (bar === undefined) return null;
  const value = bar.of === 'ratio' ? ratioOf(figure) : (figure.values.interp ?? null);
  if (value === null) return null;
  return bar.rule === 'at least' ? value >= bar.limit : value <= bar.limit;
}

export function median(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError('no values');
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
