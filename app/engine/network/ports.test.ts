// SPDX-License-Identifier: Apache-2.0
/** What stands around networks: switch, taps, captures, rate limits, offloads, timers. */
import { describe, expect, it } from 'vitest';
import { PcapWriter } from './capture/pcap.ts';
import { TappedPort } from './capture/tapped-port.ts';
import type { FrameReceiver, Offload, SwitchablePort } from './network-port.ts';
import { completeFrame } from './offload.ts';
import { RateLimitedPort } from './rate-limited-port.ts';
import { NetworkSwitch, type SwitchPort } from './switch/network-switch.ts';
import { FakeTime, seeded } from './testing/fake-time.ts';
import { be16, be32, internetSum, ip, ipv4, SimGuest } from './testing/sim-guest.ts';
import { createTestNetwork, pattern } from './testing/test-network.ts';
import { type Deadline, TimerQueue } from './timer-queue.ts';

const PLAIN: Offload = { checksumBlank: false, gsoSize: 0 };
const NOTHING_TAKEN_OFF = { checksumBlank: false, gsoTcp4: false, gsoTcp6: false };

/** A NIC that keeps what it gets. */
class Nic implements FrameReceiver {
  readonly features = { checksumBlank: true, gsoTcp4: true, gsoTcp6: true };
  readonly got: { text: string; offload: Offload }[] = [];
  room = Number.POSITIVE_INFINITY;
  ready = 0;
  linkUp: boolean | undefined;

  receive(frame: Uint8Array, offload: Offload): boolean {
    if (this.room <= 0) return false;
    this.room--;
    this.got.push({ text: new TextDecoder().decode(frame.subarray(14)), offload });
    return true;
  }

  sendReady(): void {
    this.ready++;
  }

  linkChanged(up: boolean): void {
    this.linkUp = up;
  }

  get texts(): string[] {
    return this.got.map(({ text }) => text);
  }
}

const frame = (to: number, from: number, text: string) =>
  Uint8Array.from([2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5, ...new TextEncoder().encode(text)]);
const broadcast = (from: number, text: string) => Uint8Array.from([255, 255, 255, 255, 255, 255, ...frame(0, from, text).subarray(6)]);

describe('the switch', () => {
  function build(count: number): { made: NetworkSwitch; ports: SwitchPort[]; nics: Nic[] } {
    const made = new NetworkSwitch();
    const ports = Array.from({ length: count }, () => made.addPort()!);
    const nics = ports.map((port) => {
      const nic = new Nic();
      port.attach(nic);
      return nic;
    });
    return { made, ports, nics };
  }

  it('floods what it does not know, and learns', () => {
    const { ports, nics } = build(3);
    ports[0].send(frame(2, 1, 'where?'), PLAIN);
    ports[1].send(frame(1, 2, 'here'), PLAIN);
    ports[0].send(frame(2, 1, 'thanks'), { checksumBlank: true, gsoSize: 1460 });
    ports[2].send(broadcast(3, 'all'), PLAIN);
    expect(nics.map((nic) => nic.texts)).toEqual([['here', 'all'], ['where?', 'thanks', 'all'], ['where?']]);
    expect(nics[1].got[1].offload).toEqual({ checksumBlank: true, gsoSize: 1460 });
  });

  it('queues a little for a port without room, and does not hold up the others', () => {
    const { ports, nics } = build(3);
    ports[1].send(broadcast(2, ''), PLAIN);
    nics[1].room = 0;
    for (let i = 0; i < 3000; i++) ports[0].send(broadcast(1, String(i)), PLAIN);
    expect(nics[2].texts.length).toBe(3001);
    nics[1].room = Number.POSITIVE_INFINITY;
    ports[1].receiveReady();
    expect(nics[1].texts).toEqual(Array.from({ length: 1024 }, (_, index) => String(index)));
    expect(ports[1].counters.droppedToGuest).toBe(3000 - 1024);
  });

  it('obeys links, forgets removed ports, drops forged frames', () => {
    const { made, ports, nics } = build(2);
    ports[1].setLink(false);
    ports[0].send(frame(2, 1, 'lost'), PLAIN);
    ports[1].send(frame(1, 2, 'also lost'), PLAIN);
    ports[1].setLink(true);
    ports[0].send(Uint8Array.from([2, 0, 0, 0, 0, 2, 3, 0, 0, 0, 0, 1, 0, 0, 9]), PLAIN);
    ports[0].send(new Uint8Array(5), PLAIN);
    ports[0].send(frame(2, 1, 'there'), PLAIN);
    made.removePort(ports[1]);
    ports[0].send(frame(2, 1, 'gone'), PLAIN);
    ports[1].send(frame(1, 2, 'from the grave'), PLAIN);
    expect(nics.map((nic) => nic.texts)).toEqual([[], ['there']]);
  });

  it('lets guests share a user network', async () => {
    const { network, sockets, time } = createTestNetwork();
    const made = new NetworkSwitch();
    made.connect(network);
    const guests = [15, 16].map((last) => {
      return new SimGuest(made.addPort()!, time, { address: `10.0.2.${last}`, mac: [2, 0, 0, 0, 0, last] });
    });
    sockets.servers.set('192.0.2.1 80', (far) => far.write('hello'));
    const connections = guests.map((guest) => guest.connect('192.0.2.1', 80));
    await time.advance(50);
    expect(connections.map((tcp) => tcp.receivedText)).toEqual(['hello', 'hello']);
    // Each got its own frames only.
    for (const guest of guests) expect(guest.packets(6).every(({ frame }) => frame[5] === guest.mac[5])).toBe(true);
  });
});

