// SPDX-License-Identifier: Apache-2.0
/**
 * A private switch between the VMs (and networks) of one process: learns which MAC address is behind which port, and forwards frames with
 * their offloads as they are.
 *
 * GUEST: addresses are bounded, a flood of them only makes the switch flood; each port's queue is bounded in frames and bytes, and a port
 * that does not take its frames loses them without slowing the others.
 */
import { GuestLink, type LinkCounters } from '../link/guest-link.ts';
import {
  ETHERNET_HEADER_BYTES,
  type FrameReceiver,
  MAX_FRAME_BYTES,
  type NetworkPort,
  type Offload,
  type SwitchablePort,
} from '../network-port.ts';
import { isGroupMac, macKey } from '../packet/mac-address.ts';

const MAX_ADDRESSES = 1024;
const MAX_PORTS = 64;

export class NetworkSwitch {
  readonly #ports = new Set<SwitchPort>();
  /** MAC address to port, oldest first. */
  readonly #learned = new Map<number, SwitchPort>();

  get portCount(): number {
    return this.#ports.size;
  }

  /** A new port; `undefined`: there are enough. */
  addPort(): SwitchPort | undefined {
    if (this.#ports.size >= MAX_PORTS) return undefined;
    const port = new SwitchPort((frame, offload) => this.#forward(port, frame, offload));
    this.#ports.add(port);
    return port;
  }

  /** Takes a port out; frames to it are dropped. */
  removePort(port: SwitchPort): void {
    this.#ports.delete(port);
    port.attach(undefined);
    for (const [key, owner] of this.#learned) if (owner === port) this.#learned.delete(key);
  }

  /** Plugs a network (a user network, say) into a port, so that several guests share it. */
  connect(network: NetworkPort): SwitchPort | undefined {
    const port = this.addPort();
    if (port === undefined) return undefined;
    const features = { checksumBlank: true, gsoTcp4: true, gsoTcp6: true };
    port.attach({ features, receive: (frame, offload) => network.send(frame, offload), sendReady: () => {}, linkChanged: () => {} });
    network.attach({
      features,
      receive: (frame, offload) => port.send(frame, offload),
      sendReady: () => port.receiveReady(),
      linkChanged: (up) => port.setLink(up),
    });
    return port;
  }

  #forward(from: SwitchPort, frame: Uint8Array, offload: Offload): boolean {
    if (!this.#ports.has(from) || frame.length < ETHERNET_HEADER_BYTES || frame.length > MAX_FRAME_BYTES || isGroupMac(frame, 6))
      return false;
    this.#learn(macKey(frame, 6), from);
    const known = isGroupMac(frame) ? undefined : this.#learned.get(macKey(frame));
    if (known === from) return false;
    if (known !== undefined) known.deliver(frame, offload);
    else for (const port of this.#ports) if (port !== from) port.deliver(frame, offload);
    return true;
  }

  #learn(key: number, port: SwitchPort): void {
    if (this.#learned.get(key) === port) return;
    this.#learned.delete(key);
    this.#learned.set(key, port);
    if (this.#learned.size > MAX_ADDRESSES) this.#learned.delete(this.#learned.keys().next().value!);
  }
}

export class SwitchPort implements SwitchablePort {
  readonly #link = new GuestLink(() => {});
  readonly #forward: (frame: Uint8Array, offload: Offload) => boolean;

  /** For `NetworkSwitch`. */
  constructor(forward: (frame: Uint8Array, offload: Offload) => boolean) {
    this.#forward = forward;
  }

  get linkUp(): boolean {
    return this.#link.up;
  }

  get counters(): Readonly<LinkCounters> {
    return this.#link.counters;
  }

  attach(receiver: FrameReceiver | undefined): void {
    this.#link.attach(receiver);
  }

  setLink(up: boolean): void {
    this.#link.setUp(up);
  }

  send(frame: Uint8Array, offload: Offload): boolean {
    const { counters } = this.#link;
    counters.framesFromGuest++;
    counters.bytesFromGuest += frame.length;
    if (!this.#link.up || !this.#forward(frame, offload)) counters.droppedFromGuest++;
    return true;
  }

  receiveReady(): void {
    this.#link.receiveReady();
  }

  /** For `NetworkSwitch`: a frame for whoever is attached. */
  deliver(frame: Uint8Array, offload: Offload): void {
    this.#link.transmit(frame, offload);
  }
}
