// SPDX-License-Identifier: Apache-2.0
/**
 * Records the instruction vectors on this machine: `node app/tools/vectors/generate.ts` (see README.md beside it).
 *
 * Options: `--count N` cases a form; `--only TEXT` forms whose name contains TEXT (written to no file, printed instead); `--salt S` other
 * random choices; `--out FOLDER` to write elsewhere.
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { brotliCompressSync, constants } from 'node:zlib';
import { INTEGER } from '../../engine/cpu/isa/integer.ts';
import { parseRows } from '../../engine/cpu/isa/row.ts';
import { SSE } from '../../engine/cpu/isa/sse.ts';
import { SYSTEM } from '../../engine/cpu/isa/system.ts';
import { X87 } from '../../engine/cpu/isa/x87.ts';
import { differences, formatVector, initialState, type VectorCase, type VectorResult } from '../../engine/cpu/vectors/case.ts';
import { STATE } from '../../engine/cpu/vectors/state.ts';
import { makeCase } from './cases.ts';
import { lockedCases, undefinedCases } from './undefined-encodings.ts';
import { skippedRows, type VectorForm, vectorForms } from './forms.ts';

const CASES_A_FORM = 14;
const INPUT_HEADER = 24;
const OUTPUT_HEADER = 16;
const PAGE_FAULT = 14;
const BREAKPOINT = 3;
const INVALID_OPCODE = 6;
const UNDEFINED = 'undefined';
/** A faulting instruction may be reported with an error code that means nothing. */
const WITH_ERROR = new Set([8, 10, 11, 12, 13, 14, 17]);
const BATCH = 256;

const here = import.meta.dirname;
const dataFolder = option('out') ?? join(here, '../../engine/cpu/vectors/data');

/** Files by family, in the table's order. */
function families(): (form: VectorForm) => string {
  const ends: [string, number][] = [];
  let end = 0;
  for (const [name, lines] of [
    ['integer', INTEGER],
    ['system', SYSTEM],
    ['x87', X87],
    ['sse', SSE],
  ] as const) {
    end += parseRows(lines).length;
    ends.push([name, end]);
  }
  return (form) => {
    const family = (ends.find(([, last]) => form.row.id < last) ?? ['sse'])[0];
    return family === 'sse' && form.row.attributes.has('mmx') ? 'mmx' : family;
  };
}

function inputOf(item: VectorCase): Uint8Array {
  const bytes = new Uint8Array(INPUT_HEADER + STATE.bytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, item.mode, true);
  view.setUint32(4, item.code.length, true);
  bytes.set(item.code, 8);
  bytes.set(initialState(item), INPUT_HEADER);
  return bytes;
}

function resultOf(item: VectorCase, bytes: Uint8Array): VectorResult {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const trap = view.getUint32(0, true);
  const after = bytes.slice(OUTPUT_HEADER);
  const before = initialState(item);
  normalize(before, after, item.mode);
  return {
    trap,
    error: WITH_ERROR.has(trap) ? view.getUint32(4, true) : 0,
    cr2: trap === PAGE_FAULT ? Number(view.getBigUint64(8, true)) : 0,
    changes: differences(before, after),
  };
}

/** Leaves out of the result what is not compared: the resume flag, pointers, upper halves of registers in 32-bit mode. */
function normalize(before: Uint8Array, after: Uint8Array, mode: number): void {
  after[STATE.rflags + 2] &= ~1;
  if (mode === 32) for (let n = 0; n < 8; n++) after.set(before.subarray(n * 8 + 4, n * 8 + 8), n * 8 + 4);
  const fx = STATE.fx;
  for (const [from, to] of [
    [5, 24],
    [28, 32],
    [416, 512],
  ])
    after.set(before.subarray(fx + from, fx + to), fx + from);
  for (let n = 0; n < 8; n++) after.set(before.subarray(fx + 32 + n * 16 + 10, fx + 48 + n * 16), fx + 32 + n * 16 + 10);
}

