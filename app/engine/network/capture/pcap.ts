// SPDX-License-Identifier: Apache-2.0
/**
 * Packet captures in the classic pcap format with nanoseconds (draft-ietf-opsawg-pcap), link type Ethernet, little endian.
 *
 * Frames are captured as they cross the port: with offloads, long and with blank checksums, as on any host with a modern card.
 */
import type { AppendFile } from '../../host/append-file.ts';
import type { Clock } from '../../host/clock.ts';

const MAGIC_NANOSECONDS = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET = 1;
const FILE_HEADER_BYTES = 24;
const RECORD_HEADER_BYTES = 16;
/** A disk that is slower than the network loses frames of the capture, not of the guest. */
const MAX_QUEUED_BYTES = 16 << 20;

export interface CaptureOptions {
  /** Bytes kept of each frame; all unless told. */
  readonly snapshotBytes?: number;
  /** The file grows to this, then the capture stops; 1 GiB unless told. */
  readonly maxFileBytes?: number;
}

export class PcapWriter {
  readonly #file: AppendFile;
  readonly #clock: Clock;
  readonly #snapshotBytes: number;
  readonly #maxFileBytes: number;
  #fileBytes = FILE_HEADER_BYTES;
  #dropped = 0;
  #closed = false;

  constructor(file: AppendFile, clock: Clock, options: CaptureOptions = {}) {
    this.#file = file;
    this.#clock = clock;
    this.#snapshotBytes = Math.min(0x4_0000, options.snapshotBytes ?? 0x4_0000);
    this.#maxFileBytes = options.maxFileBytes ?? 1 << 30;
    const header = new DataView(new ArrayBuffer(FILE_HEADER_BYTES));
    header.setUint32(0, MAGIC_NANOSECONDS, true);
    header.setUint16(4, 2, true);
    header.setUint16(6, 4, true);
    header.setUint32(16, this.#snapshotBytes, true);
    header.setUint32(20, LINKTYPE_ETHERNET, true);
    file.append(new Uint8Array(header.buffer));
  }

  /** Frames that are not in the file. */
  get dropped(): number {
    return this.#dropped;
  }

  frame(frame: Uint8Array): void {
    const kept = Math.min(frame.length, this.#snapshotBytes);
    const size = RECORD_HEADER_BYTES + kept;
    if (this.#closed || this.#file.queuedBytes + size > MAX_QUEUED_BYTES || this.#fileBytes + size > this.#maxFileBytes) {
      this.#dropped++;
      return;
    }
    const record = new Uint8Array(size);
    const header = new DataView(record.buffer);
    const { seconds, nanoseconds } = this.#clock.wallClock();
    header.setUint32(0, seconds, true);
    header.setUint32(4, nanoseconds, true);
    header.setUint32(8, kept, true);
    header.setUint32(12, frame.length, true);
    record.set(frame.subarray(0, kept), RECORD_HEADER_BYTES);
    this.#fileBytes += size;
    this.#file.append(record);
  }

  close(): Promise<void> {
    this.#closed = true;
    return this.#file.close();
  }
}
