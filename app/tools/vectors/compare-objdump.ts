// SPDX-License-Identifier: Apache-2.0
/**
 * Compares the decoder with an independent disassembler on random instructions: `node app/tools/vectors/compare-objdump.ts [COUNT]`.
 *
 * Both must agree which bytes are an instruction, how long it is and what it is called. Instructions beyond x86-64-v2 that only the
 * disassembler knows are counted apart. `--golden` writes a sample of what both agree on, for the decoder's unit test.
 * Needs objdump (binutils); says so and ends with status 0 when there is none.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DECODE, Decoder } from '../../engine/cpu/isa/decoder.ts';
import { Random } from '../../engine/cpu/vectors/state.ts';
import { mnemonicOf } from './mnemonics.ts';

/** Each instruction stands at the start of a slot, with NOPs behind it so that the disassembler finds the next. */
const SLOT = 48;
const LENGTH = 15;
const SEED = 20;
const GOLDEN_LINES = 2000;

const PREFIXES: readonly number[] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x0f];

interface Sample {
  readonly mode: 32 | 64;
  readonly bytes: Uint8Array;
}
interface Disassembled {
  readonly length: number;
  /** '(bad)' for no instruction. */
  readonly mnemonic: string;
}

function randomSample(random: Random, mode: 32 | 64): Sample {
  const bytes: number[] = [];
  if (random.below(12) === 0) bytes.push(random.pick([0x64, 0x65]));
  if (random.below(12) === 0) bytes.push(0x67);
  if (random.below(12) === 0) bytes.push(0xf0);
  const prefix = random.below(8);
  if (prefix < 3) bytes.push([0x66, 0xf3, 0xf2][prefix]);
  if (mode === 64 && random.below(3) === 0) bytes.push(0x40 | random.below(16));
  const map = random.below(8);
  if (map >= 2) bytes.push(0x0f);
  if (map === 6) bytes.push(0x38);
  if (map === 7) bytes.push(0x3a);
  const opcodeAt = bytes.length;
  bytes.push(map === 6 ? random.pick([random.below(0x42), 0xf0, 0xf1]) : map === 7 ? random.below(0x64) : random.below(256));
  // Prefixes in an odd order are for the vectors; disassemblers show them as instructions of their own.
  while (map < 2 && (PREFIXES.includes(bytes[opcodeAt]) || (mode === 64 && (bytes[opcodeAt] & 0xf0) === 0x40)))
    bytes[opcodeAt] = random.below(256);
  // Register and memory forms alike.
  bytes.push(random.below(3) === 0 ? 0xc0 | random.below(64) : random.below(256));
  while (bytes.length < LENGTH) bytes.push(random.below(256));
  return { mode, bytes: Uint8Array.from(bytes.slice(0, LENGTH)) };
}

