// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { planNetwork } from './config.ts';
import { formatIp, parseIp } from './packet/ip-address.ts';
import { be16, be32, ethernet, GATEWAY_MAC, GUEST_MAC, internetSum, ip, ipv4, udp4 } from './testing/sim-guest.ts';
import { createTestNetwork, pattern, type TestNetwork } from './testing/test-network.ts';

const text = (value: string) => new TextEncoder().encode(value);

/** The UDP datagrams that the guest got, as `from:port>port data`. */
function datagrams({ guest }: TestNetwork): string[] {
  return guest.packets(17).map(({ frame, view, at, version }) => {
    const from = version === 4 ? frame.subarray(26, 30) : frame.subarray(22, 38);
    const data = new TextDecoder().decode(frame.subarray(at + 8, at + view.getUint16(at + 4)));
    return `${formatIp(from)}:${view.getUint16(at)}>${view.getUint16(at + 2)} ${data}`;
  });
}

function echo(to: string, id = 1, ttl = 64): Uint8Array {
  const message = [8, 0, 0, 0, 0, id, 0, 1, ...text('abcdefgh')];
  const sum = 0xffff - internetSum(message);
  message.splice(2, 2, ...be16(sum));
  return ipv4(1, '10.0.2.15', to, Uint8Array.from(message), ttl);
}

describe('ARP', () => {
  const ask = (target: string) =>
    ethernet(0x0806, [0, 1, 8, 0, 6, 4, 0, 1, ...GUEST_MAC, ...ip('10.0.2.15'), 0, 0, 0, 0, 0, 0, ...ip(target)]);

  it('answers for gateway and name server, and for nobody else', async () => {
    const net = createTestNetwork();
    for (const target of ['10.0.2.2', '10.0.2.3', '10.0.2.4', '10.0.2.15', '192.0.2.1']) net.guest.send(ask(target));
    await net.time.advance(1);
    const answers = net.guest.seen.filter(({ view }) => view.getUint16(12) === 0x0806 && view.getUint16(20) === 2);
    expect(answers.map(({ frame }) => [...frame.subarray(22, 32)])).toEqual([
      [...GATEWAY_MAC, 10, 0, 2, 2],
      [...GATEWAY_MAC, 10, 0, 2, 3],
    ]);
    expect([...answers[0].frame.subarray(0, 6)]).toEqual(GUEST_MAC);
  });

  it('asks for a guest it has not heard of, and keeps the packet until then', async () => {
    const net = createTestNetwork();
    await net.network.addForward({
      kind: 'host-to-guest',
      protocol: 'udp',
      host: { address: '127.0.0.1', port: 53_535 },
      guest: { port: 7 },
    });
    net.sockets.udp[0].deliver(text('first'), { address: '127.0.0.1', port: 999 });
    await net.time.advance(5);
    expect(datagrams(net)).toEqual(['10.0.2.2:999>7 first']);
  });
});

describe('ICMP', () => {
  it('answers echoes to the gateway with the same data', async () => {
    const net = createTestNetwork();
    net.guest.send(echo('10.0.2.2'));
    await net.time.advance(1);
    const [reply] = net.guest.packets(1);
    expect([...reply.frame.subarray(26, 34)]).toEqual([...ip('10.0.2.2'), ...ip('10.0.2.15')]);
    expect([...reply.frame.subarray(reply.at, reply.at + 2)]).toEqual([0, 0]);
    expect(new TextDecoder().decode(reply.frame.subarray(reply.at + 8))).toBe('abcdefgh');
    expect(internetSum([...reply.frame.subarray(reply.at)])).toBe(0xffff);
    expect(net.sockets.pings).toEqual([]);
  });

  it.each([
    ['reply', [[0, 0]]],
    ['unreachable', [[3, 1]]],
    ['unsupported', [[3, 13]]],
    ['timeout', []],
  ] as const)('asks the host about others: %s', async (answer, expected) => {
    const net = createTestNetwork();
    net.sockets.pingAnswer = answer;
    net.guest.send(echo('192.0.2.9'));
    await net.time.advance(1);
    expect(net.sockets.pings).toEqual(['192.0.2.9']);
    expect(net.guest.packets(1).map(({ frame, at }) => [frame[at], frame[at + 1]])).toEqual(expected);
  });

  it('shows itself to traceroute', async () => {
    const net = createTestNetwork();
    net.guest.send(echo('192.0.2.9', 1, 1));
    await net.time.advance(1);
    expect(net.guest.packets(1).map(({ frame, at }) => [frame[at], ...frame.subarray(26, 30)])).toEqual([[11, 10, 0, 2, 2]]);
    expect(net.sockets.pings).toEqual([]);
  });

  it('bounds the errors it sends', async () => {
    const net = createTestNetwork();
    for (let i = 0; i < 1000; i++) net.guest.send(udp4('10.0.2.15', 1000, '10.0.2.2', 9, text('x')));
    await net.time.advance(1);
    expect(net.guest.packets(1).length).toBeGreaterThan(50);
    expect(net.guest.packets(1).length).toBeLessThanOrEqual(100);
  });
});

