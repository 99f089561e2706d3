// SPDX-License-Identifier: Apache-2.0
/**
 * Functions beside the handlers: *core functions* are WebAssembly, emitted once into the core module; *host functions* are
 * TypeScript, imported by it. Semantics call both by name through `SemContext.call`.
 */
import type { VcpuHost } from '../accel/accelerator.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { VcpuContext } from '../memory/vcpu-context.ts';
import type { ValType } from '../wasm/expr.ts';
import type { FunctionBuilder } from '../wasm/function-builder.ts';
import type { ModuleBuilder } from '../wasm/module-builder.ts';

/** What host functions of one vCPU may use. */
export interface HostFunctionEnvironment {
  readonly memory: GuestMemory;
  readonly ctx: VcpuContext;
  readonly host: VcpuHost;
  /** Host offset of a virtual address for an access, or a value <= 0 with the fault recorded. */
  readonly translate: (va: number, access: number) => number;
  /** Must follow writes through a host offset: code made from those bytes is dropped. */
  readonly wrote: (host: number, bytes: number) => void;
}

export interface HostFunction {
  readonly name: string;
  readonly params: readonly ValType[];
  readonly results: readonly ValType[];
  /** i32 parameters and results are numbers, f64 numbers; avoid i64 (a bigint): pass through the vCPU block instead. */
  readonly create: (environment: HostFunctionEnvironment) => (...args: number[]) => number | undefined | void;
}

interface Signature {
  readonly index: number;
  readonly params: readonly ValType[];
  readonly results: readonly ValType[];
}

/** The functions of the core module while it is written; afterwards the list of what handler modules import. */
export class CoreFunctions {
  readonly module: ModuleBuilder;
  readonly #signatures = new Map<string, Signature>();
  /** Core and host functions in order of declaration. */
  readonly names: string[] = [];

  constructor(module: ModuleBuilder) {
    this.module = module;
  }

  /** Declares a host function as an import; all of them come before the first `define`. */
  importHost(name: string, params: readonly ValType[], results: readonly ValType[]): number {
    const index = this.module.importFunction('host', name, params, results);
    this.#add(name, { index, params, results });
    return index;
  }

  /** Writes and exports a core function. A name may be used (`index`) inside bodies only after it was declared. */
  define(name: string, params: readonly ValType[], results: readonly ValType[], body: (f: FunctionBuilder) => void): number {
    const { index, f } = this.module.define(name, params, results);
    this.#add(name, { index, params, results });
    this.module.export(name, index);
    body(f);
    return index;
  }

  /** Registers a function that was defined on the module directly. */
  adopt(name: string, index: number, params: readonly ValType[], results: readonly ValType[]): void {
    this.#add(name, { index, params, results });
    this.module.export(name, index);
  }

  #add(name: string, signature: Signature): void {
    if (this.#signatures.has(name)) throw new Error(`core function ${name} is defined twice`);
    this.#signatures.set(name, signature);
    this.names.push(name);
  }

  #signature(name: string): Signature {
    const signature = this.#signatures.get(name);
    if (!signature) throw new Error(`there is no core function ${name}`);
    return signature;
  }
  index(name: string): number {
    return this.#signature(name).index;
  }
  resultOf(name: string): ValType | null {
    return this.#signature(name).results[0] ?? null;
  }
  signature(name: string): { readonly params: readonly ValType[]; readonly results: readonly ValType[] } {
    return this.#signature(name);
  }
}
