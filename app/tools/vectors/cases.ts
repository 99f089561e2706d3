// SPDX-License-Identifier: Apache-2.0
/** Turns a form into cases: picks registers, immediates and addresses, and sets up what the instruction needs by its name. */
import type { VectorCase } from '../../engine/cpu/vectors/case.ts';
import { type OperandSpec, OPERAND_KIND as K, type Width } from '../../engine/cpu/isa/row.ts';
import {
  CODE,
  DATA,
  DATA_BYTES,
  DATA_WINDOW,
  FX,
  GS_BASE,
  interestingInteger,
  Random,
  seededState,
  STACK_WINDOW,
  STATE,
} from '../../engine/cpu/vectors/state.ts';
import { CaseBuilder } from './builder.ts';
import { type Encoding, encode, immediateBytes } from './encode.ts';
import type { VectorForm } from './forms.ts';
import { type PlacedAddress, placeAddress } from './operands.ts';
import { undefinedFlags } from './undefined-flags.ts';

const RAX = 0;
const RCX = 1;
const RDX = 2;
const RBX = 3;
const RSP = 4;
const RBP = 5;
const RSI = 6;
const RDI = 7;
const DF = 0x400;
const GS_PREFIX = 0x65;

/** Flags that POPF and IRET may load in a recording: not TF and AC, which would trap, nor NT and ID, which would stay. */
const LOADABLE_FLAGS = 0x8d5 | DF;

/** Base states are shared by cases, so that a replay makes each of them once. */
const SEEDS = 4096;

/** Selectors with known descriptors, null and out of any table. */
const SELECTORS = [0x23, 0x2b, 0x33, 0x2b, 0x33, 0x23, 0, 1, 3, 0x20, 0x28, 0x30, 0x2a, 0x10, 0x18, 0xfff8];

/** Instructions that use RSP, or need its upper half clear because they may go to 32-bit code, which does not keep it. */
const STACK_NAMES = new Set(
  'push pop pushf popf pusha popa enter leave call calli ret pushsreg popsreg iret retf callf callfm jmpf jmpfm'.split(' '),
);
const STRING_NAMES = new Set('movs cmps stos lods scas'.split(' '));
/** Instructions that go somewhere else. */
const TRANSFERS = new Set('jmpi calli ret retf iret callf jmpf callfm jmpfm'.split(' '));

/** Bytes that memory operands without a width of their own occupy. */
const IMAGE_BYTES: Readonly<Record<string, number>> = {
  fxsave: 512,
  fxrstor: 512,
  xsave: 576,
  xsaveopt: 576,
  xrstor: 576,
  bound: 16,
  lfar: 10,
  callfm: 10,
  jmpfm: 10,
  privileged: 10,
};
const IMAGE_ALIGN: Readonly<Record<string, number>> = { fxsave: 16, fxrstor: 16, xsave: 64, xsaveopt: 64, xrstor: 64 };

/** Accesses of many parts, whose order is not architectural: which of them faults first is not recorded. */
const MANY_PARTS = new Set([...Object.keys(IMAGE_BYTES), ...'fldenv fnstenv frstor fnsave iret retf pusha popa enter'.split(' ')]);

export function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let n = 0; n < text.length; n++) h = Math.imul(h ^ text.charCodeAt(n), 0x01000193);
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d);
  return (h ^ (h >>> 13)) >>> 0;
}

function widthOf(width: Width, size: number): number {
  if (typeof width === 'number') return width;
  if (width === 'v') return size;
  if (width === 'z') return size === 16 ? 16 : 32;
  return size === 64 ? 64 : 32;
}

function memoryOperand(form: VectorForm): OperandSpec | null {
  return (
    form.row.operands.find(({ kind }) => kind === K.rm || kind === K.mem || kind === K.moffs || kind === K.xmmRm || kind === K.mmxRm) ??
    null
  );
}