describe('UDP', () => {
  it('keeps one socket a guest port, and lets answers in from where the guest sent', async () => {
    const net = createTestNetwork();
    net.guest.send(udp4('10.0.2.15', 5000, '192.0.2.1', 7, text('one')));
    net.guest.send(udp4('10.0.2.15', 5000, '192.0.2.2', 8, text('two')));
    net.guest.send(udp4('10.0.2.15', 5001, '192.0.2.1', 7, text('three')));
    await net.time.advance(1);
    expect(net.sockets.udp.length).toBe(2);
    expect(net.sockets.udpSent.map(({ to, bytes }) => `${to.address}:${to.port} ${new TextDecoder().decode(bytes)}`)).toEqual([
      '192.0.2.1:7 one',
      '192.0.2.2:8 two',
      '192.0.2.1:7 three',
    ]);
    net.sockets.udp[0].deliver(text('back'), { address: '192.0.2.2', port: 8 });
    net.sockets.udp[0].deliver(text('stranger'), { address: '192.0.2.66', port: 8 });
    await net.time.advance(1);
    expect(datagrams(net)).toEqual(['192.0.2.2:8>5000 back']);
  });

  it('forgets a port that the guest does not use', async () => {
    const net = createTestNetwork({ udpTimeoutMs: 30_000 });
    net.guest.send(udp4('10.0.2.15', 5000, '192.0.2.1', 7, text('one')));
    await net.time.advance(29_000);
    net.guest.send(udp4('10.0.2.15', 5000, '192.0.2.1', 7, text('two')));
    await net.time.advance(29_000);
    expect([net.network.stats().udpMappings, net.sockets.udp[0].closed]).toEqual([1, false]);
    await net.time.advance(2000);
    expect([net.network.stats().udpMappings, net.sockets.udp[0].closed]).toEqual([0, true]);
  });

  it('bounds the sockets that a guest can open', async () => {
    const net = createTestNetwork();
    for (let port = 1; port <= 3000; port++) net.guest.send(udp4('10.0.2.15', port, '192.0.2.1', 7, text('x')));
    await net.time.advance(1);
    expect(net.network.stats().udpMappings).toBe(2048);
    expect(net.sockets.udp.filter((socket) => !socket.closed).length).toBe(2048);
  });

  it('puts fragments together, in any order, and sends long datagrams in fragments', async () => {
    const net = createTestNetwork();
    net.sockets.udpServer = (bytes, to, answer) => answer(bytes, to);
    const data = pattern(4000);
    const whole = udp4('10.0.2.15', 5000, '192.0.2.1', 7, data).subarray(34);
    for (const [from, to] of [
      [2400, 4008],
      [0, 1200],
      [1200, 2400],
    ]) {
      net.guest.send(ipv4(17, '10.0.2.15', '192.0.2.1', whole.slice(from, to), 64, 99, (from / 8) | (to < 4008 ? 0x2000 : 0)));
    }
    await net.time.advance(1);
    expect(net.sockets.udpSent.map(({ bytes }) => Buffer.compare(bytes, data))).toEqual([0]);
    const pieces = net.guest.packets(17);
    expect(pieces.length).toBe(3);
    expect(pieces.every(({ frame }) => frame.length <= 1514)).toBe(true);
    const back = Buffer.concat(pieces.map(({ frame, view }) => frame.subarray(34, 14 + view.getUint16(16))));
    expect(Buffer.compare(back.subarray(8), data)).toBe(0);
    expect(internetSum([...ip('192.0.2.1'), ...ip('10.0.2.15'), 0, 17, ...be16(back.length), ...back])).toBe(0xffff);
  });
});