describe('a capture', () => {
  it('is a pcap file with both directions in order', () => {
    const bytes: Uint8Array[] = [];
    const file = { append: (part: Uint8Array) => void bytes.push(part), queuedBytes: 0, close: async () => {} };
    const clock = { nowNs: () => 0, wallClock: () => ({ seconds: 0x1234_5678, nanoseconds: 999 }) };
    const pcap = new PcapWriter(file, clock, { snapshotBytes: 16, maxFileBytes: 100 });
    const made = new NetworkSwitch();
    const tapped = new TappedPort(made.addPort()!);
    const other = made.addPort()!;
    tapped.listener = (seen) => pcap.frame(seen);
    const nic = new Nic();
    tapped.attach(nic);
    tapped.send(frame(2, 1, 'out'), PLAIN);
    other.send(frame(1, 2, 'in'), PLAIN);
    nic.room = 0;
    other.send(frame(1, 2, 'not taken'), PLAIN);
    tapped.send(frame(2, 1, 'past the end of the file'), PLAIN);
    const whole = Buffer.concat(bytes);
    expect(whole.subarray(0, 24).toString('hex')).toBe('4d3cb2a1020004000000000000000000' + '1000000001000000');
    expect(whole.subarray(24, 40).toString('hex')).toBe('78563412' + 'e7030000' + '10000000' + '11000000');
    expect(whole.subarray(40, 56).toString('latin1')).toContain('ou');
    expect(whole.subarray(56 + 8, 72).toString('hex')).toBe('10000000' + '10000000');
    expect([whole.length, pcap.dropped, nic.texts]).toEqual([88, 1, ['in']]);
  });
});

describe('a rate limit', () => {
  it('makes both sides wait, and lets the agreed bytes through', async () => {
    const time = new FakeTime();
    const made = new NetworkSwitch();
    const far = made.addPort()!;
    const farNic = new Nic();
    far.attach(farNic);
    const limited: SwitchablePort = new RateLimitedPort(
      made.addPort()!,
      { fromGuestBytesPerSecond: 1_000_000, toGuestBytesPerSecond: 1_000_000, burstBytes: 100_000 },
      time,
      time,
    );
    let sent = 0;
    const big = frame(2, 1, 'x'.repeat(9986));
    const nic = new (class extends Nic {
      override sendReady(): void {
        while (limited.send(big, PLAIN)) sent++;
      }
    })();
    limited.attach(nic);
    nic.sendReady();
    expect(sent).toBe(10);
    await time.advance(1000);
    expect(sent).toBeGreaterThanOrEqual(108);
    expect(sent).toBeLessThanOrEqual(110);
    expect(farNic.got.length).toBe(sent);
    for (let i = 0; i < 50; i++) far.send(frame(1, 2, 'y'.repeat(9986)), PLAIN);
    expect(nic.got.length).toBe(10);
    await time.advance(200);
    expect(nic.got.length).toBeGreaterThanOrEqual(29);
    expect(nic.got.length).toBeLessThanOrEqual(31);
    await time.advance(300);
    expect(nic.got.length).toBe(50);
  });
});

