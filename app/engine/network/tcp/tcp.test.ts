// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import type { FarEnd } from '../testing/fake-sockets.ts';
import { seeded } from '../testing/fake-time.ts';
import { createTestNetwork, pattern, type TestNetwork } from '../testing/test-network.ts';
import type { SimTcp } from '../testing/sim-tcp.ts';

const SERVER = '192.0.2.1';

/** A connection of the guest to a server of the host's network. */
async function connect(net: TestNetwork, prepare: (tcp: SimTcp) => void = () => {}): Promise<{ tcp: SimTcp; far: FarEnd }> {
  let far: FarEnd | undefined;
  net.sockets.servers.set(`${SERVER} 80`, (end) => {
    far = end;
  });
  const tcp = net.guest.connect(SERVER, 80);
  prepare(tcp);
  expect(await net.time.until(() => tcp.state === 'open' && far !== undefined, 5000)).toBe(true);
  return { tcp, far: far! };
}

describe('opening', () => {
  it('answers the guest only once the host is connected', async () => {
    const net = createTestNetwork();
    net.sockets.servers.set(`${SERVER} 80`, 'silent');
    const tcp = net.guest.connect(SERVER, 80);
    await net.time.advance(3000);
    expect(net.sockets.connected).toEqual([{ address: SERVER, port: 80 }]);
    expect(tcp.state).toBe('opening');
    expect(net.guest.packets(6)).toEqual([]);
  });

  it('resets what the host refuses', async () => {
    const net = createTestNetwork();
    const tcp = net.guest.connect(SERVER, 81);
    await net.time.advance(10);
    expect(tcp.reset).toBe(true);
    expect(net.network.stats().tcpConnections).toBe(0);
  });

  it('tells by ICMP that the host knows no way', async () => {
    const net = createTestNetwork();
    net.sockets.servers.set(`${SERVER} 80`, 'unreachable');
    net.guest.connect(SERVER, 80);
    await net.time.advance(10);
    const [error] = net.guest.packets(1);
    expect([...error.frame.subarray(error.at, error.at + 2)]).toEqual([3, 1]);
    // It quotes the guest's own packet.
    expect([...error.frame.subarray(error.at + 8 + 12, error.at + 8 + 20)]).toEqual([10, 0, 2, 15, 192, 0, 2, 1]);
    expect(net.guest.packets(6)).toEqual([]);
  });

  it('answers segments of unknown connections with a reset', async () => {
    const net = createTestNetwork();
    const { tcp, far } = await connect(net);
    net.network.allow({ isolated: true });
    await net.time.advance(10);
    expect(far.destroyed).toBe('reset');
    expect(tcp.reset).toBe(true);
    const before = net.guest.packets(6).length;
    tcp.state = 'open';
    tcp.write('hello?');
    await net.time.advance(10);
    const [answer] = net.guest.packets(6).slice(before);
    // RST alone, with the sequence number that the guest acknowledged.
    expect(answer.frame[answer.at + 13]).toBe(4);
  });

  it('keeps to the limit of connections', async () => {
    const net = createTestNetwork({ maxConnections: 3 });
    net.sockets.servers.set(`${SERVER} 80`, () => {});
    const all = [1, 2, 3, 4, 5].map(() => net.guest.connect(SERVER, 80));
    await net.time.advance(100);
    expect(all.map((tcp) => tcp.state)).toEqual(['open', 'open', 'open', 'opening', 'opening']);
    expect(net.network.stats().tcpRefusedForRoom).toBeGreaterThan(0);
  });
});

describe.each([
  ['with offloads', true],
  ['without offloads', false],
])('transfer %s', (_name, offloads) => {
  it('brings every byte, both ways at once', async () => {
    const net = createTestNetwork({}, { offloads });
    net.guest.recording = false;
    const { tcp, far } = await connect(net, (made) => {
      made.segmentBytes = offloads ? 14_600 : 1460;
    });
    const up = pattern(300_000, 1);
    const down = pattern(500_000, 2);
    tcp.write(up);
    for (let at = 0; at < down.length; at += 50_000) far.write(down.subarray(at, at + 50_000));
    expect(await net.time.until(() => tcp.receivedBytes === down.length && far.received.length === up.length, 20_000)).toBe(true);
    expect(Buffer.compare(tcp.received, down)).toBe(0);
    expect(Buffer.compare(far.received, up)).toBe(0);
    expect(net.guest.badChecksums).toBe(0);
    // Long frames only for those who can take them.
    if (offloads) expect(tcp.largestArrival).toBeGreaterThan(20_000);
    else expect(tcp.largestArrival).toBe(1460);
  });

  it.each([
    ['with selective acknowledgements', true, 11],
    ['without them', false, 12],
  ])('survives loss, repetition and reordering %s', async (_with, sack, seed) => {
    const net = createTestNetwork({}, { offloads });
    net.guest.recording = false;
    const { tcp, far } = await connect(net, (made) => {
      made.sack = sack;
      made.segmentBytes = offloads ? 7300 : 1460;
    });
    net.guest.faults = { random: seeded(seed), lost: 0.01, doubled: 0.01, late: 0.01 };
    const up = pattern(400_000, 3);
    const down = pattern(1_000_000, 4);
    tcp.write(up);
    tcp.end();
    for (let at = 0; at < down.length; at += 20_000) far.write(down.subarray(at, at + 20_000));
    far.end();
    expect(await net.time.until(() => tcp.finished && far.ended, 120_000)).toBe(true);
    expect(Buffer.compare(tcp.received, down)).toBe(0);
    expect(Buffer.compare(far.received, up)).toBe(0);
  });
});