describe('DHCP', () => {
  const message = (options: number[], client = [0, 0, 0, 0], mac = GUEST_MAC) => {
    const fixed = new Uint8Array(240);
    fixed.set([1, 1, 6, 0, ...be32(0xfeed)]);
    fixed.set(client, 12);
    fixed.set(mac, 28);
    fixed.set(be32(0x63825363), 236);
    return Uint8Array.from([...fixed, ...options, 255]);
  };
  const send = (net: TestNetwork, bytes: Uint8Array) => {
    const header = Uint8Array.from([...be16(68), ...be16(67), ...be16(8 + bytes.length), 0, 0, ...bytes]);
    const frame = ipv4(17, '0.0.0.0', '255.255.255.255', header);
    frame.fill(0xff, 0, 6);
    net.guest.send(frame);
  };
  /** Message type and given address of each answer. */
  const answers = (net: TestNetwork) =>
    net.guest.packets(17).map(({ frame, at }) => [frame[at + 8 + 242], [...frame.subarray(at + 8 + 16, at + 8 + 20)].join('.')]);

  it('offers and gives the first address, with what goes with it', async () => {
    const net = createTestNetwork({ hostname: 'guest1', domain: 'example.test' });
    send(net, message([53, 1, 1]));
    send(net, message([53, 1, 3, 50, 4, ...ip('10.0.2.15'), 54, 4, ...ip('10.0.2.2')]));
    await net.time.advance(1);
    expect(answers(net)).toEqual([
      [2, '10.0.2.15'],
      [5, '10.0.2.15'],
    ]);
    const { frame, at } = net.guest.packets(17)[1];
    const options = Buffer.from(frame.subarray(at + 8 + 240)).toString('hex');
    for (const expected of ['0104ffffff00', '03040a000202', '06040a000203', '1a0205dc', '0c06677565737431', '330400015180']) {
      expect(options).toContain(expected);
    }
    expect(net.network.leases()).toEqual([{ mac: '52:54:00:12:34:56', address: '10.0.2.15' }]);
  });

  it('refuses an address that is not the guest’s', async () => {
    const net = createTestNetwork();
    send(net, message([53, 1, 3, 50, 4, ...ip('10.0.2.77')]));
    await net.time.advance(1);
    expect(answers(net)).toEqual([[6, '0.0.0.0']]);
  });

  it('gives each guest its own, and takes the oldest back when there are no more', async () => {
    const net = createTestNetwork({ dhcpCount: 2, dhcpStart: '10.0.2.20' });
    for (const last of [1, 2, 1, 3]) send(net, message([53, 1, 1], [0, 0, 0, 0], [2, 0, 0, 0, 0, last]));
    await net.time.advance(1);
    expect(answers(net).map(([, address]) => address)).toEqual(['10.0.2.20', '10.0.2.21', '10.0.2.20', '10.0.2.21']);
  });
});

