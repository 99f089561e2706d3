// SPDX-License-Identifier: Apache-2.0
import type { TestContext } from 'vitest';
import type { Guest } from '../../app/tools/guests/catalog.ts';
import { preparedGuest } from '../../app/tools/guests/prepare.ts';

/** The guest, or the test is skipped by name. */
export function need(context: TestContext, name: string): Guest {
  const guest = preparedGuest(name);
  if (guest === null) context.skip(`the guest ${name} has not been made here (npm run guests -- ${name} says why)`);
  return guest!;
}
