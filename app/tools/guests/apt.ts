// SPDX-License-Identifier: Apache-2.0
/**
 * Debian packages by name, through the system's own package tools, without changing the system.
 *
 * apt runs with a state directory of its own below the cache folder, so nothing needs root and no list, lock or architecture of
 * the system is touched. That also makes packages of another architecture reachable without `dpkg --add-architecture`. Sources
 * and keys are the system's. The system's lists are asked first when it has any; they save the download of fresh ones.
 */
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const MAX_OUTPUT = 64 << 20;
/** Own lists are read again after this long. */
const LISTS_VALID_MS = 6 * 3600_000;
const SYSTEM_LISTS = '/var/lib/apt/lists';

export type DebianArch = 'amd64' | 'i386';

export interface DebianPackage {
  readonly name: string;
  readonly arch: DebianArch;
  readonly version: string;
  /** Names in `Depends`, first alternatives only. */
  readonly depends: readonly string[];
}

/** What apt or dpkg-deb said; the message is a sentence for the user. */
export class PackageError extends Error {}

/** A place where package lists come from. */
interface Lists {
  readonly label: string;
  readonly options: readonly string[];
  /** Fetches the lists when they are not there yet. */
  prepare(): Promise<void>;
}

function messageOf(error: unknown): string {
  const { stderr, message } = error as { stderr?: string; message?: string };
  const lines = (stderr ?? message ?? String(error)).split('\n').filter((line) => /^(E:|dpkg)/.test(line));
  return lines.length > 0 ? lines.join(' ') : (message ?? String(error)).split('\n', 1)[0];
}

/** The fields of the first stanza that `apt-cache show` prints. */
export function parseStanza(text: string): Map<string, string> {
  const fields = new Map<string, string>();
  for (const line of text.split('\n\n', 1)[0].split('\n')) {
    const match = /^([A-Za-z0-9-]+): (.*)$/.exec(line);
    if (match !== null) fields.set(match[1], match[2]);
  }
  return fields;
}

