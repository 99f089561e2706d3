// SPDX-License-Identifier: Apache-2.0
/**
 * The text descriptor of VMDK disks (VMware Virtual Disk Format 5.0): which extents a disk consists of.
 *
 * GUEST: an image is hostile; its text is bounded (64 KiB, 4,096 extents) and the names in it are resolved by the caller's policy.
 */
import { decodeUtf8, encodeUtf8 } from '../core/bytes.ts';

export const MAX_DESCRIPTOR_BYTES = 64 * 1024;
const MAX_EXTENTS = 4096;
const SECTOR = 512;

export type VmdkExtentKind = 'SPARSE' | 'FLAT' | 'ZERO' | 'VMFS';

export interface VmdkExtentLine {
  readonly kind: VmdkExtentKind;
  readonly readOnly: boolean;
  readonly sizeBytes: number;
  readonly file: string;
  /** Where a flat extent begins in its file. */
  readonly startBytes: number;
}

export interface VmdkDescriptor {
  readonly createType: string;
  readonly contentId: number;
  readonly parentContentId: number;
  readonly parentFile: string | null;
  readonly extents: readonly VmdkExtentLine[];
}

const NO_PARENT = 0xffff_ffff;

/** A sentence says what is wrong. */
export function parseDescriptor(bytes: Uint8Array): VmdkDescriptor | string {
  const end = bytes.indexOf(0);
  const content = decodeUtf8(end < 0 ? bytes : bytes.subarray(0, end));
  const values = new Map<string, string>();
  const extents: VmdkExtentLine[] = [];
  for (const raw of content.split('\n')) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    const extent = /^(RW|RDONLY|NOACCESS)\s+(\d{1,15})\s+([A-Z]+)(?:\s+"([^"]+)"(?:\s+(\d{1,15}))?)?/.exec(line);
    if (extent !== null) {
      const [, access, sectors, kind, file, start] = extent;
      if (kind !== 'SPARSE' && kind !== 'FLAT' && kind !== 'ZERO' && kind !== 'VMFS') return `extents of type ${kind} are not supported`;
      if (file === undefined && kind !== 'ZERO') return 'an extent has no file';
      if (access === 'NOACCESS') return 'an extent may not be accessed';
      if (extents.length === MAX_EXTENTS) return `a disk of more than ${MAX_EXTENTS} extents is not supported`;
      const sizeBytes = Number(sectors) * SECTOR;
      const startBytes = Number(start ?? 0) * SECTOR;
      if (!Number.isSafeInteger(sizeBytes + startBytes)) return 'an extent is impossibly large';
      extents.push({ kind, readOnly: access === 'RDONLY', sizeBytes, file: file ?? '', startBytes });
      continue;
    }
    const assignment = /^([A-Za-z0-9_.]+)\s*=\s*"?([^"]*)"?$/.exec(line);
    if (assignment !== null) values.set(assignment[1], assignment[2].trim());
  }
  const createType = values.get('createType');
  if (createType === undefined) return 'the descriptor does not say what kind of disk it describes';
  return {
    createType,
    contentId: Number.parseInt(values.get('CID') ?? '0', 16) >>> 0,
    parentContentId: Number.parseInt(values.get('parentCID') ?? 'ffffffff', 16) >>> 0,
    parentFile: values.get('parentFileNameHint') ?? null,
    extents,
  };
}

export function hasParent(descriptor: VmdkDescriptor): boolean {
  return descriptor.parentContentId !== NO_PARENT && descriptor.parentFile !== null;
}

export interface NewDescriptor {
  readonly createType: 'monolithicSparse' | 'monolithicFlat' | 'streamOptimized' | 'twoGbMaxExtentSparse' | 'twoGbMaxExtentFlat';
  readonly contentId: number;
  readonly extents: readonly { readonly sizeBytes: number; readonly kind: 'SPARSE' | 'FLAT'; readonly file: string }[];
}

export function formatDescriptor({ createType, contentId, extents }: NewDescriptor): Uint8Array {
  const total = extents.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const lines = [
    '# Disk DescriptorFile',
    'version=1',
    `CID=${contentId.toString(16).padStart(8, '0')}`,
    'parentCID=ffffffff',
    `createType="${createType}"`,
    '',
    '# Extent description',
    ...extents.map(({ sizeBytes, kind, file }) => `RW ${sizeBytes / SECTOR} ${kind} "${file}"${kind === 'FLAT' ? ' 0' : ''}`),
    '',
    '# The Disk Data Base',
    '#DDB',
    '',
    'ddb.virtualHWVersion = "4"',
    `ddb.geometry.cylinders = "${Math.min(16_383, Math.floor(total / SECTOR / (16 * 63)))}"`,
    'ddb.geometry.heads = "16"',
    'ddb.geometry.sectors = "63"',
    'ddb.adapterType = "ide"',
    '',
  ];
  return encodeUtf8(lines.join('\n'));
}
