// SPDX-License-Identifier: Apache-2.0
/**
 * Decoder for the few instructions that a PV guest may execute although it runs in ring 3 and that therefore fault
 * (Intel SDM 2, opcode maps). It knows nothing else: any other opcode is `unknown`, and the fault goes to the guest.
 *
 * GUEST: bytes are fetched once through the guest's own page tables, at most 15.
 */
import { ACCESS } from '../../accel/accelerator.ts';
import { PAGE_SIZE } from '../../memory/frames.ts';
import { CTX, SEGREG } from '../../memory/vcpu-context.ts';
import type { DomainVcpu } from '../domain-vcpu.ts';

export const OP = {
  unknown: 0,
  in: 1,
  out: 2,
  ins: 3,
  outs: 4,
  cli: 5,
  sti: 6,
  clts: 7,
  wbinvd: 8,
  movFromCr: 9,
  movToCr: 10,
  movFromDr: 11,
  movToDr: 12,
  wrmsr: 13,
  rdmsr: 14,
  rdtsc: 15,
  rdtscp: 16,
  cpuid: 17,
  xsetbv: 18,
} as const;
export type Op = (typeof OP)[keyof typeof OP];

const MAX_BYTES = 15;
/** UD2 followed by "xen": forces the emulation of the CPUID that follows (xen public/arch-x86/xen.h XEN_EMULATE_PREFIX). */
const FORCED_PREFIX = [0x0f, 0x0b, 0x78, 0x65, 0x6e];
const SEGMENT_PREFIXES: Readonly<Record<number, number>> = {
  0x26: SEGREG.es,
  0x2e: SEGREG.cs,
  0x36: SEGREG.ss,
  0x3e: SEGREG.ds,
  0x64: SEGREG.fs,
  0x65: SEGREG.gs,
};

/** The instruction at RIP; one record, reused. */
export class Instruction {
  op: Op = OP.unknown;
  length = 0;
  /** Bytes of the port operand: 1, 2, 4. */
  size = 0;
  /** Port given in the instruction, or -1: DX. */
  port = -1;
  /** Control or debug register, and general register. */
  special = 0;
  register = 0;
  repeat = false;
  /** Segment override, or -1. */
  segment = -1;
  /** Address size in bits. */
  addressBits = 64;
  readonly #bytes = new Uint8Array(MAX_BYTES);
  #count = 0;
  #at = 0;
  #rex = 0;

  /** Decodes the instruction at the vCPU's RIP. Anything that is not in the list leaves `op` unknown. */
  decode(dv: DomainVcpu): void {
    this.#fetch(dv);
    this.op = OP.unknown;
    this.#at = 0;
    this.#rex = 0;
    this.port = -1;
    this.repeat = false;
    this.segment = -1;
    const mode = dv.ctx.u32(CTX.codeBits);
    let operand16 = mode === 16;
    this.addressBits = mode;
    for (; this.#at < this.#count; this.#at++) {
      const byte = this.#bytes[this.#at];
      if (byte === 0x66) operand16 = mode !== 16;
      else if (byte === 0x67) this.addressBits = mode === 64 ? 32 : mode === 32 ? 16 : 32;
      else if (byte === 0xf3 || byte === 0xf2) this.repeat = true;
      else if (SEGMENT_PREFIXES[byte] !== undefined) this.segment = SEGMENT_PREFIXES[byte];
      else if (byte !== 0xf0) break;
    }
    if (mode === 64 && (this.#bytes[this.#at] & 0xf0) === 0x40 && this.#at < this.#count) this.#rex = this.#bytes[this.#at++];
    this.#opcode(operand16 ? 2 : 4);
    this.length = this.#at;
    if (this.#at > this.#count) this.op = OP.unknown;
  }

  /** Recognizes the forced-emulation form of CPUID at RIP. */
  decodeForced(dv: DomainVcpu): boolean {
    this.#fetch(dv);
    for (let i = 0; i < FORCED_PREFIX.length; i++) if (this.#bytes[i] !== FORCED_PREFIX[i]) return false;
    this.length = FORCED_PREFIX.length + 2;
    return this.#count >= this.length && this.#bytes[5] === 0x0f && this.#bytes[6] === 0xa2;
  }

  #fetch(dv: DomainVcpu): void {
    const ctx = dv.ctx;
    const start = ctx.rip + (ctx.u32(CTX.codeBits) === 64 ? 0 : ctx.segBase(SEGREG.cs));
    this.#bytes.fill(0);
    this.#count = 0;
    while (this.#count < MAX_BYTES) {
      const va = start + this.#count;
      const host = dv.vcpu.translate(va, ACCESS.execute);
      if (host < 0) return;
      const chunk = Math.min(MAX_BYTES - this.#count, PAGE_SIZE - (((va % PAGE_SIZE) + PAGE_SIZE) % PAGE_SIZE));
      for (let i = 0; i < chunk; i++) this.#bytes[this.#count + i] = dv.shared.u8[host + i];
      this.#count += chunk;
    }
  }

  #next(): number {
    const byte = this.#at < MAX_BYTES ? this.#bytes[this.#at] : 0;
    this.#at++;
    return byte;
  }

  #opcode(wordSize: number): void {
    const opcode = this.#next();
    const size = (opcode & 1) === 0 ? 1 : wordSize;
    switch (opcode) {
      case 0xe4:
      case 0xe5:
        this.#io(OP.in, size, this.#next());
        return;
      case 0xe6:
      case 0xe7:
        this.#io(OP.out, size, this.#next());
        return;
      case 0xec:
      case 0xed:
        this.#io(OP.in, size, -1);
        return;
      case 0xee:
      case 0xef:
        this.#io(OP.out, size, -1);
        return;
      case 0x6c:
      case 0x6d:
        this.#io(OP.ins, size, -1);
        return;
      case 0x6e:
      case 0x6f:
        this.#io(OP.outs, size, -1);
        return;
      case 0xfa:
        this.op = OP.cli;
        return;
      case 0xfb:
        this.op = OP.sti;
        return;
      case 0x0f:
        this.#twoByte();
        return;
      default:
    }
  }

  #io(op: Op, size: number, port: number): void {
    this.op = op;
    this.size = size;
    this.port = port;
  }

  #twoByte(): void {
    switch (this.#next()) {
      case 0x01:
        this.#group7();
        return;
      case 0x06:
        this.op = OP.clts;
        return;
      case 0x08:
      case 0x09:
        this.op = OP.wbinvd;
        return;
      case 0x20:
        this.#special(OP.movFromCr);
        return;
      case 0x21:
        this.#special(OP.movFromDr);
        return;
      case 0x22:
        this.#special(OP.movToCr);
        return;
      case 0x23:
        this.#special(OP.movToDr);
        return;
      case 0x30:
        this.op = OP.wrmsr;
        return;
      case 0x31:
        this.op = OP.rdtsc;
        return;
      case 0x32:
        this.op = OP.rdmsr;
        return;
      case 0xa2:
        this.op = OP.cpuid;
        return;
      default:
    }
  }

  #special(op: Op): void {
    const modrm = this.#next();
    this.op = op;
    this.special = ((modrm >> 3) & 7) | ((this.#rex & 4) << 1);
    this.register = (modrm & 7) | ((this.#rex & 1) << 3);
  }

  #group7(): void {
    const modrm = this.#next();
    if (modrm === 0xd1) this.op = OP.xsetbv;
    else if (modrm === 0xf9) this.op = OP.rdtscp;
  }
}