/** Package names of a `Depends` field: `a (>= 1), b | c` gives a and b. */
export function parseDepends(field: string): string[] {
  return field
    .split(',')
    .map((item) => item.split('|', 1)[0].trim().split(/[ :(]/, 1)[0])
    .filter((name) => name !== '');
}

export class Apt {
  readonly #cache: string;
  readonly #say: (message: string) => void;
  readonly #lists = new Map<DebianArch, readonly Lists[]>();

  /** `cache` holds state and packages; `say` gets progress. */
  constructor(cache: string, say: (message: string) => void) {
    this.#cache = cache;
    this.#say = say;
    for (const tool of ['apt-get', 'apt-cache', 'dpkg-deb']) {
      try {
        execFileSync(tool, ['--version'], { stdio: 'ignore' });
      } catch {
        throw new PackageError(`${tool} is not here; guests are made from Debian packages, so this needs Debian or a relative of it.`);
      }
    }
  }

  /** Looks a package up; throws PackageError when no list knows it. */
  async find(name: string, arch: DebianArch): Promise<DebianPackage> {
    let reason = '';
    for (const lists of this.#listsOf(arch)) {
      try {
        await lists.prepare();
        const { stdout } = await run('apt-cache', [...lists.options, 'show', '--no-all-versions', name], { maxBuffer: MAX_OUTPUT });
        const fields = parseStanza(stdout);
        const version = fields.get('Version');
        if (version !== undefined) return { name, arch, version, depends: parseDepends(fields.get('Depends') ?? '') };
      } catch (error) {
        reason = messageOf(error);
      }
    }
    throw new PackageError(`apt knows no package ${name} for ${arch}${reason === '' ? '' : ` (${reason})`}`);
  }

  /** The folder that holds `wanted`'s files, downloaded and unpacked at most once per version; `exclude` are tar patterns. */
  async unpacked(wanted: DebianPackage, exclude: readonly string[] = []): Promise<string> {
    const target = join(this.#cache, 'packages', `${wanted.name}_${wanted.version.replaceAll(':', '%3a')}_${wanted.arch}`);
    if (existsSync(target)) return target;
    const scratch = `${target}.${process.pid}.tmp`;
    rmSync(scratch, { recursive: true, force: true });
    mkdirSync(join(scratch, 'files'), { recursive: true });
    try {
      const archive = await this.#download(wanted, scratch);
      await extract(archive, join(scratch, 'files'), exclude);
      renameSync(join(scratch, 'files'), target);
    } finally {
      rmSync(scratch, { recursive: true, force: true });
    }
    return target;
  }

  async #download(wanted: DebianPackage, folder: string): Promise<string> {
    this.#say(`fetching ${wanted.name} ${wanted.version} (${wanted.arch})`);
    let reason = '';
    for (const lists of this.#listsOf(wanted.arch)) {
      try {
        await lists.prepare();
        await run('apt-get', [...lists.options, '-q', 'download', `${wanted.name}=${wanted.version}`], {
          cwd: folder,
          maxBuffer: MAX_OUTPUT,
        });
        const archive = readdirSync(folder).find((file) => file.endsWith('.deb'));
        if (archive !== undefined) return join(folder, archive);
      } catch (error) {
        reason = messageOf(error);
      }
    }
    throw new PackageError(`${wanted.name} ${wanted.version} (${wanted.arch}) could not be downloaded: ${reason}`);
  }

  #listsOf(arch: DebianArch): readonly Lists[] {
    let lists = this.#lists.get(arch);
    if (lists === undefined) {
      lists = [...this.#systemLists(arch), this.#ownLists(arch)];
      this.#lists.set(arch, lists);
    }
    return lists;
  }

  /** Options that keep apt inside of `folder`: its cache, its locks, and a list of installed packages that is empty. */
  #options(arch: DebianArch, folder: string): string[] {
    mkdirSync(join(folder, 'cache/archives/partial'), { recursive: true });
    const status = join(folder, 'status');
    if (!existsSync(status)) writeFileSync(status, '');
    const settings = {
      'Dir::Cache': join(folder, 'cache'),
      'Dir::State::status': status,
      'APT::Architecture': arch,
      'APT::Architectures': arch,
      'APT::Sandbox::User': 'root',
      'Acquire::Languages': 'none',
      'Acquire::Retries': '3',
    };
    return Object.entries(settings).flatMap(([key, value]) => ['-o', `${key}=${value}`]);
  }

  #systemLists(arch: DebianArch): Lists[] {
    const suffix = new RegExp(`_binary-${arch}_Packages(\\.[a-z0-9]+)?$`);
    const present = existsSync(SYSTEM_LISTS) && readdirSync(SYSTEM_LISTS).some((file) => suffix.test(file));
    if (!present) return [];
    return [{ label: 'system', options: this.#options(arch, join(this.#cache, 'apt', `system-${arch}`)), prepare: async () => {} }];
  }

  #ownLists(arch: DebianArch): Lists {
    const folder = join(this.#cache, 'apt', arch);
    const options = [...this.#options(arch, folder), '-o', `Dir::State=${join(folder, 'state')}`];
    mkdirSync(join(folder, 'state/lists/partial'), { recursive: true });
    const marker = join(folder, 'updated');
    let updated: Promise<void> | null = null;
    const update = async (): Promise<void> => {
      if (existsSync(marker) && Date.now() - statSync(marker).mtimeMs < LISTS_VALID_MS) return;
      this.#say(`reading package lists (${arch})`);
      try {
        await run('apt-get', [...options, '-q', 'update'], { maxBuffer: MAX_OUTPUT });
      } catch (error) {
        // A mirror may lack one of several lists; whether that matters shows when a package is looked up.
        this.#say(`some package lists could not be read: ${messageOf(error)}`);
      }
      writeFileSync(marker, '');
    };
    return {
      label: 'own',
      options,
      prepare: () => {
        updated ??= update();
        return updated;
      },
    };
  }
}

/** Unpacks the files of a .deb without its scripts. */
async function extract(archive: string, target: string, exclude: readonly string[]): Promise<void> {
  const reader = spawn('dpkg-deb', ['--fsys-tarfile', archive], { stdio: ['ignore', 'pipe', 'inherit'] });
  const patterns = exclude.map((pattern) => `--exclude=${pattern}`);
  // tar gets the other end of dpkg-deb's pipe itself; nothing passes through this process.
  const writer = spawn('tar', ['-x', '--no-same-owner', ...patterns, '-f', '-', '-C', target], {
    stdio: [reader.stdout, 'inherit', 'inherit'],
  });
  const ended = (child: ChildProcess): Promise<number | null> =>
    new Promise((resolve, reject) => child.on('error', reject).on('exit', resolve));
  const [read, written] = await Promise.all([ended(reader), ended(writer)]);
  if (read !== 0 || written !== 0) throw new PackageError(`${archive} could not be unpacked (dpkg-deb ${read}, tar ${written})`);
}