function operandBytes(form: VectorForm): number {
  const { row, size } = form;
  if (row.name in IMAGE_BYTES) return IMAGE_BYTES[row.name];
  if (row.name === 'fnstenv' || row.name === 'fldenv') return size === 16 ? 14 : 28;
  if (row.name === 'fnsave' || row.name === 'frstor') return size === 16 ? 94 : 108;
  const operand = memoryOperand(form);
  return operand ? widthOf(operand.width, size) / 8 : 1;
}

/** Makes the `n`th case of a form; null when this choice cannot be encoded. */
export function makeCase(form: VectorForm, n: number, salt = ''): VectorCase | null {
  const { row, mode, size } = form;
  const name = form.name;
  const seed = hash(`${name}#${n}${salt}`) % SEEDS;
  const random = new Random(hash(`${name}@${n}${salt}`));
  const c = new CaseBuilder(form, seed, random);
  if (c.chance(16)) c.rip = CODE + 0x1000 - 1 - random.below(8);

  const registers = mode === 64 ? 16 : 8;
  const high = mode === 64 ? random.below(4) === 0 : true;
  const anyRegister = (): number => random.below(high ? registers : 8);
  let reg = anyRegister();
  let rm = anyRegister();
  const byteOperand = row.operands.some(
    (operand) => operand.width === 8 && (operand.kind === K.rm || operand.kind === K.reg || operand.kind === K.opcodeReg),
  );
  const spareRex = mode === 64 && c.chance(byteOperand ? 3 : 12);

  // Byte and vector operands do not grow; the lengths of PCMPESTRI do.
  const spareWide =
    spareRex &&
    c.chance(2) &&
    row.operands.length > 0 &&
    row.operands.every(({ width, kind }) => typeof width === 'number' && kind !== K.mem);

  const setup = prepare(c);
  if (row.name === 'movfromsreg' || row.name === 'movtosreg') reg = segmentNumber(c);
  if (row.operands.some(({ kind }) => kind === K.control)) reg = random.pick([0, 2, 3, 4, 8].filter((number) => number < registers));
  if (row.operands.some(({ kind }) => kind === K.debug)) reg &= 7;
  if (row.operands.length === 0 && row.modrm && row.exact < 0) rm = 0;
  // Where an indirect transfer goes has to be a sensible register.
  if (TRANSFERS.has(row.name) && !form.memory) while (c.reserved.has(rm)) rm = anyRegister();

  let target = 0n;
  const bytes = operandBytes(form);
  const operand = memoryOperand(form);
  if (form.memory) {
    const align =
      IMAGE_ALIGN[row.name] ??
      (bytes === 16 && !row.attributes.has('unal') && row.name !== 'bound' ? 16 : random.pick([1, bytes > 8 ? 1 : bytes]));
    const bitIndex = row.name.startsWith('bt') && row.operands[1]?.kind === K.reg;
    if (row.name === 'lea' || row.name === 'nop') target = BigInt.asUintN(mode === 64 ? 47 : 32, random.big());
    else target = c.dataAddress(bytes, align, bitIndex ? [200, 400] : undefined, !MANY_PARTS.has(row.name));
    if (row.name === 'lea' && mode === 64) target = BigInt.asUintN(random.pick([31, 47]), target);
    if (bitIndex) {
      c.setGpr(reg, BigInt(random.below(1600) - 800), size);
      if (size < 64 && !c.chance(4))
        c.setGpr(reg, (interestingInteger(random) << BigInt(size)) | (c.gpr(reg) & ((1n << BigInt(size)) - 1n)));
    }
  }

  const build = (length: number): { readonly code: Uint8Array | null; readonly immediates: bigint[] } => {
    const placed = form.memory ? place(c, target, length) : null;
    const addressBits = placed?.address.bits ?? (mode === 64 ? 64 : 32);
    const immediates = immediateValues(c, setup, placed ? target : 0n, addressBits);
    const encoding: Encoding = {
      row,
      mode,
      size,
      lock: form.lock,
      rep: form.rep,
      reg,
      rm,
      address: placed?.address ?? null,
      segment: placed?.segment ?? setup.segment,
      address67: placed?.address67 ?? form.shortAddress,
      spareRex,
      spareWide,
      immediates,
    };
    return { code: encode(encoding), immediates };
  };
  // What an address needs is chosen once; its length shows in a first try.
  const savedRandom = random.save();
  const reservedBefore = [...c.reserved];
  const stateBefore = c.state.slice();
  const first = build(0);
  if (!first.code) return null;
  random.restore(savedRandom);
  c.reserved.clear();
  for (const register of reservedBefore) c.reserved.add(register);
  c.state.set(stateBefore);
  const length = first.code.length;
  setup.length = length;
  const { code, immediates } = build(length);
  if (!code || code.length !== length) return null;

  finish(c, { target, operand, reg, rm, bytes });
  const flagBits = row.operands.length > 0 ? widthOf(row.operands[0].width, size) : size;
  return {
    name,
    mode,
    code,
    seed,
    setup: c.patches(),
    undefinedFlags: undefinedFlags(row, flagBits, shiftCount(c, immediates)),
    ignored: ignoredBytes(c, target),
  };
}

