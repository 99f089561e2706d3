// SPDX-License-Identifier: Apache-2.0
/**
 * DHCP messages (RFC 2131 §2, options of RFC 2132).
 *
 * GUEST: option lengths are bounded by the message; of options that repeat, the first counts. Overloaded fields (option 52) are not read.
 */
import { get16, get32, put16, put32 } from '../packet/wire.ts';

export const BOOTREQUEST = 1;
export const BOOTREPLY = 2;
const MAGIC_COOKIE = 0x6382_5363;
const FIXED_BYTES = 236;
const OPTIONS_AT = FIXED_BYTES + 4;
/** Old clients want no less (RFC 951). */
const MIN_MESSAGE_BYTES = 300;

export const OPTION_SUBNET_MASK = 1;
export const OPTION_ROUTER = 3;
export const OPTION_DNS = 6;
export const OPTION_HOST_NAME = 12;
export const OPTION_DOMAIN = 15;
export const OPTION_MTU = 26;
export const OPTION_BROADCAST = 28;
export const OPTION_REQUESTED_ADDRESS = 50;
export const OPTION_LEASE_TIME = 51;
export const OPTION_MESSAGE_TYPE = 53;
export const OPTION_SERVER_ID = 54;
export const OPTION_RENEWAL_TIME = 58;
export const OPTION_REBINDING_TIME = 59;
export const OPTION_CLIENT_ID = 61;
const OPTION_PAD = 0;
const OPTION_END = 255;

export const DHCPDISCOVER = 1;
export const DHCPOFFER = 2;
export const DHCPREQUEST = 3;
export const DHCPDECLINE = 4;
export const DHCPACK = 5;
export const DHCPNAK = 6;
export const DHCPRELEASE = 7;
export const DHCPINFORM = 8;

export interface DhcpMessage {
  readonly operation: number;
  readonly transaction: number;
  readonly flags: number;
  /** The client's own address, when it has one. */
  readonly clientAddress: Uint8Array;
  readonly relayAddress: Uint8Array;
  /** Six bytes. */
  readonly hardwareAddress: Uint8Array;
  readonly options: ReadonlyMap<number, Uint8Array>;
}

/** `undefined`: malformed, not over Ethernet, or plain BOOTP. */
export function parseDhcp(bytes: Uint8Array): DhcpMessage | undefined {
  if (bytes.length < OPTIONS_AT || get32(bytes, FIXED_BYTES) !== MAGIC_COOKIE || bytes[1] !== 1 || bytes[2] !== 6) return undefined;
  const options = new Map<number, Uint8Array>();
  let at = OPTIONS_AT;
  while (at < bytes.length && bytes[at] !== OPTION_END) {
    if (bytes[at] === OPTION_PAD) {
      at++;
      continue;
    }
    const length = at + 1 < bytes.length ? bytes[at + 1] : 0xffff;
    if (at + 2 + length > bytes.length) return undefined;
    if (!options.has(bytes[at])) options.set(bytes[at], bytes.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  return {
    operation: bytes[0],
    transaction: get32(bytes, 4),
    flags: get16(bytes, 10),
    clientAddress: bytes.subarray(12, 16),
    relayAddress: bytes.subarray(24, 28),
    hardwareAddress: bytes.subarray(28, 34),
    options,
  };
}

export interface DhcpReply {
  readonly request: DhcpMessage;
  /** All zero in a NAK. */
  readonly yourAddress: Uint8Array;
  readonly serverAddress: Uint8Array;
  readonly options: readonly (readonly [number, Uint8Array])[];
}

export function buildDhcpReply(reply: DhcpReply): Uint8Array {
  const { request } = reply;
  const optionBytes = reply.options.reduce((sum, [, value]) => sum + 2 + value.length, 1);
  const bytes = new Uint8Array(Math.max(MIN_MESSAGE_BYTES, OPTIONS_AT + optionBytes));
  bytes.set([BOOTREPLY, 1, 6, 0]);
  put32(bytes, 4, request.transaction);
  put16(bytes, 10, request.flags);
  bytes.set(request.clientAddress, 12);
  bytes.set(reply.yourAddress, 16);
  bytes.set(reply.serverAddress, 20);
  bytes.set(request.relayAddress, 24);
  bytes.set(request.hardwareAddress, 28);
  put32(bytes, FIXED_BYTES, MAGIC_COOKIE);
  let at = OPTIONS_AT;
  for (const [code, value] of reply.options) {
    bytes[at] = code;
    bytes[at + 1] = value.length;
    bytes.set(value, at + 2);
    at += 2 + value.length;
  }
  bytes[at] = OPTION_END;
  return bytes;
}
