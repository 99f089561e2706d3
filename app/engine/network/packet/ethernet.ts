// SPDX-License-Identifier: Apache-2.0
/** The Ethernet II header: destination, source, type. Tagged (802.1Q) frames are not understood and count as another type. */
import type { MacAddress } from './mac-address.ts';
import { put16 } from './wire.ts';

export const ETHERTYPE_IPV4 = 0x0800;
export const ETHERTYPE_ARP = 0x0806;
export const ETHERTYPE_IPV6 = 0x86dd;

export function writeEthernetHeader(frame: Uint8Array, destination: MacAddress, source: MacAddress, type: number): void {
  frame.set(destination, 0);
  frame.set(source, 6);
  put16(frame, 12, type);
}
