// SPDX-License-Identifier: Apache-2.0
/** The host's names over node:dns and its table of hosts. */
import { getServers, promises as dns } from 'node:dns';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { NameResolver, SocketAddress } from '../engine/index.ts';

const HOSTS_FILE =
  process.platform === 'win32' ? join(process.env.SystemRoot ?? 'C:\\Windows', 'System32', 'drivers', 'etc', 'hosts') : '/etc/hosts';
const CHECK_EVERY_MS = 5000;
const DNS_PORT = 53;

let names: ReadonlySet<string> = new Set();
let modifiedMs = -1;
let checkedMs = Number.NEGATIVE_INFINITY;

/** The names in the text of a table of hosts, in lower case. */
export function namesInTable(text: string): Set<string> {
  const found = new Set<string>();
  for (const line of text.split('\n')) {
    const [, ...words] = line.replace(/#.*/, '').trim().split(/\s+/);
    for (const word of words) found.add(word.toLowerCase());
  }
  return found;
}

function currentNames(): ReadonlySet<string> {
  const now = performance.now();
  if (now - checkedMs < CHECK_EVERY_MS) return names;
  checkedMs = now;
  try {
    const { mtimeMs } = statSync(HOSTS_FILE);
    if (mtimeMs === modifiedMs) return names;
    names = namesInTable(readFileSync(HOSTS_FILE, 'utf8'));
    modifiedMs = mtimeMs;
  } catch {
    // A host without a table.
    names = new Set();
    modifiedMs = -1;
  }
  return names;
}

/** `192.0.2.1`, `192.0.2.1:5353`, `2001:db8::1`, `[2001:db8::1]:5353`. */
export function parseServer(text: string): SocketAddress {
  const withPort = /^(?:\[([^\]]+)\]|([^:]+)):(\d+)$/.exec(text);
  if (withPort === null) return { address: text, port: DNS_PORT };
  return { address: withPort[1] ?? withPort[2], port: Number(withPort[3]) };
}

export const nodeNames: NameResolver = {
  servers: () => getServers().map(parseServer),
  isLocalName: (name) => currentNames().has(name),
  lookup: async (name, family) => {
    try {
      return (await dns.lookup(name, { all: true, family })).map((found) => found.address);
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : '';
      if (code === 'ENODATA') return [];
      if (code === 'ENOTFOUND') return undefined;
      throw error;
    }
  },
};
