// SPDX-License-Identifier: Apache-2.0
/** Sends UDP datagrams to the guest, in fragments where they are long. */
import type { IpOutput, OutputOptions } from '../link/ip-output.ts';
import type { IpAddress } from '../packet/ip-address.ts';
import { IPPROTO_UDP } from '../packet/ip-packet.ts';
import { UDP_HEADER_BYTES, writeUdpHeader } from '../packet/udp-datagram.ts';

export interface UdpEnds {
  readonly source: IpAddress;
  readonly sourcePort: number;
  readonly destination: IpAddress;
  readonly destinationPort: number;
}

/** Sends `payload`, or nothing when it is longer than a datagram can be. */
export function sendUdp(output: IpOutput, ends: UdpEnds, payload: Uint8Array, options?: OutputOptions): void {
  const length = UDP_HEADER_BYTES + payload.length;
  if (length > Math.min(0xffff, output.roomBytes(ends.source.length))) return;
  const at = output.begin(ends.source.length);
  writeUdpHeader(output.frame, at, ends.sourcePort, ends.destinationPort, payload.length);
  output.frame.set(payload, at + UDP_HEADER_BYTES);
  output.finish(ends.source, ends.destination, IPPROTO_UDP, length, options);
}