describe('DNS', () => {
  const query = (name: string, type = 1, id = 0x1234) => {
    const labels = name.split('.').flatMap((label) => [label.length, ...text(label)]);
    return Uint8Array.from([...be16(id), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...labels, 0, ...be16(type), 0, 1]);
  };
  const ask = (net: TestNetwork, bytes: Uint8Array) => net.guest.send(udp4('10.0.2.15', 3333, '10.0.2.3', 53, bytes));
  /** Code, and the last four bytes, of each answer. */
  const answers = (net: TestNetwork) =>
    net.guest.packets(17).map(({ frame, view, at }) => {
      const end = at + view.getUint16(at + 4);
      return { code: frame[at + 8 + 3] & 15, count: view.getUint16(at + 8 + 6), last: [...frame.subarray(end - 4, end)].join('.') };
    });

  it('knows names of the plan and of the host, whatever their case', async () => {
    const net = createTestNetwork({ hosts: { 'Box.Test': ['192.0.2.7', '2001:db8::7'] } });
    net.sockets.localNames.set('printer', ['192.0.2.8']);
    ask(net, query('bOX.teST'));
    ask(net, query('printer'));
    ask(net, query('printer', 28));
    await net.time.advance(1);
    expect(answers(net)).toMatchObject([
      { code: 0, count: 1, last: '192.0.2.7' },
      { code: 0, count: 1, last: '192.0.2.8' },
      { code: 0, count: 0 },
    ]);
    expect(net.sockets.udpSent).toEqual([]);
  });

  it('shows names of the host’s loopback as the gateway, and only when that leads there', async () => {
    for (const [allowHostLoopback, expected] of [
      [true, { count: 1, last: '10.0.2.2' }],
      [false, { count: 0 }],
    ] as const) {
      const net = createTestNetwork({ allowHostLoopback });
      net.sockets.localNames.set('myself', ['127.0.1.1']);
      ask(net, query('myself'));
      await net.time.advance(1);
      expect(answers(net)).toMatchObject([expected]);
    }
  });

  it('forwards the rest, falls back to the next server, and trusts no stranger', async () => {
    const net = createTestNetwork();
    net.sockets.dnsServers = [
      { address: '198.51.100.1', port: 53 },
      { address: '198.51.100.2', port: 53 },
    ];
    net.sockets.udpServer = (bytes, to, answer) => {
      const reply = Uint8Array.from([
        ...bytes.subarray(0, 2),
        0x81,
        0x80,
        0,
        1,
        0,
        1,
        0,
        0,
        0,
        0,
        ...bytes.subarray(12),
        ...new Array(12).fill(0),
        192,
        0,
        2,
        99,
      ]);
      if (to.address === '198.51.100.1') {
        // Wrong sender, wrong identifier, wrong question.
        answer(reply, { address: '203.0.113.5', port: 53 });
        answer(Uint8Array.from([...be16(((reply[0] << 8) | reply[1]) ^ 1), ...reply.subarray(2)]));
        answer(Uint8Array.from([...reply.subarray(0, 13), 0x7a, ...reply.subarray(14)]));
      } else answer(reply);
    };
    ask(net, query('example.org'));
    await net.time.advance(1900);
    expect(answers(net)).toEqual([]);
    await net.time.advance(200);
    expect(answers(net)).toEqual([{ code: 0, count: 1, last: '192.0.2.99' }]);
    const [reply] = net.guest.packets(17);
    expect(reply.view.getUint16(reply.at + 8)).toBe(0x1234);
    expect(net.sockets.udp.every((socket) => socket.closed)).toBe(true);
  });

  it('says so when there is no such name, no answer, no sense in the question', async () => {
    const net = createTestNetwork();
    ask(net, query('nowhere.example'));
    ask(net, query('nowhere.example', 16));
    ask(net, Uint8Array.from([...query('x').subarray(0, 12), 70, 0, 0, 1, 0, 1]));
    await net.time.advance(10);
    const codes = answers(net).map(({ code }) => code);
    expect(codes.sort((a, b) => a - b)).toEqual([1, 2, 3]);
  });

  it('answers over TCP too', async () => {
    const net = createTestNetwork({ hosts: { 'box.test': ['192.0.2.7'] } });
    const tcp = net.guest.connect('10.0.2.3', 53);
    await net.time.advance(5);
    const bytes = query('box.test');
    tcp.write(Uint8Array.from([...be16(bytes.length), ...bytes, ...be16(bytes.length), ...bytes]));
    tcp.end();
    await net.time.advance(50);
    const { received } = tcp;
    expect([...received.subarray(-4)]).toEqual([192, 0, 2, 7]);
    expect(received.length).toBe(2 * (2 + bytes.length + 16));
    expect(tcp.finished).toBe(true);
  });
});

