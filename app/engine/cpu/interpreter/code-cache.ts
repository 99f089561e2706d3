// SPDX-License-Identifier: Apache-2.0
/**
 * Pre-decoded code of one vCPU: blocks in an arena, found by where their bytes stand in physical memory.
 *
 * A block is dropped, record by record, as soon as a byte that it was made from is written; the arena is emptied whole when it is full.
 * INVARIANT: `codeFlags[frame]` is non-zero while a block covers a byte of the frame, and then no TLB entry lets a store into that
 * frame pass unseen.
 */
import { ACCESS } from '../../accel/accelerator.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { JUMP_CACHE } from '../../memory/layout.ts';
import { CTX, type VcpuContext } from '../../memory/vcpu-context.ts';
import { ADDRESS, DECODE, Decoder } from '../isa/decoder.ts';
import { OPERAND_KIND as K } from '../isa/row.ts';
import { CPU, OP, RECORD } from '../record.ts';
import type { HandlerRegistry } from './handlers.ts';
import { JUMP_ENTRY, jumpSlot } from './loop.ts';

const PAGE = 4096;
/** Instructions in a block at most. */
const BLOCK_LIMIT = 64;
/** Records at the start of the arena for single steps; never cached. */
const STEP_RECORDS = 5;
const CONST_2G = CTX.temp1;

interface Block {
  readonly key: number;
  readonly record: number;
  readonly records: number;
  /** What it was made from: bytes `from` up to `to` of frames. */
  readonly ranges: readonly CodeRange[];
  /** The map that finds it. */
  readonly home: Map<number, Block>;
}

export interface CodeRange {
  readonly frame: number;
  readonly from: number;
  readonly to: number;
}

/** Kinds of look-up. */
export const LOOKUP = {
  any: 0,
  /** Make it anew: a straddling instruction whose second page has moved. */
  again: 1,
  /** For the interpreter, even where there is a translated region. */
  plain: 2,
} as const;

/** What the cache needs of the vCPU's core functions. */
export interface CodeCacheCore {
  /** Host offset of `va` for an access, or 0 with the fault recorded. */
  translate(cpu: number, low: number, high: number, access: number): number;
  /** Takes write permission for a host page out of the TLB. */
  purgeWrite(cpu: number, hostPage: number): void;
}

export class CodeCache {
  readonly #memory: GuestMemory;
  readonly #ctx: VcpuContext;
  readonly #handlers: HandlerRegistry;
  readonly #core: CodeCacheCore;
  readonly #decoder = new Decoder();
  readonly #blocks = new Map<number, Block>();
  /** Blocks for the interpreter where `#blocks` has a region. */
  readonly #plain = new Map<number, Block>();
  readonly #byRecord = new Map<number, Block>();
  readonly #byFrame = new Map<number, Set<Block>>();
  readonly #arena: number;
  readonly #arenaEnd: number;
  readonly #jumpCache: number;
  readonly #ramBase: number;
  readonly #codeFlags: number;
  readonly #straddleBytes = new Uint8Array(32);
  /** Page offsets that get a check for instruction breakpoints, and the check's slot; change it before a flush only. */
  breakOffsets: ReadonlySet<number> = new Set();
  breakSlot = 0;
  #next: number;
  /** For statistics. */
  blocksDecoded = 0;
  instructionsDecoded = 0;
  invalidations = 0;
  flushes = 0;

  constructor(memory: GuestMemory, ctx: VcpuContext, vcpu: number, handlers: HandlerRegistry, core: CodeCacheCore) {
    this.#memory = memory;
    this.#ctx = ctx;
    this.#handlers = handlers;
    this.#core = core;
    this.#arena = memory.layout.codeArena(vcpu);
    this.#arenaEnd = this.#arena + memory.layout.codeArenaBytes;
    this.#jumpCache = memory.layout.jumpCache(vcpu);
    this.#ramBase = memory.layout.ramBase;
    this.#codeFlags = memory.layout.codeFlags;
    this.#next = this.#arena + STEP_RECORDS * RECORD.bytes;
  }

