// SPDX-License-Identifier: Apache-2.0
/**
 * The host's network as unprivileged programs see it: a port.
 *
 * Addresses are numeric text (`192.0.2.1`, `2001:db8::1`), never names; names go through `NameResolver`. Every callback comes later than
 * the call that registered it, and none comes after `destroy` or `close`.
 */
import type { Result } from '../../base/result.ts';

export interface SocketAddress {
  readonly address: string;
  readonly port: number;
}

export type SocketErrorKind = 'refused' | 'unreachable' | 'timeout' | 'in-use' | 'denied' | 'reset' | 'failed';

/** `message` is one sentence for a person. */
export interface SocketError {
  readonly kind: SocketErrorKind;
  readonly message: string;
}

/** What happens on a stream. After `failed` or `closed` nothing follows. */
export interface StreamEvents {
  /** An outgoing connection stands; bytes may be written. Never called for accepted streams. */
  connected(): void;
  /** The callee owns `bytes`. */
  received(bytes: Uint8Array): void;
  /** The peer sends nothing more; the other direction stays open. */
  end(): void;
  /** `queuedBytes` fell. */
  written(): void;
  /** The stream is gone; what was queued is lost. */
  failed(error: SocketError): void;
  /** Both directions ended in order. */
  closed(): void;
}

/** A TCP connection of the host. Streams start paused: no `received` and no `end` before `resume`. */
export interface HostStream {
  readonly peer: SocketAddress;
  /** Bytes written here and not yet taken over by the host's kernel. */
  readonly queuedBytes: number;
  /** Queues `bytes`, which belong to the stream from here on. */
  write(bytes: Uint8Array): void;
  /** Ends the outgoing direction behind what is queued. */
  end(): void;
  pause(): void;
  resume(): void;
  /** Drops the stream, with a reset where `reset` says so. No event follows. */
  destroy(reset: boolean): void;
}

export interface HostListener {
  /** Where it listens; the port is the real one when 0 was asked for. */
  readonly local: SocketAddress;
  close(): void;
}

export interface HostUdp {
  readonly local: SocketAddress;
  /** Sends one datagram; it may be lost, an overlong queue included. The bytes may be changed once the call is back. */
  send(bytes: Uint8Array, to: SocketAddress): void;
  close(): void;
}

export interface UdpOptions {
  readonly family: 4 | 6;
  /** Absent: any address. */
  readonly address?: string;
  /** Absent or 0: any free port. */
  readonly port?: number;
  /** `bytes` are valid during the call. */
  readonly message: (bytes: Uint8Array, from: SocketAddress) => void;
  readonly failed: (error: SocketError) => void;
}

export interface NameResolver {
  /** The name servers the host uses, best first; with a port where it is not 53. */
  servers(): readonly SocketAddress[];
  /** Whether the host's own table (`/etc/hosts`) has the name. */
  isLocalName(name: string): boolean;
  /** Asks the host as its programs do. An empty list: the name exists, without such addresses. `undefined`: there is no such name. */
  lookup(name: string, family: 4 | 6): Promise<readonly string[] | undefined>;
}

/** `unsupported`: this host gives unprivileged programs no echo. */
export type PingAnswer = 'reply' | 'timeout' | 'unreachable' | 'unsupported';

export interface SocketHost {
  readonly names: NameResolver;
  connectTcp(to: SocketAddress, events: StreamEvents): HostStream;
  /** `accept` names the receiver of the stream's events, or refuses with `undefined`: the stream is then reset. */
  listenTcp(at: SocketAddress, accept: (stream: HostStream) => StreamEvents | undefined): Promise<Result<HostListener, SocketError>>;
  openUdp(options: UdpOptions): Promise<Result<HostUdp, SocketError>>;
  /** One ICMP echo with `payloadBytes` of data. */
  ping(address: string, payloadBytes: number, timeoutMs: number): Promise<PingAnswer>;
}
