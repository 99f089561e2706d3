// SPDX-License-Identifier: Apache-2.0
/**
 * DNS messages (RFC 1035 §4.1), as far as a forwarder must look into them: header and question; and answers with addresses.
 *
 * GUEST: one question, names of at most 255 bytes, no compression in questions.
 */
import type { IpAddress } from '../packet/ip-address.ts';
import { get16, put16, put32 } from '../packet/wire.ts';

export const DNS_HEADER_BYTES = 12;
export const TYPE_A = 1;
export const TYPE_AAAA = 28;
export const CLASS_IN = 1;
export const RCODE_OK = 0;
export const RCODE_FORMERR = 1;
export const RCODE_SERVFAIL = 2;
export const RCODE_NXDOMAIN = 3;
export const RCODE_NOTIMP = 4;
export const RCODE_REFUSED = 5;

const FLAG_RESPONSE = 0x8000;
const FLAG_RECURSION_DESIRED = 0x0100;
const FLAG_RECURSION_AVAILABLE = 0x0080;
const OPCODE_MASK = 0x7800;
const MAX_NAME_BYTES = 255;
const MAX_LABEL_BYTES = 63;
const MAX_ANSWERS = 16;
/** The question's name, as a compression pointer. */
const POINTER_TO_QUESTION = 0xc000 | DNS_HEADER_BYTES;

export interface DnsQuestion {
  readonly id: number;
  /** Lower case, without the last dot. */
  readonly name: string;
  readonly type: number;
  readonly class: number;
  /** Where the question ends. */
  readonly end: number;
}

/** `code`: how to answer what is not understood; `undefined`: not at all. */
export type QueryProblem = { readonly code: number | undefined };

export function parseQuery(bytes: Uint8Array): DnsQuestion | QueryProblem {
  if (bytes.length < DNS_HEADER_BYTES || (get16(bytes, 2) & FLAG_RESPONSE) !== 0) return { code: undefined };
  if ((get16(bytes, 2) & OPCODE_MASK) !== 0) return { code: RCODE_NOTIMP };
  return parseQuestion(bytes) ?? { code: RCODE_FORMERR };
}

/** The one question of a query or a response. */
export function parseQuestion(bytes: Uint8Array): DnsQuestion | undefined {
  if (bytes.length < DNS_HEADER_BYTES || get16(bytes, 4) !== 1) return undefined;
  const labels: string[] = [];
  let at = DNS_HEADER_BYTES;
  for (;;) {
    if (at >= bytes.length || at - DNS_HEADER_BYTES >= MAX_NAME_BYTES) return undefined;
    const length = bytes[at];
    if (length === 0) break;
    if (length > MAX_LABEL_BYTES || at + 1 + length > bytes.length) return undefined;
    labels.push(String.fromCharCode(...bytes.subarray(at + 1, at + 1 + length)));
    at += 1 + length;
  }
  if (at + 5 > bytes.length || at + 1 - DNS_HEADER_BYTES > MAX_NAME_BYTES) return undefined;
  const name = labels.join('.').replace(/[A-Z]/g, (char) => char.toLowerCase());
  return { id: get16(bytes, 0), name, type: get16(bytes, at + 1), class: get16(bytes, at + 3), end: at + 5 };
}

/** Whether `bytes` answer the question, under the transaction `id`. */
export function isAnswerTo(bytes: Uint8Array, question: DnsQuestion, id: number): boolean {
  if (bytes.length < DNS_HEADER_BYTES || get16(bytes, 0) !== id || (get16(bytes, 2) & FLAG_RESPONSE) === 0) return false;
  // Servers may leave the question out of an error.
  if (get16(bytes, 4) === 0) return (get16(bytes, 2) & 15) !== RCODE_OK;
  const echoed = parseQuestion(bytes);
  return echoed !== undefined && echoed.name === question.name && echoed.type === question.type && echoed.class === question.class;
}

/** A response to `query` with a code and addresses of the question's type. Without a question that could be read, a bare header. */
export function buildResponse(
  query: Uint8Array,
  question: DnsQuestion | undefined,
  code: number,
  addresses: readonly IpAddress[] = [],
  ttlSeconds = 30,
): Uint8Array {
  const answers = question === undefined ? [] : addresses.slice(0, MAX_ANSWERS);
  const end = question?.end ?? DNS_HEADER_BYTES;
  const bytes = new Uint8Array(answers.reduce((sum, address) => sum + 12 + address.length, end));
  bytes.set(query.subarray(0, end));
  put16(bytes, 2, FLAG_RESPONSE | (get16(query, 2) & (OPCODE_MASK | FLAG_RECURSION_DESIRED)) | FLAG_RECURSION_AVAILABLE | code);
  put16(bytes, 4, question === undefined ? 0 : 1);
  put16(bytes, 6, answers.length);
  put32(bytes, 8, 0);
  let at = end;
  for (const address of answers) {
    put16(bytes, at, POINTER_TO_QUESTION);
    put16(bytes, at + 2, address.length === 4 ? TYPE_A : TYPE_AAAA);
    put16(bytes, at + 4, CLASS_IN);
    put32(bytes, at + 6, ttlSeconds);
    put16(bytes, at + 10, address.length);
    bytes.set(address, at + 12);
    at += 12 + address.length;
  }
  return bytes;
}
