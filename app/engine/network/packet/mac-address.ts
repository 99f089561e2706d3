// SPDX-License-Identifier: Apache-2.0
/** Ethernet addresses as six bytes, and their text form. */

export type MacAddress = Uint8Array;

export const BROADCAST_MAC: MacAddress = Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff);

/** Group addresses: multicast and broadcast. */
export function isGroupMac(mac: Uint8Array, at = 0): boolean {
  return (mac[at] & 1) !== 0;
}

/** `aa:bb:cc:dd:ee:ff` or with dashes; `undefined` when it is nothing of the kind. */
export function parseMac(text: string): MacAddress | undefined {
  if (!/^[0-9a-f]{2}([:-])[0-9a-f]{2}(\1[0-9a-f]{2}){4}$/i.test(text)) return undefined;
  return Uint8Array.from(text.split(/[:-]/), (part) => Number.parseInt(part, 16));
}

export function formatMac(mac: Uint8Array): string {
  return Array.from(mac, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** As a number, for keys: 48 bits fit a double exactly. */
export function macKey(bytes: Uint8Array, at = 0): number {
  return (
    ((bytes[at] << 8) | bytes[at + 1]) * 0x1_0000_0000 +
    (((bytes[at + 2] << 24) | (bytes[at + 3] << 16) | (bytes[at + 4] << 8) | bytes[at + 5]) >>> 0)
  );
}