function place(c: CaseBuilder, target: bigint, length: number): PlacedAddress {
  if (c.form.row.operands.some(({ kind }) => kind === K.moffs)) {
    return {
      address: { bits: c.form.mode, base: -1, index: -1, scale: 0, disp: 0n, dispBytes: 0, ripRelative: false },
      segment: 0,
      address67: false,
    };
  }
  return placeAddress(c, target, length, MANY_PARTS.has(c.form.row.name));
}

function shiftCount(c: CaseBuilder, immediates: readonly bigint[]): number {
  const last = c.form.row.operands.at(-1);
  if (last?.kind === K.one) return 1;
  if (last?.kind === K.fixed && last.register === RCX) return Number(c.gpr(RCX) & 0xffn);
  return immediates.length > 0 ? Number(immediates[immediates.length - 1] & 0xffn) : 0;
}

/** Pointers to the last x87 instruction and its operand, and what else state images hold that differs between processors. */
function ignoredBytes(c: CaseBuilder, target: bigint): [number, number][] {
  const { row, size } = c.form;
  const range = (from: number, to: number): [number, number][] => {
    const at = c.offsetOf(target + BigInt(from), to - from);
    return at < 0 ? [] : [[at, to - from]];
  };
  switch (row.name) {
    case 'fxsave':
    case 'xsave':
    case 'xsaveopt':
      // Opcode and pointers; the mask of MXCSR.
      return [...range(6, 24), ...range(28, 32)];
    case 'fnstenv':
    case 'fnsave':
      return size === 16 ? range(6, 14) : range(12, 28);
    default:
      return [];
  }
}

interface Setup {
  /** Where a relative branch or far pointer goes. */
  goal: bigint;
  selector: number;
  length: number;
  /** Segment override of a string instruction's source, or 0. */
  segment: number;
}

function segmentNumber(c: CaseBuilder): number {
  // Not FS.
  return c.random.pick([0, 0, 1, 2, 2, 3, 3, 5, 5, 6, 7]);
}

