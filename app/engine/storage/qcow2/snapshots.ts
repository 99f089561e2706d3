// SPDX-License-Identifier: Apache-2.0
/**
 * Internal snapshots: list, create, apply, delete.
 *
 * A snapshot is a copy of the L1 table; everything reachable from it counts once more. Each operation changes the image in one header
 * update; before it the new things are durable and counted, after it the old ones are given up. A crash leaves leaks at worst.
 *
 * Left out: the state of a machine that a snapshot may hold (it is kept, not made), and images with an external data file, whose data
 * cannot be counted.
 */
import { viewOf } from '../core/bytes.ts';
import { StorageError } from '../storage-error.ts';
import { l1EntriesFor, MAX_SNAPSHOTS } from './format.ts';
import { decodeEntry, decodeTableEntry, encodeEntry, encodeTableEntry } from './l2-entry.ts';
import { Mapping } from './mapping.ts';
import type { Qcow2Device } from './qcow2-device.ts';
import { encodeSnapshotTable, newExtra, type Qcow2Snapshot, readSnapshotTable } from './snapshot-table.ts';

export async function listSnapshots(device: Qcow2Device): Promise<Qcow2Snapshot[]> {
  const { offset, count } = device.snapshotTable;
  return (await readSnapshotTable(device.file, offset, count)).snapshots;
}

/** The snapshot with this name or, failing that, this number. */
export function findSnapshot(snapshots: readonly Qcow2Snapshot[], nameOrId: string): Qcow2Snapshot | undefined {
  return snapshots.find(({ name }) => name === nameOrId) ?? snapshots.find(({ id }) => id === nameOrId);
}

export async function createSnapshot(
  device: Qcow2Device,
  name: string,
  date: { seconds: number; nanoseconds: number },
): Promise<Qcow2Snapshot> {
  refuse(device);
  if (name === '' || name.length > 255) throw new StorageError('invalid', device.name, "a snapshot's name has 1 to 255 characters");
  return device.alone(async () => {
    const table = await loadTable(device);
    if (table.snapshots.some((other) => other.name === name))
      throw new StorageError('exists', device.name, `there is a snapshot ${JSON.stringify(name)} already`);
    if (table.snapshots.length >= MAX_SNAPSHOTS)
      throw new StorageError('invalid', device.name, `an image has at most ${MAX_SNAPSHOTS} snapshots; delete some`);
    if (device.refcounts.maxCount < table.snapshots.length + 2) {
      throw new StorageError(
        'unsupported',
        device.name,
        'the reference counts of this image are too narrow for another snapshot; convert it to one with wider counts',
      );
    }
    const l1 = withoutCopied(device.mapping.l1);
    await changeTree(device, l1, 1);
    const l1Offset = await device.mapping.storeL1(l1);
    await device.refcounts.writeDirty();
    await device.file.flush();
    // From here on every cluster is shared: nothing may be written in place.
    await refreshCopied(device);
    const snapshot: Qcow2Snapshot = {
      id: `${Math.max(0, ...table.snapshots.map(({ id }) => Number.parseInt(id, 10) || 0)) + 1}`,
      name,
      l1Offset,
      l1Entries: l1.length / 8,
      dateSeconds: date.seconds,
      dateNanoseconds: date.nanoseconds,
      vmClockNs: 0,
      vmStateBytes: 0,
      diskBytes: device.sizeBytes,
      extra: newExtra(device.sizeBytes),
    };
    await storeTable(device, [...table.snapshots, snapshot], table.length);
    return snapshot;
  });
}

/** The disk becomes what it was; what it is now is lost unless another snapshot has it. */
export async function applySnapshot(device: Qcow2Device, nameOrId: string): Promise<void> {
  refuse(device);
  await device.alone(async () => {
    const snapshot = await required(device, nameOrId);
    const size = snapshot.diskBytes ?? device.sizeBytes;
    const entries = Math.max(snapshot.l1Entries, l1EntriesFor(device.header, size), 1);
    const l1 = new Uint8Array(entries * 8);
    l1.set(await Mapping.readL1(device.file, snapshot.l1Offset, snapshot.l1Entries));
    await changeTree(device, l1, 1);
    const offset = await device.mapping.storeL1(withoutCopied(l1));
    await device.refcounts.writeDirty();
    const old = { l1: device.mapping.l1.slice(), offset: device.mapping.l1Offset };
    device.fields.setL1(offset, entries);
    device.fields.setSize(size);
    await device.fields.write();
    device.mapping.replaceL1(offset, withoutCopied(l1));
    device.mapping.cache.dropAll();
    device.becomeSize(size);
    await changeTree(device, old.l1, -1);
    if (old.l1.length > 0) await device.refcounts.change(old.offset, old.l1.length, -1);
    await refreshCopied(device);
  });
}

export async function deleteSnapshot(device: Qcow2Device, nameOrId: string): Promise<void> {
  refuse(device);
  await device.alone(async () => {
    const table = await loadTable(device);
    const snapshot = await required(device, nameOrId);
    const rest = table.snapshots.filter(({ id, name }) => id !== snapshot.id || name !== snapshot.name);
    await storeTable(device, rest, table.length);
    const l1 = await Mapping.readL1(device.file, snapshot.l1Offset, snapshot.l1Entries);
    await changeTree(device, l1, -1);
    if (l1.length > 0) await device.refcounts.change(snapshot.l1Offset, l1.length, -1);
    await refreshCopied(device);
  });
}

