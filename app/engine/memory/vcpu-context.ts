// SPDX-License-Identifier: Apache-2.0
/**
 * The state of one virtual CPU, as a block of 4 KiB in the VM's shared memory.
 *
 * The software CPU runs straight on this block; another accelerator copies its registers in and out around each run.
 * The hypervisor reads and writes it between runs. Offsets are written here once: WebAssembly emitters and TypeScript
 * both take them from `CTX`.
 *
 * INVARIANT: outside of `Vcpu.run` the block is architectural: `rflags` and `rip` are exact and `ccOp` is 0.
 * INVARIANT: fields below 0x100 are addressed by 8-bit offsets from pre-decoded instruction records.
 */

/** Byte offsets into the block. 64-bit fields unless a comment says otherwise. */
export const CTX = {
  /** RAX RCX RDX RBX RSP RBP RSI RDI R8..R15, in encoding order. */
  gpr: 0x000,
  /** Always zero: stands for "no base", "no index", "no segment base" in address records. */
  zero: 0x080,
  /** Virtual address of the page that holds the running code (engine-internal). */
  ripPage: 0x088,
  /** Segment bases ES CS SS DS FS GS, in encoding order. */
  segBase: 0x090,
  rip: 0x0c0,
  rflags: 0x0c8,
  /** i32: how the lazy flags are to be read (0: `rflags` is exact). */
  ccOp: 0x0d0,
  ccDst: 0x0d8,
  ccA: 0x0e0,
  ccB: 0x0e8,
  temp0: 0x0f0,
  temp1: 0x0f8,
  /** XMM0..15, 16 bytes each. */
  xmm: 0x100,
  /** x87 physical registers R0..R7, 16 bytes each: 64-bit significand, then u16 sign and exponent. MMX aliases the significands. */
  fpr: 0x200,
  /** u16 control word; u16 status word without TOP; u16 TOP; u16 abridged tag word (bit i set: physical register i is in use). */
  fcw: 0x280,
  fsw: 0x282,
  ftop: 0x284,
  ftag: 0x286,
  /** u32 */
  mxcsr: 0x288,
  /** u16 last x87 opcode. */
  fop: 0x28c,
  /** Last x87 instruction and operand pointer. */
  fip: 0x290,
  fdp: 0x298,
  /** Six segment registers plus LDTR and TR, in the order ES CS SS DS FS GS LDTR TR; see `SEG`. */
  seg: 0x2a0,
  cr0: 0x360,
  cr2: 0x368,
  /** Physical address of the current root page table. */
  cr3: 0x370,
  cr4: 0x378,
  efer: 0x380,
  /** DR0..DR7. */
  dr: 0x388,
  xcr0: 0x3c8,
  gdtBase: 0x3d0,
  idtBase: 0x3d8,
  /** u32 limits. */
  gdtLimit: 0x3e0,
  idtLimit: 0x3e4,
  /** u32 0..3 */
  cpl: 0x3e8,
  /** u32 16, 32 or 64: operating mode of the code segment. */
  codeBits: 0x3ec,
  /** MSRs with direct meaning for instructions: GS base of the other mode (KERNEL_GS_BASE), SYSCALL target and mask, TSC_AUX. */
  kernelGsBase: 0x3f0,
  star: 0x3f8,
  lstar: 0x400,
  cstar: 0x408,
  sfmask: 0x410,
  tscAux: 0x418,
  sysenterCs: 0x420,
  sysenterEsp: 0x428,
  sysenterEip: 0x430,

  /** u32 one of `VMEXIT`, valid after a run. */
  exitReason: 0x440,
  /** u32 exception or interrupt vector of the exit. */
  exitVector: 0x444,
  /** u32 error code; `exitHasError` says whether the exception has one. */
  exitError: 0x448,
  exitHasError: 0x44c,
  /** u32 length of the instruction that exited (0 where it has no meaning). */
  exitLength: 0x450,
  /** u32, written by any thread with Atomics: non-zero asks the vCPU to leave `run` at the next block boundary. */
  kick: 0x454,
  /** i32 instructions left until `run` returns with `VMEXIT.budget`. */
  budget: 0x458,
  /** u32 1 while a page fault or another exception is recorded and not yet delivered (engine-internal). */
  faulted: 0x45c,
  /** u32 base of the current TLB bank in shared memory (engine-internal). */
  tlbBase: 0x460,
  /** u32 0: kernel address space, 1: user address space; a PV guest's two roots. */
  space: 0x464,
  /** Guest instructions retired since creation. */
  instructions: 0x468,
  /** TLB misses since creation. */
  tlbMisses: 0x470,
  /** u32 number of frames the MMU may reach; an entry that points past it faults with the reserved bit. */
  frameLimit: 0x478,
  /** i32 host byte offset of guest frame 0. */
  ramBase: 0x47c,
  /** u32 1: interrupts and traps are held back for one instruction (MOV SS, STI). */
  shadow: 0x480,
  /** u32 1: protection, paging and long mode allow the fast paths (engine-internal). */
  tlbLogCount: 0x484,
  /** Scratch for accesses that cross a page (engine-internal), 64 bytes. */
  scratch: 0x4c0,
  /** Free for the accelerator, to the end of the block. */
  accelPrivate: 0x500,
  size: 0x1000,
} as const;

