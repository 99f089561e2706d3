// SPDX-License-Identifier: Apache-2.0
/**
 * Debian's kernel packages: the image, and the modules that PV devices and file systems need, with what those need in turn.
 *
 * The packages carry no modules.dep (it is made at installation), so dependencies are read from the modules themselves.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import xz from 'xz-decompress';
import type { Apt, DebianPackage } from './apt.ts';
import { PackageError } from './apt.ts';
import { type ModuleInfo, readModuleInfo } from './elf.ts';

/** Where they are modules; kernels that have them built in have no such files. */
const CHECKSUMS = ['libcrc32c', 'crc32c_generic', 'crc32c_intel'];

/** Modules that go into the initramfs when the kernel has them, by module name. */
export const WANTED_MODULES: readonly string[] = [
  'xen_blkfront',
  'xen_netfront',
  'xen_scsifront',
  'sd_mod',
  'xen_pcifront',
  '9pnet_xen',
  '9p',
  // ext4 asks for its checksum by the name of the algorithm, which no dependency shows.
  ...CHECKSUMS,
  'ext4',
];

/** Parts of a kernel package that no guest here needs, as tar patterns; most of its size. */
const UNUSED_PARTS = ['gpu', 'media', 'net/wireless', 'net/ethernet', 'infiniband', 'staging', 'iio', 'usb', 'hwmon', 'input', 'sound'].map(
  (folder) => `*/kernel/${folder === 'sound' ? '' : 'drivers/'}${folder}/*`,
);

export interface KernelModule extends ModuleInfo {
  /** Path from lib/modules/RELEASE, with the ending `.ko`. */
  readonly path: string;
  /** Uncompressed. */
  readonly content: Buffer;
}

export interface DebianKernel {
  readonly package: DebianPackage;
  /** As `uname -r` says in the guest. */
  readonly release: string;
  readonly imagePath: string;
  /** In an order in which they can be loaded. */
  readonly modules: readonly KernelModule[];
  /** Those of WANTED_MODULES that this kernel has neither as a module nor built in. */
  readonly missing: readonly string[];
}

/** The package with the kernel itself, from a meta package such as linux-image-amd64. */
export async function resolveKernelPackage(apt: Apt, name: string): Promise<DebianPackage> {
  const found = await apt.find(name, 'amd64');
  const real = found.depends.find((depend) => /^linux-image-\d/.test(depend));
  return real === undefined || real === name ? found : resolveKernelPackage(apt, real);
}

const moduleName = (file: string): string =>
  basename(file)
    .replace(/\.ko(\.xz)?$/, '')
    .replaceAll('-', '_');

async function readModule(file: string): Promise<Buffer> {
  const stored = readFileSync(file);
  if (!file.endsWith('.xz')) return stored;
  const stream = new xz.XzReadableStream(new Blob([stored]).stream());
  return Buffer.from(await new Response(stream).arrayBuffer());
}

/** Orders `wanted` and everything it depends on so that each comes after what it needs. Names nothing provides go to `missing`. */
export async function resolveModules<M extends { readonly name: string; readonly depends: readonly string[] }>(
  wanted: readonly string[],
  load: (name: string) => Promise<M | null>,
): Promise<{ readonly ordered: M[]; readonly missing: string[] }> {
  const ordered: M[] = [];
  const missing: string[] = [];
  const seen = new Set<string>();
  const visit = async (name: string): Promise<void> => {
    if (seen.has(name)) return;
    seen.add(name);
    const module = await load(name);
    if (module === null) {
      missing.push(name);
      return;
    }
    for (const depend of module.depends) await visit(depend);
    ordered.push(module);
  };
  for (const name of wanted) await visit(name);
  return { ordered, missing };
}

export async function loadKernel(apt: Apt, name: string): Promise<DebianKernel> {
  const kernelPackage = await resolveKernelPackage(apt, name);
  const folder = await apt.unpacked(kernelPackage, UNUSED_PARTS);
  const image = readdirSync(join(folder, 'boot')).find((file) => file.startsWith('vmlinuz-'));
  if (image === undefined) throw new PackageError(`${kernelPackage.name} has no /boot/vmlinuz-*`);
  const release = image.slice('vmlinuz-'.length);
  const root = ['lib/modules', 'usr/lib/modules'].map((path) => join(folder, path, release)).find((path) => existsSync(path));
  if (root === undefined) throw new PackageError(`${kernelPackage.name} has no modules for ${release}`);

  const files = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter((path) => /\.ko(\.xz)?$/.test(path));
  const byName = new Map(files.map((path) => [moduleName(path), path]));
  const { ordered, missing } = await resolveModules(WANTED_MODULES, async (wanted): Promise<KernelModule | null> => {
    const path = byName.get(wanted);
    if (path === undefined) return null;
    const content = await readModule(join(root, path));
    return { ...readModuleInfo(content), name: wanted, path: path.replace(/\.xz$/, ''), content };
  });
  const config = readFileSync(join(folder, 'boot', `config-${release}`), 'utf8');
  return {
    package: kernelPackage,
    release,
    imagePath: join(folder, 'boot', image),
    modules: ordered,
    missing: missing.filter((wanted) => !CHECKSUMS.includes(wanted) && !builtIn(wanted, config)),
  };
}

/** Whether the kernel's configuration has a wanted module compiled in. */
function builtIn(wanted: string, config: string): boolean {
  const options: Record<string, string> = {
    xen_blkfront: 'XEN_BLKDEV_FRONTEND',
    xen_netfront: 'XEN_NETDEV_FRONTEND',
    xen_scsifront: 'XEN_SCSI_FRONTEND',
    sd_mod: 'BLK_DEV_SD',
    xen_pcifront: 'XEN_PCIDEV_FRONTEND',
    '9pnet_xen': 'NET_9P_XEN',
    '9p': '9P_FS',
    ext4: 'EXT4_FS',
  };
  return config.split('\n').includes(`CONFIG_${options[wanted] ?? ''}=y`);
}