/** Runs cases through the recorder. */
async function record(program: string, cases: readonly VectorCase[]): Promise<VectorResult[]> {
  const child = spawn(program, { stdio: ['pipe', 'pipe', 'inherit'] });
  const results: VectorResult[] = [];
  const size = OUTPUT_HEADER + STATE.bytes;
  let rest: Buffer = Buffer.alloc(0);
  child.stdout.on('data', (chunk: Buffer) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let at = 0;
    for (; at + size <= rest.length; at += size)
      results.push(resultOf(cases[results.length], new Uint8Array(rest.subarray(at, at + size))));
    rest = rest.subarray(at);
  });
  const closed = new Promise<{ code: number | null; signal: string | null }>((resolve) =>
    child.on('close', (code, signal) => resolve({ code, signal })),
  );
  child.stdin.on('error', () => {});
  for (let n = 0; n < cases.length && child.exitCode === null; n += BATCH) {
    const batch = Buffer.concat(cases.slice(n, n + BATCH).map(inputOf));
    if (!child.stdin.write(batch)) await Promise.race([new Promise((resolve) => child.stdin.once('drain', resolve)), closed]);
  }
  child.stdin.end();
  const { code, signal } = await closed;
  if (code !== 0 || results.length !== cases.length) {
    const lost = cases[results.length];
    throw new Error(
      `the recorder ended with ${signal ?? code} after ${results.length} of ${cases.length} cases; near ${lost?.name} ${Buffer.from(lost?.code ?? []).toString('hex')}`,
    );
  }
  return results;
}

function option(name: string): string | null {
  const at = process.argv.indexOf(`--${name}`);
  return at > 0 ? (process.argv[at + 1] ?? '') : null;
}

async function main(): Promise<void> {
  const only = option('only');
  const salt = option('salt') ?? '';
  const perForm = Number(option('count') ?? CASES_A_FORM);
  const folder = mkdtempSync(join(tmpdir(), 'paravane-vectors-'));
  try {
    const program = join(folder, 'record');
    execFileSync('gcc', ['-O1', '-no-pie', '-static', '-o', program, join(here, 'record.c')], { stdio: 'inherit' });
    const familyOf = families();
    const groups = new Map<string, VectorCase[]>();
    const seen = new Set<string>();
    for (const form of vectorForms()) {
      if (only !== null && !form.name.includes(only)) continue;
      let made = 0;
      for (let n = 0; made < perForm && n < perForm * 8; n++) {
        const item = makeCase(form, n, salt);
        if (!item) continue;
        made++;
        const family = familyOf(form);
        const list = groups.get(family) ?? [];
        list.push(item);
        groups.set(family, list);
        seen.add(form.name);
      }
      if (made === 0) process.stderr.write(`no case could be made of ${form.name}\n`);
    }
    if (only === null) {
      mkdirSync(dataFolder, { recursive: true });
      for (const file of readdirSync(dataFolder)) rmSync(join(dataFolder, file));
    }
    if (only === null) groups.set(UNDEFINED, [...undefinedCases(), ...lockedCases(vectorForms())]);
    let total = 0;
    let bytes = 0;
    for (const [family, made] of groups) {
      let cases: readonly VectorCase[] = made;
      let results = await record(program, cases);
      if (family === UNDEFINED) {
        // Instructions that this processor has and x86-64-v2 has not.
        const refused = results.map(({ trap }) => trap === INVALID_OPCODE);
        process.stdout.write(`${refused.filter((is) => !is).length} undefined encodings mean something on this processor\n`);
        cases = cases.filter((_, n) => refused[n]);
        results = results.filter((_, n) => refused[n]);
      }
      const lines = cases.map((item, n) => formatVector(item, results[n]));
      total += lines.length;
      const faults = results.filter(({ trap }) => trap !== BREAKPOINT).length;
      if (only !== null) process.stdout.write(`${lines.join('\n')}\n`);
      else {
        const path = join(dataFolder, `${family}.br`);
        const text = Buffer.from(`${lines.join('\n')}\n`);
        writeFileSync(
          path,
          brotliCompressSync(text, { params: { [constants.BROTLI_PARAM_QUALITY]: 9, [constants.BROTLI_PARAM_LGWIN]: 24 } }),
        );
        bytes += statSync(path).size;
        process.stdout.write(`${family}: ${lines.length} cases, ${faults} of them fault, ${statSync(path).size} bytes\n`);
      }
    }
    if (only === null) {
      process.stdout.write(`${total} cases of ${seen.size} forms, ${bytes} bytes; not recorded:\n`);
      for (const [reason, names] of skippedRows()) process.stdout.write(`  ${names.join(' ')}: ${reason}\n`);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

await main();
