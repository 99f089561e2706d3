// SPDX-License-Identifier: Apache-2.0
/**
 * `npm run -s guests [-- NAME… | --refresh]`: makes the named guests ready (all, without names) and prints one line of JSON for
 * each on standard output; progress and what is not available go to standard error. Status 1 when a required or named guest could
 * not be made.
 */
import { GUESTS } from './catalog.ts';
import { GuestKitchen } from './prepare.ts';

const args = process.argv.slice(2);
const names = args.filter((arg) => !arg.startsWith('-'));
const unknown = [
  ...args.filter((arg) => arg.startsWith('-') && arg !== '--refresh'),
  ...names.filter((name) => !GUESTS.some((guest) => guest.name === name)),
];
if (unknown.length > 0) {
  console.error(
    `guests: unknown ${unknown.join(', ')}; guests are ${GUESTS.map(({ name }) => name).join(', ')}, the one option is --refresh`,
  );
  process.exit(1);
}

const kitchen = new GuestKitchen((message) => console.error(`guests: ${message}`), args.includes('--refresh'));
for (const recipe of GUESTS) {
  const named = names.includes(recipe.name);
  if (names.length > 0 && !named) continue;
  const made = await kitchen.prepare(recipe);
  if ('reason' in made) {
    console.error(`guests: ${made.name} is unavailable: ${made.reason}`);
    if (named || !recipe.optional) process.exitCode = 1;
  } else {
    console.log(JSON.stringify(made));
  }
}
