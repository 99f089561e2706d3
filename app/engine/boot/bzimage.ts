// SPDX-License-Identifier: Apache-2.0
/**
 * Linux's bzImage: the setup header that boot loaders read, and where the compressed kernel is.
 *
 * Follows Documentation/arch/x86/boot.rst ("The Linux/x86 Boot Protocol"). Needs protocol 2.08, the first that says where the payload
 * is (Linux 2.6.26). Left out: the fields that only a boot loader of the real-mode entry writes.
 */
import { err, ok, type Result } from '../../base/result.ts';
import type { Decompressors } from '../host/decompress.ts';
import { type BootError, bootError } from './boot-error.ts';
import { decompress, detectCompression, type Compression, type DecompressOptions } from './compression/decompress.ts';
import { cString, isElf } from './elf.ts';

/** Offsets into the file. */
const HDR = {
  setupSects: 0x1f1,
  bootFlag: 0x1fe,
  magic: 0x202,
  version: 0x206,
  kernelVersion: 0x20e,
  loadFlags: 0x211,
  kernelAlignment: 0x230,
  relocatable: 0x234,
  xloadflags: 0x236,
  payloadOffset: 0x248,
  payloadLength: 0x24c,
  prefAddress: 0x258,
  initSize: 0x260,
  end: 0x268,
} as const;

const HDRS = 0x53726448;
const FIRST_WITH_PAYLOAD = 0x208;
const FIRST_WITH_INIT_SIZE = 0x20a;
const FIRST_WITH_XLOADFLAGS = 0x20c;

export const XLF_KERNEL_64 = 1;
export const XLF_CAN_BE_LOADED_ABOVE_4G = 2;
export const XLF_EFI_HANDOVER_32 = 4;
export const XLF_EFI_HANDOVER_64 = 8;

/** No kernel is larger; protects against headers that claim gigabytes. */
export const MAX_KERNEL_BYTES = 512 * 1024 * 1024;
/** Slack over `init_size` for the relocation table that follows the ELF file in the payload. */
const PAYLOAD_SLACK = 16 * 1024 * 1024;

export interface BzImage {
  /** (major << 8) | minor. */
  readonly protocol: number;
  readonly setupSects: number;
  /** As `file` prints it: release, builder, build number and date. Empty when the header has none. */
  readonly kernelVersion: string;
  readonly relocatable: boolean;
  readonly kernelAlignment: number;
  readonly xloadflags: number;
  readonly prefAddress: number;
  readonly initSize: number;
  /** Is there a PE header, so that UEFI firmware can start the file? */
  readonly efiStub: boolean;
  /** Byte range of the payload in the file. */
  readonly payloadStart: number;
  readonly payloadLength: number;
  readonly bytes: Uint8Array;
}

/** Does the file have the setup header's two marks? */
export function isLinuxBoot(bytes: Uint8Array): boolean {
  if (bytes.length < HDR.end) return false;
  const view = new DataView(bytes.buffer, bytes.byteOffset, HDR.end);
  return view.getUint16(HDR.bootFlag, true) === 0xaa55 && view.getUint32(HDR.magic, true) === HDRS;
}

