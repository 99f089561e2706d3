// SPDX-License-Identifier: Apache-2.0
/** Runs before every test file: tests on another line of Node would prove nothing (see decision record 0001). */
import { assertNodeVersion } from '../node-version.mjs';

assertNodeVersion();