async function required(device: Qcow2Device, nameOrId: string): Promise<Qcow2Snapshot> {
  const snapshot = findSnapshot(await listSnapshots(device), nameOrId);
  if (snapshot !== undefined) return snapshot;
  throw new StorageError(
    'not-found',
    device.name,
    `there is no snapshot ${JSON.stringify(nameOrId)}; "paravane image snapshot list" lists them`,
  );
}

function refuse(device: Qcow2Device): void {
  if (device.readOnly) throw new StorageError('read-only', device.name, 'the disk image is open for reading only');
  if (device.dataFile !== device.file) {
    throw new StorageError(
      'unsupported',
      device.name,
      'an image with an external data file cannot have internal snapshots; convert it first',
    );
  }
}

async function loadTable(device: Qcow2Device): Promise<{ snapshots: Qcow2Snapshot[]; length: number }> {
  return readSnapshotTable(device.file, device.snapshotTable.offset, device.snapshotTable.count);
}

/** Writes the table to a new place and makes the header point there; then the old place is free. */
async function storeTable(device: Qcow2Device, snapshots: readonly Qcow2Snapshot[], oldLength: number): Promise<void> {
  const old = device.snapshotTable;
  let offset = 0;
  const bytes = encodeSnapshotTable(snapshots);
  if (bytes.length > 0) {
    offset = (await device.refcounts.allocateTable(Math.ceil(bytes.length / device.clusterSize))).offset;
    await device.file.write(offset, bytes);
  }
  await device.refcounts.writeDirty();
  device.fields.setSnapshots(offset, snapshots.length);
  await device.fields.write();
  device.snapshotTable = { offset, count: snapshots.length, length: bytes.length };
  if (old.count > 0 && oldLength > 0) await device.refcounts.change(old.offset, oldLength, -1);
}

function withoutCopied(l1: Uint8Array): Uint8Array {
  const result = l1.slice();
  for (let at = 0; at < result.length; at += 8) result[at] &= 0x7f;
  return result;
}

/** Adds to the counts of every L2 table and every cluster that `l1` reaches. Works on the file: nothing may be waiting to be written. */
async function changeTree(device: Qcow2Device, l1: Uint8Array, delta: 1 | -1): Promise<void> {
  const { clusterSize, refcounts, mapping } = device;
  const entrySize = clusterSize / mapping.perTable;
  const l1View = viewOf(l1);
  for (let i = 0; i < l1.length; i += 8) {
    const { offset } = decodeTableEntry(l1View, i);
    if (offset === 0) continue;
    const view = viewOf(await device.readTable(offset));
    // Neighbours are changed together.
    let start = 0;
    let end = 0;
    for (let at = 0; at < clusterSize; at += entrySize) {
      const entry = decodeEntry(mapping.format, view, at);
      if (entry.host < 0) continue;
      if (entry.compressed) {
        await refcounts.change(entry.host, Math.min(entry.packedLength, refcounts.fileEnd - entry.host), delta);
        continue;
      }
      checkPlace(device, entry.host);
      if (entry.host === end) {
        end += clusterSize;
        continue;
      }
      if (end > start) await refcounts.change(start, end - start, delta);
      start = entry.host;
      end = start + clusterSize;
    }
    if (end > start) await refcounts.change(start, end - start, delta);
    checkPlace(device, offset);
    await refcounts.change(offset, clusterSize, delta);
  }
}

function checkPlace(device: Qcow2Device, offset: number): void {
  if (offset % device.clusterSize === 0 && offset + device.clusterSize <= device.refcounts.fileEnd) return;
  throw new StorageError('corrupt', device.name, 'a table points outside the file; run "paravane image check --repair"');
}

/**
 * Makes the "nothing else points here" flags of the active tables agree with the counts. Flags are cleared before they would be wrong in
 * the dangerous direction: the caller raised counts, durably, before. Works on the file; the cache is emptied.
 */
export async function refreshCopied(device: Qcow2Device): Promise<void> {
  const { clusterSize, refcounts, mapping } = device;
  const entrySize = clusterSize / mapping.perTable;
  await refcounts.writeDirty();
  await device.file.flush();
  const l1 = mapping.l1.slice();
  const l1View = viewOf(l1);
  for (let i = 0; i < l1.length; i += 8) {
    const { offset } = decodeTableEntry(l1View, i);
    if (offset === 0) continue;
    const table = await device.readTable(offset);
    const view = viewOf(table);
    let changed = false;
    for (let at = 0; at < clusterSize; at += entrySize) {
      const entry = decodeEntry(mapping.format, view, at);
      if (entry.host < 0 || entry.compressed || mapping.format.dataFile) continue;
      const copied = (await refcounts.get(entry.host / clusterSize)) === 1;
      if (copied === entry.copied) continue;
      encodeEntry(mapping.format, { ...entry, copied }, view, at);
      changed = true;
    }
    if (changed) await device.file.write(offset, table);
    encodeTableEntry(l1View, i, offset, (await refcounts.get(offset / clusterSize)) === 1);
  }
  mapping.cache.dropAll();
  if (l1.length > 0) await device.file.write(mapping.l1Offset, l1);
  mapping.replaceL1(mapping.l1Offset, l1);
  await device.file.flush();
}