/** What has to be in place before registers for addresses are chosen. */
function prepare(c: CaseBuilder): Setup {
  const { row, mode, size } = c.form;
  const { random } = c;
  const setup: Setup = { goal: 0n, selector: random.pick(SELECTORS), length: 0, segment: 0 };
  const name = row.name;
  if (STACK_NAMES.has(name)) c.stack(!MANY_PARTS.has(name));
  const sp = c.gpr(RSP);
  const word = size / 8;
  setup.goal = c.codeTarget();
  switch (name) {
    case 'popf':
      c.writeMemory(sp, word, BigInt((random.u32() & LOADABLE_FLAGS) | (random.u32() & 0x3202) | 2));
      break;
    case 'ret':
      c.writeMemory(sp, word, c.codeTarget());
      break;
    case 'retf':
      c.writeMemory(sp, word, c.codeTarget());
      c.writeMemory(sp + BigInt(word), word, BigInt(setup.selector));
      break;
    case 'iret': {
      const flags = BigInt((random.u32() & LOADABLE_FLAGS) | (random.u32() & 0x3202) | 2);
      [
        c.codeTarget(),
        BigInt(setup.selector),
        flags,
        BigInt(STACK_WINDOW + 8 * random.below(32)),
        BigInt(c.chance(4) ? random.pick(SELECTORS) : 0x2b),
      ].forEach((value, n) => {
        c.writeMemory(sp + BigInt(n * word), word, value);
      });
      break;
    }
    case 'leave':
    case 'enter':
      c.setGpr(RBP, BigInt(STACK_WINDOW + 128 + random.below(256)));
      if (c.chance(32)) c.setGpr(RBP, 0x11fffcn);
      break;
    case 'popsreg':
      c.writeMemory(sp, word, BigInt(setup.selector));
      break;
    case 'loop':
    case 'loope':
    case 'loopne':
    case 'jcxz':
      if (!c.chance(3)) c.setGpr(RCX, BigInt(random.below(3)), c.form.shortAddress ? mode / 2 : mode);
      break;
    case 'xlat': {
      const bits = addressBits(c);
      c.setGpr(RBX, BigInt.asUintN(bits, BigInt(DATA_WINDOW + random.below(384))), bits);
      c.reserved.add(RAX);
      break;
    }
    case 'maskmovq':
    case 'maskmovdqu':
      c.setGpr(RDI, BigInt.asUintN(addressBits(c), c.dataAddress(16, 1)), addressBits(c));
      break;
    case 'pcmpestri':
    case 'pcmpestrm':
      for (const register of [RAX, RDX]) if (!c.chance(6)) c.setGpr(register, BigInt(random.below(40) - 20));
      break;
    case 'div':
    case 'idiv':
    case 'cmpxchg':
    case 'cmpxchg8b':
    case 'cmpxchg16b':
      for (const register of [RAX, RDX]) c.reserved.add(register);
      break;
    case 'xsave':
    case 'xsaveopt':
    case 'xrstor':
      c.setGpr(RAX, BigInt(random.pick([3, 3, 3, 1, 2, 0])));
      c.setGpr(RDX, 0n);
      break;
    case 'aam':
      break;
    default:
  }
  if (STRING_NAMES.has(name)) setup.segment = prepareString(c);
  return setup;
}

function addressBits(c: CaseBuilder): number {
  return c.form.shortAddress ? c.form.mode / 2 : c.form.mode;
}

/** Returns the segment override of the source. */
function prepareString(c: CaseBuilder): number {
  const { form, random } = c;
  const bits = addressBits(c);
  c.setFlags(c.chance(2) ? DF : 0, DF);
  const place = (register: number): void => {
    let at = DATA_WINDOW + 180 + random.below(240);
    if (c.chance(3)) at &= ~7;
    // Sometimes into the end of what is mapped.
    if (c.chance(16)) at = random.pick([DATA + DATA_BYTES - 8 - random.below(16), DATA + random.below(16)]);
    c.setGpr(register, BigInt.asUintN(bits, BigInt(at)), bits);
  };
  place(RSI);
  place(RDI);
  // Overlapping moves.
  if (c.chance(6)) c.setGpr(RDI, c.gpr(RSI) + BigInt(random.below(17) - 8), bits);
  if (form.rep !== 0) c.setGpr(RCX, BigInt(c.chance(6) ? random.below(20) : random.below(6)), bits);
  if (form.row.name === 'cmps' || form.row.name === 'scas') {
    // Runs of equal and unequal bytes, so that conditions end a repeat at different places.
    const offset = STATE.data + 150;
    const fill = random.below(3);
    if (fill > 0) for (let n = 0; n < 320; n++) c.state[offset + n] = fill === 1 ? 0x55 : c.chance(24) ? 1 : 0;
    if (fill > 0 && form.row.name === 'scas' && c.chance(2)) c.setGpr(RAX, fill === 1 ? 0x5555555555555555n : 0n);
  }
  if (form.row.name === 'stos' || form.row.name === 'scas') return 0;
  // 16-bit addresses reach the data through GS only; so does the source, while the destination then faults.
  if (bits > 16 && !c.chance(8)) return 0;
  c.setGpr(RSI, c.gpr(RSI) - BigInt(GS_BASE), bits);
  return GS_PREFIX;
}