describe('completing offloads', () => {
  function longFrame(dataBytes: number): Uint8Array {
    const segment = Uint8Array.from([
      ...be16(80),
      ...be16(5000),
      ...be32(0xffff_ff00),
      ...be32(7),
      0x50,
      0x19,
      ...be16(1000),
      0,
      0,
      0,
      0,
      ...pattern(dataBytes),
    ]);
    return ipv4(6, '192.0.2.1', '10.0.2.15', segment);
  }

  it('cuts segments, numbers them, sums them, and keeps FIN and PSH for the last', () => {
    const data = pattern(5000);
    const done = completeFrame(NOTHING_TAKEN_OFF, longFrame(5000), { checksumBlank: true, gsoSize: 1460 });
    expect(done.offload).toEqual(PLAIN);
    expect(done.frames.map((piece) => piece.length)).toEqual([1514, 1514, 1514, 674]);
    let at = 0;
    for (const [index, piece] of done.frames.entries()) {
      const view = new DataView(piece.buffer);
      expect(view.getUint32(38)).toBe((0xffff_ff00 + at) >>> 0);
      expect(piece[47]).toBe(index === 3 ? 0x19 : 0x10);
      expect(internetSum([...piece.subarray(14, 34)])).toBe(0xffff);
      const tcp = [...piece.subarray(34)];
      expect(internetSum([...ip('192.0.2.1'), ...ip('10.0.2.15'), 0, 6, ...be16(tcp.length), ...tcp])).toBe(0xffff);
      expect(Buffer.compare(piece.subarray(54), data.subarray(at, at + 1460))).toBe(0);
      at += piece.length - 54;
    }
    expect(at).toBe(5000);
  });

  it('drops frames that are not what their offload says, without an exception', () => {
    const random = seeded(3);
    let dropped = 0;
    for (let i = 0; i < 5000; i++) {
      const bad = longFrame(300);
      for (let n = 0; n < 3; n++) bad[12 + Math.floor(random() * 50)] = Math.floor(random() * 256);
      const { frames } = completeFrame(NOTHING_TAKEN_OFF, bad.subarray(0, Math.floor(random() * bad.length)), {
        checksumBlank: true,
        gsoSize: Math.floor(random() * 200),
      });
      if (frames.length === 0) dropped++;
      expect(frames.length).toBeLessThan(10);
    }
    expect(dropped).toBeGreaterThan(2000);
  });
});

describe('the timer queue', () => {
  it('runs deadlines in order, at their last set time, and cleared ones never', async () => {
    const time = new FakeTime();
    const queue = new TimerQueue(time, time);
    const random = seeded(2);
    const ran: number[] = [];
    const due = new Map<Deadline, number>();
    const all = Array.from({ length: 500 }, () => {
      const deadline: Deadline = queue.deadline(() => {
        expect(time.nowMs).toBeGreaterThanOrEqual(due.get(deadline)!);
        expect(time.nowMs).toBeLessThan(due.get(deadline)! + 2);
        ran.push(time.nowMs);
      });
      return deadline;
    });
    for (let turn = 0; turn < 4; turn++) {
      for (const deadline of all) {
        const delay = 1 + Math.floor(random() * 1000);
        due.set(deadline, time.nowMs + delay);
        deadline.set(delay);
      }
    }
    for (let i = 0; i < 100; i++) all[i].clear();
    for (let i = 100; i < 200; i++) all[i].dispose();
    await time.advance(2000);
    expect(ran.length).toBe(300);
    expect(ran).toEqual([...ran].sort((a, b) => a - b));
    expect([queue.size, time.pending]).toEqual([0, 0]);
  });
});
