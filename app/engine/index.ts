// SPDX-License-Identifier: Apache-2.0
/** The engine's only door: whatever the application uses of the engine is exported here and nowhere else. */
export * from './boot/index.ts';
export type { AbortSignalLike, DecompressError, HostCompression } from './host/decompress.ts';
export { PvConsole, type AttachOptions, type ConsoleAttachment, type ConsoleSink } from './backends/console/index.ts';
export type { Clock } from './host/clock.ts';
export type { Decompressors } from './host/decompress.ts';
export type { BlockCodec, BlockCompression } from './host/block-codec.ts';
export { FileError, type FileErrorKind, type FileStore, type HostFile, type OpenFileOptions } from './host/file.ts';
export * from './storage/index.ts';
export type { Entropy } from './host/entropy.ts';
export type { AppendFile } from './host/append-file.ts';
export type {
  HostListener,
  HostStream,
  HostUdp,
  NameResolver,
  PingAnswer,
  SocketAddress,
  SocketError,
  SocketErrorKind,
  SocketHost,
  StreamEvents,
  UdpOptions,
} from './host/sockets.ts';
export type { TimerHandle, Timers } from './host/timers.ts';
export * from './network/index.ts';
export { type Log, type LogLevel, silentLog } from './host/log.ts';
export type { EngineThread, ThreadHost } from './host/thread.ts';
export type { MachineConfig, MachineEnd, MachineError, MachineStats } from './machine/config.ts';
export { createMachine, MAX_MEMORY_MIB, type MachinePorts, MIN_MEMORY_MIB } from './machine/machine.ts';
export type { Machine } from './machine/machine-api.ts';
export type { VcpuThreadReport, VcpuThreadStart } from './machine/vcpu-thread.ts';

/** What a vCPU's thread runs. Loaded on demand: the other threads do without the CPU. */
export async function loadVcpuThread(): Promise<typeof import('./machine/vcpu-thread.ts').runVcpuThread> {
  return (await import('./machine/vcpu-thread.ts')).runVcpuThread;
}