function disassemble(samples: readonly Sample[], mode: 32 | 64): Disassembled[] {
  const folder = mkdtempSync(join(tmpdir(), 'paravane-objdump-'));
  try {
    const file = join(folder, 'code');
    const image = new Uint8Array(samples.length * SLOT).fill(0x90);
    for (const [n, { bytes }] of samples.entries()) image.set(bytes, n * SLOT);
    writeFileSync(file, image);
    const machine = mode === 64 ? 'i386:x86-64' : 'i386';
    const run = spawnSync(
      'objdump',
      ['-D', '-z', '-b', 'binary', '-m', machine, '-M', 'intel', '--insn-width=16', '--no-addresses', '--show-raw-insn', file],
      {
        maxBuffer: 1 << 30,
        encoding: 'utf8',
      },
    );
    if (run.status !== 0) throw new Error(`objdump failed: ${run.stderr}`);
    // Without addresses on the lines, positions follow from the lengths.
    const found: Disassembled[] = [];
    let at = 0;
    for (const line of run.stdout.split('\n')) {
      const match = /^\s+((?:[0-9a-f]{2} )+)\s*(.*)$/.exec(line);
      if (!match) continue;
      const length = match[1].trim().split(' ').length;
      if (at % SLOT === 0) found[at / SLOT] = { length, mnemonic: match[2].trim() };
      at += length;
    }
    return found;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const decoder = new Decoder();

/** What is wrong, or null; `beyond` counts what only the disassembler knows. */
function compare(sample: Sample, theirs: Disassembled, beyond: Map<string, number>): string | null {
  const status = decoder.decode(sample.bytes, 0, LENGTH, sample.mode);
  const ours = status === DECODE.ok ? { length: decoder.length, mnemonic: mnemonicOf(decoder) } : null;
  const name = plainMnemonic(theirs.mnemonic);
  const valid = name !== '(bad)' && !theirs.mnemonic.includes('(bad)') && !theirs.mnemonic.startsWith('.byte');
  const text = `${Buffer.from(sample.bytes).toString('hex')} in ${sample.mode}-bit mode: decoder ${ours ? `${ours.length} ${[...ours.mnemonic].join('/')}` : `status ${status}`}, objdump ${theirs.length} ${theirs.mnemonic}`;
  if (knownDifference(sample)) return null;
  if (!valid) return ours ? text : null;
  if (!ours) {
    // The disassembler does not judge LOCK.
    if (sample.bytes.subarray(0, 4).includes(0xf0)) return null;
    beyond.set(name, (beyond.get(name) ?? 0) + 1);
    return null;
  }
  return ours.length === theirs.length && ours.mnemonic.has(name) ? null : text;
}

/** Where processors differ and the disassembler follows the other one, and where it takes a prefix for more than it is. */
function knownDifference(sample: Sample): boolean {
  const text = Buffer.from(sample.bytes).toString('hex');
  const code = text.replace(/^(f0|64|65|67)*/, '');
  // Near branches with a 16-bit operand size in 64-bit mode.
  if (sample.mode === 64 && /^66(4.)?(0f8.|e8|e9|c7f8)/.test(code)) return true;
  // BSF and BSR take a repeat prefix for nothing where there are no TZCNT and LZCNT.
  if (/^f[23](4.)?0fb[cd]/.test(code)) return true;
  // Operands of no-operations that were bound checks; a prefix before WBINVD; WAIT, which is shown with what follows it.
  if (/^(66|f2|f3)?(4.)?(0f1[ab]|0f0d|0f09|9b)/.test(code)) return true;
  // Aliases of x87 instructions and fences, and SALC, which every processor has.
  return /^(66|f2|f3)?(4.)?(d9d[89a-f]|dcd|ded|df[cd]|0fae[ef]|d6)/.test(code);
}

/** The mnemonic without what objdump puts before it. */
function plainMnemonic(text: string): string {
  const words = text.split(/\s+/);
  while (words.length > 1 && /^(lock|repz?|repnz|data16|addr(16|32)|rex[.A-Z]*|[defgcs]s|bnd|notrack|xacquire|xrelease)$/.test(words[0]))
    words.shift();
  return words[0];
}

function main(): void {
  if (spawnSync('objdump', ['--version']).status !== 0) {
    process.stdout.write('skipped: there is no objdump\n');
    return;
  }
  const count = Number(process.argv.slice(2).find((arg) => /^\d+$/.test(arg)) ?? 20_000);
  const golden: string[] = [];
  let differences = 0;
  const beyond = new Map<string, number>();
  for (const mode of [64, 32] as const) {
    const random = new Random(SEED + mode);
    const samples = Array.from({ length: count }, () => randomSample(random, mode));
    const theirs = disassemble(samples, mode);
    samples.forEach((sample, n) => {
      const problem = compare(sample, theirs[n], beyond);
      if (problem !== null) {
        differences++;
        if (differences <= 100) process.stdout.write(`${problem}\n`);
      } else if (golden.length < GOLDEN_LINES * (mode === 64 ? 0.5 : 1)) {
        const status = decoder.decode(sample.bytes, 0, LENGTH, mode);
        if (status === DECODE.ok || theirs[n].mnemonic.includes('(bad)'))
          golden.push(
            `${mode} ${Buffer.from(sample.bytes).toString('hex')} ${status === DECODE.ok ? `${decoder.length} ${decoder.row.name}` : '-'}`,
          );
      }
    });
  }
  const unknown = [...beyond].sort((a, b) => b[1] - a[1]).map(([name, times]) => `${name} ${times}`);
  process.stdout.write(`beyond x86-64-v2: ${unknown.join(', ')}\n`);
  process.stdout.write(`${count * 2} compared, ${differences} differ\n`);
  if (process.argv.includes('--golden')) {
    const path = join(import.meta.dirname, '../../engine/cpu/isa/decoder.golden.txt');
    writeFileSync(path, `${golden.join('\n')}\n`);
    process.stdout.write(`${golden.length} lines in ${path}\n`);
  }
  process.exitCode = differences === 0 ? 0 : 1;
}

main();
