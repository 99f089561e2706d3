// SPDX-License-Identifier: Apache-2.0
/**
 * Where a network device plugs in: the seam between a NIC (PV backend or emulated card) and a network (user network, switch).
 *
 * Frames are whole Ethernet frames without FCS. What the guest's driver leaves to the "hardware" travels beside the frame, in both
 * directions, so that nobody splits or sums what the other end would join or skip:
 *   - `checksumBlank`: the TCP or UDP checksum field holds the folded sum of the pseudo header only (Linux: CHECKSUM_PARTIAL;
 *     Xen: NETTXF_csum_blank, NETRXF_csum_blank). The data can be trusted as it is: it never crossed a wire.
 *   - `gsoSize`: not 0 for a TCP segment that is longer than the MTU and counts as several of `gsoSize` payload bytes (Xen:
 *     XEN_NETIF_EXTRA_TYPE_GSO). Such frames have at most MAX_FRAME_BYTES, and their checksum is blank.
 *
 * INVARIANT: `frame` is only valid during the call, for either side: who keeps it copies it.
 */

/** The longest frame, headers included (Xen: XEN_NETIF_MAX_TX_SIZE). */
export const MAX_FRAME_BYTES = 65_535;

export const ETHERNET_HEADER_BYTES = 14;

export interface Offload {
  readonly checksumBlank: boolean;
  /** TCP payload bytes a segment; 0: no segmentation. The frame's ethertype tells IPv4 from IPv6. */
  readonly gsoSize: number;
}

export const NO_OFFLOAD: Offload = { checksumBlank: false, gsoSize: 0 };
export const CHECKSUM_BLANK: Offload = { checksumBlank: true, gsoSize: 0 };

/** What the guest's driver takes off the network's hands. Frames that ask for more are completed before they get to the device. */
export interface ReceiverFeatures {
  readonly checksumBlank: boolean;
  readonly gsoTcp4: boolean;
  readonly gsoTcp6: boolean;
}

/** The device's side. */
export interface FrameReceiver {
  readonly features: ReceiverFeatures;
  /**
   * A frame for the guest. False: there is no room, the network keeps the frame and offers it again after `receiveReady`.
   * May be called while `send` runs; must not call `send`.
   */
  receive(frame: Uint8Array, offload: Offload): boolean;
  /** `send` said false before; it may be tried again. */
  sendReady(): void;
  linkChanged(up: boolean): void;
}

/** The network's side. */
export interface NetworkPort {
  readonly linkUp: boolean;
  /** Attaches the device; there is one at a time. `undefined` detaches: frames for the guest are dropped. */
  attach(receiver: FrameReceiver | undefined): void;
  /** A frame from the guest. False: not taken, keep it and wait for `sendReady`. Broken frames are taken and dropped. */
  send(frame: Uint8Array, offload: Offload): boolean;
  /** `receive` said false before; the guest has room again. */
  receiveReady(): void;
}

/** A port whose link can be pulled, as the backends of a NIC and the user interface see it. */
export interface SwitchablePort extends NetworkPort {
  setLink(up: boolean): void;
}
