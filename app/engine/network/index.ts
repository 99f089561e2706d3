// SPDX-License-Identifier: Apache-2.0
/** The door of the network: what devices, the machine and the application use of it. */
export { type CaptureOptions, PcapWriter } from './capture/pcap.ts';
export { type FrameListener, TappedPort } from './capture/tapped-port.ts';
export type { ConfigError, NetworkPlan, UserNetworkConfig } from './config.ts';
export type { Forward, ForwardError, ForwardSpec } from './forward/port-forwards.ts';
export {
  CHECKSUM_BLANK,
  ETHERNET_HEADER_BYTES,
  type FrameReceiver,
  MAX_FRAME_BYTES,
  type NetworkPort,
  NO_OFFLOAD,
  type Offload,
  type ReceiverFeatures,
  type SwitchablePort,
} from './network-port.ts';
export { canTake, completeFrame } from './offload.ts';
export { formatMac, parseMac } from './packet/mac-address.ts';
export { type RateLimit, RateLimitedPort } from './rate-limited-port.ts';
export { NetworkSwitch, type SwitchPort } from './switch/network-switch.ts';
export { UserNetwork, type UserNetworkPorts, type UserNetworkStats } from './user-network.ts';
