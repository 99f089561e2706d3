// SPDX-License-Identifier: Apache-2.0
/**
 * What a file is and in which modes it can boot, with a reason for each that it cannot: `paravane inspect`.
 *
 * The verdicts speak of the file, not of what this version of the engine implements. Reads the whole of a kernel (its notes are in the
 * compressed payload) and only the start of everything else.
 */
import type { AbortSignalLike, Decompressors } from '../host/decompress.ts';
import type { BootError } from './boot-error.ts';
import { isLinuxBoot, parseBzImage } from './bzimage.ts';
import { type Compression, decompressStart, detectCompression } from './compression/decompress.ts';
import { isElf } from './elf.ts';
import { type DiskFormat, type FileKind, identifyFile, isCpio } from './file-kind.ts';
import { type KernelImage, loadKernel } from './kernel-image.ts';
import { pvKernel } from './pv-kernel.ts';
import type { XenGuestNotes } from './xen-notes.ts';

export const BOOT_MODES = ['pv', 'pvh', 'pvhvm', 'hvm-bios', 'hvm-uefi'] as const;
export type BootMode = (typeof BOOT_MODES)[number];

export interface ModeVerdict {
  readonly possible: boolean;
  /** One sentence without a full stop: how, or why not. */
  readonly reason: string;
}

export type ImageKind = 'bzimage' | 'elf-kernel' | 'initramfs' | 'disk-image' | 'raw-disk' | 'iso' | 'efi-application' | 'unknown';

export interface ImageReport {
  readonly kind: ImageKind;
  /** For people: "Linux kernel 6.1.0-56-amd64 (bzImage, protocol 2.15, XZ)". */
  readonly description: string;
  readonly modes: Readonly<Record<BootMode, ModeVerdict>>;
  readonly compression?: Compression;
  /** As a bzImage's header gives it. */
  readonly kernelVersion?: string;
  readonly notes?: XenGuestNotes;
  readonly diskFormat?: DiskFormat;
  /** The file is what `kind` says, but damaged or incomplete. */
  readonly problem?: BootError;
}

export interface InspectOptions {
  /** The file's last 512 bytes, when `bytes` is only its start. */
  readonly tail?: Uint8Array;
  readonly signal?: AbortSignalLike;
}

const CPIO_START = 6;
const COMPRESSION_NAMES: Readonly<Record<Compression, string>> = {
  gzip: 'gzip',
  zstd: 'Zstandard',
  xz: 'XZ',
  lzma: 'LZMA',
  lz4: 'LZ4',
  bzip2: 'bzip2',
  lzo: 'LZO',
};

const yes = (reason: string): ModeVerdict => ({ possible: true, reason });
const no = (reason: string): ModeVerdict => ({ possible: false, reason });

/** Inspects a file: the whole of it, or at least its first 64 KiB when it is not a kernel. */
export async function inspectImage(bytes: Uint8Array, host: Decompressors, options: InspectOptions = {}): Promise<ImageReport> {
  if (isLinuxBoot(bytes) || isElf(bytes)) return inspectKernel(bytes, host, options);
  const kind = identifyFile(bytes, options.tail);
  if (kind.kind !== 'unknown') return otherFile(kind, undefined);
  const compression = detectCompression(bytes);
  if (compression === undefined) return otherFile(kind, undefined);
  const start = await decompressStart(compression, bytes, CPIO_START, host);
  if (!start.ok) {
    return {
      ...otherFile(kind, compression),
      problem: { kind: 'decompression', message: `the file cannot be decompressed: ${start.error.message}` },
    };
  }
  if (isElf(start.value)) return inspectKernel(bytes, host, options);
  return otherFile(isCpio(start.value) ? { kind: 'initramfs' } : kind, compression);
}

async function inspectKernel(bytes: Uint8Array, host: Decompressors, options: InspectOptions): Promise<ImageReport> {
  const loaded = await loadKernel(bytes, host, options.signal === undefined ? {} : { signal: options.signal });
  if (loaded.ok) return kernelReport(loaded.value);
  const problem = loaded.error;
  const bz = parseBzImage(bytes);
  return {
    kind: bz.ok ? 'bzimage' : problem.kind === 'not-a-kernel' ? 'unknown' : isLinuxBoot(bytes) ? 'bzimage' : 'elf-kernel',
    description: bz.ok ? `Linux kernel ${bz.value.kernelVersion}`.trim() : 'unusable file',
    modes: allModes(no(problem.message)),
    problem,
    ...(bz.ok && bz.value.kernelVersion !== '' ? { kernelVersion: bz.value.kernelVersion } : {}),
  };
}

function kernelReport(image: KernelImage): ImageReport {
  const { bzImage, notes, compression } = image;
  return {
    kind: bzImage === undefined ? 'elf-kernel' : 'bzimage',
    description: describeKernel(image),
    modes: kernelModes(image),
    ...(compression === undefined ? {} : { compression }),
    ...(bzImage === undefined || bzImage.kernelVersion === '' ? {} : { kernelVersion: bzImage.kernelVersion }),
    ...(notes === undefined ? {} : { notes }),
  };
}