/** A segment register inside `CTX.seg`: 24 bytes; the base stands in `CTX.segBase` for ES..GS and at `base` for LDTR and TR. */
export const SEG = {
  stride: 24,
  /** u16 */
  selector: 0,
  /** u32 access rights as in the descriptor's bits 8..23 shifted down (type, S, DPL, P, AVL, L, D/B, G). */
  attributes: 4,
  /** u32 byte granular */
  limit: 8,
  base: 16,
} as const;

export const REG = {
  rax: 0,
  rcx: 1,
  rdx: 2,
  rbx: 3,
  rsp: 4,
  rbp: 5,
  rsi: 6,
  rdi: 7,
  r8: 8,
  r9: 9,
  r10: 10,
  r11: 11,
  r12: 12,
  r13: 13,
  r14: 14,
  r15: 15,
} as const;

export const SEGREG = { es: 0, cs: 1, ss: 2, ds: 3, fs: 4, gs: 5, ldtr: 6, tr: 7 } as const;

export const RFLAGS = {
  CF: 1 << 0,
  PF: 1 << 2,
  AF: 1 << 4,
  ZF: 1 << 6,
  SF: 1 << 7,
  TF: 1 << 8,
  IF: 1 << 9,
  DF: 1 << 10,
  OF: 1 << 11,
  IOPL: 3 << 12,
  NT: 1 << 14,
  RF: 1 << 16,
  VM: 1 << 17,
  AC: 1 << 18,
  VIF: 1 << 19,
  VIP: 1 << 20,
  ID: 1 << 21,
} as const;

/** Typed view of one vCPU block. Getters return unsigned 32-bit halves; `va` forms return canonical addresses as exact signed numbers. */
export class VcpuContext {
  readonly base: number;
  readonly #i32: Int32Array;
  readonly #u32: Uint32Array;
  readonly #u16: Uint16Array;
  readonly #u8: Uint8Array;

  constructor(buffer: SharedArrayBuffer, base: number) {
    this.base = base;
    this.#i32 = new Int32Array(buffer, base, CTX.size / 4);
    this.#u32 = new Uint32Array(buffer, base, CTX.size / 4);
    this.#u16 = new Uint16Array(buffer, base, CTX.size / 2);
    this.#u8 = new Uint8Array(buffer, base, CTX.size);
  }

