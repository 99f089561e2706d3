// SPDX-License-Identifier: Apache-2.0
/**
 * Where everything stands in a VM's one shared `WebAssembly.Memory`.
 *
 * One descriptor computes every region's byte offset from the VM's shape; nobody writes an offset twice. Pages that are
 * never touched are never committed by the host, so reserving generously costs address space only.
 */
import { PAGE_SIZE } from './frames.ts';
import { CTX } from './vcpu-context.ts';

export const WASM_PAGE = 0x10000;

/** Software TLB geometry: entries of 32 bytes in banks; bank 0 is the kernel address space, bank 1 the user address space. */
export const TLB = { entries: 4096, entryBytes: 32, banks: 2 } as const;
/** Indirect-branch cache geometry: 16-byte entries. */
export const JUMP_CACHE = { entries: 8192, entryBytes: 16 } as const;
/** Bytes of frame-table record for each machine frame; see `hypervisor/mm/frame-table.ts`. */
export const FRAME_INFO_BYTES = 16;
/** Bytes for hypervisor state that several threads share (event channels, grants, time); see `hypervisor/shared-state.ts`. */
export const DOMAIN_STATE_BYTES = 0x100000;

export interface MemoryShape {
  /** Frames that belong to the guest: its memory in 4 KiB pages. */
  readonly guestFrames: number;
  /** Frames behind the guest's that belong to the hypervisor (shared info, M2P, grant frames …). */
  readonly xenFrames: number;
  readonly vcpus: number;
  /** Bytes of pre-decoded code for each vCPU. */
  readonly codeArenaBytes?: number;
}

export interface MemoryLayout {
  readonly shape: MemoryShape;
  /** Frames 0..frameCount-1 are reachable by the MMU. */
  readonly frameCount: number;
  readonly vcpuContext: (vcpu: number) => number;
  readonly tlb: (vcpu: number, bank: number) => number;
  readonly jumpCache: (vcpu: number) => number;
  readonly codeArena: (vcpu: number) => number;
  readonly codeArenaBytes: number;
  /** `DOMAIN_STATE_BYTES` of hypervisor state. */
  readonly domainState: number;
  /** One byte a frame: non-zero when pre-decoded or translated code was made from it. */
  readonly codeFlags: number;
  /** `FRAME_INFO_BYTES` a frame. */
  readonly frameTable: number;
  /** Guest frame 0. */
  readonly ramBase: number;
  readonly totalBytes: number;
}

const MAX_BYTES = 0x1_0000_0000;

function align(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}

/** Computes the layout; throws a RangeError when the VM does not fit into a 32-bit memory. */
export function computeLayout(shape: MemoryShape): MemoryLayout {
  const codeArenaBytes = shape.codeArenaBytes ?? 64 * 1024 * 1024;
  const frameCount = shape.guestFrames + shape.xenFrames;
  const contexts = WASM_PAGE;
  const domainState = align(contexts + shape.vcpus * CTX.size, WASM_PAGE);
  const tlbs = domainState + DOMAIN_STATE_BYTES;
  const tlbBytes = TLB.entries * TLB.entryBytes;
  const jumpCaches = tlbs + shape.vcpus * TLB.banks * tlbBytes;
  const jumpBytes = JUMP_CACHE.entries * JUMP_CACHE.entryBytes;
  const arenas = align(jumpCaches + shape.vcpus * jumpBytes, WASM_PAGE);
  const codeFlags = arenas + shape.vcpus * codeArenaBytes;
  const frameTable = align(codeFlags + frameCount, WASM_PAGE);
  const ramBase = align(frameTable + frameCount * FRAME_INFO_BYTES, WASM_PAGE);
  const totalBytes = align(ramBase + frameCount * PAGE_SIZE, WASM_PAGE);
  if (totalBytes > MAX_BYTES) {
    throw new RangeError(
      `a VM of ${Math.round((shape.guestFrames * PAGE_SIZE) / 0x100000)} MiB does not fit into the engine's 4 GiB memory`,
    );
  }
  return {
    shape,
    frameCount,
    vcpuContext: (vcpu) => contexts + vcpu * CTX.size,
    tlb: (vcpu, bank) => tlbs + (vcpu * TLB.banks + bank) * tlbBytes,
    jumpCache: (vcpu) => jumpCaches + vcpu * jumpBytes,
    codeArena: (vcpu) => arenas + vcpu * codeArenaBytes,
    codeArenaBytes,
    domainState,
    codeFlags,
    frameTable,
    ramBase,
    totalBytes,
  };
}
