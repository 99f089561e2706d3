// SPDX-License-Identifier: Apache-2.0
/**
 * Asks one of the host's name servers, over UDP or TCP.
 *
 * Each question has a socket and an identifier of its own: who wants to slip in an answer has to guess both (RFC 5452).
 */
import type { HostUdp, SocketAddress, SocketHost } from '../../host/sockets.ts';
import { concatBytes, get16, put16 } from '../packet/wire.ts';
import type { TimerQueue } from '../timer-queue.ts';
import { type DnsQuestion, isAnswerTo } from './dns-message.ts';

export interface UpstreamOptions {
  readonly sockets: SocketHost;
  readonly timers: TimerQueue;
  readonly random32: () => number;
}

/** The server's answer, under the query's own identifier; `undefined`: none came in time. */
export function askOverUdp(
  options: UpstreamOptions,
  server: SocketAddress,
  query: Uint8Array,
  question: DnsQuestion,
  timeoutMs: number,
): Promise<Uint8Array | undefined> {
  const own = query.slice();
  const id = options.random32() & 0xffff;
  put16(own, 0, id);
  return new Promise((resolve) => {
    let socket: HostUdp | undefined;
    let isOver = false;
    const finish = (answer: Uint8Array | undefined) => {
      if (isOver) return;
      isOver = true;
      deadline.dispose();
      socket?.close();
      resolve(answer);
    };
    const deadline = options.timers.deadline(() => finish(undefined));
    deadline.set(timeoutMs);
    const message = (bytes: Uint8Array, from: SocketAddress) => {
      if (from.address !== server.address || from.port !== server.port || !isAnswerTo(bytes, question, id)) return;
      const answer = bytes.slice();
      put16(answer, 0, question.id);
      finish(answer);
    };
    const family = server.address.includes(':') ? 6 : 4;
    void options.sockets.openUdp({ family, message, failed: () => finish(undefined) }).then((opened) => {
      if (!opened.ok) finish(undefined);
      else if (isOver) opened.value.close();
      else {
        socket = opened.value;
        socket.send(own, server);
      }
    });
  });
}

/** The same over a connection (RFC 7766), for answers that do not fit a datagram. */
export function askOverTcp(
  options: UpstreamOptions,
  server: SocketAddress,
  query: Uint8Array,
  question: DnsQuestion,
  timeoutMs: number,
): Promise<Uint8Array | undefined> {
  const own = new Uint8Array(query.length + 2);
  put16(own, 0, query.length);
  own.set(query, 2);
  return new Promise((resolve) => {
    let received: Uint8Array = new Uint8Array(0);
    let isOver = false;
    const finish = (answer: Uint8Array | undefined) => {
      if (isOver) return;
      isOver = true;
      deadline.dispose();
      stream.destroy(false);
      resolve(answer);
    };
    const deadline = options.timers.deadline(() => finish(undefined));
    deadline.set(timeoutMs);
    const stream = options.sockets.connectTcp(server, {
      connected: () => {
        stream.write(own);
        stream.resume();
      },
      received: (bytes) => {
        received = concatBytes([received, bytes]);
        if (received.length < 2) return;
        const length = get16(received, 0);
        if (received.length < 2 + length) return;
        const answer = received.slice(2, 2 + length);
        finish(isAnswerTo(answer, question, question.id) ? answer : undefined);
      },
      end: () => finish(undefined),
      written: () => {},
      failed: () => finish(undefined),
      closed: () => finish(undefined),
    });
  });
}