function immediateValues(c: CaseBuilder, setup: Setup, target: bigint, bits: number): bigint[] {
  const { row, size } = c.form;
  const { random } = c;
  const sizes = immediateBytes(row, size, bits);
  let next = 0;
  const values: bigint[] = [];
  for (const operand of row.operands) {
    if (operand.kind === K.imm) {
      values.push(immediateFor(c));
      next++;
    } else if (operand.kind === K.rel) {
      const bytes = sizes[next++];
      if (bytes === 1) {
        const distance = 24 + random.below(100);
        values.push(BigInt(random.below(2) === 0 ? distance : -distance));
      } else values.push(setup.goal - c.rip - BigInt(setup.length));
    } else if (operand.kind === K.moffs) {
      values.push(target);
      next++;
    } else if (operand.kind === K.far) {
      values.push(setup.goal | (BigInt(setup.selector) << BigInt(size === 16 ? 16 : 32)));
      next++;
    }
  }
  return values;
}

function immediateFor(c: CaseBuilder): bigint {
  const { row, size } = c.form;
  const { random } = c;
  switch (row.name) {
    case 'enter':
      // Frame size first, then the level.
      return BigInt(random.below(c.chance(4) ? 8 : 3));
    case 'ret':
    case 'retf':
      return BigInt(random.below(64));
    case 'rol':
    case 'ror':
    case 'rcl':
    case 'rcr':
    case 'shl':
    case 'shr':
    case 'sar':
      return BigInt(c.chance(4) ? random.below(256) : random.below(size + 2));
    case 'shld':
    case 'shrd':
      return BigInt(size === 16 ? random.below(17) : random.below(64));
    case 'aam':
    case 'aad':
      return c.chance(3) ? 10n : BigInt(random.below(256));
    default:
      return c.chance(2) ? interestingInteger(random) : BigInt(random.u32());
  }
}

interface Chosen {
  readonly target: bigint;
  readonly operand: OperandSpec | null;
  readonly reg: number;
  readonly rm: number;
  readonly bytes: number;
}

/** What depends on the operands chosen: values to compare with, to divide by, to jump to; images to load. */
function finish(c: CaseBuilder, chosen: Chosen): void {
  const { form, random } = c;
  const { row, size, memory } = form;
  const { target, bytes } = chosen;
  const width = chosen.operand ? widthOf(chosen.operand.width, size) : size;
  switch (row.name) {
    case 'cmpxchg': {
      if (c.chance(2)) break;
      const highByte = !memory && width === 8 && form.mode !== 64 && chosen.rm >= 4;
      const value = memory ? c.readMemory(target, width / 8) : c.gpr(highByte ? chosen.rm - 4 : chosen.rm) >> (highByte ? 8n : 0n);
      c.matchAccumulator(value, width);
      break;
    }
    case 'cmpxchg8b':
    case 'cmpxchg16b':
      if (c.chance(2)) break;
      c.setGpr(RAX, c.readMemory(target, bytes / 2), (bytes / 2) * 8);
      c.setGpr(RDX, c.readMemory(target + BigInt(bytes / 2), bytes / 2), (bytes / 2) * 8);
      break;
    case 'div':
    case 'idiv':
      prepareDivision(c, memory ? c.readMemory(target, width / 8) : c.gpr(chosen.rm), width, row.name === 'idiv');
      break;
    case 'shld':
    case 'shrd':
      // Counts above the operand's size have undefined results.
      if (size === 16 && row.operands[2].kind === K.fixed) c.setGpr(RCX, BigInt(random.below(17)) | (c.gpr(RCX) & 0xe0n), 8);
      break;
    case 'jmpi':
    case 'calli':
      if (memory) c.writeMemory(target, size / 8, c.codeTarget());
      else c.setGpr(chosen.rm, c.codeTarget());
      break;
    case 'callfm':
    case 'jmpfm':
    case 'lfar':
      if (row.name !== 'lfar') c.writeMemory(target, size / 8, c.codeTarget());
      c.writeMemory(target + BigInt(size / 8), 2, BigInt(random.pick(SELECTORS)));
      break;
    case 'lar':
    case 'lsl':
    case 'verr':
    case 'verw':
    case 'movtosreg':
      if (memory) c.writeMemory(target, 2, BigInt(random.pick(SELECTORS)));
      else c.setGpr(chosen.rm, BigInt(random.pick(SELECTORS)), 16);
      break;
    case 'bound': {
      const bits = size === 16 ? 16 : 32;
      const index = BigInt.asIntN(bits, c.gpr(chosen.reg));
      if (c.chance(4)) break;
      c.writeMemory(target, bits / 8, index - BigInt(random.below(3)));
      c.writeMemory(target + BigInt(bits / 8), bits / 8, index + BigInt(random.below(4) - 1));
      break;
    }
    case 'ldmxcsr':
      c.writeMemory(target, 4, BigInt(random.u32() & (c.chance(8) ? 0xfffdffff : 0xffbf & ~(c.chance(4) ? 0x1000 : 0))) | 0x1000n);
      break;
    case 'fldcw':
      c.writeMemory(target, 2, BigInt((random.u32() & 0xf00) | 0x40 | (c.chance(4) ? random.below(64) : 0x3f)));
      break;
    case 'fxrstor':
    case 'xrstor':
      prepareImage(c, target, row.name === 'xrstor');
      break;
    case 'fldenv':
    case 'frstor':
      prepareEnvironment(c, target, size === 16 ? 2 : 4);
      break;
    case 'xsave':
    case 'xsaveopt':
      // The header's bits outside of the mask stay.
      c.writeMemory(target + 512n, 8, BigInt(random.below(4)));
      break;
    default:
  }
}

