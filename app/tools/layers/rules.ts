// SPDX-License-Identifier: Apache-2.0
/**
 * Who may import whom: the table of the architecture document, as rules for dependency-cruiser.
 *
 * One entry of `LAYERS` is one row. What a row does not list is forbidden, Node's builtins and npm packages included. Entries for
 * folders that do not exist yet stand here already, so that the first file in them is held to them.
 */
import type { IForbiddenRuleType } from 'dependency-cruiser';

/** One row: files under `from` may import only what matches one of `may` (regular expressions over paths from the root). */
interface Layer {
  readonly name: string;
  readonly from: string;
  /** `$1` is the first group of `from`. */
  readonly may: readonly string[];
  readonly nodeBuiltins?: true;
}

const TEST_FILE = '\\.(test|bench)\\.ts$|/testing/';
const BASE = '^app/base/';
const CONTRACTS = '^app/contracts/';
const ENGINE_DOOR = '^app/engine/index\\.ts$';
const NODE_TYPES = '^node_modules/@types/node/';

const engine = (...folders: readonly string[]): string[] => [BASE, ...folders.map((folder) => `^app/engine/${folder}/`)];
const packages = (...names: readonly string[]): string[] => names.map((name) => `^node_modules/${name}/`);

/** The accelerator's types and constants, without any implementation of it: what the CPU implements and the hypervisor uses. */
const ACCELERATOR_SEAM = '^app/engine/accel/accelerator\\.ts$';

export const LAYERS: readonly Layer[] = [
  { name: 'base', from: '^app/base/', may: [BASE] },
  { name: 'contracts', from: '^app/contracts/', may: [BASE, CONTRACTS, ...packages('zod')] },

  { name: 'engine/host', from: '^app/engine/host/', may: engine('host') },
  { name: 'engine/memory', from: '^app/engine/memory/', may: engine('memory') },
  { name: 'engine/wasm', from: '^app/engine/wasm/', may: engine('wasm') },
  { name: 'engine/cpu', from: '^app/engine/cpu/', may: [...engine('cpu', 'memory', 'wasm'), ACCELERATOR_SEAM] },
  { name: 'engine/accel', from: '^app/engine/accel/', may: engine('accel', 'cpu', 'memory', 'wasm', 'host') },
  { name: 'engine/hypervisor', from: '^app/engine/hypervisor/', may: [...engine('hypervisor', 'memory', 'host'), ACCELERATOR_SEAM] },
  { name: 'engine/xenstore', from: '^app/engine/xenstore/', may: engine('xenstore', 'host') },
  { name: 'engine/storage', from: '^app/engine/storage/', may: engine('storage', 'host') },
  { name: 'engine/network', from: '^app/engine/network/', may: engine('network', 'host') },
  {
    name: 'engine/backends',
    from: '^app/engine/backends/([^/]+)/',
    may: engine('backends/$1', 'backends/core', 'hypervisor', 'xenstore', 'memory', 'storage', 'network', 'host'),
  },
  {
    name: 'engine/devices',
    from: '^app/engine/devices/([^/]+)/',
    may: engine('devices/$1', 'devices/core', 'memory', 'storage', 'network', 'host'),
  },
  {
    name: 'engine/boot',
    from: '^app/engine/boot/',
    may: [...engine('boot', 'hypervisor', 'memory', 'host'), ...packages('xz-decompress')],
  },
  { name: 'engine/snapshot', from: '^app/engine/snapshot/', may: engine('snapshot', 'memory', 'host') },
  { name: 'engine/machine', from: '^app/engine/machine/', may: [BASE, CONTRACTS, '^app/engine/(?!index\\.ts)'] },
  { name: 'engine/index', from: ENGINE_DOOR, may: [BASE, CONTRACTS, '^app/engine/'] },

  { name: 'node', from: '^app/node/', may: [BASE, CONTRACTS, ENGINE_DOOR, '^app/node/'], nodeBuiltins: true },
  {
    name: 'cli',
    from: '^app/cli/',
    may: [BASE, CONTRACTS, ENGINE_DOOR, '^app/(node|cli)/', '^app/tools/node-version\\.mjs$'],
    nodeBuiltins: true,
  },

  { name: 'main/core', from: '^main/core/', may: [BASE, CONTRACTS, '^app/node/', '^main/core/'], nodeBuiltins: true },
  { name: 'main/vmhost', from: '^main/vmhost/', may: [BASE, CONTRACTS, ENGINE_DOOR, '^app/node/', '^main/vmhost/'], nodeBuiltins: true },
  { name: 'main/preload', from: '^main/preload/', may: [BASE, CONTRACTS, '^main/preload/', ...packages('electron')] },
  {
    name: 'main/desktop',
    from: '^main/desktop/',
    may: [BASE, CONTRACTS, '^app/node/', '^main/(core|desktop)/', ...packages('electron')],
    nodeBuiltins: true,
  },
  {
    name: 'main/web',
    from: '^main/web/',
    may: [BASE, CONTRACTS, '^app/node/', '^main/(core|web)/', ...packages('ws')],
    nodeBuiltins: true,
  },
  {
    name: 'renderer',
    from: '^renderer/',
    may: [BASE, CONTRACTS, '^renderer/', ...packages('react', 'react-dom', '@mui', '@emotion', '@fontsource', '@xterm', 'uplot', 'zod')],
  },
];

