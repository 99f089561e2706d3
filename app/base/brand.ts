// SPDX-License-Identifier: Apache-2.0
/** Nominal types over primitives: two brands of the same primitive do not mix without an explicit cast. */

declare const brand: unique symbol;

/** A primitive `T` that only counts as itself under the name `Name`. */
export type Brand<T, Name extends string> = T & { readonly [brand]: Name };
