// SPDX-License-Identifier: Apache-2.0
/**
 * A port that shows every frame that crosses it to a listener, who can be changed at any time.
 * Frames from the guest are shown when they are offered, frames to the guest once it took them. To be put around a port that always takes
 * frames, inside of rate limits.
 */
import type { FrameReceiver, Offload, SwitchablePort } from '../network-port.ts';

export type FrameListener = (frame: Uint8Array, direction: 'from-guest' | 'to-guest') => void;

export class TappedPort implements SwitchablePort {
  readonly #port: SwitchablePort;
  listener: FrameListener | undefined;

  constructor(port: SwitchablePort) {
    this.#port = port;
  }

  get linkUp(): boolean {
    return this.#port.linkUp;
  }

  setLink(up: boolean): void {
    this.#port.setLink(up);
  }

  attach(receiver: FrameReceiver | undefined): void {
    if (receiver === undefined) {
      this.#port.attach(undefined);
      return;
    }
    this.#port.attach({
      features: receiver.features,
      receive: (frame, offload) => {
        const taken = receiver.receive(frame, offload);
        if (taken) this.listener?.(frame, 'to-guest');
        return taken;
      },
      sendReady: () => receiver.sendReady(),
      linkChanged: (up) => receiver.linkChanged(up),
    });
  }

  send(frame: Uint8Array, offload: Offload): boolean {
    // Before it is sent: an answer may come back while `send` runs, and must stand behind its question.
    this.listener?.(frame, 'from-guest');
    return this.#port.send(frame, offload);
  }

  receiveReady(): void {
    this.#port.receiveReady();
  }
}