  /**
   * Finds or makes the block at the vCPU's `rip` and enters it into the jump cache. Returns its first record, or 0 when the fetch
   * faults. `kind` is one of `LOOKUP`.
   */
  lookup(kind: number): number {
    const ctx = this.#ctx;
    const low = ctx.lo(CTX.rip);
    const high = ctx.hi(CTX.rip);
    const host = this.#core.translate(ctx.base, low, high, ACCESS.execute);
    if (host === 0) return 0;
    const mode = ctx.u32(CTX.codeBits);
    const key = (host - this.#ramBase) * 4 + (mode >> 5);
    const home = kind === LOOKUP.plain ? this.#plain : this.#blocks;
    let block = home.get(key);
    if (block && kind === LOOKUP.again) {
      this.#drop(block);
      block = undefined;
    }
    if (!block) {
      const made = this.#make(host, key, mode, home);
      if (!made) return 0;
      block = made;
    }
    if (kind === LOOKUP.plain) return block.record;
    const slot = this.#jumpCache + jumpSlot(low);
    const u32 = this.#memory.u32;
    u32[(slot + JUMP_ENTRY.key) >>> 2] = low ^ ctx.lo(CPU.modeKey);
    u32[(slot + JUMP_ENTRY.key + 4) >>> 2] = high ^ ctx.hi(CPU.modeKey);
    u32[(slot + JUMP_ENTRY.host) >>> 2] = host - (low & (PAGE - 1));
    u32[(slot + JUMP_ENTRY.record) >>> 2] = block.record;
    return block.record;
  }

  #make(host: number, key: number, mode: number, home: Map<number, Block>): Block | null {
    // A header, the records, an end record, and the check of a straddling instruction.
    if (this.#next + (BLOCK_LIMIT + 4) * RECORD.bytes > this.#arenaEnd) this.flush();
    const made = this.#decodeBlock(host, key, mode, BLOCK_LIMIT, this.#next + RECORD.bytes, home);
    if (!made) return null;
    this.#memory.u32[this.#next >>> 2] = 0;
    this.#next += (made.records + 1) * RECORD.bytes;
    this.#insert(made);
    return made;
  }

  /** Where the block of `record` starts: host offset and code size; null when the record is none of a living block. */
  startOf(record: number): { readonly host: number; readonly mode: number } | null {
    const block = this.#byRecord.get(record);
    if (!block) return null;
    return { host: Math.floor(block.key / 4) + this.#ramBase, mode: (block.key % 4) * 32 };
  }

  /**
   * Puts a translated region, a handler in slot `slot`, in the place of the block at `record`. `ranges` are all bytes that it was made
   * from.
   */
  installRegion(record: number, slot: number, ranges: readonly CodeRange[]): void {
    const old = this.#byRecord.get(record);
    const start = this.startOf(record);
    if (!old || !start || old.home !== this.#blocks) return;
    if (this.#next + 4 * RECORD.bytes + (BLOCK_LIMIT + 4) * RECORD.bytes > this.#arenaEnd) return;
    const plain = this.#plain.get(old.key) ?? this.#make(start.host, old.key, start.mode, this.#plain);
    if (!plain) return;
    this.#drop(old);
    const at = this.#next + RECORD.bytes;
    const memory = this.#memory;
    memory.u8.fill(0, this.#next, at + RECORD.bytes);
    // A region's entries count from far above the threshold.
    memory.u32[this.#next >>> 2] = 0x8000_0000;
    memory.u16[(at + RECORD.op) >>> 1] = OP.region;
    memory.u16[(at + RECORD.handler) >>> 1] = slot;
    memory.u16[(at + RECORD.pageOffset) >>> 1] = (start.host - this.#ramBase) % PAGE;
    memory.i32[(at + RECORD.link) >>> 2] = plain.record;
    this.#next = at + RECORD.bytes;
    this.#insert({ key: old.key, record: at, records: 1, ranges, home: this.#blocks });
  }

  /** Makes an uncached block of the one instruction at `rip`; 0 when the fetch faults. */
  single(): number {
    const ctx = this.#ctx;
    const host = this.#core.translate(ctx.base, ctx.lo(CTX.rip), ctx.hi(CTX.rip), ACCESS.execute);
    if (host === 0) return 0;
    ctx.setLoHi(CTX.ripPage, (ctx.lo(CTX.rip) & ~(PAGE - 1)) >>> 0, ctx.hi(CTX.rip));
    const made = this.#decodeBlock(host, -1, ctx.u32(CTX.codeBits), 1, this.#arena + RECORD.bytes, this.#plain);
    return made ? made.record : 0;
  }

  /** Bytes of a frame changed: drops the blocks made from them. */
  invalidate(frame: number, offset: number, length: number): void {
    const blocks = this.#byFrame.get(frame);
    if (!blocks) return;
    for (const block of blocks) {
      if (block.ranges.some((range) => range.frame === frame && offset < range.to && offset + length > range.from)) this.#drop(block);
    }
  }

  /** Forgets everything. */
  flush(): void {
    this.flushes++;
    for (const frame of this.#byFrame.keys()) this.#memory.u8[this.#codeFlags + frame] = 0;
    this.#byFrame.clear();
    this.#blocks.clear();
    this.#plain.clear();
    this.#byRecord.clear();
    this.#next = this.#arena + STEP_RECORDS * RECORD.bytes;
    this.#memory.u8.fill(0, this.#jumpCache, this.#jumpCache + JUMP_CACHE.entries * JUMP_CACHE.entryBytes);
    this.#ctx.setU32(CPU.linkFrom, 0);
  }

  /**
   * Whether the instruction at `rip`, which met a non-canonical address, addressed the stack segment with it: an implicit stack
   * access, or RSP or RBP as a base (64-bit mode).
   */
  meansStack(): boolean {
    const ctx = this.#ctx;
    const bytes = this.#straddleBytes;
    const rip = ctx.rip;
    let length = 0;
    for (; length < 15; length++) {
      const low = (ctx.lo(CTX.rip) + length) >>> 0;
      const host = this.#core.translate(ctx.base, low, (ctx.hi(CTX.rip) + (low < length ? 1 : 0)) >>> 0, ACCESS.execute);
      if (host === 0) break;
      bytes[length] = this.#memory.u8[host];
    }
    const decoder = this.#decoder;
    if (Number.isNaN(rip) || decoder.decode(bytes, 0, length, ctx.u32(CTX.codeBits)) !== DECODE.ok) return false;
    const rsp = ctx.hi(CTX.gpr + 4 * 8);
    const stackBad = STACK_NAMES.has(decoder.row.name) && ((rsp << 16) >> 16 !== (rsp | 0) || decoder.addressing === ADDRESS.none);
    return stackBad || ((decoder.base === CTX.gpr + 4 * 8 || decoder.base === CTX.gpr + 5 * 8) && decoder.segment < 4);
  }

  #insert(block: Block): void {
    block.home.set(block.key, block);
    this.#byRecord.set(block.record, block);
    for (const { frame } of block.ranges) {
      const known = this.#byFrame.get(frame);
      if (known) known.add(block);
      else {
        this.#byFrame.set(frame, new Set([block]));
        this.#memory.u8[this.#codeFlags + frame] = 1;
        this.#core.purgeWrite(this.#ctx.base, this.#ramBase + frame * PAGE);
      }
    }
  }

  #drop(block: Block): void {
    this.invalidations++;
    const { u16, i32 } = this.#memory;
    for (let n = 0; n < block.records; n++) {
      const record = block.record + n * RECORD.bytes;
      u16[(record + RECORD.op) >>> 1] = OP.dead;
      i32[(record + RECORD.link) >>> 2] = 0;
    }
    block.home.delete(block.key);
    this.#byRecord.delete(block.record);
    for (const { frame } of block.ranges) {
      const blocks = this.#byFrame.get(frame);
      if (blocks?.delete(block) && blocks.size === 0) {
        this.#byFrame.delete(frame);
        this.#memory.u8[this.#codeFlags + frame] = 0;
      }
    }
  }

  #decodeBlock(host: number, key: number, mode: number, limit: number, at: number, home: Map<number, Block>): Block | null {
    const bytes = this.#memory.u8;
    const pageStart = host - ((host - this.#ramBase) % PAGE);
    const pageEnd = pageStart + PAGE;
    const decoder = this.#decoder;
    const frame = (pageStart - this.#ramBase) / PAGE;
    const start = host - pageStart;
    let pos = host;
    let record = at;
    let count = 0;
    let leaves = false;
    this.blocksDecoded++;
    for (;;) {
      const status = decoder.decode(bytes, pos, pageEnd, mode);
      const offset = pos - pageStart;
      if (status === DECODE.truncated) {
        if (count > 0) break;
        return this.#decodeStraddling(pos, pageEnd, frame, key, mode, at, home);
      }
      count++;
      if (limit > 1) record = this.#writeCheck(record, offset, count);
      if (status !== DECODE.ok) {
        this.#writeFault(record, status, offset, count);
        record += RECORD.bytes;
        pos = Math.min(pageEnd, pos + Math.max(1, decoder.length));
        return { key, record: at, records: (record - at) / RECORD.bytes, ranges: [{ frame, from: start, to: pos - pageStart }], home };
      }
      this.#writeRecord(record, offset, count);
      record += RECORD.bytes;
      pos += decoder.length;
      leaves = leavesAlways(decoder.row.name);
      if (decoder.row.attributes.has('end') || pos === pageEnd || record - at >= limit * RECORD.bytes) break;
    }
    this.instructionsDecoded += count;
    if (!leaves) {
      this.#writeEnd(record, pos - pageStart, count);
      record += RECORD.bytes;
    }
    return { key, record: at, records: (record - at) / RECORD.bytes, ranges: [{ frame, from: start, to: pos - pageStart }], home };
  }

  /** A block of the one instruction that reaches into the next page. */
  #decodeStraddling(
    pos: number,
    pageEnd: number,
    frame: number,
    key: number,
    mode: number,
    at: number,
    home: Map<number, Block>,
  ): Block | null {
    const ctx = this.#ctx;
    const rest = pageEnd - pos;
    // The next page's address: 64-bit addition in halves.
    const low = ((ctx.lo(CTX.rip) & ~(PAGE - 1)) + PAGE) >>> 0;
    const high = (ctx.hi(CTX.rip) + (low === 0 ? 1 : 0)) >>> 0;
    const second = this.#core.translate(ctx.base, low, high, ACCESS.execute);
    if (second === 0) return null;
    const bytes = this.#straddleBytes;
    bytes.set(this.#memory.u8.subarray(pos, pageEnd), 0);
    bytes.set(this.#memory.u8.subarray(second, second + 15), rest);
    const status = this.#decoder.decode(bytes, 0, rest + 15, mode);
    const offset = PAGE - rest;
    const u16 = this.#memory.u16;
    const i32 = this.#memory.i32;
    u16[(at + RECORD.op) >>> 1] = OP.straddle;
    u16[(at + RECORD.pageOffset) >>> 1] = offset;
    i32[(at + RECORD.imm) >>> 2] = second;
    let record = at + RECORD.bytes;
    if (key !== -1) record = this.#writeCheck(record, offset, 1);
    const length = this.#decoder.length;
    if (status === DECODE.ok) {
      this.#writeRecord(record, offset, 1);
      this.instructionsDecoded++;
      record += RECORD.bytes;
      if (!leavesAlways(this.#decoder.row.name)) {
        this.#writeEnd(record, offset + length, 1);
        record += RECORD.bytes;
      }
    } else {
      this.#writeFault(record, status, offset, 1);
      record += RECORD.bytes;
    }
    const secondFrame = (second - this.#ramBase) / PAGE;
    return {
      key,
      record: at,
      records: (record - at) / RECORD.bytes,
      ranges:
        secondFrame === frame
          ? [{ frame, from: 0, to: PAGE }]
          : [
              { frame, from: offset, to: PAGE },
              { frame: secondFrame, from: 0, to: Math.max(1, length - rest) },
            ],
      home,
    };
  }

  /** The check for an instruction breakpoint, where there may be one; returns where the instruction's record goes. */
  #writeCheck(record: number, offset: number, count: number): number {
    if (!this.breakOffsets.has(offset)) return record;
    const memory = this.#memory;
    memory.u16[(record + RECORD.op) >>> 1] = OP.call;
    memory.u16[(record + RECORD.handler) >>> 1] = this.breakSlot;
    memory.u16[(record + RECORD.pageOffset) >>> 1] = offset;
    memory.u16[(record + RECORD.count) >>> 1] = count;
    return record + RECORD.bytes;
  }

  #writeEnd(record: number, offset: number, count: number): void {
    const memory = this.#memory;
    memory.u16[(record + RECORD.op) >>> 1] = OP.end;
    memory.u16[(record + RECORD.pageOffset) >>> 1] = offset;
    memory.u16[(record + RECORD.count) >>> 1] = count;
    memory.i32[(record + RECORD.imm) >>> 2] = offset;
    memory.i32[(record + RECORD.imm + 4) >>> 2] = 0;
    memory.i32[(record + RECORD.link) >>> 2] = 0;
  }

  /** An instruction that can't be decoded: #UD, or #GP(0) for one that is too long. */
  #writeFault(record: number, status: number, offset: number, count: number): void {
    const handler = this.#handlers.faulting(status === DECODE.tooLong ? 'gp0' : 'ud');
    const memory = this.#memory;
    memory.u16[(record + RECORD.op) >>> 1] = handler.op;
    memory.u16[(record + RECORD.handler) >>> 1] = handler.slot;
    memory.u16[(record + RECORD.pageOffset) >>> 1] = offset;
    memory.u16[(record + RECORD.count) >>> 1] = count;
  }

  #writeRecord(record: number, offset: number, count: number): void {
    const decoder = this.#decoder;
    const handler = this.#handlers.find(decoder);
    const { u8, u16, i32 } = this.#memory;
    u16[record >>> 1] = handler.op;
    u8[record + RECORD.length] = decoder.length;
    u8[record + RECORD.scale] = decoder.scale;
    u8[record + RECORD.a] = decoder.fields[0];
    u8[record + RECORD.b] = decoder.fields[1];
    u8[record + RECORD.c] = decoder.fields[2];
    u8[record + RECORD.index] = decoder.index;
    u8[record + RECORD.segment] = decoder.segment < 0 ? CTX.zero : CTX.segBase + decoder.segment * 8;
    u16[(record + RECORD.pageOffset) >>> 1] = offset;
    u16[(record + RECORD.handler) >>> 1] = handler.slot;
    u16[(record + RECORD.count) >>> 1] = count;
    i32[(record + RECORD.link) >>> 2] = 0;
    let disp = decoder.disp;
    let base = decoder.base;
    if (decoder.ripRelative) {
      disp += offset + decoder.length;
      base = CTX.ripPage;
      if (disp > 0x7fff_ffff) {
        // The sum no longer fits the field: the index slot supplies 2^31.
        disp -= 0x8000_0000;
        u8[record + RECORD.index] = CONST_2G;
      }
    }
    u8[record + RECORD.base] = base;
    i32[(record + RECORD.disp) >>> 2] = disp;
    let low = decoder.immLo;
    let high = decoder.immHi;
    for (const operand of decoder.row.operands) {
      if (operand.kind === K.one) low = 1;
      else if (operand.kind === K.rel) {
        const target = offset + decoder.length + low;
        low = target | 0;
        high = target < 0 ? -1 : 0;
        // A displacement near the ends of 32 bits may carry.
        if (target > 0x7fff_ffff) high = 0;
        else if (target < -0x8000_0000) high = -1;
      }
    }
    i32[(record + RECORD.imm) >>> 2] = low;
    i32[(record + RECORD.imm + 4) >>> 2] = high;
  }
}

/** Instructions that use the stack without naming it. */
const STACK_NAMES = new Set('push pop pushf popf enter leave call calli ret retf iret pushsreg popsreg callfm'.split(' '));

const LEAVING = new Set([
  'jmp',
  'jmpi',
  'call',
  'calli',
  'ret',
  'iret',
  'retf',
  'callf',
  'jmpf',
  'callfm',
  'jmpfm',
  'syscall',
  'sysenter',
  'int',
  'int3',
  'int1',
  'ud',
]);

/** Instructions after which control never simply goes on. */
function leavesAlways(name: string): boolean {
  return LEAVING.has(name);
}
