// SPDX-License-Identifier: Apache-2.0
/**
 * A bounded write-back cache of an image's metadata, in pages keyed by their place in the file.
 *
 * INVARIANT: a page is looked at and changed without an `await` in between: `peek` in a loop around `await load`. A page that is dirty or
 * on its way to the file is never evicted, so there is one copy of every page that matters.
 *
 * The order of metadata writes is the owner's business: `takeDirty` gives copies as of now, `writeOut` writes them. Eviction is by
 * second chance.
 */
import type { HostFile } from '../../host/file.ts';
import { viewOf } from './bytes.ts';

export interface Page {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  dirty: boolean;
  writing: boolean;
  referenced: boolean;
}

export interface PageCopy {
  readonly page: Page;
  readonly bytes: Uint8Array;
}

interface Load {
  done: Promise<void>;
  /** The range became something else meanwhile: what was read does not count. */
  dropped: boolean;
}

/** Adjacent pages are written together up to this size. */
const MAX_WRITE = 1 << 20;
const MIN_PAGES = 16;

export class PageCache {
  readonly pageSize: number;
  readonly #file: HostFile;
  readonly #capacity: number;
  readonly #pages = new Map<number, Page>();
  readonly #loading = new Map<number, Load>();
  readonly #dirty = new Set<Page>();
  readonly #fill: (offset: number, into: Uint8Array) => Promise<void>;

  /** `fill` reads a page; it decides what a short file means. */
  constructor(file: HostFile, pageSize: number, maxBytes: number, fill: (offset: number, into: Uint8Array) => Promise<void>) {
    this.#file = file;
    this.pageSize = pageSize;
    this.#capacity = Math.max(MIN_PAGES, Math.floor(maxBytes / pageSize));
    this.#fill = fill;
  }

  /** Half of the cache is dirty: time for the owner to write out. */
  get crowded(): boolean {
    return this.#dirty.size * 2 >= this.#capacity;
  }

  get hasDirty(): boolean {
    return this.#dirty.size > 0;
  }

  /** The page that begins at `offset`, if it is here. */
  peek(offset: number): Page | undefined {
    const page = this.#pages.get(offset);
    if (page !== undefined) page.referenced = true;
    return page;
  }

  /** Brings a page in; it is there right afterwards, but not for ever. */
  load(offset: number): Promise<void> {
    if (this.#pages.has(offset)) return Promise.resolve();
    const running = this.#loading.get(offset);
    if (running !== undefined) return running.done;
    const load: Load = { done: Promise.resolve(), dropped: false };
    load.done = this.#read(offset, load).finally(() => {
      if (this.#loading.get(offset) === load) this.#loading.delete(offset);
    });
    this.#loading.set(offset, load);
    return load.done;
  }

  markDirty(page: Page): void {
    page.dirty = true;
    this.#dirty.add(page);
  }

  /** Puts pages of zeros over a range whose bytes in the file are zeros already, or will be written by the owner first. */
  putZeros(offset: number, length: number): void {
    for (let at = offset; at < offset + length; at += this.pageSize) {
      this.drop(at, this.pageSize);
      this.#insert(at, new Uint8Array(this.pageSize));
    }
  }

  /** Forgets a range without writing it: its place in the file is no metadata any more. */
  drop(offset: number, length: number): void {
    for (let at = offset; at < offset + length; at += this.pageSize) {
      this.#dropLoad(at);
      const page = this.#pages.get(at);
      if (page === undefined) continue;
      this.#pages.delete(at);
      this.#dirty.delete(page);
      page.dirty = false;
    }
  }

  dropAll(): void {
    this.#pages.clear();
    this.#dirty.clear();
    for (const offset of [...this.#loading.keys()]) this.#dropLoad(offset);
  }

  #dropLoad(offset: number): void {
    const load = this.#loading.get(offset);
    if (load === undefined) return;
    load.dropped = true;
    this.#loading.delete(offset);
  }

  /** All dirty pages as they are now, in file order; they count as clean from here on and stay until `writeOut` is through. */
  takeDirty(): PageCopy[] {
    const pages = [...this.#dirty].sort((a, b) => a.offset - b.offset);
    this.#dirty.clear();
    return pages.map((page) => {
      page.dirty = false;
      page.writing = true;
      return { page, bytes: page.bytes.slice() };
    });
  }

  /** Writes copies; on failure the pages are dirty again. A page that was dropped meanwhile is left out. */
  async writeOut(copies: readonly PageCopy[]): Promise<void> {
    try {
      for (let i = 0; i < copies.length; ) {
        let count = 1;
        while (
          i + count < copies.length &&
          copies[i + count].page.offset === copies[i].page.offset + count * this.pageSize &&
          (count + 1) * this.pageSize <= MAX_WRITE
        ) {
          count++;
        }
        await this.#writeRun(copies.slice(i, i + count).filter(({ page }) => this.#pages.get(page.offset) === page));
        i += count;
      }
    } catch (error) {
      this.abandon(copies);
      throw error;
    }
    for (const { page } of copies) page.writing = false;
  }

  /** The copies will not be written: their pages are dirty again. */
  abandon(copies: readonly PageCopy[]): void {
    for (const { page } of copies) {
      page.writing = false;
      if (this.#pages.get(page.offset) === page) this.markDirty(page);
    }
  }

  async #writeRun(run: readonly PageCopy[]): Promise<void> {
    const contiguous = run.every(({ page }, index) => page.offset === run[0].page.offset + index * this.pageSize);
    if (run.length <= 1 || !contiguous) {
      for (const { page, bytes } of run) await this.#file.write(page.offset, bytes);
      return;
    }
    const joined = new Uint8Array(run.length * this.pageSize);
    for (const [index, { bytes }] of run.entries()) joined.set(bytes, index * this.pageSize);
    await this.#file.write(run[0].page.offset, joined);
  }

  async #read(offset: number, load: Load): Promise<void> {
    const bytes = new Uint8Array(this.pageSize);
    await this.#fill(offset, bytes);
    if (!load.dropped && !this.#pages.has(offset)) this.#insert(offset, bytes);
  }

  #insert(offset: number, bytes: Uint8Array): void {
    if (this.#pages.size >= this.#capacity) this.#evict();
    this.#pages.set(offset, { offset, bytes, view: viewOf(bytes), dirty: false, writing: false, referenced: true });
  }

  #evict(): void {
    let looked = 0;
    const limit = this.#pages.size * 2;
    for (const [offset, page] of this.#pages) {
      if (looked++ > limit) return;
      if (!page.dirty && !page.writing && !page.referenced) {
        this.#pages.delete(offset);
        return;
      }
      page.referenced = false;
      this.#pages.delete(offset);
      this.#pages.set(offset, page);
    }
  }
}