function describeKernel(image: KernelImage): string {
  const packed = image.compression === undefined ? 'not compressed' : COMPRESSION_NAMES[image.compression];
  const { bzImage } = image;
  if (bzImage !== undefined) {
    const release = bzImage.kernelVersion.split(' ')[0];
    return `Linux kernel ${release} (bzImage, protocol ${bzImage.protocol >> 8}.${bzImage.protocol & 0xff}, ${packed})`.replace('  ', ' ');
  }
  const os = image.notes?.guestOs;
  return `${image.elf.bits}-bit ELF kernel${os === undefined || os === '' ? '' : ` of ${os}`} (${packed})`;
}

function kernelModes(image: KernelImage): ImageReport['modes'] {
  const { bzImage, notes } = image;
  const pv = pvKernel(image);
  const pvh = notes?.phys32Entry !== undefined;
  const firmwareOnly = 'this ELF kernel has no boot sector or setup header; only a boot loader on a disk could start it';
  return {
    pv: pv.ok ? yes('the kernel has a Xen PV entry point') : no(pv.error.message),
    pvh: pvh ? yes('the kernel has a PVH entry point') : no('the kernel has no PVH entry point (Xen note PHYS32_ENTRY)'),
    pvhvm:
      bzImage === undefined
        ? no(firmwareOnly)
        : notes === undefined
          ? no('the kernel has no Xen notes, so it has no Xen drivers; it runs as plain HVM')
          : yes('firmware starts the kernel, and it finds its Xen drivers by itself'),
    'hvm-bios': bzImage === undefined ? no(firmwareOnly) : yes('firmware starts the kernel directly'),
    'hvm-uefi':
      bzImage === undefined
        ? no(firmwareOnly)
        : bzImage.efiStub
          ? yes('the kernel is also an EFI application')
          : no('the kernel was built without the EFI stub (CONFIG_EFI_STUB)'),
  };
}

function allModes(verdict: ModeVerdict): ImageReport['modes'] {
  return { pv: verdict, pvh: verdict, pvhvm: verdict, 'hvm-bios': verdict, 'hvm-uefi': verdict };
}

/** Disks boot through firmware; PV and PVH take a kernel file. */
function diskModes(bios: ModeVerdict, uefi: ModeVerdict): ImageReport['modes'] {
  const needsKernel = no('a disk does not start by itself in this mode; give a kernel file beside it');
  const pvhvm = bios.possible || uefi.possible ? yes('firmware starts the disk; PV drivers depend on the system that is on it') : bios;
  return { pv: needsKernel, pvh: needsKernel, pvhvm, 'hvm-bios': bios, 'hvm-uefi': uefi };
}

function otherFile(file: FileKind, compression: Compression | undefined): ImageReport {
  const packed = compression === undefined ? {} : { compression };
  const suffix = compression === undefined ? '' : ` (${COMPRESSION_NAMES[compression]})`;
  switch (file.kind) {
    case 'disk-image': {
      const maybe = yes('the disk boots if a boot loader for this firmware is on it');
      return { kind: 'disk-image', description: file.name, modes: diskModes(maybe, maybe), diskFormat: file.format };
    }
    case 'raw-disk':
      return {
        kind: 'raw-disk',
        description: `raw disk image with ${file.table === 'gpt' ? 'a GPT' : 'an MBR'} partition table`,
        modes: diskModes(
          file.hasBootCode
            ? yes('the disk has boot code in its first sector')
            : no('there is no boot code in the first sector of the disk'),
          file.hasEfiPartition ? yes('the disk has an EFI system partition') : no('the disk has no EFI system partition'),
        ),
      };
    case 'iso':
      return {
        kind: 'iso',
        description: 'ISO 9660 image',
        modes: diskModes(
          file.bootsBios ? yes('the image has a boot entry for BIOS') : no('the image has no boot entry for BIOS'),
          file.bootsUefi ? yes('the image has a boot entry for UEFI') : no('the image has no boot entry for UEFI'),
        ),
      };
    case 'initramfs': {
      const reason = 'this is an initramfs; give it as the initrd, beside a kernel';
      return { kind: 'initramfs', description: `initramfs${suffix}`, modes: allModes(no(reason)), ...packed };
    }
    case 'efi-application':
      return {
        kind: 'efi-application',
        description: 'EFI application',
        modes: {
          ...allModes(no('this is an EFI application; only UEFI firmware can start it')),
          'hvm-uefi': yes('UEFI firmware starts it'),
        },
      };
    case 'unknown':
      return {
        kind: 'unknown',
        description: compression === undefined ? 'unknown file' : `compressed data${suffix}`,
        modes: allModes(no('the file is neither a kernel nor a disk image that is known here')),
        ...packed,
      };
  }
}
