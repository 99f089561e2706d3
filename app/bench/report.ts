// SPDX-License-Identifier: Apache-2.0
/** The table that `npm run bench` prints. */
import { type Column, type Figure, passes, ratioOf, type Skipped } from './figure.ts';

const COLUMNS: readonly Column[] = ['interp', 'qemu-tcg'];

function number(value: number | null | undefined): string {
  if (value === null || value === undefined) return '–';
  if (value >= 100) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function barText(figure: Figure): string {
  const { bar } = figure;
  if (bar === undefined) return '';
  const passed = passes(figure);
  const result = passed === null ? 'not measured' : passed ? 'passed' : 'FAILED';
  return `${bar.of === 'ratio' ? 'ratio ' : ''}${bar.rule} ${bar.limit}: ${result}`;
}

/** A Markdown table, which is also readable as it is. */
export function formatTable(figures: readonly Figure[], skipped: readonly Skipped[]): string {
  const head = ['suite', 'figure', 'unit', ...COLUMNS, 'ratio', 'bar'];
  const rows = figures.map((figure) => [
    figure.suite,
    figure.name,
    figure.unit,
    ...COLUMNS.map((column) => number(figure.values[column])),
    number(ratioOf(figure)),
    barText(figure),
  ]);
  const widths = head.map((title, n) => Math.max(title.length, ...rows.map((row) => row[n].length)));
  const numeric = (n: number): boolean => n >= 3 && n <= 3 + COLUMNS.length;
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, n) => (numeric(n) ? cell.padStart(widths[n]) : cell.padEnd(widths[n]))).join(' | ')} |`;
  const rule = `|${widths.map((width, n) => (numeric(n) ? `${'-'.repeat(width + 1)}:` : '-'.repeat(width + 2))).join('|')}|`;
  const notes = skipped.map((item) => `Skipped: ${item.suite}, ${item.name}: ${item.reason}`);
  return [line(head), rule, ...rows.map(line), ...notes].join('\n');
}
