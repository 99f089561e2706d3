// SPDX-License-Identifier: Apache-2.0
/**
 * TCP headers and options: RFC 9293 §3.1, window scale and no timestamps of RFC 7323, selective acknowledgement of RFC 2018.
 *
 * GUEST: the data offset and each option length are bounded by the segment; a malformed option ends the list, as Linux does.
 */
import { get16, get32, put16, put32 } from './wire.ts';

export const TCP_HEADER_BYTES = 20;
export const TCP_MAX_HEADER_BYTES = 60;
export const FIN = 1;
export const SYN = 2;
export const RST = 4;
export const PSH = 8;
export const ACK = 16;

/** RFC 7323 §2.3: larger shift counts are read as this one. */
export const MAX_WINDOW_SHIFT = 14;
const MAX_SACK_BLOCKS = 4;

const OPTION_END = 0;
const OPTION_NOP = 1;
const OPTION_MSS = 2;
const OPTION_WINDOW_SCALE = 3;
const OPTION_SACK_PERMITTED = 4;
const OPTION_SACK = 5;

/** Sequence numbers `[start, end)`. */
export interface SequenceRange {
  readonly start: number;
  readonly end: number;
}

export interface TcpSegment {
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly sequence: number;
  readonly acknowledgement: number;
  readonly flags: number;
  /** As it stands in the header, not scaled. */
  readonly window: number;
  readonly payload: Uint8Array;
  /** Of a SYN; `undefined`: the option is missing. */
  readonly mss: number | undefined;
  readonly windowShift: number | undefined;
  readonly sackPermitted: boolean;
  readonly sack: readonly SequenceRange[];
}

const NO_SACK: readonly SequenceRange[] = [];

/** Reads a segment; the checksum is the caller's business. `undefined`: malformed. */
export function parseTcp(bytes: Uint8Array): TcpSegment | undefined {
  if (bytes.length < TCP_HEADER_BYTES) return undefined;
  const headerBytes = (bytes[12] >>> 4) * 4;
  if (headerBytes < TCP_HEADER_BYTES || headerBytes > bytes.length) return undefined;
  const options = headerBytes === TCP_HEADER_BYTES ? NO_OPTIONS : parseOptions(bytes, headerBytes);
  return {
    sourcePort: get16(bytes, 0),
    destinationPort: get16(bytes, 2),
    sequence: get32(bytes, 4),
    acknowledgement: get32(bytes, 8),
    flags: bytes[13] & 0x3f,
    window: get16(bytes, 14),
    payload: bytes.subarray(headerBytes),
    mss: options.mss,
    windowShift: options.windowShift,
    sackPermitted: options.sackPermitted,
    sack: options.sack,
  };
}

interface TcpOptions {
  readonly mss: number | undefined;
  readonly windowShift: number | undefined;
  readonly sackPermitted: boolean;
  readonly sack: readonly SequenceRange[];
}

const NO_OPTIONS: TcpOptions = { mss: undefined, windowShift: undefined, sackPermitted: false, sack: NO_SACK };

function parseOptions(bytes: Uint8Array, end: number): TcpOptions {
  let mss: number | undefined;
  let windowShift: number | undefined;
  let sackPermitted = false;
  let sack = NO_SACK;
  let at = TCP_HEADER_BYTES;
  while (at < end && bytes[at] !== OPTION_END) {
    if (bytes[at] === OPTION_NOP) {
      at++;
      continue;
    }
    const length = at + 1 < end ? bytes[at + 1] : 0;
    if (length < 2 || at + length > end) break;
    if (bytes[at] === OPTION_MSS && length === 4) mss = get16(bytes, at + 2);
    else if (bytes[at] === OPTION_WINDOW_SCALE && length === 3) windowShift = Math.min(bytes[at + 2], MAX_WINDOW_SHIFT);
    else if (bytes[at] === OPTION_SACK_PERMITTED && length === 2) sackPermitted = true;
    else if (bytes[at] === OPTION_SACK && length >= 10 && (length - 2) % 8 === 0) sack = parseSack(bytes, at + 2, (length - 2) / 8);
    at += length;
  }
  return { mss, windowShift, sackPermitted, sack };
}

function parseSack(bytes: Uint8Array, at: number, count: number): SequenceRange[] {
  const ranges: SequenceRange[] = [];
  for (let i = 0; i < count && i < MAX_SACK_BLOCKS; i++)
    ranges.push({ start: get32(bytes, at + i * 8), end: get32(bytes, at + i * 8 + 4) });
  return ranges;
}

export interface TcpHeader {
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly sequence: number;
  readonly acknowledgement: number;
  readonly flags: number;
  readonly window: number;
  /** Options of our SYN. */
  readonly mss?: number | undefined;
  readonly windowShift?: number | undefined;
  readonly sackPermitted?: boolean;
  /** At most four ranges. */
  readonly sack?: readonly SequenceRange[];
}

/** Writes header and options, checksum field 0; returns the header's length. */
export function writeTcpHeader(frame: Uint8Array, at: number, header: TcpHeader): number {
  put16(frame, at, header.sourcePort);
  put16(frame, at + 2, header.destinationPort);
  put32(frame, at + 4, header.sequence);
  put32(frame, at + 8, header.acknowledgement);
  frame[at + 13] = header.flags;
  put16(frame, at + 14, header.window);
  put32(frame, at + 16, 0);
  const end = writeOptions(frame, at + TCP_HEADER_BYTES, header);
  frame[at + 12] = ((end - at) / 4) << 4;
  return end - at;
}

function writeOptions(frame: Uint8Array, start: number, header: TcpHeader): number {
  let at = start;
  if (header.mss !== undefined) {
    put16(frame, at, (OPTION_MSS << 8) | 4);
    put16(frame, at + 2, header.mss);
    at += 4;
  }
  if (header.windowShift !== undefined) {
    put32(frame, at, (OPTION_NOP << 24) | (OPTION_WINDOW_SCALE << 16) | (3 << 8) | header.windowShift);
    at += 4;
  }
  if (header.sackPermitted === true) {
    put32(frame, at, (OPTION_NOP << 24) | (OPTION_NOP << 16) | (OPTION_SACK_PERMITTED << 8) | 2);
    at += 4;
  }
  const sack = header.sack ?? NO_SACK;
  if (sack.length > 0) {
    const count = Math.min(sack.length, MAX_SACK_BLOCKS);
    put32(frame, at, (OPTION_NOP << 24) | (OPTION_NOP << 16) | (OPTION_SACK << 8) | (2 + count * 8));
    at += 4;
    for (let i = 0; i < count; i++) {
      put32(frame, at, sack[i].start);
      put32(frame, at + 4, sack[i].end);
      at += 8;
    }
  }
  return at;
}
