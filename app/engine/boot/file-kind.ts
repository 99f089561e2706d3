// SPDX-License-Identifier: Apache-2.0
/**
 * What a file is that is not a kernel: disk images, optical images, initramfs archives, EFI applications. By magic number only.
 *
 * Formats as their publishers describe them: QEMU's qcow2 specification, VMware's "Virtual Disk Format 5.0", Microsoft's VHD and VHDX
 * specifications, VirtualBox's VDI header, ECMA-119 with the El Torito boot specification, UEFI 2.10 chapter 5 (GPT), cpio(5).
 */
import { isPe } from './bzimage.ts';

export type DiskFormat = 'qcow2' | 'vmdk' | 'vdi' | 'vhd' | 'vhdx';

export type FileKind =
  | { readonly kind: 'disk-image'; readonly format: DiskFormat; readonly name: string }
  | { readonly kind: 'raw-disk'; readonly table: 'mbr' | 'gpt'; readonly hasBootCode: boolean; readonly hasEfiPartition: boolean }
  | { readonly kind: 'iso'; readonly bootsBios: boolean; readonly bootsUefi: boolean }
  | { readonly kind: 'initramfs' }
  | { readonly kind: 'efi-application' }
  | { readonly kind: 'unknown' };

const SECTOR = 512;
const ISO_SECTOR = 2048;
const PARTITION_TABLE = 446;
const MBR_TYPE_GPT = 0xee;
const MBR_TYPE_EFI = 0xef;
/** GUID C12A7328-F81F-11D2-BA4B-00A0C93EC93B as it stands on disk. */
const EFI_SYSTEM_PARTITION = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b] as const;
const EL_TORITO_PLATFORM_EFI = 0xef;
const MAX_BOOT_CATALOG_ENTRIES = 64;

const DISK_NAMES: Readonly<Record<DiskFormat, string>> = {
  qcow2: 'QEMU disk image (qcow2)',
  vmdk: 'VMware disk image (VMDK)',
  vdi: 'VirtualBox disk image (VDI)',
  vhd: 'Virtual PC disk image (VHD)',
  vhdx: 'Hyper-V disk image (VHDX)',
};

function ascii(bytes: Uint8Array, at: number, text: string): boolean {
  for (let index = 0; index < text.length; index++) if (bytes[at + index] !== text.charCodeAt(index)) return false;
  return true;
}

function u32(bytes: Uint8Array, at: number): number {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
}

/** A "new" or "crc" cpio header, or the old binary one, as an initramfs begins. */
export function isCpio(bytes: Uint8Array): boolean {
  return ascii(bytes, 0, '070701') || ascii(bytes, 0, '070702') || ascii(bytes, 0, '070707');
}

/**
 * Classifies a file by its first bytes (64 KiB are enough) and, for fixed VHD images, its last 512 (`tail`).
 */
export function identifyFile(head: Uint8Array, tail?: Uint8Array): FileKind {
  const format = diskFormat(head, tail);
  if (format !== undefined) return { kind: 'disk-image', format, name: DISK_NAMES[format] };
  if (isCpio(head)) return { kind: 'initramfs' };
  // An ISO image may also carry a partition table, for use on a USB stick.
  const iso = isoImage(head);
  if (iso !== undefined) return iso;
  if (isPe(head)) return { kind: 'efi-application' };
  return rawDisk(head) ?? { kind: 'unknown' };
}

function diskFormat(head: Uint8Array, tail: Uint8Array | undefined): DiskFormat | undefined {
  if (ascii(head, 0, 'QFI\xfb')) return 'qcow2';
  if (ascii(head, 0, 'KDMV') || ascii(head, 0, 'COWD') || ascii(head, 0, '# Disk DescriptorFile')) return 'vmdk';
  if (u32(head, 0x40) === 0xbeda107f) return 'vdi';
  if (ascii(head, 0, 'vhdxfile')) return 'vhdx';
  if (ascii(head, 0, 'conectix') || (tail !== undefined && tail.length >= SECTOR && ascii(tail, tail.length - SECTOR, 'conectix')))
    return 'vhd';
  return undefined;
}

function isoImage(head: Uint8Array): FileKind | undefined {
  if (!ascii(head, 16 * ISO_SECTOR + 1, 'CD001')) return undefined;
  // The boot record, when there is one, follows the primary volume descriptor and names the boot catalog.
  const record = 17 * ISO_SECTOR;
  let bootsBios = false;
  let bootsUefi = false;
  if (head[record] === 0 && ascii(head, record + 1, 'CD001') && ascii(head, record + 7, 'EL TORITO SPECIFICATION')) {
    const catalog = u32(head, record + 0x47) * ISO_SECTOR;
    // Entry 0 validates, entry 1 is the default, sections follow: 0x90 or 0x91 with a platform, then bootable entries.
    let platform = head[catalog + 1];
    if (catalog + 64 <= head.length) {
      for (let index = 1; index <= MAX_BOOT_CATALOG_ENTRIES; index++) {
        const entry = catalog + index * 32;
        if (entry + 32 > head.length) break;
        const mark = head[entry];
        if (mark === 0x90 || mark === 0x91) platform = head[entry + 1];
        else if (mark !== 0x88) break;
        else if (platform === EL_TORITO_PLATFORM_EFI) bootsUefi = true;
        else bootsBios = true;
      }
    } else {
      // The catalog lies beyond what was read; there is one, so something boots.
      bootsBios = true;
      bootsUefi = true;
    }
  }
  return { kind: 'iso', bootsBios, bootsUefi };
}

function rawDisk(head: Uint8Array): FileKind | undefined {
  if (head.length < SECTOR || head[510] !== 0x55 || head[511] !== 0xaa) return undefined;
  const types = [0, 1, 2, 3].map((index) => head[PARTITION_TABLE + index * 16 + 4]);
  const hasBootCode = head.subarray(0, PARTITION_TABLE).some((byte) => byte !== 0);
  if (types.includes(MBR_TYPE_GPT) && ascii(head, SECTOR, 'EFI PART')) {
    return { kind: 'raw-disk', table: 'gpt', hasBootCode, hasEfiPartition: gptHasEfiPartition(head) };
  }
  // Status bytes are 00 or 80; otherwise this is a boot sector of something else.
  const plausible = [0, 1, 2, 3].every((index) => (head[PARTITION_TABLE + index * 16] & 0x7f) === 0);
  if (!plausible || types.every((type) => type === 0)) return undefined;
  return { kind: 'raw-disk', table: 'mbr', hasBootCode, hasEfiPartition: types.includes(MBR_TYPE_EFI) };
}

function gptHasEfiPartition(head: Uint8Array): boolean {
  const entrySize = u32(head, SECTOR + 84);
  const count = Math.min(u32(head, SECTOR + 80), 128);
  if (entrySize < 128) return false;
  const start = u32(head, SECTOR + 72) * SECTOR;
  for (let index = 0; index < count; index++) {
    const at = start + index * entrySize;
    if (EFI_SYSTEM_PARTITION.every((value, byte) => head[at + byte] === value)) return true;
  }
  return false;
}
