// SPDX-License-Identifier: Apache-2.0
/**
 * Stateless DHCPv6 (RFC 8415): information requests are answered with name servers and search domain (RFC 3646). Requests for addresses
 * learn that there are none here; SLAAC has them.
 */
import type { NetworkPlan } from '../config.ts';
import { concatBytes, get16, put16, put32 } from '../packet/wire.ts';

export const DHCPV6_SERVER_PORT = 547;
export const DHCPV6_CLIENT_PORT = 546;
const SOLICIT = 1;
const ADVERTISE = 2;
const REQUEST = 3;
const CONFIRM = 4;
const REBIND = 6;
const REPLY = 7;
const INFORMATION_REQUEST = 11;
const OPTION_CLIENTID = 1;
const OPTION_SERVERID = 2;
const OPTION_IA_NA = 3;
const OPTION_STATUS_CODE = 13;
const OPTION_DNS_SERVERS = 23;
const OPTION_DOMAIN_LIST = 24;
const OPTION_INFORMATION_REFRESH_TIME = 32;
const NO_ADDRS_AVAIL = 2;
/** RFC 8415 §11.1. */
const MAX_DUID_BYTES = 130;
const REFRESH_S = 86_400;

/** The answer to a message to port 547; `undefined`: there is none. */
export function answerDhcpv6(plan: NetworkPlan, message: Uint8Array): Uint8Array | undefined {
  if (plan.ipv6 === undefined || message.length < 4) return undefined;
  const kind = message[0];
  const options = parseOptions(message);
  if (options === undefined) return undefined;
  const server = serverId(plan);
  const named = options.get(OPTION_SERVERID);
  if (named !== undefined && (named.length !== server.length || named.some((byte, index) => byte !== server[index]))) return undefined;
  const client = options.get(OPTION_CLIENTID);
  if (client !== undefined && client.length > MAX_DUID_BYTES) return undefined;
  const wantsAddress = kind === SOLICIT || kind === REQUEST || kind === CONFIRM || kind === REBIND;
  if (kind !== INFORMATION_REQUEST && (!wantsAddress || client === undefined)) return undefined;
  const header = message.slice(0, 4);
  header[0] = kind === SOLICIT ? ADVERTISE : REPLY;
  const parts = [header, option(OPTION_SERVERID, server)];
  if (client !== undefined) parts.push(option(OPTION_CLIENTID, client));
  const identity = options.get(OPTION_IA_NA);
  if (wantsAddress && identity !== undefined && identity.length >= 12) {
    const status = option(OPTION_STATUS_CODE, Uint8Array.of(0, NO_ADDRS_AVAIL));
    parts.push(option(OPTION_IA_NA, concatBytes([identity.subarray(0, 12), status])));
  }
  parts.push(option(OPTION_DNS_SERVERS, plan.ipv6.dns));
  if (plan.domain !== undefined) parts.push(option(OPTION_DOMAIN_LIST, encodeName(plan.domain)));
  if (kind === INFORMATION_REQUEST) {
    const refresh = new Uint8Array(4);
    put32(refresh, 0, REFRESH_S);
    parts.push(option(OPTION_INFORMATION_REFRESH_TIME, refresh));
  }
  return concatBytes(parts);
}

/** GUEST: lengths are bounded by the message; of options that repeat the first counts. */
function parseOptions(message: Uint8Array): Map<number, Uint8Array> | undefined {
  const options = new Map<number, Uint8Array>();
  let at = 4;
  while (at + 4 <= message.length) {
    const code = get16(message, at);
    const length = get16(message, at + 2);
    if (at + 4 + length > message.length) return undefined;
    if (!options.has(code)) options.set(code, message.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  return at === message.length ? options : undefined;
}

/** DUID-LL (RFC 8415 §11.4) of the gateway. */
function serverId(plan: NetworkPlan): Uint8Array {
  return concatBytes([Uint8Array.of(0, 3, 0, 1), plan.mac]);
}

function option(code: number, value: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(4 + value.length);
  put16(bytes, 0, code);
  put16(bytes, 2, value.length);
  bytes.set(value, 4);
  return bytes;
}

function encodeName(name: string): Uint8Array {
  const labels = name.split('.').flatMap((label) => [label.length, ...Array.from(label, (char) => char.charCodeAt(0))]);
  return Uint8Array.from([...labels, 0]);
}
