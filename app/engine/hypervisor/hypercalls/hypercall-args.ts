// SPDX-License-Identifier: Apache-2.0
/**
 * The arguments of the hypercall in progress: RDI RSI RDX R10 R8 (docs "hypercall-abi" of Xen; R9 for a sixth), or an entry of a
 * multicall. Each is kept as its two halves and as an exact signed number (NaN when it needs more than 53 bits).
 */
import { CTX, REG, type VcpuContext } from '../../memory/vcpu-context.ts';

const ARGUMENT_REGISTERS = [REG.rdi, REG.rsi, REG.rdx, REG.r10, REG.r8, REG.r9];
export const ARGUMENTS = ARGUMENT_REGISTERS.length;

export class HypercallArgs {
  readonly lo = new Uint32Array(ARGUMENTS);
  readonly hi = new Uint32Array(ARGUMENTS);
  readonly num = new Float64Array(ARGUMENTS);
  /** The arguments come from a multicall's entry: the registers belong to the multicall itself. */
  inMulticall = false;

  fromRegisters(ctx: VcpuContext): void {
    this.inMulticall = false;
    for (let i = 0; i < ARGUMENTS; i++) {
      const at = CTX.gpr + ARGUMENT_REGISTERS[i] * 8;
      this.lo[i] = ctx.lo(at);
      this.hi[i] = ctx.hi(at);
      this.num[i] = ctx.num(at);
    }
  }

  set(index: number, lo: number, hi: number): void {
    this.lo[index] = lo;
    this.hi[index] = hi;
    this.num[index] = signed(lo, hi);
  }
}

/** Changes an argument register, so that a hypercall issued again goes on where it stopped. */
export function setArgumentRegister(ctx: VcpuContext, index: number, value: number): void {
  ctx.setGpr(ARGUMENT_REGISTERS[index], value);
}

/** A 64-bit value as an exact signed number, or NaN when it needs more than 53 bits. */
export function signed(lo: number, hi: number): number {
  const high = hi | 0;
  if (high < -0x20_0000 || high >= 0x20_0000) return Number.NaN;
  return high * 0x1_0000_0000 + (lo >>> 0);
}
