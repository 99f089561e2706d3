// SPDX-License-Identifier: Apache-2.0
/** Imports core functions into a module of handlers or regions, as they are used. All functions of that module are added afterwards. */
import type { ModuleBuilder } from '../wasm/module-builder.ts';
import type { CoreFunctions } from './functions.ts';
import type { FunctionDirectory } from './semantics/context.ts';

export class ImportingDirectory implements FunctionDirectory {
  readonly #core: CoreFunctions;
  readonly #module: ModuleBuilder;
  readonly #known = new Map<string, number>();

  constructor(core: CoreFunctions, module: ModuleBuilder) {
    this.#core = core;
    this.#module = module;
  }
  index(name: string): number {
    const known = this.#known.get(name);
    if (known !== undefined) return known;
    const { params, results } = this.#core.signature(name);
    const index = this.#module.importFunction('core', name, params, results);
    this.#known.set(name, index);
    return index;
  }
  resultOf(name: string): ReturnType<CoreFunctions['resultOf']> {
    return this.#core.resultOf(name);
  }
}