describe('what the guest reaches', () => {
  it('never the host’s loopback, unless that is allowed, and then only as the gateway', async () => {
    for (const allowHostLoopback of [false, true]) {
      const net = createTestNetwork({ allowHostLoopback });
      for (const to of [
        '10.0.2.2',
        '127.0.0.1',
        '127.1.2.3',
        '0.0.0.0',
        '169.254.169.254',
        '10.0.2.77',
        '240.0.0.1',
        '255.255.255.255',
        '224.0.0.1',
      ]) {
        net.guest.connect(to, 22);
        net.guest.send(udp4('10.0.2.15', 1234, to, 22, text('x')));
        net.guest.send(echo(to));
      }
      await net.time.advance(100);
      const expected = allowHostLoopback ? [{ address: '127.0.0.1', port: 22 }] : [];
      expect(net.sockets.connected).toEqual(expected);
      expect(net.sockets.udpSent.map(({ to }) => to)).toEqual(expected);
      expect(net.sockets.pings).toEqual([]);
    }
  });

  it('nothing from an address that is not its own', async () => {
    const net = createTestNetwork();
    for (const from of ['192.0.2.50', '10.0.2.2', '10.0.2.3', '10.0.2.255', '127.0.0.1']) {
      net.guest.send(udp4(from, 1234, '192.0.2.1', 22, text('x')));
    }
    await net.time.advance(1);
    expect(net.sockets.udpSent).toEqual([]);
    expect(net.network.stats().droppedFromGuest).toBe(5);
  });

  it('isolated: nothing but what is forwarded', async () => {
    const net = createTestNetwork({ isolated: true, allowHostLoopback: true, hosts: { 'box.test': ['192.0.2.7'] } });
    const forwarded = {
      kind: 'guest-to-host',
      guest: { address: '10.0.2.100', port: 80 },
      host: { address: '127.0.0.1', port: 8080 },
    } as const;
    expect((await net.network.addForward({ ...forwarded, protocol: 'tcp' })).ok).toBe(true);
    expect((await net.network.addForward({ ...forwarded, protocol: 'udp' })).ok).toBe(true);
    net.sockets.servers.set('127.0.0.1 8080', (far) => far.write('welcome'));
    net.sockets.dnsServers = [{ address: '198.51.100.1', port: 53 }];
    net.guest.connect('192.0.2.1', 80);
    net.guest.connect('10.0.2.2', 80);
    net.guest.send(echo('192.0.2.9'));
    net.guest.send(udp4('10.0.2.15', 1234, '192.0.2.1', 9, text('x')));
    net.guest.send(udp4('10.0.2.15', 1234, '10.0.2.100', 80, text('in')));
    const tcp = net.guest.connect('10.0.2.100', 80);
    await net.time.advance(50);
    expect(net.sockets.connected).toEqual([{ address: '127.0.0.1', port: 8080 }]);
    expect(net.sockets.udpSent.map(({ to }) => to)).toEqual([{ address: '127.0.0.1', port: 8080 }]);
    expect(net.sockets.pings).toEqual([]);
    expect(tcp.receivedText).toBe('welcome');
    // The forwarded answer comes from where the guest sent to.
    net.sockets.udp[0].deliver(text('out'), { address: '127.0.0.1', port: 8080 });
    net.sockets.udp[0].deliver(text('spoof'), { address: '127.0.0.1', port: 8081 });
    await net.time.advance(1);
    expect(datagrams(net)).toEqual(['10.0.2.100:80>1234 out']);
  });
});

