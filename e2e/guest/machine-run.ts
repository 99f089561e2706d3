// SPDX-License-Identifier: Apache-2.0
/** One guest under test in this process, for what only a machine's owner can ask of it. */
import { readFileSync } from 'node:fs';
import { createMachine, type Machine, silentLog } from '../../app/engine/index.ts';
import { createMachinePorts } from '../../app/node/machine-ports.ts';
import type { Guest } from '../../app/tools/guests/catalog.ts';
import { GuestConsole } from './guest-console.ts';

export class MachineRun {
  readonly machine: Machine;
  readonly console: GuestConsole;

  private constructor(machine: Machine) {
    this.machine = machine;
    this.console = new GuestConsole((text) => machine.console.input(Buffer.from(text, 'latin1')));
    machine.console.attach({
      write: (bytes) => {
        this.console.hear(Buffer.from(bytes).toString('latin1'));
        return true;
      },
    });
    void machine.ended.then(() => this.console.end());
    machine.start();
  }

  /** Starts a ready-made Linux guest whose memory is a whole number of MiB. */
  static async start(guest: Guest, append: string): Promise<MachineRun> {
    const made = await createMachine(
      {
        name: guest.name,
        mode: guest.mode,
        kernel: readFileSync(guest.kernel),
        initrd: readFileSync(guest.initrd!),
        commandLine: `${guest.append} ${append}`,
        memoryMib: Number.parseInt(guest.memory, 10),
        vcpus: 1,
        accel: 'interp',
      },
      createMachinePorts(silentLog),
    );
    if (!made.ok) throw new Error(made.error.message);
    return new MachineRun(made.value);
  }

  async stop(): Promise<void> {
    this.machine.stop();
    await this.machine.ended;
    await this.machine.close();
  }
}
