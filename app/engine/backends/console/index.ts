// SPDX-License-Identifier: Apache-2.0
/** The host half of PV consoles: the primary one (ring and port given at start) and further ones over xenbus. */
export { type ConsoleDeviceOptions, createConsoleDevice } from './console-device.ts';
export { type AttachOptions, type ConsoleAttachment, type ConsoleSink, PvConsole, type PvConsoleOptions } from './pv-console.ts';
