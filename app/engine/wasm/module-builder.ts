// SPDX-License-Identifier: Apache-2.0
/** Puts functions, imports, exports and element segments together into a WebAssembly module (core specification §5.5). */
import { ByteWriter } from './byte-writer.ts';
import type { ValType } from './expr.ts';
import { FunctionBuilder } from './function-builder.ts';

interface FunctionImport {
  readonly module: string;
  readonly name: string;
  readonly type: number;
}

export class ModuleBuilder {
  readonly #types: string[] = [];
  readonly #typeBytes: ByteWriter[] = [];
  readonly #imports: FunctionImport[] = [];
  readonly #functions: { readonly type: number; readonly body: FunctionBuilder; readonly name: string }[] = [];
  readonly #exports: { readonly name: string; readonly index: number }[] = [];
  #memory: { readonly module: string; readonly name: string; readonly minimum: number; readonly maximum: number } | null = null;
  #table: { readonly module: string; readonly name: string } | null = null;
  readonly #elements: { readonly offset: number; readonly functions: number[] }[] = [];

  /** Index of a function type, shared by equal signatures. */
  type(params: readonly ValType[], results: readonly ValType[]): number {
    const key = `${params.join()}>${results.join()}`;
    const known = this.#types.indexOf(key);
    if (known >= 0) return known;
    const bytes = new ByteWriter(16);
    bytes.u8(0x60);
    bytes.u32(params.length);
    for (const type of params) bytes.u8(type);
    bytes.u32(results.length);
    for (const type of results) bytes.u8(type);
    this.#types.push(key);
    this.#typeBytes.push(bytes);
    return this.#types.length - 1;
  }

  /** The VM's shared memory, as memory 0; sizes in 64 KiB pages. */
  importMemory(module: string, name: string, minimum: number, maximum: number): void {
    this.#memory = { module, name, minimum, maximum };
  }

  /** A function table, as table 0. */
  importTable(module: string, name: string): void {
    this.#table = { module, name };
  }

  /** Imports come before the first `define`, because they shift the indices of defined functions. Returns the function index. */
  importFunction(module: string, name: string, params: readonly ValType[], results: readonly ValType[]): number {
    if (this.#functions.length > 0) throw new Error('imports must be declared before functions');
    this.#imports.push({ module, name, type: this.type(params, results) });
    return this.#imports.length - 1;
  }

  /** Declares a function and returns its builder and index; its body may be written later. */
  define(name: string, params: readonly ValType[], results: readonly ValType[]): { readonly index: number; readonly f: FunctionBuilder } {
    const f = new FunctionBuilder(params, results);
    this.#functions.push({ type: this.type(params, results), body: f, name });
    return { index: this.#imports.length + this.#functions.length - 1, f };
  }

  /** Adds a function whose body was written elsewhere. */
  add(name: string, f: FunctionBuilder): number {
    this.#functions.push({ type: this.type(f.params, f.results), body: f, name });
    return this.#imports.length + this.#functions.length - 1;
  }

  export(name: string, index: number): void {
    this.#exports.push({ name, index });
  }

  /** Puts functions into table 0 from slot `offset` on, at instantiation. */
  elements(offset: number, functions: readonly number[]): void {
    this.#elements.push({ offset, functions: [...functions] });
  }

  build(names = false): Uint8Array<ArrayBuffer> {
    const out = new ByteWriter(4096);
    out.append(Uint8Array.of(0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00));
    const section = (id: number, count: number, write: (part: ByteWriter) => void): void => {
      if (count === 0) return;
      const part = new ByteWriter(256);
      part.u32(count);
      write(part);
      out.u8(id);
      out.sized(part);
    };
    section(1, this.#typeBytes.length, (part) => {
      for (const bytes of this.#typeBytes) part.append(bytes.bytes());
    });
    section(2, this.#imports.length + (this.#memory ? 1 : 0) + (this.#table ? 1 : 0), (part) => {
      for (const item of this.#imports) {
        part.name(item.module);
        part.name(item.name);
        part.u8(0x00);
        part.u32(item.type);
      }
      if (this.#table) {
        part.name(this.#table.module);
        part.name(this.#table.name);
        part.append(Uint8Array.of(0x01, 0x70, 0x00, 0x00));
      }
      if (this.#memory) {
        part.name(this.#memory.module);
        part.name(this.#memory.name);
        part.u8(0x02);
        part.u8(0x03);
        part.u32(this.#memory.minimum);
        part.u32(this.#memory.maximum);
      }
    });
    section(3, this.#functions.length, (part) => {
      for (const item of this.#functions) part.u32(item.type);
    });
    section(7, this.#exports.length, (part) => {
      for (const item of this.#exports) {
        part.name(item.name);
        part.u8(0x00);
        part.u32(item.index);
      }
    });
    section(9, this.#elements.length, (part) => {
      for (const item of this.#elements) {
        part.u8(0x00);
        part.u8(0x41);
        part.s32(item.offset);
        part.u8(0x0b);
        part.u32(item.functions.length);
        for (const index of item.functions) part.u32(index);
      }
    });
    section(10, this.#functions.length, (part) => {
      for (const item of this.#functions) part.sized(item.body.finish());
    });
    if (names) this.#nameSection(out);
    return out.bytes().slice();
  }

  #nameSection(out: ByteWriter): void {
    const entries = new ByteWriter(256);
    entries.u32(this.#functions.length);
    this.#functions.forEach((item, i) => {
      entries.u32(this.#imports.length + i);
      entries.name(item.name);
    });
    const part = new ByteWriter(256);
    part.name('name');
    part.u8(0x01);
    part.sized(entries);
    out.u8(0x00);
    out.sized(part);
  }
}
