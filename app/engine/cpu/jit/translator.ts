// SPDX-License-Identifier: Apache-2.0
/** From a guest address to a WebAssembly module: discovers a region and writes its function. */
import { I32 } from '../../wasm/expr.ts';
import { FunctionBuilder } from '../../wasm/function-builder.ts';
import { ModuleBuilder } from '../../wasm/module-builder.ts';
import type { CoreFunctions } from '../functions.ts';
import { ImportingDirectory } from '../importing-directory.ts';
import type { SemanticsTable } from '../semantics/context.ts';
import { RegionEmitter } from './emitter.ts';
import type { Instruction } from './instruction.ts';
import { discoverRegion, type PageSource, type Region } from './region.ts';

/** Instructions that end a block and are translated; all others of the kind leave the region in front of them. */
const TRANSLATED_ENDS = new Set(['jmp', 'jmpi', 'call', 'calli', 'ret']);
/**
 * Left to the interpreter: state images and accesses of several parts, which must not stop in the middle, and instructions whose core
 * functions work on the flags in memory.
 */
const INTERPRETED = new Set(['enter', 'pusha', 'popa', 'fxsave', 'fxrstor', 'xsave', 'xrstor', 'xsaveopt', 'cmpxchg16b']);
const INTERPRETED_PREFIXES = ['pcmpestr', 'pcmpistr', 'maskmov', 'fsave', 'fnsave', 'frstor', 'fldenv', 'fnstenv', 'fstenv'];

export function isTranslated(instruction: Instruction): boolean {
  const { row } = instruction.form;
  if (row.attributes.has('rep')) return false;
  if (row.attributes.has('end') && !TRANSLATED_ENDS.has(row.name)) return false;
  return !INTERPRETED.has(row.name) && !INTERPRETED_PREFIXES.some((prefix) => row.name.startsWith(prefix));
}

export interface TranslatedRegion {
  readonly region: Region;
  readonly module: Uint8Array<ArrayBuffer>;
}

export class Translator {
  readonly #core: CoreFunctions;
  readonly #semantics: SemanticsTable;
  readonly #memoryPages: number;

  constructor(core: CoreFunctions, semantics: SemanticsTable, memoryPages: number) {
    this.#core = core;
    this.#semantics = semantics;
    this.#memoryPages = memoryPages;
  }

  /** The region around `entry` (an offset in its page), or null when there is nothing to translate there. */
  translate(bytes: Uint8Array, entry: number, source: PageSource): TranslatedRegion | null {
    const region = discoverRegion(bytes, entry, source, isTranslated);
    if (!region) return null;
    const module = new ModuleBuilder();
    module.importMemory('env', 'memory', this.#memoryPages, this.#memoryPages);
    const f = new FunctionBuilder([I32, I32], [I32]);
    new RegionEmitter(f, region, this.#semantics, new ImportingDirectory(this.#core, module)).emit();
    module.export('handler', module.add('region', f));
    return { region, module: module.build() };
  }
}
