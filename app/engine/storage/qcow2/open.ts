// SPDX-License-Identifier: Apache-2.0
/** Opens a QCOW2 image whose files and parent the caller has opened already. */
import type { BlockCodec } from '../../host/block-codec.ts';
import type { HostFile } from '../../host/file.ts';
import type { BlockDevice } from '../block-device.ts';
import { StorageError } from '../storage-error.ts';
import { AUTOCLEAR_DATA_FILE_RAW, INCOMPAT_CORRUPT, INCOMPAT_DIRTY, type Qcow2Header } from './format.ts';
import { HeaderFields } from './header-fields.ts';
import { Mapping } from './mapping.ts';
import { Qcow2Device } from './qcow2-device.ts';
import { Refcounts } from './refcounts.ts';
import { checkQcow2 } from './check.ts';

export interface OpenQcow2Options {
  readonly readOnly: boolean;
  /** Open for writing although the image is marked corrupt or dirty: only to repair it. */
  readonly forRepair?: boolean;
}

export async function openQcow2(
  file: HostFile,
  header: Qcow2Header,
  dataFile: HostFile | null,
  parent: BlockDevice | null,
  codec: BlockCodec,
  options: OpenQcow2Options,
): Promise<Qcow2Device> {
  const readOnly = options.readOnly || !file.writable;
  const fields = new HeaderFields(file, header.bytes.slice());
  const writes = !readOnly && options.forRepair !== true;
  if (writes && (header.incompatible & INCOMPAT_CORRUPT) !== 0) {
    throw new StorageError(
      'corrupt',
      file.name,
      'the image is marked as damaged; open it for reading only, or run "paravane image check --repair"',
    );
  }
  const refcounts = await Refcounts.open(file, header, fields);
  const l1 = await Mapping.readL1(file, header.l1TableOffset, header.l1Size);
  const device = new Qcow2Device({ file, dataFile, parent, header, fields, refcounts, l1, codec, readOnly });
  if (!writes) return device;
  if ((header.incompatible & INCOMPAT_DIRTY) !== 0) await checkQcow2(device, { repair: true });
  if (header.staleAutoclear) {
    fields.keepAutoclear(AUTOCLEAR_DATA_FILE_RAW);
    await fields.write();
  }
  return device;
}
