// SPDX-License-Identifier: Apache-2.0
/**
 * Pre-decoded instructions: the 32-byte records that the interpreter runs.
 *
 * A block is a run of records in the code arena, from its entry to an instruction that always leaves, the end of the page or the
 * length limit; a conditional branch that is not taken runs on into the next record.
 *
 * INVARIANT: `op` of a record whose block was invalidated is `OP.dead`, so that whoever still points at it looks the address up anew.
 */
export const RECORD = {
  bytes: 32,
  /** u16: case of the interpreter's switch. */
  op: 0,
  /** u8: instruction length. */
  length: 2,
  /** u8: left shift of the index register. */
  scale: 3,
  /** u8 register fields of operands 0..2, as the decoder makes them. */
  a: 4,
  b: 5,
  c: 6,
  /** u8 offsets in the vCPU block. */
  base: 7,
  index: 8,
  segment: 9,
  /** u16: offset in its page of the instruction's first byte. */
  pageOffset: 10,
  /** i32: displacement; for RIP-relative operands relative to the start of the page. */
  disp: 12,
  /** i64: immediate; for branches the target relative to the start of the page. */
  imm: 16,
  /** i32: record of a branch's target in the same page, 0 while unknown. */
  link: 24,
  /** u16: slot of the handler in the function table. */
  handler: 28,
  /** u16: instructions from the block's entry to this one, both included. */
  count: 30,
} as const;

/** Cases of the interpreter's switch that are not instructions; inline instruction handlers follow from `firstInline`. */
export const OP = {
  /** Not valid any more, or never was: look the address up. */
  dead: 0,
  /** Call the handler in the function table. */
  call: 1,
  /** The block ends here without a branch: go on at `imm` relative to the page. */
  end: 2,
  /** The next record's instruction reaches into the next page: `imm` is the host offset that page must still have. */
  straddle: 3,
  /** Call the translated region in the function table; `link` is the same code for the interpreter. */
  region: 4,
  firstInline: 5,
} as const;

/** What an out-of-line handler returns. */
export const STATUS = {
  /** Go on with the next record. */
  next: 0,
  /** An exception is recorded for this instruction. */
  fault: 1,
  /** `rip` is set: look it up. */
  jump: 2,
  /** `exitReason` and `rip` are set: leave. */
  exit: 3,
  /** Run the same instruction again after looking for events (long string instructions). */
  repeat: 4,
  /** A region: an exception is recorded, `rip` is that of its instruction. */
  regionFault: 5,
  /** A region: the instruction at `rip` is the interpreter's. */
  interpret: 6,
  /** A region: one of its pages is not where it was; nothing was executed. */
  refused: 7,
} as const;

/** How lazy flags are read (`CTX.ccOp`): `ccDst` is the sign-extended result, `ccA` and `ccB` the sign-extended operands. */
export const FLAGS = {
  /** All of `rflags` is exact. */
  exact: 0,
  add: 1,
  sub: 2,
  /** CF, OF and AF are clear. */
  logic: 3,
  adc: 4,
  sbb: 5,
  /** `ccA` holds CF, AF and OF at their places in RFLAGS; SF, ZF and PF follow from `ccDst`. */
  bits: 6,
} as const;
export type FlagsKind = (typeof FLAGS)[keyof typeof FLAGS];

/** Fields of the vCPU block that belong to the software CPU (behind `CTX.accelPrivate`). */
export const CPU = {
  /** u32 entries in each bank's fill log; above the log's size the bank is cleared whole. */
  tlbLogCount: 0x500,
  /** u32 kind of the pending write: 0 none, 1 into code, 2 split over two pages. */
  pendingKind: 0x510,
  /** u32 host offsets and sizes of the parts of a pending write. */
  pendingHost: 0x514,
  pendingHost2: 0x518,
  pendingBytes: 0x51c,
  pendingSplit: 0x520,
  /** u32 byte offset of this vCPU's jump cache and of the code flags. */
  jumpCache: 0x524,
  codeFlags: 0x528,
  /** u32 start of this vCPU's two TLB banks. */
  tlbBanks: 0x52c,
  /** i64 mixed into jump cache keys: tells code sizes apart. */
  modeKey: 0x530,
  /** i32 instructions left, across the call of a region. */
  left: 0x544,
  /** u32 record whose link waits for the next lookup's result. */
  linkFrom: 0x540,
  /** u32 1: the recorded #GP is one for a non-canonical address. */
  nonCanonical: 0x548,
  /** u32 one of `WATCH`; u32 1: pages of `watchPages` get no data tags; u32 bits of DR6 that were noted. See `breakpoints.ts`. */
  watchMode: 0x550,
  watchActive: 0x554,
  watchHits: 0x558,
  /** Four i64 page addresses. */
  watchPages: 0x560,
  /** u16 logs of filled TLB entries, one a bank. */
  tlbLog: 0x600,
  tlbLogEntries: 512,
} as const;

/** What the slow paths do about data breakpoints. */
export const WATCH = {
  off: 0,
  /** An access that hits fails with `VECTOR_WATCH`. */
  stop: 1,
  /** Accesses that hit are noted in `CPU.watchHits`. */
  note: 2,
} as const;
