// SPDX-License-Identifier: Apache-2.0
/** Gets from a file to the ELF kernel inside of it: a plain ELF file, a compressed one (NetBSD's netbsd.gz), or a bzImage. */
import { err, ok, type Result } from '../../base/result.ts';
import type { AbortSignalLike, Decompressors } from '../host/decompress.ts';
import { type BootError, bootError } from './boot-error.ts';
import { type BzImage, describePayload, extractPayload, isLinuxBoot, MAX_KERNEL_BYTES, parseBzImage } from './bzimage.ts';
import { type Compression, decompress, decompressStart, detectCompression } from './compression/decompress.ts';
import { type ElfImage, isElf, parseElf } from './elf.ts';
import { type FileKind, identifyFile, isCpio } from './file-kind.ts';
import { readXenNotes, type XenGuestNotes } from './xen-notes.ts';

export interface KernelImage {
  readonly container: 'elf' | 'bzimage';
  /** Of the payload or of the whole file; undefined: stored as it is. */
  readonly compression: Compression | undefined;
  readonly elf: ElfImage;
  /** undefined: the kernel does not know Xen. */
  readonly notes: XenGuestNotes | undefined;
  readonly bzImage: BzImage | undefined;
}

/** Reads a kernel. Errors: not a kernel (the message says what it is instead), damaged, not decompressible. */
export async function loadKernel(
  bytes: Uint8Array,
  host: Decompressors,
  options: { readonly signal?: AbortSignalLike } = {},
): Promise<Result<KernelImage, BootError>> {
  if (bytes.length === 0) return err(bootError('not-a-kernel', 'the file is empty; choose a kernel'));
  if (isLinuxBoot(bytes)) {
    const parsed = parseBzImage(bytes);
    if (!parsed.ok) return parsed;
    const payload = await extractPayload(parsed.value, host, options);
    return payload.ok ? fromElf(payload.value, 'bzimage', describePayload(parsed.value).compression, parsed.value) : payload;
  }
  if (isElf(bytes)) return fromElf(bytes, 'elf', undefined, undefined);
  const compression = detectCompression(bytes);
  if (compression === undefined) return err(notAKernel(identifyFile(bytes)));
  const start = await decompressStart(compression, bytes, 6, host);
  if (!start.ok) return err(bootError('decompression', `the file cannot be decompressed: ${start.error.message}`));
  if (!isElf(start.value)) return err(notAKernel(isCpio(start.value) ? { kind: 'initramfs' } : { kind: 'unknown' }));
  const whole = await decompress(compression, bytes, MAX_KERNEL_BYTES, host, options);
  if (!whole.ok) return err(bootError('decompression', `the kernel cannot be decompressed: ${whole.error.message}`));
  return fromElf(whole.value, 'elf', compression, undefined);
}

/**
 * Frees the bytes of a decompressed kernel at once; the image must not be used afterwards. Left to the garbage collector they may stay for
 * the machine's whole life, because its I/O thread hardly allocates. A kernel that is read from the caller's bytes is left alone.
 */
export function releaseKernel(image: KernelImage): void {
  const { buffer, byteLength } = image.elf.bytes;
  // A short result may share its buffer with others of the host's.
  const own = image.compression !== undefined && byteLength >= OWN_BUFFER_BYTES;
  if (own && buffer instanceof ArrayBuffer) buffer.transfer(0);
}

/** Results of a host's decompressor from this size on have a buffer of their own. */
const OWN_BUFFER_BYTES = 1024 * 1024;

function fromElf(
  bytes: Uint8Array,
  container: KernelImage['container'],
  compression: Compression | undefined,
  bzImage: BzImage | undefined,
): Result<KernelImage, BootError> {
  const elf = parseElf(bytes);
  if (!elf.ok) return elf;
  return ok({ container, compression, elf: elf.value, notes: readXenNotes(elf.value), bzImage });
}

function notAKernel(kind: FileKind): BootError {
  switch (kind.kind) {
    case 'disk-image':
      return bootError('not-a-kernel', `this is a ${kind.name}, not a kernel; give it as a disk`);
    case 'raw-disk':
      return bootError('not-a-kernel', 'this is a raw disk image, not a kernel; give it as a disk');
    case 'iso':
      return bootError('not-a-kernel', 'this is an ISO 9660 image, not a kernel; give it as a disk');
    case 'initramfs':
      return bootError('not-a-kernel', 'this is an initramfs, not a kernel; give it as the initrd, beside a kernel');
    case 'efi-application':
      return bootError('not-a-kernel', 'this is an EFI application, not a kernel; only UEFI firmware can start it');
    case 'unknown':
      return bootError('not-a-kernel', 'this is neither a Linux kernel (bzImage) nor an ELF kernel; choose a kernel built for x86-64');
  }
}