function prepareDivision(c: CaseBuilder, divisor: bigint, bits: number, signedDivision: boolean): void {
  if (c.chance(8)) return;
  const { random } = c;
  const magnitude = signedDivision ? BigInt.asIntN(bits, divisor) : BigInt.asUintN(bits, divisor);
  const limit = magnitude < 0n ? -magnitude : magnitude;
  // The high half of the dividend stays below half of the divisor.
  let upper = limit < 4n ? 0n : random.big() % (limit / 2n);
  if (signedDivision && c.chance(2)) upper = -upper;
  if (signedDivision && c.chance(2)) upper = BigInt.asIntN(bits, c.gpr(RAX)) < 0n ? -1n : 0n;
  if (bits === 8) c.setGpr(RAX, (BigInt.asUintN(8, upper) << 8n) | (c.gpr(RAX) & 0xffn), 16);
  else c.setGpr(RDX, BigInt.asUintN(bits, upper), bits);
}

/** An FXSAVE image of another state, with the XSAVE header behind it. */
function prepareImage(c: CaseBuilder, target: bigint, extended: boolean): void {
  const other = seededState((c.seed + 1) % SEEDS);
  const image = other.slice(STATE.fx, STATE.fx + 512);
  // Pointers and opcode stay zero; so does what the format reserves.
  image.fill(0, 5, FX.mxcsr);
  image.fill(0, FX.mxcsr + 4, FX.st);
  for (let n = 0; n < 8; n++) image.fill(0, FX.st + n * 16 + 10, FX.st + n * 16 + 16);
  if (c.chance(16)) image[FX.mxcsr + 3] = 1;
  c.writeBytes(target, image);
  if (!extended) return;
  const header = new Uint8Array(64);
  header[0] = c.random.pick([3, 3, 1, 2, 0]);
  if (c.chance(16)) header[16] = 1;
  c.writeBytes(target + 512n, header);
}

/** An x87 environment: words of `bytes` bytes. */
function prepareEnvironment(c: CaseBuilder, target: bigint, bytes: number): void {
  const { random } = c;
  const put = (n: number, value: number): void => c.writeMemory(target + BigInt(n * bytes), bytes, BigInt(value));
  put(0, 0x37f | (random.below(4) << 10));
  put(1, (random.u32() & 0x7f7f & ~0x40) | (random.below(2) << 6));
  put(2, random.u32() & 0xffff);
  for (let n = 3; n < 7; n++) put(n, 0);
}
