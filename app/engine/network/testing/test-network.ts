// SPDX-License-Identifier: Apache-2.0
/** A user network on fakes, and a guest on it. */
import type { UserNetworkConfig } from '../config.ts';
import { UserNetwork } from '../user-network.ts';
import { FakeSockets } from './fake-sockets.ts';
import { FakeTime, seeded } from './fake-time.ts';
import { SimGuest } from './sim-guest.ts';

export interface TestNetwork {
  readonly time: FakeTime;
  readonly sockets: FakeSockets;
  readonly network: UserNetwork;
  readonly guest: SimGuest;
}

export function createTestNetwork(config: UserNetworkConfig = {}, guestOptions: { offloads?: boolean } = {}): TestNetwork {
  const time = new FakeTime();
  const sockets = new FakeSockets(time);
  const random = seeded(7);
  const entropy = {
    fill: (bytes: Uint8Array) => {
      for (let i = 0; i < bytes.length; i++) bytes[i] = random() * 256;
    },
  };
  const created = UserNetwork.create(config, { clock: time, timers: time, entropy, sockets });
  if (!created.ok) throw new Error(created.error.message);
  const network = created.value;
  return { time, sockets, network, guest: new SimGuest(network, time, guestOptions) };
}

/** Bytes that repeat nowhere, so that doubled or lost ones show. */
export function pattern(length: number, seed = 1): Uint8Array {
  const random = seeded(seed);
  return Uint8Array.from({ length }, () => random() * 256);
}