/** Folders directly under app/engine that have a row; a file elsewhere in the engine is an error, not a gap. */
const KNOWN_ENGINE =
  '^app/engine/(index\\.ts|webassembly\\.d\\.ts|(host|memory|wasm|cpu|accel|hypervisor|xenstore|storage|network|boot|snapshot|machine)/|(backends|devices)/[^/]+/)';

function layerRule(layer: Layer): IForbiddenRuleType {
  const builtins = layer.nodeBuiltins === true;
  return {
    name: `layer-${layer.name.replaceAll('/', '-')}`,
    severity: 'error',
    from: { path: layer.from, pathNot: [TEST_FILE] },
    to: {
      couldNotResolve: false,
      pathNot: [...layer.may, ...(builtins ? [NODE_TYPES] : [])],
      ...(builtins ? { dependencyTypesNot: ['core'] } : {}),
    },
  };
}

/** What tests and tools may do that the code beside them may not is written here. */
const OTHER_RULES: readonly IForbiddenRuleType[] = [
  {
    name: 'engine-folder-without-layer',
    severity: 'error',
    from: { path: '^app/engine/', pathNot: [KNOWN_ENGINE, TEST_FILE] },
    to: {},
  },
  {
    name: 'engine-tests',
    comment: 'Tests of the engine see the engine, the test libraries and Node, but no other part of the application.',
    severity: 'error',
    from: { path: '^app/(base|contracts|engine)/.*(\\.(test|bench)\\.ts$|/testing/)' },
    to: {
      pathNot: [BASE, CONTRACTS, '^app/engine/', '^app/tools/vectors/', ...packages('vitest', 'fast-check', 'wabt'), NODE_TYPES],
      dependencyTypesNot: ['core'],
    },
  },
  {
    name: 'engine-door',
    comment: 'From outside, the engine is app/engine/index.ts. Benchmarks, fuzzers and the recorder of instruction vectors look behind it.',
    severity: 'error',
    from: { path: '^(app|main|renderer|e2e)/', pathNot: ['^app/(engine|bench|fuzz)/', '^app/tools/vectors/'] },
    to: { path: '^app/engine/', pathNot: [ENGINE_DOOR] },
  },
  {
    name: 'nobody-imports-tests',
    severity: 'error',
    from: { pathNot: [TEST_FILE] },
    to: { path: TEST_FILE },
  },
  {
    name: 'no-unresolvable',
    severity: 'error',
    from: {},
    to: { couldNotResolve: true },
  },
  {
    name: 'no-circular',
    comment: 'Cycles that consist of types alone are allowed.',
    severity: 'error',
    from: { path: '^(app|main|renderer)/', pathNot: [TEST_FILE] },
    to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
  },
];

export const FORBIDDEN: IForbiddenRuleType[] = [...LAYERS.map(layerRule), ...OTHER_RULES];