describe('port forwarding', () => {
  it('brings TCP connections of the host to the guest, while it is there', async () => {
    const net = createTestNetwork();
    net.guest.listening.set(22, (tcp) => tcp.write('SSH-2.0'));
    const added = await net.network.addForward({
      kind: 'host-to-guest',
      protocol: 'tcp',
      host: { address: '127.0.0.1', port: 0 },
      guest: { port: 22 },
    });
    if (!added.ok || added.value.local === undefined) throw new Error('not added');
    const { port } = added.value.local;
    const far = net.sockets.dial(port, { address: '127.0.0.1', port: 60_001 })!;
    const other = net.sockets.dial(port, { address: '203.0.113.9', port: 60_001 })!;
    far.write('hello');
    await net.time.advance(100);
    expect([far.receivedText, other.receivedText]).toEqual(['SSH-2.0', 'SSH-2.0']);
    expect([...net.guest.tcp.values()].map((tcp) => tcp.receivedText)).toContain('hello');
    const senders = net.guest.packets(6).map(({ frame }) => formatIp(frame.subarray(26, 30)));
    expect([...new Set(senders)].sort()).toEqual(['10.0.2.2', '203.0.113.9']);
    expect(net.network.removeForward(added.value.id)).toBe(true);
    expect(net.sockets.dial(port, { address: '127.0.0.1', port: 60_002 })).toBeUndefined();
    expect(net.network.forwards()).toEqual([]);
  });

  it('drops the host’s connection when the guest refuses', async () => {
    const net = createTestNetwork();
    const added = await net.network.addForward({
      kind: 'host-to-guest',
      protocol: 'tcp',
      host: { address: '127.0.0.1', port: 2222 },
      guest: { port: 22 },
    });
    expect(added.ok).toBe(true);
    const far = net.sockets.dial(2222, { address: '127.0.0.1', port: 60_001 })!;
    await net.time.advance(40_000);
    expect(far.destroyed).toBe('reset');
  });

  it('brings datagrams there and back', async () => {
    const net = createTestNetwork();
    await net.network.addForward({
      kind: 'host-to-guest',
      protocol: 'udp',
      host: { address: '127.0.0.1', port: 5353 },
      guest: { port: 7 },
    });
    const [socket] = net.sockets.udp;
    socket.deliver(text('a'), { address: '127.0.0.1', port: 1111 });
    socket.deliver(text('b'), { address: '127.0.0.2', port: 1111 });
    await net.time.advance(5);
    const got = datagrams(net);
    // Both hide behind the gateway, and so need different ports.
    const ports = got.map((line) => Number(/:(\d+)>/.exec(line)![1]));
    expect(new Set(ports).size).toBe(2);
    for (const port of ports) net.guest.send(udp4('10.0.2.15', 7, '10.0.2.2', port, text(`to ${port}`)));
    await net.time.advance(5);
    expect(net.sockets.udpSent.map(({ to, bytes }) => `${to.address} ${new TextDecoder().decode(bytes)}`).sort()).toEqual([
      `127.0.0.1 to ${ports[0]}`,
      `127.0.0.2 to ${ports[1]}`,
    ]);
  });

  it.each([
    [{ kind: 'host-to-guest', protocol: 'tcp', host: { address: 'localhost', port: 1 }, guest: { port: 22 } }, 'not an IP address'],
    [
      { kind: 'host-to-guest', protocol: 'tcp', host: { address: '127.0.0.1', port: 1 }, guest: { address: '192.0.2.1', port: 22 } },
      'not an address for guests',
    ],
    [{ kind: 'host-to-guest', protocol: 'tcp', host: { address: '127.0.0.1', port: 70_000 }, guest: { port: 22 } }, 'not a port'],
    [
      { kind: 'guest-to-host', protocol: 'tcp', guest: { address: '192.0.2.1', port: 1 }, host: { address: '127.0.0.1', port: 1 } },
      'does not lie in',
    ],
  ] as const)('refuses what cannot be: %j', async (spec, message) => {
    const net = createTestNetwork();
    const added = await net.network.addForward(spec);
    expect(added).toMatchObject({ ok: false, error: { message: expect.stringContaining(message) } });
  });
});