export function parseBzImage(bytes: Uint8Array): Result<BzImage, BootError> {
  if (!isLinuxBoot(bytes)) return err(bootError('not-a-kernel', 'this is not a Linux kernel image'));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const protocol = view.getUint16(HDR.version, true);
  if (protocol < FIRST_WITH_PAYLOAD) {
    return err(bootError('not-a-kernel', 'this Linux kernel is older than 2.6.26 and does not say where its payload is; use a newer one'));
  }
  if ((view.getUint8(HDR.loadFlags) & 1) === 0) {
    return err(bootError('not-a-kernel', 'this is a zImage, which no kernel with paravirtualization uses; use a bzImage'));
  }
  // 0 stands for 4, from the time before the field existed.
  const setupSects = view.getUint8(HDR.setupSects) || 4;
  const payloadStart = (setupSects + 1) * 512 + view.getUint32(HDR.payloadOffset, true);
  const payloadLength = view.getUint32(HDR.payloadLength, true);
  if (payloadLength < 8) return err(bootError('damaged', 'this Linux kernel says that it has no payload; fetch it again'));
  if (payloadStart + payloadLength > bytes.length) {
    const missing = payloadStart + payloadLength - bytes.length;
    return err(bootError('damaged', `this Linux kernel is truncated: ${missing} bytes are missing at its end; fetch it again`));
  }
  const versionAt = view.getUint16(HDR.kernelVersion, true);
  return ok({
    protocol,
    setupSects,
    kernelVersion: versionAt === 0 ? '' : printable(cString(bytes, versionAt + 0x200, 255)),
    relocatable: view.getUint8(HDR.relocatable) !== 0,
    kernelAlignment: view.getUint32(HDR.kernelAlignment, true),
    xloadflags: protocol >= FIRST_WITH_XLOADFLAGS ? view.getUint16(HDR.xloadflags, true) : 0,
    prefAddress: protocol >= FIRST_WITH_INIT_SIZE ? Number(view.getBigUint64(HDR.prefAddress, true)) : 0,
    initSize: protocol >= FIRST_WITH_INIT_SIZE ? view.getUint32(HDR.initSize, true) : 0,
    efiStub: isPe(bytes),
    payloadStart,
    payloadLength,
    bytes,
  });
}

const printable = (text: string): string => text.replace(/[^\x20-\x7e]/g, '?').trim();

/** Is there an MZ header whose PE header is in the file? */
export function isPe(bytes: Uint8Array): boolean {
  if (bytes.length < 0x40 || bytes[0] !== 0x4d || bytes[1] !== 0x5a) return false;
  const at = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0x3c, true);
  return at + 4 <= bytes.length && bytes[at] === 0x50 && bytes[at + 1] === 0x45 && bytes[at + 2] === 0 && bytes[at + 3] === 0;
}

export interface Payload {
  /** undefined: stored as it is. */
  readonly compression: Compression | undefined;
  /** The output's size as the last four bytes of the payload declare it. */
  readonly declaredSize: number;
}

/** What the payload says of itself, without decompressing it. */
export function describePayload(image: BzImage): Payload {
  const payload = image.bytes.subarray(image.payloadStart, image.payloadStart + image.payloadLength);
  const end = new DataView(payload.buffer, payload.byteOffset + payload.length - 4, 4);
  return { compression: isElf(payload) ? undefined : detectCompression(payload), declaredSize: end.getUint32(0, true) };
}

/** Decompresses the payload: an ELF file, on relocatable kernels followed by a relocation table that only the real-mode entry uses. */
export async function extractPayload(
  image: BzImage,
  host: Decompressors,
  options: Pick<DecompressOptions, 'signal'> = {},
): Promise<Result<Uint8Array, BootError>> {
  const payload = image.bytes.subarray(image.payloadStart, image.payloadStart + image.payloadLength);
  const { compression, declaredSize } = describePayload(image);
  if (compression === undefined) {
    if (isElf(payload)) return ok(payload);
    return err(
      bootError(
        'decompression',
        'the payload of this Linux kernel has an unknown compression; use a kernel compressed with gzip, XZ, Zstandard or LZ4',
      ),
    );
  }
  const limit = Math.min(MAX_KERNEL_BYTES, image.initSize === 0 ? MAX_KERNEL_BYTES : image.initSize + PAYLOAD_SLACK);
  if (declaredSize > limit) {
    return err(
      bootError('damaged', `this Linux kernel declares a payload of ${declaredSize} bytes, which its own header rules out; fetch it again`),
    );
  }
  // gzip has the size in its own trailer; behind the others the kernel's build appends it.
  const stream = compression === 'gzip' ? payload : payload.subarray(0, payload.length - 4);
  const result = await decompress(compression, stream, declaredSize, host, { ...options, expected: declaredSize });
  if (!result.ok) return err(bootError('decompression', `this Linux kernel cannot be decompressed: ${result.error.message}`));
  if (result.value.length !== declaredSize) {
    return err(
      bootError(
        'decompression',
        `this Linux kernel decompresses to ${result.value.length} bytes instead of the declared ${declaredSize}; fetch it again`,
      ),
    );
  }
  return result;
}
