// SPDX-License-Identifier: Apache-2.0
/**
 * The log of VHDX images (MS-VHDX §2.3): replayed when an image was not closed, written before any change of its tables.
 *
 * Our own entries each stand alone at the beginning of the log: what an entry says is in its place, durably, before the next overwrites it.
 * A torn entry has a wrong checksum, and then nothing of it has reached its place. Foreign logs are searched as the specification says: the
 * valid sequence with the highest number counts, from the tail that its last entry names.
 */
import type { HostFile } from '../../host/file.ts';
import { crc32c, equalBytes, setU64, startsWith, u64, viewOf } from '../core/bytes.ts';
import { readExactly } from '../core/file-reads.ts';
import { StorageError } from '../storage-error.ts';
import { LOG_SECTOR, type VhdxHeader } from './vhdx-format.ts';

const ENTRY_HEADER = 64;
const DESCRIPTOR = 32;
/** Descriptors in the first sector of an entry. */
export const MAX_ENTRY_SECTORS = (LOG_SECTOR - ENTRY_HEADER) / DESCRIPTOR;

/** A change that the log asks for: bytes, or zeros where `bytes` is null. */
export interface LogPatch {
  readonly offset: number;
  readonly length: number;
  readonly bytes: Uint8Array | null;
}

export interface LogReplay {
  readonly patches: readonly LogPatch[];
  /** The file had at least this size when the log was written. */
  readonly lastFileOffset: number;
}

interface Entry {
  readonly at: number;
  readonly length: number;
  readonly tail: number;
  readonly sequence: number;
  readonly flushedFileOffset: number;
  readonly lastFileOffset: number;
  readonly bytes: Uint8Array;
}

/** What an unfinished log asks for; null: it is empty. */
export async function readLog(file: HostFile, header: VhdxHeader): Promise<LogReplay | null> {
  const log = new Uint8Array(header.logBytes);
  const size = await file.size();
  // GUEST: a file that is shorter than the log it claims has none.
  if (header.logOffset + header.logBytes > size) throw new StorageError('corrupt', file.name, 'the log does not lie in the file');
  await readExactly(file, header.logOffset, log, 'the log');
  const sequence = findActive(log, header.logGuid);
  if (sequence === null) return null;
  const head = sequence.at(-1)!;
  if (head.flushedFileOffset > size) throw new StorageError('corrupt', file.name, 'the file is shorter than its log says; it is cut off');
  const patches: LogPatch[] = [];
  for (const entry of sequence) {
    for (const patch of decodePatches(entry)) {
      if (patch === null || !(patch.offset + patch.length <= head.lastFileOffset))
        throw new StorageError('corrupt', file.name, 'the log is damaged');
      patches.push(patch);
    }
  }
  return { patches, lastFileOffset: head.lastFileOffset };
}

/** The entries from the tail to the head of the valid sequence with the highest number. */
function findActive(log: Uint8Array, logGuid: Uint8Array): Entry[] | null {
  let best: Entry[] | null = null;
  // INVARIANT: each start is looked at once, and every sequence moves forward, at most once around.
  const known = new Map<number, Entry | null>();
  const entryAt = (at: number): Entry | null => {
    let entry = known.get(at);
    if (entry === undefined) {
      entry = decodeEntry(log, at, logGuid);
      known.set(at, entry);
    }
    return entry;
  };
  for (let start = 0; start < log.length; ) {
    const entries: Entry[] = [];
    let at = start;
    let covered = 0;
    for (;;) {
      const entry = entryAt(at);
      const previous = entries.at(-1);
      if (entry === null || (previous !== undefined && entry.sequence !== previous.sequence + 1)) break;
      covered += entry.length;
      if (covered > log.length) break;
      entries.push(entry);
      at = (at + entry.length) % log.length;
    }
    const head = entries.at(-1);
    if (head !== undefined) {
      const from = entries.findIndex((entry) => entry.at === head.tail);
      if (from >= 0 && (best === null || head.sequence > best.at(-1)!.sequence)) best = entries.slice(from);
      if (at <= start) break;
      start = at;
    } else {
      start += LOG_SECTOR;
    }
  }
  return best;
}

function decodeEntry(log: Uint8Array, at: number, logGuid: Uint8Array): Entry | null {
  if (!startsWith(log, 'loge', at)) return null;
  const head = viewOf(log.subarray(at, at + ENTRY_HEADER));
  const length = head.getUint32(8, true);
  if (length === 0 || length % LOG_SECTOR !== 0 || length > log.length) return null;
  if (!equalBytes(log.slice(at + 32, at + 48), logGuid)) return null;
  const bytes = new Uint8Array(length);
  const first = Math.min(length, log.length - at);
  bytes.set(log.subarray(at, at + first));
  bytes.set(log.subarray(0, length - first), first);
  if (head.getUint32(4, true) !== crc32c(bytes, 4)) return null;
  const sequence = u64(head, 16, true);
  if (!Number.isSafeInteger(sequence) || sequence === 0) return null;
  return {
    at,
    length,
    tail: head.getUint32(12, true),
    sequence,
    flushedFileOffset: u64(head, 48, true),
    lastFileOffset: u64(head, 56, true),
    bytes,
  };
}

