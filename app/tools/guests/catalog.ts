// SPDX-License-Identifier: Apache-2.0
/** The ready-made guests, by name. */

export type GuestSource =
  /** A Debian kernel with an initramfs of ours. */
  | { readonly kind: 'linux'; readonly package: string }
  /** A kernel that is one file of a package. */
  | { readonly kind: 'file'; readonly package: string; readonly path: string }
  /** A kernel that is a file of this repository. */
  | { readonly kind: 'resource'; readonly path: string };

export interface GuestRecipe {
  readonly name: string;
  readonly source: GuestSource;
  readonly append: string;
  readonly memory: string;
  /** An optional guest is left out, by name, where its source does not exist; a missing required one is an error. */
  readonly optional: boolean;
}

export const GUESTS: readonly GuestRecipe[] = [
  {
    name: 'debian-6.1',
    source: { kind: 'linux', package: 'linux-image-amd64' },
    append: 'console=hvc0',
    memory: '512M',
    optional: false,
  },
  {
    name: 'debian-6.1-cloud',
    source: { kind: 'linux', package: 'linux-image-cloud-amd64' },
    append: 'console=hvc0',
    memory: '512M',
    optional: false,
  },
  {
    name: 'debian-6.12',
    source: { kind: 'linux', package: 'linux-image-6.12-amd64' },
    append: 'console=hvc0',
    memory: '512M',
    optional: true,
  },
  {
    name: 'grub-pv',
    source: { kind: 'file', package: 'grub-xen-host', path: 'usr/lib/grub-xen/grub-x86_64-xen.bin' },
    append: '',
    memory: '256M',
    optional: false,
  },
  {
    name: 'selftest',
    source: { kind: 'resource', path: 'resources/selftest.elf' },
    append: '',
    memory: '64M',
    optional: true,
  },
];

/** A guest that is ready to boot: one line of JSON on the standard output of `npm run -s guests`. Paths are absolute. */
export interface Guest {
  readonly name: string;
  readonly mode: 'pv';
  readonly kernel: string;
  readonly initrd?: string;
  /** The same with the test programs; `paravane.test=NAME` on the command line runs one and powers off. */
  readonly testInitrd?: string;
  /** Names for `paravane.test=`. */
  readonly tests?: readonly string[];
  readonly append: string;
  readonly memory: string;
  /** Package and version it was made from. */
  readonly origin: string;
  /** Wanted kernel modules that this kernel does not have. */
  readonly missingModules?: readonly string[];
}
