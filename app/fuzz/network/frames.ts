// SPDX-License-Identifier: Apache-2.0
/**
 * Frames as a hostile guest would make them: of every protocol, right in most places and wrong in some, with checksums that mostly agree
 * so that the damage gets past the first check.
 */
import { complement, pseudoHeaderSum, sum16 } from '../../engine/network/packet/checksum.ts';
import type { Offload } from '../../engine/network/network-port.ts';
import { put16, put32 } from '../../engine/network/packet/wire.ts';

export const FRAME_KINDS = ['random', 'arp', 'ipv4', 'ipv6', 'tcp', 'udp', 'icmp', 'icmpv6', 'dhcp', 'dhcpv6', 'dns', 'dns-tcp'] as const;
export type FrameKind = (typeof FRAME_KINDS)[number];

export interface FuzzFrame {
  readonly frame: Uint8Array;
  readonly offload: Offload;
}

/** Where a TCP connection of the guest stands, as seen on the wire. */
export interface TcpProgress {
  readonly guestPort: number;
  readonly localPort: number;
  /** What the engine expects, and what it sent so far. */
  readonly guestNext: number;
  readonly localNext: number;
}

export interface FuzzContext {
  readonly random: () => number;
  readonly connections: Map<string, TcpProgress>;
}

const GATEWAY_MAC = [0x52, 0x55, 0x0a, 0, 2, 2];
const GUEST_MAC = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const PREFIX6 = [0xfd, 0x70, 0x61, 0x72, 0x61, 0x76, 0, 2];

export function makeFrame(kind: FrameKind, context: FuzzContext): FuzzFrame {
  const maker = new FrameMaker(context);
  return maker.make(kind);
}

class FrameMaker {
  readonly #random: () => number;
  readonly #connections: Map<string, TcpProgress>;

  constructor(context: FuzzContext) {
    this.#random = context.random;
    this.#connections = context.connections;
  }