describe('ending', () => {
  it('lets the guest end first and still receive', async () => {
    const net = createTestNetwork();
    const { tcp, far } = await connect(net);
    tcp.write('question');
    tcp.end();
    await net.time.advance(100);
    expect([far.receivedText, far.ended, tcp.finished]).toEqual(['question', true, false]);
    far.write('answer');
    far.end();
    await net.time.advance(100);
    expect([tcp.receivedText, tcp.finished]).toEqual(['answer', true]);
    expect(net.network.stats().tcpConnections).toBe(0);
  });

  it('lets the host end first and still receive', async () => {
    const net = createTestNetwork();
    const { tcp, far } = await connect(net);
    far.write('hello');
    far.end();
    await net.time.advance(100);
    expect([tcp.receivedText, tcp.finished, far.ended]).toEqual(['hello', true, false]);
    tcp.write('late words');
    tcp.end();
    await net.time.advance(100);
    expect([far.receivedText, far.ended]).toEqual(['late words', true]);
    // The side that ended first remembers the connection for a while.
    expect(net.network.stats().tcpConnections).toBe(1);
    await net.time.advance(11_000);
    expect(net.network.stats().tcpConnections).toBe(0);
  });

  it('passes resets on, either way', async () => {
    const net = createTestNetwork();
    const first = await connect(net);
    first.tcp.abort();
    await net.time.advance(10);
    expect(first.far.destroyed).toBe('reset');
    const second = await connect(net);
    second.far.reset();
    await net.time.advance(10);
    expect(second.tcp.reset).toBe(true);
    expect(net.network.stats().tcpConnections).toBe(0);
  });

  it('gives a guest up that does not answer, and resets the host', async () => {
    const net = createTestNetwork();
    const { far } = await connect(net);
    net.guest.faults = { random: () => 0, lost: 1, doubled: 0, late: 0 };
    far.write('anybody?');
    await net.time.advance(60_000);
    expect(far.destroyed).toBeUndefined();
    await net.time.advance(1_200_000);
    expect(far.destroyed).toBe('reset');
    expect(net.network.stats().tcpConnections).toBe(0);
  });

  it('asks an idle guest whether it is there, and believes the answer', async () => {
    const net = createTestNetwork({ keepaliveIdleMs: 60_000 });
    const { far, tcp } = await connect(net);
    await net.time.advance(600_000);
    expect(far.destroyed).toBeUndefined();
    far.write('still there');
    await net.time.advance(10);
    expect(tcp.receivedText).toBe('still there');
  });
});

describe('back-pressure', () => {
  it('pauses the host while the guest does not read, and probes the closed window', async () => {
    const net = createTestNetwork();
    const { tcp, far } = await connect(net, (made) => {
      made.windowBytes = 100_000;
      made.reading = false;
    });
    const data = pattern(4_000_000);
    let written = 0;
    const feed = () => {
      if (written >= data.length || far.paused) return;
      far.write(data.subarray(written, written + 65_536));
      written += 65_536;
    };
    for (let turn = 0; turn < 400; turn++) {
      feed();
      await net.time.advance(5);
    }
    expect(tcp.receivedBytes).toBeLessThanOrEqual(100_000);
    expect(far.paused).toBe(true);
    expect(written).toBeLessThan(2_500_000);
    const before = net.guest.packets(6).length;
    await net.time.advance(5000);
    // A few probes, with growing distance, and no data.
    const probes = net.guest.packets(6).slice(before);
    expect(probes.length).toBeGreaterThan(1);
    expect(probes.length).toBeLessThan(8);
    tcp.read();
    const done = await net.time.until(() => {
      feed();
      return tcp.receivedBytes === data.length;
    }, 30_000);
    expect(done).toBe(true);
    expect(Buffer.compare(tcp.received, data)).toBe(0);
  });

  it('closes the guest’s window while the host does not take its bytes', async () => {
    const net = createTestNetwork();
    net.guest.recording = false;
    const { tcp, far } = await connect(net);
    far.reading = false;
    const data = pattern(3_000_000);
    tcp.write(data);
    await net.time.advance(3000);
    expect(tcp.peerWindowNow).toBeLessThan(3000);
    expect(tcp.acknowledgedBytes).toBeLessThanOrEqual((1 << 20) + 3000);
    far.read();
    expect(await net.time.until(() => far.received.length === data.length, 60_000)).toBe(true);
    expect(Buffer.compare(far.received, data)).toBe(0);
  });

  it('waits for a full receive ring without losing or repeating anything', async () => {
    const net = createTestNetwork();
    const { tcp, far } = await connect(net);
    net.guest.hasRoom = false;
    const data = pattern(200_000);
    far.write(data);
    await net.time.advance(120_000);
    expect(tcp.receivedBytes).toBe(0);
    net.guest.makeRoom();
    expect(await net.time.until(() => tcp.receivedBytes === data.length, 2000)).toBe(true);
    expect(Buffer.compare(tcp.received, data)).toBe(0);
  });

  it('keeps connections while the link is down', async () => {
    const net = createTestNetwork();
    const { tcp, far } = await connect(net);
    net.network.setLink(false);
    expect(net.guest.linkUp).toBe(false);
    far.write('after the break');
    await net.time.advance(3_600_000);
    net.network.setLink(true);
    await net.time.advance(61_000);
    expect(tcp.receivedText).toBe('after the break');
  });
});
