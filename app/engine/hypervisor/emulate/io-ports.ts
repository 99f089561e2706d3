// SPDX-License-Identifier: Apache-2.0
/**
 * The I/O ports that a PV guest without devices finds: a timer's channel 2 behind the speaker gate, a clock, a PCI mechanism without a
 * bus, and all-ones everywhere else. Writes without a target are dropped.
 *
 * Intel 8254 data sheet (modes 0 and 2..3 of channel 2), MC146818 (time of day), PCI Local Bus 3.0 §3.2.2.3.2 (mechanism 1).
 *
 * @abi port 0x42 — PIT channel 2 counter
 * @abi port 0x43 — PIT control word, channel 2 only
 * @abi port 0x61 — speaker gate and channel 2 output
 * @abi port 0x70 — CMOS index
 * @abi port 0x71 — CMOS: time of day, read-only
 * @abi port 0xcf8 — PCI address latch of an empty bus
 * @abi port 0xcfc — PCI data: all-ones
 */
import type { VmTime } from '../time/vm-time.ts';

const PIT_HZ = 1_193_182;

export class IoPorts {
  readonly #time: VmTime;
  #pciAddress = 0;
  #cmosIndex = 0;
  /** Channel 2: access mode (1 low, 2 high, 3 both), mode, reload value and the time at which counting began. */
  #access = 3;
  #mode = 0;
  #reload = 0x1_0000;
  #startNs = 0;
  #writeHigh = false;
  #pendingLow = 0;
  #readHigh = false;
  #latched = -1;
  #gate = false;
  #speaker = 0;

  constructor(time: VmTime) {
    this.#time = time;
  }

  /** Reads `size` bytes (1, 2, 4) as an unsigned number. Registers are bytes; wider reads take consecutive ports. */
  read(port: number, size: number): number {
    if (port === 0xcf8 && size === 4) return this.#pciAddress;
    let value = 0;
    for (let i = 0; i < size; i++) value += this.#readByte((port + i) & 0xffff) * 2 ** (8 * i);
    return value;
  }

  write(port: number, size: number, value: number): void {
    if (port === 0xcf8 && size === 4) {
      this.#pciAddress = value >>> 0;
      return;
    }
    for (let i = 0; i < size; i++) this.#writeByte((port + i) & 0xffff, (value >>> (8 * i)) & 0xff);
  }

  #readByte(port: number): number {
    switch (port) {
      case 0x42:
        return this.#readCounter();
      case 0x61:
        return this.#speaker | (this.#gate ? 1 : 0) | (this.#output() ? 0x20 : 0);
      case 0x70:
        return this.#cmosIndex;
      case 0x71:
        return this.#cmos();
      default:
        return 0xff;
    }
  }

  #writeByte(port: number, value: number): void {
    switch (port) {
      case 0x42:
        this.#writeCounter(value);
        return;
      case 0x43:
        this.#control(value);
        return;
      case 0x61: {
        const gate = (value & 1) !== 0;
        if (gate && !this.#gate) this.#startNs = this.#time.now();
        this.#gate = gate;
        this.#speaker = value & 2;
        return;
      }
      case 0x70:
        this.#cmosIndex = value & 0x7f;
        return;
      default:
    }
  }

  #ticks(): number {
    return this.#gate ? Math.floor(((this.#time.now() - this.#startNs) * PIT_HZ) / 1e9) : 0;
  }

  #count(): number {
    const ticks = this.#ticks();
    if (this.#mode === 2 || this.#mode === 3) return (this.#reload - (ticks % this.#reload)) & 0xffff;
    return (((this.#reload - ticks) % 0x1_0000) + 0x1_0000) % 0x1_0000;
  }

  #output(): boolean {
    const ticks = this.#ticks();
    if (this.#mode === 3) return ticks % this.#reload < this.#reload / 2;
    if (this.#mode === 2) return ticks % this.#reload !== this.#reload - 1;
    return ticks >= this.#reload;
  }

  #control(value: number): void {
    if (value >> 6 !== 2) return;
    const access = (value >> 4) & 3;
    if (access === 0) {
      if (this.#latched < 0) this.#latched = this.#count();
      return;
    }
    this.#access = access;
    this.#mode = (value >> 1) & 7;
    if (this.#mode > 5) this.#mode -= 4;
    this.#writeHigh = false;
    this.#readHigh = false;
    this.#latched = -1;
  }

  #writeCounter(value: number): void {
    if (this.#access === 3 && !this.#writeHigh) {
      this.#pendingLow = value;
      this.#writeHigh = true;
      return;
    }
    const count = this.#access === 3 ? this.#pendingLow | (value << 8) : this.#access === 2 ? value << 8 : value;
    this.#writeHigh = false;
    this.#reload = count === 0 ? 0x1_0000 : count;
    this.#startNs = this.#time.now();
  }

  #readCounter(): number {
    const count = this.#latched >= 0 ? this.#latched : this.#count();
    if (this.#access !== 3) {
      this.#latched = -1;
      return this.#access === 2 ? count >> 8 : count & 0xff;
    }
    const high = this.#readHigh;
    this.#readHigh = !high;
    if (high) this.#latched = -1;
    return high ? count >> 8 : count & 0xff;
  }

  /** MC146818 registers: time of day in BCD, 24-hour mode, never updating, battery good. */
  #cmos(): number {
    const date = new Date(this.#time.wallClock().seconds * 1000);
    switch (this.#cmosIndex) {
      case 0x00:
        return bcd(date.getUTCSeconds());
      case 0x02:
        return bcd(date.getUTCMinutes());
      case 0x04:
        return bcd(date.getUTCHours());
      case 0x06:
        return date.getUTCDay() + 1;
      case 0x07:
        return bcd(date.getUTCDate());
      case 0x08:
        return bcd(date.getUTCMonth() + 1);
      case 0x09:
        return bcd(date.getUTCFullYear() % 100);
      case 0x32:
        return bcd(Math.floor(date.getUTCFullYear() / 100));
      case 0x0a:
        return 0x26;
      case 0x0b:
        return 0x02;
      case 0x0d:
        return 0x80;
      default:
        return 0;
    }
  }
}

function bcd(value: number): number {
  return (Math.floor(value / 10) << 4) | (value % 10);
}