describe('IPv6', () => {
  const v6 = (value: string) => [...parseIp(value)!];
  const icmp6 = (from: string, to: string, message: number[], hops = 255) => {
    const pseudo = [...v6(from), ...v6(to), 0, 0, ...be16(message.length), 0, 0, 0, 58];
    message.splice(2, 2, ...be16(0xffff - internetSum([...pseudo, ...message])));
    return ethernet(0x86dd, [0x60, 0, 0, 0, ...be16(message.length), 58, hops, ...v6(from), ...v6(to), ...message]);
  };
  const SOLICIT = (from: string, hops = 255) => {
    const target = 'fe80::2';
    return icmp6(from, 'ff02::1:ff00:2', [135, 0, 0, 0, 0, 0, 0, 0, ...v6(target), 1, 1, ...GUEST_MAC], hops);
  };

  it('advertises prefix, router, MTU and name server', async () => {
    const net = createTestNetwork({ domain: 'example.test' });
    await net.time.advance(10);
    net.guest.seen.length = 0;
    net.time.after(100, () => net.guest.send(icmp6('fe80::1234', 'ff02::2', [133, 0, 0, 0, 0, 0, 0, 0])));
    await net.time.advance(200);
    const [advertisement] = net.guest.packets(58);
    const { frame, at } = advertisement;
    expect([frame[at], frame[21]]).toEqual([134, 255]);
    const hex = Buffer.from(frame.subarray(at)).toString('hex');
    expect(hex).toContain(`030440c0${'00015180'.repeat(2)}00000000${Buffer.from(v6('fd70:6172:6176:2::')).toString('hex')}`);
    expect(hex).toContain(`05010000000005dc`);
    expect(hex).toContain(`1903000000000708${Buffer.from(v6('fd70:6172:6176:2::3')).toString('hex')}`);
    const payload = [...frame.subarray(at)];
    expect(internetSum([...frame.subarray(22, 54), 0, 0, ...be16(payload.length), 0, 0, 0, 58, ...payload])).toBe(0xffff);
  });

  it('answers neighbour solicitations, duplicate address detection, and nothing from off the link', async () => {
    const net = createTestNetwork();
    await net.time.advance(10);
    net.guest.seen.length = 0;
    net.guest.send(SOLICIT('fe80::1234'));
    net.guest.send(SOLICIT('::'));
    net.guest.send(SOLICIT('fe80::1234', 64));
    await net.time.advance(1);
    const answers = net.guest.packets(58).map(({ frame, at }) => [frame[at], formatIp(frame.subarray(38, 54)), frame[at + 4] & 0x60]);
    expect(answers).toEqual([
      [136, 'fe80::1234', 0x60],
      [136, 'ff02::1', 0x20],
    ]);
  });

  it('answers DHCPv6 information requests', async () => {
    const net = createTestNetwork({ domain: 'ab.test' });
    const request = [11, 1, 2, 3, 0, 1, 0, 4, 9, 9, 9, 9, 0, 6, 0, 2, 0, 23];
    const datagram = [...be16(546), ...be16(547), ...be16(8 + request.length), 0, 0, ...request];
    const pseudo = [...v6('fe80::1234'), ...v6('ff02::1:2'), 0, 0, ...be16(datagram.length), 0, 0, 0, 17];
    datagram.splice(6, 2, ...be16(0xffff - internetSum([...pseudo, ...datagram])));
    net.guest.send(
      ethernet(0x86dd, [0x60, 0, 0, 0, ...be16(datagram.length), 17, 1, ...v6('fe80::1234'), ...v6('ff02::1:2'), ...datagram]),
    );
    await net.time.advance(1);
    const [answer] = net.guest.packets(17);
    const hex = Buffer.from(answer.frame.subarray(answer.at + 8)).toString('hex');
    expect(hex.startsWith('07010203')).toBe(true);
    expect(hex).toContain('0001000409090909');
    expect(hex).toContain(`00170010${Buffer.from(v6('fd70:6172:6176:2::3')).toString('hex')}`);
    expect(hex).toContain('0018000902616204746573740' + '0');
  });
});

describe('configuration', () => {
  it('moves everything with the range', () => {
    const plan = planNetwork({ ipv4: '172.20.16.0/20' });
    if (!plan.ok) throw new Error(plan.error.message);
    const { gateway4, dns4, dhcpStart, broadcast4, netmask4 } = plan.value;
    expect([gateway4, dns4, dhcpStart, broadcast4, netmask4].map(formatIp)).toEqual([
      '172.20.16.2',
      '172.20.16.3',
      '172.20.16.15',
      '172.20.31.255',
      '255.255.240.0',
    ]);
  });

  it.each([
    [{ ipv4: '10.0.2.1/24' }],
    [{ ipv4: '127.0.0.0/8' }],
    [{ ipv4: '10.0.2.0/30' }],
    [{ ipv4: 'fd00::/64' }],
    [{ ipv4: '010.0.2.0/24' }],
    [{ ipv6: 'fe80::/64' }],
    [{ ipv6: 'fd00::/48' }],
    [{ dhcpStart: '10.0.2.3' }],
    [{ dhcpStart: '10.0.2.250', dhcpCount: 20 }],
    [{ mtu: 100 }],
    [{ mac: '01:00:00:00:00:01' }],
    [{ hosts: { 'a b': ['192.0.2.1'] } }],
    [{ hosts: { a: ['::x'] } }],
    [{ maxConnections: 0 }],
  ])('refuses %j', (config) => {
    expect(planNetwork(config).ok).toBe(false);
  });
});
