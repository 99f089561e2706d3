// SPDX-License-Identifier: Apache-2.0
/**
 * A DHCP server (RFC 2131) for the few guests of one network. Each keeps its address as long as the network runs.
 *
 * GUEST: leases are bounded by the range; a guest with many MAC addresses takes over the oldest leases. Declined addresses are given
 * again once no others are left.
 */
import { fromNumber, type NetworkPlan, toNumber } from '../config.ts';
import { formatMac, isGroupMac } from '../packet/mac-address.ts';
import { sameBytes } from '../packet/wire.ts';
import {
  BOOTREQUEST,
  buildDhcpReply,
  DHCPACK,
  DHCPDECLINE,
  DHCPDISCOVER,
  DHCPINFORM,
  DHCPNAK,
  DHCPOFFER,
  DHCPRELEASE,
  DHCPREQUEST,
  type DhcpMessage,
  OPTION_BROADCAST,
  OPTION_DNS,
  OPTION_DOMAIN,
  OPTION_HOST_NAME,
  OPTION_LEASE_TIME,
  OPTION_MESSAGE_TYPE,
  OPTION_MTU,
  OPTION_REBINDING_TIME,
  OPTION_RENEWAL_TIME,
  OPTION_REQUESTED_ADDRESS,
  OPTION_ROUTER,
  OPTION_SERVER_ID,
  OPTION_SUBNET_MASK,
  parseDhcp,
} from './dhcp-message.ts';

export const DHCP_SERVER_PORT = 67;
export const DHCP_CLIENT_PORT = 68;
const LEASE_S = 86_400;
const BROADCAST_FLAG = 0x8000;
const NO_ADDRESS = new Uint8Array(4);

export interface DhcpAnswer {
  readonly bytes: Uint8Array;
  /** `undefined`: to everyone. */
  readonly to: { readonly address: Uint8Array; readonly mac: Uint8Array } | undefined;
}

export class DhcpServer {
  readonly #plan: NetworkPlan;
  /** Client to offset in the range, oldest use first. */
  readonly #leases = new Map<string, number>();
  readonly #declined = new Set<number>();

  constructor(plan: NetworkPlan) {
    this.#plan = plan;
  }

  /** The addresses given, by MAC address, oldest use first. */
  leases(): { readonly mac: string; readonly address: Uint8Array }[] {
    return [...this.#leases].map(([mac, offset]) => ({ mac, address: this.#address(offset) }));
  }

  /** The address that a forward without one means: of the guest that was heard last, or the first to be given. */
  defaultGuest(): Uint8Array {
    return this.leases().at(-1)?.address ?? this.#plan.dhcpStart;
  }

  /** Answers a message to port 67; `undefined`: there is no answer. */
  handle(bytes: Uint8Array): DhcpAnswer | undefined {
    const request = parseDhcp(bytes);
    if (request === undefined || request.operation !== BOOTREQUEST || isGroupMac(request.hardwareAddress)) return undefined;
    const client = formatMac(request.hardwareAddress);
    switch (request.options.get(OPTION_MESSAGE_TYPE)?.[0]) {
      case DHCPDISCOVER:
        return this.#answer(request, DHCPOFFER, this.#address(this.#lease(client, request)));
      case DHCPREQUEST:
        return this.#request(client, request);
      case DHCPINFORM:
        return this.#answer(request, DHCPACK, NO_ADDRESS);
      case DHCPDECLINE:
        this.#decline(client);
        return undefined;
      case DHCPRELEASE:
        this.#leases.delete(client);
        return undefined;
      default:
        return undefined;
    }
  }

  #request(client: string, request: DhcpMessage): DhcpAnswer | undefined {
    const server = request.options.get(OPTION_SERVER_ID);
    if (server !== undefined && !sameBytes(server, this.#plan.gateway4)) {
      // The guest chose another server.
      this.#leases.delete(client);
      return undefined;
    }
    const wanted = request.options.get(OPTION_REQUESTED_ADDRESS) ?? request.clientAddress;
    const address = this.#address(this.#lease(client, request));
    if (!sameBytes(wanted, address)) return this.#answer(request, DHCPNAK, NO_ADDRESS);
    return this.#answer(request, DHCPACK, address);
  }

  #decline(client: string): void {
    const offset = this.#leases.get(client);
    if (offset === undefined) return;
    this.#leases.delete(client);
    this.#declined.add(offset);
  }

