// SPDX-License-Identifier: Apache-2.0
/** ARP for IPv4 over Ethernet (RFC 826): answers for our addresses, learns the guest's, asks for them. */
import { ETHERTYPE_ARP, writeEthernetHeader } from '../packet/ethernet.ts';
import type { IpAddress } from '../packet/ip-address.ts';
import { BROADCAST_MAC, isGroupMac, type MacAddress } from '../packet/mac-address.ts';
import { get16, get32, put16, put32 } from '../packet/wire.ts';
import { ETHERNET_HEADER_BYTES, NO_OFFLOAD } from '../network-port.ts';
import type { GuestLink } from './guest-link.ts';

const ARP_BYTES = 28;
const REQUEST = 1;
const REPLY = 2;
/** Hardware type Ethernet, protocol type IPv4; then lengths 6 and 4. */
const HARDWARE_AND_PROTOCOL = 0x0001_0800;
const LENGTHS = 0x0604;

export interface ArpOptions {
  readonly mac: MacAddress;
  readonly gateway: IpAddress;
  readonly link: GuestLink;
  readonly isOurs: (address: IpAddress) => boolean;
  readonly isGuest: (address: IpAddress) => boolean;
  readonly learn: (address: IpAddress, mac: Uint8Array) => void;
}

export class Arp {
  readonly #options: ArpOptions;

  constructor(options: ArpOptions) {
    this.#options = options;
  }

  /** A frame of the ARP type. */
  input(frame: Uint8Array): boolean {
    const at = ETHERNET_HEADER_BYTES;
    if (frame.length < at + ARP_BYTES || get32(frame, at) !== HARDWARE_AND_PROTOCOL || get16(frame, at + 4) !== LENGTHS) return false;
    const operation = get16(frame, at + 6);
    const senderMac = frame.subarray(at + 8, at + 14);
    const senderIp = frame.subarray(at + 14, at + 18);
    const targetIp = frame.subarray(at + 24, at + 28);
    // GUEST: a group address as sender would turn our answers into floods.
    if (isGroupMac(senderMac)) return false;
    const { isOurs, isGuest, learn } = this.#options;
    if (isGuest(senderIp)) learn(senderIp, senderMac);
    // Probes (RFC 5227) come from 0.0.0.0 and get an answer too.
    if (operation === REQUEST && isOurs(targetIp)) this.#send(REPLY, targetIp, senderMac, senderIp, senderMac);
    return true;
  }

  /** Asks who has `address`. */
  ask(address: IpAddress): void {
    this.#send(REQUEST, this.#options.gateway, new Uint8Array(6), address, BROADCAST_MAC);
  }

  #send(operation: number, fromIp: IpAddress, toMac: Uint8Array, toIp: IpAddress, destination: Uint8Array): void {
    const frame = new Uint8Array(60);
    const at = ETHERNET_HEADER_BYTES;
    writeEthernetHeader(frame, destination, this.#options.mac, ETHERTYPE_ARP);
    put32(frame, at, HARDWARE_AND_PROTOCOL);
    put16(frame, at + 4, LENGTHS);
    put16(frame, at + 6, operation);
    frame.set(this.#options.mac, at + 8);
    frame.set(fromIp, at + 14);
    frame.set(toMac, at + 18);
    frame.set(toIp, at + 24);
    this.#options.link.transmit(frame, NO_OFFLOAD);
  }
}