/** Null in the result: the entry contradicts itself. */
function* decodePatches(entry: Entry): Iterable<LogPatch | null> {
  const view = viewOf(entry.bytes);
  const count = view.getUint32(24, true);
  const descriptorBytes = Math.ceil((ENTRY_HEADER + count * DESCRIPTOR) / LOG_SECTOR) * LOG_SECTOR;
  if (descriptorBytes > entry.length) return yield null;
  let sector = descriptorBytes;
  for (let i = 0; i < count; i++) {
    const at = ENTRY_HEADER + i * DESCRIPTOR;
    const offset = u64(view, at + 16, true);
    if (u64(view, at + 24, true) !== entry.sequence || offset % LOG_SECTOR !== 0) return yield null;
    if (startsWith(entry.bytes, 'zero', at)) {
      yield { offset, length: u64(view, at + 8, true), bytes: null };
      continue;
    }
    if (!startsWith(entry.bytes, 'desc', at) || sector + LOG_SECTOR > entry.length || !startsWith(entry.bytes, 'data', sector))
      return yield null;
    const high = view.getUint32(sector + 4, true);
    const low = view.getUint32(sector + LOG_SECTOR - 4, true);
    if (high * 2 ** 32 + low !== entry.sequence) return yield null;
    const bytes = entry.bytes.slice(sector, sector + LOG_SECTOR);
    bytes.set(entry.bytes.subarray(at + 8, at + 16));
    bytes.set(entry.bytes.subarray(at + 4, at + 8), LOG_SECTOR - 4);
    yield { offset, length: LOG_SECTOR, bytes };
    sector += LOG_SECTOR;
  }
}

/** An entry that asks for `patches` (at most `MAX_ENTRY_SECTORS`, each of one sector), to be written at the beginning of the log. */
export function encodeEntry(
  patches: readonly { readonly offset: number; readonly bytes: Uint8Array }[],
  sequence: number,
  logGuid: Uint8Array,
  fileSize: number,
): Uint8Array {
  const bytes = new Uint8Array(LOG_SECTOR * (1 + patches.length));
  const view = viewOf(bytes);
  const put = (at: number, signature: string): void =>
    bytes.set(
      Uint8Array.from(signature, (c) => c.charCodeAt(0)),
      at,
    );
  put(0, 'loge');
  view.setUint32(8, bytes.length, true);
  view.setUint32(12, 0, true);
  setU64(view, 16, sequence, true);
  view.setUint32(24, patches.length, true);
  bytes.set(logGuid, 32);
  setU64(view, 48, fileSize, true);
  setU64(view, 56, fileSize, true);
  for (const [i, patch] of patches.entries()) {
    const at = ENTRY_HEADER + i * DESCRIPTOR;
    const sector = LOG_SECTOR * (1 + i);
    bytes.set(patch.bytes, sector);
    put(at, 'desc');
    bytes.set(patch.bytes.subarray(LOG_SECTOR - 4), at + 4);
    bytes.set(patch.bytes.subarray(0, 8), at + 8);
    setU64(view, at + 16, patch.offset, true);
    setU64(view, at + 24, sequence, true);
    put(sector, 'data');
    view.setUint32(sector + 4, Math.floor(sequence / 2 ** 32), true);
    view.setUint32(sector + LOG_SECTOR - 4, sequence % 2 ** 32, true);
  }
  view.setUint32(4, crc32c(bytes, 4), true);
  return bytes;
}

/** Does what a log asks for, in place and durably. */
export async function applyLog(file: HostFile, replay: LogReplay): Promise<void> {
  if ((await file.size()) < replay.lastFileOffset) await file.truncate(replay.lastFileOffset);
  for (const { offset, length, bytes } of replay.patches) {
    if (bytes !== null) await file.write(offset, bytes);
    else {
      const zeros = new Uint8Array(Math.min(length, 1 << 20));
      for (let at = 0; at < length; at += zeros.length)
        await file.write(offset + at, zeros.subarray(0, Math.min(zeros.length, length - at)));
    }
  }
  await file.flush();
}

/** A file that may not be written, seen as if its log had been replayed. */
export class ReplayedFile implements HostFile {
  readonly name: string;
  readonly path: string;
  readonly identity: string;
  readonly writable = false;
  readonly #file: HostFile;
  readonly #replay: LogReplay;

  constructor(file: HostFile, replay: LogReplay) {
    this.#file = file;
    this.#replay = replay;
    this.name = file.name;
    this.path = file.path;
    this.identity = file.identity;
  }

  async size(): Promise<number> {
    return Math.max(await this.#file.size(), this.#replay.lastFileOffset);
  }

  allocatedBytes(): Promise<number> {
    return this.#file.allocatedBytes();
  }

  async read(offset: number, into: Uint8Array): Promise<number> {
    let count = await this.#file.read(offset, into);
    const behind = Math.max(0, Math.min(into.length, this.#replay.lastFileOffset - offset));
    if (behind > count) {
      into.fill(0, count, behind);
      count = behind;
    }
    for (const patch of this.#replay.patches) {
      const start = Math.max(offset, patch.offset);
      const end = Math.min(offset + count, patch.offset + patch.length);
      if (start >= end) continue;
      if (patch.bytes === null) into.fill(0, start - offset, end - offset);
      else into.set(patch.bytes.subarray(start - patch.offset, end - patch.offset), start - offset);
    }
    return count;
  }

  write(): Promise<void> {
    return Promise.reject(new StorageError('read-only', this.name, 'the disk image is open for reading only'));
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  truncate(): Promise<void> {
    return this.write();
  }

  punchHole(): Promise<boolean> {
    return Promise.resolve(false);
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}
