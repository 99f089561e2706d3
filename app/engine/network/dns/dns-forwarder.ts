// SPDX-License-Identifier: Apache-2.0
/**
 * The network's name server: names of the plan first, then the host's own table, then the host's name servers, and where there are none
 * or none answers, the host's resolver.
 *
 * GUEST: questions in flight are bounded; isolated guests only hear of the plan's names.
 */
import type { NameResolver } from '../../host/sockets.ts';
import { type IpAddress, parseIp } from '../packet/ip-address.ts';
import type { Routing } from '../routing.ts';
import {
  buildResponse,
  CLASS_IN,
  type DnsQuestion,
  parseQuery,
  RCODE_NXDOMAIN,
  RCODE_OK,
  RCODE_REFUSED,
  RCODE_SERVFAIL,
  TYPE_A,
  TYPE_AAAA,
} from './dns-message.ts';
import { askOverTcp, askOverUdp, type UpstreamOptions } from './dns-upstream.ts';

export const DNS_PORT = 53;
const MAX_IN_FLIGHT = 256;
const MAX_SERVERS = 3;
/** The first server gets this long, later ones and connections a little more. */
const FIRST_TIMEOUT_MS = 2000;
const NEXT_TIMEOUT_MS = 3000;

export interface DnsForwarderOptions extends UpstreamOptions {
  readonly names: NameResolver;
  readonly routing: Routing;
}

export type DnsTransport = 'udp' | 'tcp';

export class DnsForwarder {
  readonly #options: DnsForwarderOptions;
  #inFlight = 0;

  constructor(options: DnsForwarderOptions) {
    this.#options = options;
  }

  /** Answers a query. `undefined`: it deserves no answer, or there are too many. */
  async handle(query: Uint8Array, transport: DnsTransport): Promise<Uint8Array | undefined> {
    const question = parseQuery(query);
    if ('code' in question) return question.code === undefined ? undefined : buildResponse(query, undefined, question.code);
    const own = this.#options.routing.plan.hosts.get(question.name);
    if (own !== undefined) return this.#answer(query, question, own);
    if (this.#options.routing.isolated) return buildResponse(query, question, RCODE_REFUSED);
    if (this.#inFlight >= MAX_IN_FLIGHT) return undefined;
    this.#inFlight++;
    try {
      return await this.#resolve(query, question, transport);
    } catch {
      return buildResponse(query, question, RCODE_SERVFAIL);
    } finally {
      this.#inFlight--;
    }
  }

  async #resolve(query: Uint8Array, question: DnsQuestion, transport: DnsTransport): Promise<Uint8Array> {
    const { names } = this.#options;
    const isAddress = question.class === CLASS_IN && (question.type === TYPE_A || question.type === TYPE_AAAA);
    if (isAddress && names.isLocalName(question.name)) return this.#lookup(query, question);
    const ask = transport === 'udp' ? askOverUdp : askOverTcp;
    let timeoutMs = FIRST_TIMEOUT_MS;
    for (const server of names.servers().slice(0, MAX_SERVERS)) {
      const answer = await ask(this.#options, server, query, question, timeoutMs);
      if (answer !== undefined) return answer;
      timeoutMs = NEXT_TIMEOUT_MS;
    }
    return isAddress ? this.#lookup(query, question) : buildResponse(query, question, RCODE_SERVFAIL);
  }

  async #lookup(query: Uint8Array, question: DnsQuestion): Promise<Uint8Array> {
    const found = await this.#options.names.lookup(question.name, question.type === TYPE_A ? 4 : 6);
    if (found === undefined) return buildResponse(query, question, RCODE_NXDOMAIN);
    const { routing } = this.#options;
    const addresses = found.flatMap((text): IpAddress[] => {
      const address = parseIp(text);
      const seen = address === undefined ? undefined : routing.asSeenByGuest(address);
      return seen === undefined ? [] : [seen];
    });
    return this.#answer(query, question, addresses);
  }

  #answer(query: Uint8Array, question: DnsQuestion, addresses: readonly IpAddress[]): Uint8Array {
    const length = question.type === TYPE_A ? 4 : question.type === TYPE_AAAA ? 16 : 0;
    const fitting = question.class === CLASS_IN ? addresses.filter((address) => address.length === length) : [];
    return buildResponse(query, question, RCODE_OK, fitting);
  }
}
