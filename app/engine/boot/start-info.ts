// SPDX-License-Identifier: Apache-2.0
/** struct start_info of xen public/xen.h for 64-bit guests: what a PV kernel finds at RSI. */

/** Byte offsets. */
export const START_INFO = {
  magic: 0,
  nrPages: 32,
  sharedInfo: 40,
  flags: 48,
  storeMfn: 56,
  storeEvtchn: 64,
  consoleMfn: 72,
  consoleEvtchn: 80,
  ptBase: 88,
  nrPtFrames: 96,
  mfnList: 104,
  modStart: 112,
  modLen: 120,
  cmdLine: 128,
  firstP2mPfn: 1152,
  nrP2mFrames: 1160,
  size: 1168,
} as const;

export const MAX_GUEST_CMDLINE = 1024;
export const SIF_PRIVILEGED = 1;
export const SIF_INITDOMAIN = 2;
export const SIF_MULTIBOOT_MOD = 4;
export const SIF_MOD_START_PFN = 8;

export const START_INFO_MAGIC = 'xen-3.0-x86_64';

export interface StartInfo {
  readonly nrPages: number;
  /** Machine address. */
  readonly sharedInfo: number;
  readonly flags: number;
  readonly storeMfn: number;
  readonly storeEvtchn: number;
  readonly consoleMfn: number;
  readonly consoleEvtchn: number;
  /** Virtual addresses, signed. */
  readonly ptBase: number;
  readonly nrPtFrames: number;
  readonly mfnList: number;
  readonly modStart: number;
  readonly modLen: number;
  /** At most `MAX_GUEST_CMDLINE - 1` bytes. */
  readonly cmdLine: Uint8Array;
  readonly firstP2mPfn: number;
  readonly nrP2mFrames: number;
}

/** Writes the structure into a zeroed page. */
export function writeStartInfo(page: Uint8Array, info: StartInfo): void {
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  const u64 = (at: number, value: number): void => view.setBigInt64(at, BigInt(value), true);
  for (let index = 0; index < START_INFO_MAGIC.length; index++) page[START_INFO.magic + index] = START_INFO_MAGIC.charCodeAt(index);
  u64(START_INFO.nrPages, info.nrPages);
  u64(START_INFO.sharedInfo, info.sharedInfo);
  view.setUint32(START_INFO.flags, info.flags, true);
  u64(START_INFO.storeMfn, info.storeMfn);
  view.setUint32(START_INFO.storeEvtchn, info.storeEvtchn, true);
  u64(START_INFO.consoleMfn, info.consoleMfn);
  view.setUint32(START_INFO.consoleEvtchn, info.consoleEvtchn, true);
  u64(START_INFO.ptBase, info.ptBase);
  u64(START_INFO.nrPtFrames, info.nrPtFrames);
  u64(START_INFO.mfnList, info.mfnList);
  u64(START_INFO.modStart, info.modStart);
  u64(START_INFO.modLen, info.modLen);
  page.set(info.cmdLine, START_INFO.cmdLine);
  u64(START_INFO.firstP2mPfn, info.firstP2mPfn);
  u64(START_INFO.nrP2mFrames, info.nrP2mFrames);
}

/** `text` as UTF-8, or undefined when it is longer than a guest's command line may be or holds a zero. */
export function encodeCommandLine(text: string): Uint8Array | undefined {
  const bytes: number[] = [];
  for (const character of text) {
    const point = character.codePointAt(0) ?? 0;
    if (point === 0) return undefined;
    if (point < 0x80) bytes.push(point);
    else if (point < 0x800) bytes.push(0xc0 | (point >> 6), 0x80 | (point & 0x3f));
    else if (point < 0x10000) bytes.push(0xe0 | (point >> 12), 0x80 | ((point >> 6) & 0x3f), 0x80 | (point & 0x3f));
    else bytes.push(0xf0 | (point >> 18), 0x80 | ((point >> 12) & 0x3f), 0x80 | ((point >> 6) & 0x3f), 0x80 | (point & 0x3f));
    if (bytes.length >= MAX_GUEST_CMDLINE) return undefined;
  }
  return Uint8Array.from(bytes);
}