  #address(offset: number): Uint8Array {
    return fromNumber(toNumber(this.#plan.dhcpStart) + offset);
  }

  /** The client's offset: the one it has, the one it wishes, the first free one, or the one that was used longest ago. */
  #lease(client: string, request: DhcpMessage): number {
    const old = this.#leases.get(client);
    const offset = old ?? this.#choose(request);
    this.#leases.delete(client);
    this.#leases.set(client, offset);
    return offset;
  }

  #choose(request: DhcpMessage): number {
    const taken = new Set(this.#leases.values());
    const isFree = (offset: number) => !taken.has(offset) && !this.#declined.has(offset);
    const wish = request.options.get(OPTION_REQUESTED_ADDRESS);
    if (wish !== undefined && wish.length === 4) {
      const offset = toNumber(wish) - toNumber(this.#plan.dhcpStart);
      if (offset >= 0 && offset < this.#plan.dhcpCount && isFree(offset)) return offset;
    }
    for (let offset = 0; offset < this.#plan.dhcpCount; offset++) if (isFree(offset)) return offset;
    if (this.#declined.size > 0) {
      this.#declined.clear();
      return this.#choose(request);
    }
    const [oldest, offset] = this.#leases.entries().next().value!;
    this.#leases.delete(oldest);
    return offset;
  }

  #answer(request: DhcpMessage, type: number, address: Uint8Array): DhcpAnswer {
    const { gateway4 } = this.#plan;
    const options: [number, Uint8Array][] = [
      [OPTION_MESSAGE_TYPE, Uint8Array.of(type)],
      [OPTION_SERVER_ID, gateway4],
    ];
    if (type !== DHCPNAK) options.push(...this.#networkOptions());
    if (type === DHCPOFFER || (type === DHCPACK && address !== NO_ADDRESS)) {
      options.push([OPTION_LEASE_TIME, fromNumber(LEASE_S)]);
      options.push([OPTION_RENEWAL_TIME, fromNumber(LEASE_S / 2)]);
      options.push([OPTION_REBINDING_TIME, fromNumber((LEASE_S / 8) * 7)]);
    }
    const bytes = buildDhcpReply({ request, yourAddress: address, serverAddress: type === DHCPNAK ? NO_ADDRESS : gateway4, options });
    return { bytes, to: type === DHCPNAK ? undefined : this.#recipient(request, address) };
  }

  /** RFC 2131 §4.1; relay agents cannot be on this link. */
  #recipient(request: DhcpMessage, address: Uint8Array): DhcpAnswer['to'] {
    const mac = request.hardwareAddress.slice();
    if (!sameBytes(request.clientAddress, NO_ADDRESS)) return { address: request.clientAddress.slice(), mac };
    if ((request.flags & BROADCAST_FLAG) !== 0 || address === NO_ADDRESS) return undefined;
    return { address, mac };
  }

  #networkOptions(): [number, Uint8Array][] {
    const plan = this.#plan;
    const text = (value: string) => Uint8Array.from(value.slice(0, 255), (char) => char.charCodeAt(0));
    const options: [number, Uint8Array][] = [
      [OPTION_SUBNET_MASK, plan.netmask4],
      [OPTION_BROADCAST, plan.broadcast4],
      [OPTION_ROUTER, plan.gateway4],
      [OPTION_DNS, plan.dns4],
      [OPTION_MTU, Uint8Array.of(plan.mtu >>> 8, plan.mtu)],
    ];
    if (plan.hostname !== undefined) options.push([OPTION_HOST_NAME, text(plan.hostname)]);
    if (plan.domain !== undefined) options.push([OPTION_DOMAIN, text(plan.domain)]);
    return options;
  }
}
