// SPDX-License-Identifier: Apache-2.0
/** The table of internal snapshots, read and written. Extra data that is not known here is kept as it is. */
import type { HostFile } from '../../host/file.ts';
import { alignUp, decodeUtf8, encodeUtf8, setU64, u64, viewOf } from '../core/bytes.ts';
import { StorageError } from '../storage-error.ts';
import { MAX_L1_BYTES, MAX_SNAPSHOT_TABLE_BYTES } from './format.ts';

const FIXED = 40;
const EXTRA_DISK_SIZE = 16;
const EXTRA_ICOUNT = 24;
const MAX_EXTRA = 1024;
const READ_AHEAD = 64 * 1024;

export interface Qcow2Snapshot {
  readonly id: string;
  readonly name: string;
  readonly l1Offset: number;
  readonly l1Entries: number;
  /** Seconds since 1970 and nanoseconds in them. */
  readonly dateSeconds: number;
  readonly dateNanoseconds: number;
  readonly vmClockNs: number;
  readonly vmStateBytes: number;
  /** Null in old images, whose disk had the size it still has. */
  readonly diskBytes: number | null;
  readonly extra: Uint8Array;
}

/** The snapshots and the number of bytes that their table occupies. */
export async function readSnapshotTable(
  file: HostFile,
  offset: number,
  count: number,
): Promise<{ readonly snapshots: Qcow2Snapshot[]; readonly length: number }> {
  const fail = (message: string): StorageError => new StorageError('corrupt', file.name, message);
  const snapshots: Qcow2Snapshot[] = [];
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at > MAX_SNAPSHOT_TABLE_BYTES) throw fail('the table of snapshots is too large');
    const { bytes, length } = await readEntry(file, offset + at, fail);
    snapshots.push(decodeSnapshot(bytes, fail));
    at += length;
  }
  return { snapshots, length: at };
}

async function readEntry(
  file: HostFile,
  offset: number,
  fail: (message: string) => StorageError,
): Promise<{ bytes: Uint8Array; length: number }> {
  // One read for everything usual; names and extra data are bounded by their 16-bit lengths and `MAX_EXTRA`.
  let bytes = new Uint8Array(4096);
  let have = await file.read(offset, bytes);
  const cutOff = 'the table of snapshots reaches behind the end of the file';
  if (have < FIXED) throw fail(cutOff);
  const view = viewOf(bytes);
  const extra = view.getUint32(36);
  if (extra > MAX_EXTRA) throw fail(`a snapshot with ${extra} bytes of extra data is impossible`);
  const length = FIXED + extra + view.getUint16(12) + view.getUint16(14);
  if (length > bytes.length) {
    bytes = new Uint8Array(Math.min(alignUp(length, 8), READ_AHEAD * 3));
    have = await file.read(offset, bytes);
  }
  if (have < length) throw fail(cutOff);
  return { bytes: bytes.subarray(0, length), length: alignUp(length, 8) };
}

function decodeSnapshot(bytes: Uint8Array, fail: (message: string) => StorageError): Qcow2Snapshot {
  const view = viewOf(bytes);
  const idLength = view.getUint16(12);
  const extraLength = view.getUint32(36);
  const nameAt = FIXED + extraLength + idLength;
  const l1Entries = view.getUint32(8);
  if (l1Entries * 8 > MAX_L1_BYTES) throw fail(`a snapshot with an L1 table of ${l1Entries} entries is impossible`);
  return {
    id: decodeUtf8(bytes.subarray(FIXED + extraLength, nameAt)),
    name: decodeUtf8(bytes.subarray(nameAt)),
    l1Offset: u64(view, 0),
    l1Entries,
    dateSeconds: view.getUint32(16),
    dateNanoseconds: view.getUint32(20),
    vmClockNs: u64(view, 24),
    vmStateBytes: extraLength >= 8 ? u64(view, FIXED) : view.getUint32(32),
    diskBytes: extraLength >= EXTRA_DISK_SIZE ? u64(view, FIXED + 8) : null,
    extra: bytes.slice(FIXED, FIXED + extraLength),
  };
}

export function encodeSnapshotTable(snapshots: readonly Qcow2Snapshot[]): Uint8Array {
  const entries = snapshots.map(encodeSnapshot);
  const bytes = new Uint8Array(entries.reduce((sum, entry) => sum + entry.length, 0));
  let at = 0;
  for (const entry of entries) {
    bytes.set(entry, at);
    at += entry.length;
  }
  return bytes;
}

function encodeSnapshot(snapshot: Qcow2Snapshot): Uint8Array {
  const id = encodeUtf8(snapshot.id);
  const name = encodeUtf8(snapshot.name);
  const bytes = new Uint8Array(alignUp(FIXED + snapshot.extra.length + id.length + name.length, 8));
  const view = viewOf(bytes);
  setU64(view, 0, snapshot.l1Offset);
  view.setUint32(8, snapshot.l1Entries);
  view.setUint16(12, id.length);
  view.setUint16(14, name.length);
  view.setUint32(16, snapshot.dateSeconds);
  view.setUint32(20, snapshot.dateNanoseconds);
  setU64(view, 24, snapshot.vmClockNs);
  view.setUint32(32, snapshot.vmStateBytes > 0xffff_ffff ? 0 : snapshot.vmStateBytes);
  view.setUint32(36, snapshot.extra.length);
  bytes.set(snapshot.extra, FIXED);
  bytes.set(id, FIXED + snapshot.extra.length);
  bytes.set(name, FIXED + snapshot.extra.length + id.length);
  return bytes;
}

/** Extra data of a new snapshot without a machine's state. */
export function newExtra(diskBytes: number): Uint8Array {
  const extra = new Uint8Array(EXTRA_ICOUNT);
  const view = viewOf(extra);
  setU64(view, 8, diskBytes);
  // No instruction count was recorded.
  view.setUint32(16, 0xffff_ffff);
  view.setUint32(20, 0xffff_ffff);
  return extra;
}
