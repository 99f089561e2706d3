// SPDX-License-Identifier: Apache-2.0
/**
 * The xenstore wire protocol: message types, header, payload strings, limits and the layout of the ring page.
 * Follows xen public/io/xs_wire.h and docs/misc/xenstore.txt, xenstore-ring.txt. Pure data: no state, no store.
 *
 * Text on the wire is bytes without NUL. Paths and tokens are held as strings with one character per byte (Latin-1), so
 * that a token comes back exactly as it was sent; values stay byte arrays.
 */

export const XS_CONTROL = 0;
export const XS_DIRECTORY = 1;
export const XS_READ = 2;
export const XS_GET_PERMS = 3;
export const XS_WATCH = 4;
export const XS_UNWATCH = 5;
export const XS_TRANSACTION_START = 6;
export const XS_TRANSACTION_END = 7;
export const XS_INTRODUCE = 8;
export const XS_RELEASE = 9;
export const XS_GET_DOMAIN_PATH = 10;
export const XS_WRITE = 11;
export const XS_MKDIR = 12;
export const XS_RM = 13;
export const XS_SET_PERMS = 14;
export const XS_WATCH_EVENT = 15;
export const XS_ERROR = 16;
export const XS_IS_DOMAIN_INTRODUCED = 17;
export const XS_RESUME = 18;
export const XS_SET_TARGET = 19;
/** 20 was XS_RESTRICT, which is gone. */
export const XS_RESET_WATCHES = 21;
export const XS_DIRECTORY_PART = 22;

/** Bytes of `struct xsd_sockmsg`. */
export const XS_HEADER_SIZE = 16;
/** Longest payload in either direction; a longer request costs the client its connection. */
export const XENSTORE_PAYLOAD_MAX = 4096;
export const XENSTORE_ABS_PATH_MAX = 3072;
export const XENSTORE_REL_PATH_MAX = 2048;

/** Ring page (`struct xenstore_domain_interface`): byte offsets. */
export const XENSTORE_RING_SIZE = 1024;
export const XENSTORE_RING_REQ = 0;
export const XENSTORE_RING_RSP = 1024;
export const XENSTORE_RING_REQ_CONS = 2048;
export const XENSTORE_RING_REQ_PROD = 2052;
export const XENSTORE_RING_RSP_CONS = 2056;
export const XENSTORE_RING_RSP_PROD = 2060;
export const XENSTORE_RING_SERVER_FEATURES = 2064;
export const XENSTORE_RING_CONNECTION = 2068;
export const XENSTORE_RING_ERROR = 2072;

export const XENSTORE_SERVER_FEATURE_RECONNECTION = 1;
export const XENSTORE_SERVER_FEATURE_ERROR = 2;

export const XENSTORE_CONNECTED = 0;
export const XENSTORE_RECONNECT = 1;

export const XENSTORE_ERROR_NONE = 0;
export const XENSTORE_ERROR_COMM = 1;
export const XENSTORE_ERROR_RINGIDX = 2;
export const XENSTORE_ERROR_PROTO = 3;

/** The errors that may travel in an XS_ERROR message, by name as they travel. */
export type XsErrno =
  | 'EINVAL'
  | 'EACCES'
  | 'EEXIST'
  | 'EISDIR'
  | 'ENOENT'
  | 'ENOMEM'
  | 'ENOSPC'
  | 'EIO'
  | 'ENOTEMPTY'
  | 'ENOSYS'
  | 'EROFS'
  | 'EBUSY'
  | 'EAGAIN'
  | 'EISCONN'
  | 'E2BIG'
  | 'EPERM';

export interface XsHeader {
  readonly type: number;
  readonly requestId: number;
  readonly transactionId: number;
  readonly length: number;
}

/** Reads the header at the start of `bytes` (at least 16 of them). */
export function decodeHeader(bytes: Uint8Array): XsHeader {
  return { type: u32At(bytes, 0), requestId: u32At(bytes, 4), transactionId: u32At(bytes, 8), length: u32At(bytes, 12) };
}

/** A whole message: header and payload. The payload must be within XENSTORE_PAYLOAD_MAX. */
export function encodeMessage(type: number, requestId: number, transactionId: number, payload: Uint8Array): Uint8Array {
  if (payload.length > XENSTORE_PAYLOAD_MAX) throw new RangeError(`a xenstore payload of ${payload.length} bytes does not fit`);
  const out = new Uint8Array(XS_HEADER_SIZE + payload.length);
  putU32(out, 0, type);
  putU32(out, 4, requestId);
  putU32(out, 8, transactionId);
  putU32(out, 12, payload.length);
  out.set(payload, XS_HEADER_SIZE);
  return out;
}

function u32At(bytes: Uint8Array, at: number): number {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
}

function putU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}

/** The NUL-terminated strings of a payload; bytes after the last NUL belong to none and are left out. */
export function payloadStrings(payload: Uint8Array): string[] {
  const out: string[] = [];
  let start = 0;
  for (;;) {
    const end = payload.indexOf(0, start);
    if (end < 0) return out;
    out.push(latin1Decode(payload.subarray(start, end)));
    start = end + 1;
  }
}

/** The payload as its only string: exactly one NUL, and that at the end. Null otherwise. */
export function singleString(payload: Uint8Array): string | null {
  if (payload.length === 0 || payload.indexOf(0) !== payload.length - 1) return null;
  return latin1Decode(payload.subarray(0, payload.length - 1));
}

/** Splits `<string>|<rest>`; null without a NUL. The rest is a copy. */
export function stringAndRest(payload: Uint8Array): { readonly text: string; readonly rest: Uint8Array } | null {
  const end = payload.indexOf(0);
  if (end < 0) return null;
  return { text: latin1Decode(payload.subarray(0, end)), rest: payload.slice(end + 1) };
}

/** `a|b|c|` of the given strings (one byte per character). */
export function encodeStrings(strings: readonly string[]): Uint8Array {
  let length = 0;
  for (const text of strings) length += text.length + 1;
  const out = new Uint8Array(length);
  let at = 0;
  for (const text of strings) {
    for (let i = 0; i < text.length; i++) out[at++] = text.charCodeAt(i);
    at++;
  }
  return out;
}

/** A decimal number as C's atoi reads it: leading blanks and sign, then digits; 0 when there are none. Saturates at 32 bits. */
export function parseAtoi(text: string): number {
  const match = /^[ \t\n\v\f\r]*([+-]?[0-9]{1,32})/.exec(text);
  if (match === null) return 0;
  return Math.max(-0x80000000, Math.min(0x7fffffff, Number(match[1])));
}

export function latin1Decode(bytes: Uint8Array): string {
  let out = '';
  for (let at = 0; at < bytes.length; at += 4096) out += String.fromCharCode(...bytes.subarray(at, at + 4096));
  return out;
}

export function latin1Encode(text: string): Uint8Array {
  const out = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
  return out;
}
