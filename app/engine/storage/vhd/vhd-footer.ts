// SPDX-License-Identifier: Apache-2.0
/**
 * The footer and the dynamic header of VHD images (Microsoft, Virtual Hard Disk Image Format Specification 1.0), both checksummed.
 *
 * The size of a disk is the footer's current size, except for images whose creators let the geometry decide (Virtual PC, old QEMU).
 */
import type { Entropy } from '../../host/entropy.ts';
import { alignUp, setU64, startsWith, u64, viewOf } from '../core/bytes.ts';

export const FOOTER_BYTES = 512;
export const DYNAMIC_HEADER_BYTES = 1024;
export const VHD_FIXED = 2;
export const VHD_DYNAMIC = 3;
export const VHD_DIFFERENCING = 4;
export const VHD_SECTOR = 512;
/** The table of blocks has 32-bit sector numbers; the specification's limit is 2040 GiB. */
export const MAX_VHD_BYTES = 2040 * 2 ** 30;
/** Seconds from 1970 to 2000, from which the format counts. */
const EPOCH_2000 = 946_684_800;
const MAX_CHS_SECTORS = 65_535 * 16 * 255;

export interface VhdFooter {
  readonly type: number;
  readonly sizeBytes: number;
  readonly dynamicHeaderOffset: number;
  readonly bytes: Uint8Array;
}

export interface VhdDynamicHeader {
  readonly tableOffset: number;
  readonly entries: number;
  readonly blockSize: number;
  readonly parentName: string;
  readonly bytes: Uint8Array;
}

/** The one's complement of the sum of all bytes but the checksum's own. */
export function checksum(bytes: Uint8Array, checksumAt: number): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i++) if (i < checksumAt || i >= checksumAt + 4) sum += bytes[i];
  return ~sum >>> 0;
}

/** Null: these 512 bytes are no footer. */
export function decodeFooter(bytes: Uint8Array): VhdFooter | null {
  if (bytes.length < FOOTER_BYTES || !startsWith(bytes, 'conectix')) return null;
  const view = viewOf(bytes);
  if (view.getUint32(64) !== checksum(bytes.subarray(0, FOOTER_BYTES), 64)) return null;
  const current = u64(view, 48);
  const creator = String.fromCharCode(...bytes.subarray(28, 32));
  const chs = view.getUint16(56) * bytes[58] * bytes[59];
  const byGeometry = (creator === 'vpc ' || creator === 'vs  ' || creator === 'qemu') && chs !== MAX_CHS_SECTORS;
  return {
    type: view.getUint32(60),
    sizeBytes: byGeometry ? chs * VHD_SECTOR : current,
    dynamicHeaderOffset: u64(view, 16),
    bytes: bytes.slice(0, FOOTER_BYTES),
  };
}

export function decodeDynamicHeader(bytes: Uint8Array): VhdDynamicHeader | null {
  if (bytes.length < DYNAMIC_HEADER_BYTES || !startsWith(bytes, 'cxsparse')) return null;
  const view = viewOf(bytes);
  if (view.getUint32(36) !== checksum(bytes, 36)) return null;
  let parentName = '';
  for (let at = 64; at < 64 + 512 && view.getUint16(at) !== 0; at += 2) parentName += String.fromCharCode(view.getUint16(at));
  return {
    tableOffset: u64(view, 16),
    entries: view.getUint32(28),
    blockSize: view.getUint32(32),
    parentName,
    bytes: bytes.slice(0, DYNAMIC_HEADER_BYTES),
  };
}

export interface NewFooter {
  readonly sizeBytes: number;
  readonly type: number;
  readonly nowSeconds: number;
}

export function encodeFooter({ sizeBytes, type, nowSeconds }: NewFooter, entropy: Entropy): Uint8Array {
  const bytes = new Uint8Array(FOOTER_BYTES);
  const view = viewOf(bytes);
  const put = (at: number, value: string): void =>
    bytes.set(
      Uint8Array.from(value, (c) => c.charCodeAt(0)),
      at,
    );
  put(0, 'conectix');
  // Reserved bit 1 is always set; version 1.0.
  view.setUint32(8, 2);
  view.setUint32(12, 0x0001_0000);
  setU64(view, 16, type === VHD_FIXED ? Number.MAX_SAFE_INTEGER : FOOTER_BYTES);
  if (type === VHD_FIXED) bytes.fill(0xff, 16, 24);
  view.setUint32(24, Math.max(0, nowSeconds - EPOCH_2000));
  // A creator whose images are taken by their current size, not by geometry.
  put(28, 'win ');
  view.setUint32(32, 0x0006_0001);
  put(36, 'Wi2k');
  entropy.fill(bytes.subarray(68, 84));
  view.setUint32(60, type);
  setU64(view, 40, sizeBytes);
  return withSize(bytes, sizeBytes);
}

/** A footer for a disk of another size; recomputes geometry and checksum. */
export function withSize(footer: Uint8Array, sizeBytes: number): Uint8Array {
  const bytes = footer.slice();
  const view = viewOf(bytes);
  setU64(view, 48, sizeBytes);
  const { cylinders, heads, sectors } = geometry(Math.floor(sizeBytes / VHD_SECTOR));
  view.setUint16(56, cylinders);
  bytes[58] = heads;
  bytes[59] = sectors;
  view.setUint32(64, checksum(bytes, 64));
  return bytes;
}

export function encodeDynamicHeader(tableOffset: number, entries: number, blockSize: number): Uint8Array {
  const bytes = new Uint8Array(DYNAMIC_HEADER_BYTES);
  const view = viewOf(bytes);
  bytes.set(Uint8Array.from('cxsparse', (c) => c.charCodeAt(0)));
  bytes.fill(0xff, 8, 16);
  setU64(view, 16, tableOffset);
  view.setUint32(24, 0x0001_0000);
  view.setUint32(28, entries);
  view.setUint32(32, blockSize);
  view.setUint32(36, checksum(bytes, 36));
  return bytes;
}

/** Cylinders, heads and sectors as the specification's appendix computes them. */
function geometry(totalSectors: number): { cylinders: number; heads: number; sectors: number } {
  const total = Math.min(totalSectors, MAX_CHS_SECTORS);
  let sectors: number;
  let heads: number;
  let cylinderHeads: number;
  if (total >= 65_535 * 16 * 63) {
    sectors = 255;
    heads = 16;
    cylinderHeads = Math.floor(total / sectors);
  } else {
    sectors = 17;
    cylinderHeads = Math.floor(total / sectors);
    heads = Math.max(4, Math.floor((cylinderHeads + 1023) / 1024));
    if (cylinderHeads >= heads * 1024 || heads > 16) {
      sectors = 31;
      heads = 16;
      cylinderHeads = Math.floor(total / sectors);
    }
    if (cylinderHeads >= heads * 1024) {
      sectors = 63;
      heads = 16;
      cylinderHeads = Math.floor(total / sectors);
    }
  }
  return { cylinders: Math.floor(cylinderHeads / heads), heads, sectors };
}

/** Bytes of the bitmap that precedes each block. */
export function bitmapBytes(blockSize: number): number {
  return alignUp(Math.ceil(blockSize / VHD_SECTOR / 8), VHD_SECTOR);
}
