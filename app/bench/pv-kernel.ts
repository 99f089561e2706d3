// SPDX-License-Identifier: Apache-2.0
/** Wraps machine code in the smallest ELF file that is a Xen PV kernel (xen public/elfnote.h): one segment at 1 MiB, entered at its start. */

const VIRT_BASE = -0x8000_0000n;
const LOAD_AT = 0x10_0000;
const XEN_ELFNOTE = { ENTRY: 1, VIRT_BASE: 3, XEN_VERSION: 5, GUEST_OS: 6, LOADER: 8 } as const;
const HEADER_BYTES = 64;
const PROGRAM_BYTES = 56;
const PAGE = 4096;
const PT_LOAD = 1;
const PT_NOTE = 4;

const pad4 = (length: number): number => Math.ceil(length / 4) * 4;

function note(type: number, value: string | bigint): Uint8Array {
  const desc = typeof value === 'string' ? new TextEncoder().encode(`${value}\0`) : new Uint8Array(BigInt64Array.of(value).buffer);
  const out = new Uint8Array(16 + pad4(desc.length));
  new Uint32Array(out.buffer, 0, 3).set([4, desc.length, type]);
  out.set(new TextEncoder().encode('Xen\0'), 12);
  out.set(desc, 16);
  return out;
}

export function pvKernel(code: Uint8Array): Uint8Array {
  const notes = [
    note(XEN_ELFNOTE.GUEST_OS, 'bench'),
    note(XEN_ELFNOTE.LOADER, 'generic'),
    note(XEN_ELFNOTE.XEN_VERSION, 'xen-3.0'),
    note(XEN_ELFNOTE.VIRT_BASE, VIRT_BASE),
    note(XEN_ELFNOTE.ENTRY, VIRT_BASE + BigInt(LOAD_AT)),
  ];
  const noteBytes = notes.reduce((sum, item) => sum + item.length, 0);
  const out = new Uint8Array(PAGE + code.length);
  const view = new DataView(out.buffer);
  out.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, 62, true);
  view.setUint32(20, 1, true);
  view.setBigUint64(32, BigInt(HEADER_BYTES), true);
  for (const [n, value] of [HEADER_BYTES, PROGRAM_BYTES, 2, 64, 0, 0].entries()) view.setUint16(52 + n * 2, value, true);
  const program = (index: number, type: number, offset: number, vaddr: bigint, bytes: number): void => {
    const at = HEADER_BYTES + index * PROGRAM_BYTES;
    view.setUint32(at, type, true);
    view.setUint32(at + 4, 7, true);
    const fields = [BigInt(offset), vaddr, BigInt(LOAD_AT), BigInt(bytes), BigInt(bytes), BigInt(PAGE)];
    for (const [n, value] of fields.entries()) view.setBigInt64(at + 8 + n * 8, value, true);
  };
  const notesAt = HEADER_BYTES + 2 * PROGRAM_BYTES;
  program(0, PT_LOAD, PAGE, VIRT_BASE + BigInt(LOAD_AT), code.length);
  program(1, PT_NOTE, notesAt, 0n, noteBytes);
  let at = notesAt;
  for (const item of notes) {
    out.set(item, at);
    at += item.length;
  }
  out.set(code, PAGE);
  return out;
}
