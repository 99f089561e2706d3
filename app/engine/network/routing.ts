// SPDX-License-Identifier: Apache-2.0
/**
 * Where packets of the guest may go. The one place that decides what the guest reaches.
 *
 * INVARIANT: the host's loopback is a destination only through the gateway's address, and only when the plan allows it.
 */
import { formatIp, inPrefix, type IpAddress, isForwardable, isLinkLocal } from './packet/ip-address.ts';
import { sameBytes } from './packet/wire.ts';
import type { NetworkPlan } from './config.ts';

export type Route =
  /** This network itself answers: as the gateway, as the name server. */
  | { readonly to: 'gateway' }
  | { readonly to: 'dns' }
  /** A port of the host. */
  | { readonly to: 'host'; readonly address: string }
  /** The guest may not. */
  | { readonly to: 'prohibited' }
  /** Nothing can be there. */
  | { readonly to: 'nowhere' };

const GATEWAY: Route = { to: 'gateway' };
const DNS: Route = { to: 'dns' };
const PROHIBITED: Route = { to: 'prohibited' };
const NOWHERE: Route = { to: 'nowhere' };

export class Routing {
  readonly plan: NetworkPlan;
  #isolated: boolean;
  #allowHostLoopback: boolean;
  /** Addresses of forwards from the guest, with the number of forwards. */
  readonly #extra = new Map<string, number>();

  constructor(plan: NetworkPlan) {
    this.plan = plan;
    this.#isolated = plan.isolated;
    this.#allowHostLoopback = plan.allowHostLoopback;
  }

  get isolated(): boolean {
    return this.#isolated;
  }

  /** May change while the network runs; what stands already stays. */
  allow(options: { readonly isolated?: boolean; readonly allowHostLoopback?: boolean }): void {
    this.#isolated = options.isolated ?? this.#isolated;
    this.#allowHostLoopback = options.allowHostLoopback ?? this.#allowHostLoopback;
  }

  /** An address of this network that gets an answer, as the gateway does. */
  addAddress(address: IpAddress): void {
    const key = formatIp(address);
    this.#extra.set(key, (this.#extra.get(key) ?? 0) + 1);
  }

  removeAddress(address: IpAddress): void {
    const key = formatIp(address);
    const count = (this.#extra.get(key) ?? 0) - 1;
    if (count > 0) this.#extra.set(key, count);
    else this.#extra.delete(key);
  }

  /** Addresses that ARP and neighbour discovery answer for. */
  isOurs(address: IpAddress): boolean {
    return this.#isGateway(address) || this.#isDns(address) || (this.#extra.size > 0 && this.#extra.has(formatIp(address)));
  }

  /** Whether a guest may send from this address. */
  isGuest(address: IpAddress): boolean {
    const { plan } = this;
    if (this.isOurs(address)) return false;
    if (address.length === 4) {
      return inPrefix(address, plan.network4, plan.prefix4) && !sameBytes(address, plan.network4) && !sameBytes(address, plan.broadcast4);
    }
    return plan.ipv6 !== undefined && (inPrefix(address, plan.ipv6.prefix, 64) || isLinkLocal(address));
  }

  /** Whether it belongs to the guest network, whoever has it. */
  isInside(address: IpAddress): boolean {
    if (address.length === 4) return inPrefix(address, this.plan.network4, this.plan.prefix4);
    return this.plan.ipv6 !== undefined && (inPrefix(address, this.plan.ipv6.prefix, 64) || isLinkLocal(address));
  }

  /** For everything but explicit forwards, which come first. */
  route(destination: IpAddress): Route {
    if (this.#isDns(destination)) return DNS;
    if (this.#isGateway(destination)) {
      if (!this.#allowHostLoopback || this.#isolated) return GATEWAY;
      return { to: 'host', address: destination.length === 4 ? '127.0.0.1' : '::1' };
    }
    if (this.isInside(destination) || !isForwardable(destination)) return NOWHERE;
    return this.#isolated ? PROHIBITED : { to: 'host', address: formatIp(destination) };
  }

  /** The sender's address in what a host at `address` sends to the guest: loopback hides behind the gateway. */
  senderFor(address: IpAddress): IpAddress | undefined {
    if (isForwardable(address) && !this.isInside(address)) return address;
    return address.length === 4 ? this.plan.gateway4 : this.plan.ipv6?.gateway;
  }

  /** Where the guest finds what the host calls `address`; `undefined`: nowhere. */
  asSeenByGuest(address: IpAddress): IpAddress | undefined {
    if (isForwardable(address)) return address;
    if (!this.#allowHostLoopback || this.#isolated) return undefined;
    return address.length === 4 ? this.plan.gateway4 : this.plan.ipv6?.gateway;
  }

  #isGateway(address: IpAddress): boolean {
    const { gateway4, ipv6 } = this.plan;
    if (address.length === 4) return sameBytes(address, gateway4);
    return ipv6 !== undefined && (sameBytes(address, ipv6.gateway) || sameBytes(address, ipv6.linkLocal));
  }

  #isDns(address: IpAddress): boolean {
    const { dns4, ipv6 } = this.plan;
    return address.length === 4 ? sameBytes(address, dns4) : ipv6 !== undefined && sameBytes(address, ipv6.dns);
  }
}