  make(kind: FrameKind): FuzzFrame {
    const { frame, offload } = this.#sound(kind);
    return { frame: this.#chance(0.6) ? this.#damage(frame) : frame, offload };
  }

  #sound(kind: FrameKind): FuzzFrame {
    const plain = { checksumBlank: this.#chance(0.5), gsoSize: 0 };
    switch (kind) {
      case 'random':
        return {
          frame: this.#bytes(this.#int(200)),
          offload: { checksumBlank: this.#chance(0.5), gsoSize: this.#int(2) * this.#int(65_536) },
        };
      case 'arp':
        return {
          frame: this.#ethernet(0x0806, [
            0,
            1,
            8,
            0,
            6,
            4,
            0,
            1 + this.#int(3),
            ...GUEST_MAC,
            ...this.#source4(),
            ...this.#bytes(6),
            ...this.#target4(),
          ]),
          offload: plain,
        };
      case 'ipv4':
        return { frame: this.#ipv4(this.#int(256), this.#bytes(this.#int(100)), this.#target4(), this.#fragmentWord()), offload: plain };
      case 'ipv6':
        return { frame: this.#extended6(), offload: plain };
      case 'icmp':
        return { frame: this.#icmp4(), offload: plain };
      case 'icmpv6':
        return { frame: this.#icmp6(), offload: plain };
      case 'udp':
        return { frame: this.#udp(this.#port(), this.#port(), this.#bytes(this.#int(300))), offload: plain };
      case 'dhcp':
        return { frame: this.#udp(68, 67, this.#dhcp(), [255, 255, 255, 255]), offload: plain };
      case 'dhcpv6':
        return { frame: this.#udp6(546, 547, this.#dhcpv6()), offload: plain };
      case 'dns':
        return { frame: this.#udp(this.#port(), 53, this.#dns(), [10, 0, 2, 3]), offload: plain };
      default:
        return this.#tcp(kind === 'dns-tcp');
    }
  }

  /** Overwrites, cuts or lengthens, and mends the header checksums in half of the cases. */
  #damage(frame: Uint8Array): Uint8Array {
    const damaged = frame.slice();
    const times = 1 + this.#int(4);
    for (let i = 0; i < times && damaged.length > 0; i++) {
      const at = this.#chance(0.8) ? Math.min(damaged.length - 1, 12 + this.#int(Math.min(80, damaged.length))) : this.#int(damaged.length);
      damaged[at] = this.#chance(0.3) ? [0, 1, 0x7f, 0x80, 0xff][this.#int(5)] : this.#int(256);
    }
    const cut = this.#chance(0.3) ? damaged.slice(0, this.#int(damaged.length + 1)) : damaged;
    const longer = this.#chance(0.1) ? Uint8Array.from([...cut, ...this.#bytes(this.#int(64))]) : cut;
    if (this.#chance(0.7)) mendChecksums(longer);
    return longer;
  }

  #tcp(isDns: boolean): FuzzFrame {
    const known = [...this.#connections.values()];
    const connection = known.length > 0 && this.#chance(0.85) ? known[this.#int(known.length)] : undefined;
    const guestPort = connection?.guestPort ?? 1000 + this.#int(50);
    const localPort = connection?.localPort ?? (isDns ? 53 : [80, 81, 82][this.#int(3)]);
    const isLong = this.#chance(0.1);
    const data = isDns && this.#chance(0.5) ? this.#framedDns() : this.#bytes(isLong ? this.#int(60_000) : this.#int(100) * this.#int(15));
    const options = this.#tcpOptions();
    const segment = new Uint8Array(20 + options.length + data.length);
    put16(segment, 0, guestPort);
    put16(segment, 2, localPort);
    put32(segment, 4, (connection?.guestNext ?? this.#int(0x1_0000_0000)) + this.#nearby());
    put32(segment, 8, (connection?.localNext ?? this.#int(0x1_0000_0000)) + this.#nearby());
    segment[12] = ((20 + options.length) / 4) << 4;
    segment[13] = connection === undefined ? 2 : this.#chance(0.8) ? 16 : this.#int(64);
    put16(segment, 14, this.#chance(0.2) ? 0 : this.#int(65_536));
    segment.set(options, 20);
    segment.set(data, 20 + options.length);
    const target = isDns ? [10, 0, 2, 3] : [192, 0, 2, 1];
    const gsoSize = data.length > 1460 ? [1460, 1, 0, 65_535][this.#int(4)] : 0;
    return { frame: this.#ipv4(6, segment, target), offload: { checksumBlank: true, gsoSize } };
  }

  #nearby(): number {
    if (this.#chance(0.6)) return 0;
    return this.#chance(0.8) ? this.#int(6000) - 3000 : this.#int(0x1_0000_0000);
  }

  #tcpOptions(): Uint8Array {
    if (this.#chance(0.5)) return new Uint8Array(0);
    const options = this.#bytes(4 * (1 + this.#int(10)));
    if (this.#chance(0.5)) options.set([2, 4, this.#int(256), this.#int(256)]);
    else if (options.length >= 12) options.set([1, 1, 5, 10]);
    return options;
  }

  #dns(): Uint8Array {
    const labels = Array.from({ length: this.#int(5) }, () => this.#bytes(1 + this.#int(20)));
    const name = labels.flatMap((label) => [label.length, ...label]);
    return Uint8Array.from([...this.#bytes(2), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...name, 0, 0, [1, 28, 12, 255][this.#int(4)], 0, 1]);
  }

  #framedDns(): Uint8Array {
    const query = this.#dns();
    return Uint8Array.from([query.length >> 8, query.length, ...query]);
  }

  #dhcp(): Uint8Array {
    const fixed = new Uint8Array(240);
    fixed.set([1, 1, 6, 0]);
    fixed.set(this.#bytes(4), 4);
    fixed[10] = this.#chance(0.5) ? 0x80 : 0;
    if (this.#chance(0.3)) fixed.set(this.#source4(), 12);
    fixed.set(this.#chance(0.5) ? GUEST_MAC : [2, ...this.#bytes(5)], 28);
    fixed.set([0x63, 0x82, 0x53, 0x63], 236);
    const options = [53, 1, 1 + this.#int(9), 50, 4, 10, 0, 2, this.#int(256)];
    for (let i = this.#int(4); i > 0; i--) {
      const value = this.#bytes(this.#int(20));
      options.push(this.#int(255), value.length, ...value);
    }
    return Uint8Array.from([...fixed, ...options, 255]);
  }

  #dhcpv6(): Uint8Array {
    const parts = [[1, 11, 3, 4, 6][this.#int(5)], ...this.#bytes(3)];
    for (let i = this.#int(5); i > 0; i--) {
      const value = this.#bytes(this.#int(40));
      parts.push(0, [1, 2, 3, 6, 8, 23][this.#int(6)], value.length >> 8, value.length, ...value);
    }
    return Uint8Array.from(parts);
  }

  #icmp4(): Uint8Array {
    const message = this.#bytes(8 + this.#int(100));
    message.set([this.#chance(0.7) ? 8 : this.#int(20), this.#chance(0.8) ? 0 : this.#int(20), 0, 0]);
    put16(message, 2, complement(sum16(message, 0, message.length)));
    return this.#ipv4(1, message, this.#target4());
  }

  #icmp6(): Uint8Array {
    const message = this.#bytes(8 + this.#int(60));
    message.set([this.#chance(0.8) ? 133 + this.#int(5) : [1, 2, 128, 129][this.#int(4)], 0, 0, 0]);
    if (message.length >= 24 && this.#chance(0.7)) message.set([...PREFIX6, 0, 0, 0, 0, 0, 0, 0, 1 + this.#int(4)], 8);
    if (message.length >= 32 && this.#chance(0.7)) message.set([1 + this.#int(2), this.#int(3), ...GUEST_MAC], 24);
    return this.#ipv6(58, message, 255);
  }

  #extended6(): Uint8Array {
    const parts: number[] = [];
    const kinds = Array.from({ length: this.#int(6) }, () => [0, 43, 44, 60][this.#int(4)]);
    const last = [6, 17, 58, this.#int(256)][this.#int(4)];
    for (const [index, kind] of kinds.entries()) {
      const next = kinds[index + 1] ?? last;
      if (kind === 44) parts.push(next, 0, this.#int(4), this.#int(256), ...[0, 0, 0, this.#int(4)]);
      else {
        const words = this.#int(3);
        parts.push(next, words, 0, this.#chance(0.8) ? 0 : 1, ...this.#bytes(4 + words * 8));
      }
    }
    return this.#ipv6(kinds[0] ?? last, Uint8Array.from([...parts, ...this.#bytes(this.#int(64))]), 1 + this.#int(255));
  }

  #udp(from: number, to: number, data: Uint8Array, target: readonly number[] = this.#target4()): Uint8Array {
    const datagram = new Uint8Array(8 + data.length);
    put16(datagram, 0, from);
    put16(datagram, 2, to);
    put16(datagram, 4, datagram.length);
    datagram.set(data, 8);
    return this.#ipv4(17, datagram, target, this.#chance(0.9) ? 0 : this.#fragmentWord());
  }

  #udp6(from: number, to: number, data: Uint8Array): Uint8Array {
    const datagram = new Uint8Array(8 + data.length);
    put16(datagram, 0, from);
    put16(datagram, 2, to);
    put16(datagram, 4, datagram.length);
    datagram.set(data, 8);
    return this.#ipv6(17, datagram, 64, this.#chance(0.8) ? 0 : undefined);
  }

  #ipv4(protocol: number, payload: Uint8Array, target: readonly number[], fragmentWord = 0): Uint8Array {
    const header = new Uint8Array(20);
    header[0] = 0x45;
    put16(header, 2, 20 + payload.length);
    put16(header, 4, this.#int(8));
    put16(header, 6, fragmentWord);
    header[8] = this.#chance(0.95) ? 64 : this.#int(3);
    header[9] = protocol;
    header.set(this.#source4(), 12);
    header.set(target, 16);
    const frame = this.#ethernet(0x0800, Uint8Array.from([...header, ...payload]));
    mendChecksums(frame);
    return frame;
  }

  #ipv6(next: number, payload: Uint8Array, hops: number, group = this.#int(4)): Uint8Array {
    const header = new Uint8Array(40);
    header[0] = 0x60;
    put16(header, 4, payload.length);
    header[6] = next;
    header[7] = hops;
    header.set(this.#chance(0.1) ? new Uint8Array(16) : [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, this.#int(256)], 8);
    const groups = [
      [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2],
      [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 2],
      [...PREFIX6, 0, 0, 0, 0, 0, 0, 0, 2 + this.#int(2)],
      [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    ];
    header.set(groups[group], 24);
    const frame = this.#ethernet(0x86dd, Uint8Array.from([...header, ...payload]));
    mendChecksums(frame);
    return frame;
  }

  #ethernet(type: number, payload: readonly number[] | Uint8Array): Uint8Array {
    const frame = new Uint8Array(14 + payload.length);
    frame.set(this.#chance(0.9) ? GATEWAY_MAC : [255, 255, 255, 255, 255, 255]);
    frame.set(GUEST_MAC, 6);
    put16(frame, 12, type);
    frame.set(payload, 14);
    return frame;
  }

  #source4(): number[] {
    return this.#chance(0.9) ? [10, 0, 2, 15] : [[0, 0, 0, 0], [10, 0, 2, this.#int(256)], [...this.#bytes(4)]][this.#int(3)];
  }

  #target4(): number[] {
    return [[10, 0, 2, 2], [10, 0, 2, 3], [192, 0, 2, 1], [...this.#bytes(4)]][this.#int(4)];
  }

  #fragmentWord(): number {
    return this.#chance(0.5) ? this.#int(4) | (this.#chance(0.5) ? 0x2000 : 0) : this.#int(65_536);
  }

  #port(): number {
    return this.#chance(0.5) ? this.#int(65_536) : [0, 53, 67, 68, 546, 547, 7][this.#int(7)];
  }

  #chance(probability: number): boolean {
    return this.#random() < probability;
  }

  #int(below: number): number {
    return Math.floor(this.#random() * below);
  }

  #bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.#int(256));
  }
}

/** Makes the IP header's checksum, and those of ICMP and ICMPv6 at their usual place, agree with what the frame says now. */
function mendChecksums(frame: Uint8Array): void {
  if (frame.length < 34) return;
  if (frame[12] === 0x08 && frame[13] === 0) {
    const end = 14 + (frame[14] & 15) * 4;
    if (end < 34 || end > frame.length) return;
    put16(frame, 24, 0);
    put16(frame, 24, complement(sum16(frame, 14, end)));
    if (frame[23] === 1 && frame.length >= end + 8) {
      put16(frame, end + 2, 0);
      put16(frame, end + 2, complement(sum16(frame, end, frame.length)));
    }
  } else if (frame[12] === 0x86 && frame.length >= 62 && frame[20] === 58) {
    put16(frame, 56, 0);
    const pseudo = pseudoHeaderSum(frame.subarray(22, 38), frame.subarray(38, 54), 58, frame.length - 54);
    put16(frame, 56, complement(sum16(frame, 54, frame.length, pseudo)));
  }
}
