// SPDX-License-Identifier: Apache-2.0
/**
 * The part of the WebAssembly JavaScript interface that the engine uses.
 *
 * TypeScript declares it only together with the browser's whole DOM, and Node's types do not declare it at all. The engine
 * may see neither, so it has its own declarations, after the WebAssembly JavaScript Interface (W3C) and its threads proposal.
 * Left out: streaming compilation, tags and exceptions, JSPI.
 */
declare namespace WebAssembly {
  type ValueType = 'i32' | 'i64' | 'f32' | 'f64' | 'v128' | 'externref' | 'anyfunc';
  type ImportExportKind = 'function' | 'global' | 'memory' | 'table' | 'tag';
  // biome-ignore lint/suspicious/noExplicitAny: functions cross this border with any signature; callers give the exact one
  type ExportValue = ((...args: any[]) => any) | Global | Memory | Table;
  type ImportValue = ExportValue | number | bigint;
  type Imports = Record<string, Record<string, ImportValue>>;
  type Exports = Record<string, ExportValue>;

  interface MemoryDescriptor {
    /** In pages of 64 KiB. */
    initial: number;
    maximum?: number;
    /** Shared memories need a maximum. */
    shared?: boolean;
  }

  class Memory {
    constructor(descriptor: MemoryDescriptor);
    /** A SharedArrayBuffer when the memory was made with `shared`. */
    readonly buffer: ArrayBuffer | SharedArrayBuffer;
    /** Adds `delta` pages of 64 KiB; returns the previous size in pages. */
    grow(delta: number): number;
  }

  interface TableDescriptor {
    element: 'anyfunc' | 'externref';
    initial: number;
    maximum?: number;
  }

  class Table {
    constructor(descriptor: TableDescriptor, value?: unknown);
    readonly length: number;
    // biome-ignore lint/suspicious/noExplicitAny: an entry is null or a function of any signature
    get(index: number): any;
    set(index: number, value?: unknown): void;
    grow(delta: number, value?: unknown): number;
  }

  interface GlobalDescriptor {
    value: ValueType;
    mutable?: boolean;
  }

  class Global<T = number | bigint> {
    constructor(descriptor: GlobalDescriptor, value?: T);
    value: T;
    valueOf(): T;
  }

  class Module {
    constructor(bytes: ArrayBufferView | ArrayBuffer | SharedArrayBuffer);
    static exports(module: Module): { name: string; kind: ImportExportKind }[];
    static imports(module: Module): { module: string; name: string; kind: ImportExportKind }[];
    static customSections(module: Module, name: string): ArrayBuffer[];
  }

  class Instance {
    constructor(module: Module, imports?: Imports);
    readonly exports: Exports;
  }

  class CompileError extends Error {}
  class LinkError extends Error {}
  class RuntimeError extends Error {}

  function validate(bytes: ArrayBufferView | ArrayBuffer | SharedArrayBuffer): boolean;
  function compile(bytes: ArrayBufferView | ArrayBuffer): Promise<Module>;
  function instantiate(module: Module, imports?: Imports): Promise<Instance>;
}
