// SPDX-License-Identifier: Apache-2.0
/**
 * Which format an image has, told by its content.
 *
 * SECURITY: this is asked once, when a person attaches an image without saying its format; the answer is stored with the VM. Asking again
 * later would let a guest turn its raw disk into something else by writing another format's header to it.
 */
import type { HostFile } from '../host/file.ts';
import { startsWith, viewOf } from './core/bytes.ts';

export const IMAGE_FORMATS = ['raw', 'qcow2', 'vmdk', 'vdi', 'vhd', 'vhdx', 'iso'] as const;
export type ImageFormat = (typeof IMAGE_FORMATS)[number];

const VDI_SIGNATURE = 0xbeda107f;
const ISO_DESCRIPTOR = 32_768;
const HEAD = 40_960;
const FOOTER = 512;

/** The format that `head` (the first 40 KiB, or less of a short file) and `tail` (the last 512 bytes) show; `raw` when none does. */
export function formatOf(head: Uint8Array, tail: Uint8Array): ImageFormat {
  if (startsWith(head, 'QFI\xfb')) return 'qcow2';
  if (startsWith(head, 'vhdxfile')) return 'vhdx';
  if (startsWith(head, 'KDMV') || startsWith(head, 'COWD') || isDescriptor(head)) return 'vmdk';
  if (startsWith(head, 'conectix') || startsWith(tail, 'conectix')) return 'vhd';
  if (head.length >= 68 && viewOf(head).getUint32(64, true) === VDI_SIGNATURE) return 'vdi';
  if (startsWith(head, 'CD001', ISO_DESCRIPTOR + 1)) return 'iso';
  return 'raw';
}

/** Reads what `formatOf` needs. */
export async function probeFormat(file: HostFile): Promise<ImageFormat> {
  const head = new Uint8Array(HEAD);
  const count = await file.read(0, head);
  const tail = new Uint8Array(FOOTER);
  const size = await file.size();
  const tailCount = size >= FOOTER ? await file.read(size - FOOTER, tail) : 0;
  return formatOf(head.subarray(0, count), tail.subarray(0, tailCount));
}

/** A VMDK descriptor file: text whose first line that is no space names it. */
function isDescriptor(head: Uint8Array): boolean {
  let at = 0;
  while (at < head.length && at < 64 && (head[at] === 0x20 || head[at] === 0x09 || head[at] === 0x0a || head[at] === 0x0d)) at++;
  return startsWith(head, '# Disk DescriptorFile', at);
}