  u8(offset: number): number {
    return this.#u8[offset];
  }
  setU8(offset: number, value: number): void {
    this.#u8[offset] = value;
  }
  u16(offset: number): number {
    return this.#u16[offset >> 1];
  }
  setU16(offset: number, value: number): void {
    this.#u16[offset >> 1] = value;
  }
  u32(offset: number): number {
    return this.#u32[offset >> 2];
  }
  setU32(offset: number, value: number): void {
    this.#u32[offset >> 2] = value;
  }

  /** A 64-bit field as an exact signed number, or NaN when it does not fit into 53 bits. */
  num(offset: number): number {
    const high = this.#i32[(offset >> 2) + 1];
    if (high < -0x200000 || high >= 0x200000) return Number.NaN;
    return high * 0x1_0000_0000 + this.#u32[offset >> 2];
  }
  /** Stores a signed number of at most 53 bits, sign-extended. */
  setNum(offset: number, value: number): void {
    this.#u32[offset >> 2] = value >>> 0;
    this.#i32[(offset >> 2) + 1] = Math.floor(value / 0x1_0000_0000);
  }
  lo(offset: number): number {
    return this.#u32[offset >> 2];
  }
  hi(offset: number): number {
    return this.#u32[(offset >> 2) + 1];
  }
  setLoHi(offset: number, lo: number, hi: number): void {
    this.#u32[offset >> 2] = lo;
    this.#u32[(offset >> 2) + 1] = hi;
  }
  /** For diagnostics and cold paths only. */
  big(offset: number): bigint {
    return (BigInt(this.hi(offset)) << 32n) | BigInt(this.lo(offset));
  }
  setBig(offset: number, value: bigint): void {
    this.setLoHi(offset, Number(value & 0xffff_ffffn), Number((value >> 32n) & 0xffff_ffffn));
  }
  copy(to: number, from: number, bytes: number): void {
    this.#u8.copyWithin(to, from, from + bytes);
  }

  /** A general register as a signed number (NaN when it needs more than 53 bits); `reg` is one of `REG`. */
  gpr(reg: number): number {
    return this.num(CTX.gpr + reg * 8);
  }
  setGpr(reg: number, value: number): void {
    this.setNum(CTX.gpr + reg * 8, value);
  }

  selector(seg: number): number {
    return this.u16(CTX.seg + seg * SEG.stride + SEG.selector);
  }
  segBase(seg: number): number {
    return this.num(seg < 6 ? CTX.segBase + seg * 8 : CTX.seg + seg * SEG.stride + SEG.base);
  }
  /** Loads a segment register from its parts, unchecked: for start-up states, traps and returns. */
  setSegment(seg: number, selector: number, base: number, limit: number, attributes: number): void {
    const at = CTX.seg + seg * SEG.stride;
    this.setU16(at + SEG.selector, selector);
    this.setU32(at + SEG.attributes, attributes);
    this.setU32(at + SEG.limit, limit);
    this.setNum(seg < 6 ? CTX.segBase + seg * 8 : at + SEG.base, base);
  }

  get rip(): number {
    return this.num(CTX.rip);
  }
  set rip(value: number) {
    this.setNum(CTX.rip, value);
  }
  get rflags(): number {
    return this.#u32[CTX.rflags >> 2];
  }
  set rflags(value: number) {
    this.setLoHi(CTX.rflags, value, 0);
  }

  /** Asks the vCPU, from any thread, to leave `run` soon, and wakes it when it sleeps on the word. */
  kick(): void {
    Atomics.store(this.#i32, CTX.kick >> 2, 1);
    Atomics.notify(this.#i32, CTX.kick >> 2);
  }
  /** Takes the kick back; returns whether there was one. */
  takeKick(): boolean {
    return Atomics.exchange(this.#i32, CTX.kick >> 2, 0) !== 0;
  }
  /** Sleeps until kicked or until `timeoutMs` is over (Infinity: no limit). Only on a vCPU's own thread. */
  waitForKick(timeoutMs: number): void {
    Atomics.wait(this.#i32, CTX.kick >> 2, 0, timeoutMs);
  }
}
